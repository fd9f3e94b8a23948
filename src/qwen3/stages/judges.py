"""The judge of a run: the model behind it, its check before the run, and its scores of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from qwen3 import hosts
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.model.execution import Execution
from qwen3.rewards.answers import Score, ScoredAnswer
from qwen3.rewards.judge import Judge, JudgeCase
from qwen3.rewards.judge_backends import JudgeSettings, of_engine, of_url, remembered
from qwen3.rewards.judge_check import check_judge
from qwen3.stages.reward_kinds import KindScorer, shared_scorer
from qwen3.train import model_source

REFERENCES = ("reference", "gold")  # fields of a problem's record that hold a right answer
STORE = "judge.sqlite"  # in the workdir


def open_judge(settings: JudgeSettings, mesh: Mesh, execution: Execution, workdir: Path) -> Judge:
    """The judge of a run. Raises ValueError for a model that cannot be one."""
    ask = (
        of_url(settings)
        if settings.url
        else of_engine(_engine(settings, mesh, execution), settings)
    )
    store = Path(settings.store) if settings.store else workdir / STORE
    if settings.url and jax.process_count() > 1:
        store = store.with_suffix(f".{jax.process_index()}{store.suffix}")
    # All that decides a reply besides the question.
    fields = ("url", "model", "thinking", "max_tokens")
    name = str({field: getattr(settings, field) for field in fields})
    return Judge(remembered(ask, store, name) if _stored(settings) else ask)


def _stored(settings: JudgeSettings) -> bool:
    """Of several processes an engine on all of them must be asked by all, or by none."""
    return bool(settings.url) or jax.process_count() == 1


def _engine(settings: JudgeSettings, mesh: Mesh, execution: Execution) -> Engine:
    source = model_source.find(settings.model)
    if not source.tokenizer_folder:
        raise ValueError(f"judge {settings.model} has no tokenizer; it must read and write text")
    return Engine(
        source.config,
        source.params(mesh, execution.dtype),
        tokenizer=Tokenizer.load(source.tokenizer_folder),
        slots=settings.slots,
        mesh=mesh,
        execution=execution.replace(scan=False, remat="none"),
    )


def check_on_hosts(judge: Judge) -> None:
    """`check_judge` in every process; what one of them finds ends all."""
    fault = ""
    try:
        check_judge(judge)
    except ValueError as error:
        fault = str(error)
    told = hosts.gathered_words(fault) if jax.process_count() > 1 else [fault]
    for number, words in enumerate(told):
        if words:
            raise ValueError(words if len(told) == 1 else f"process {number}: {words}")


def by_judge(judge: Judge, *, shared: bool = False) -> KindScorer:
    """Scores well-formed answers by the judge; others score 0, unseen.

    A problem whose record has a field of REFERENCES is judged against it, another by the rubric
    that its record may hold. shared: each process asks for its share of the answers only.
    """

    def score(answers: Sequence[ScoredAnswer]) -> list[Score]:
        formed = [i for i, answer in enumerate(answers) if answer.formed]
        verdicts = judge.verdicts([case_of(answers[i]) for i in formed])
        scores: list[Score] = [0.0] * len(answers)
        for i, verdict in zip(formed, verdicts, strict=True):
            scores[i] = verdict.score
        return scores

    return shared_scorer(score) if shared else score


def case_of(answer: ScoredAnswer) -> JudgeCase:
    """The question, with what came before it, and the answer without its thought."""
    record, messages = answer.problem.answer, answer.problem.messages
    question = messages[-1]["content"]
    if len(messages) > 1:
        question = "\n\n".join(f"{m['role']}: {m.get('content') or ''}" for m in messages)
    turn = answer.turn
    assert turn is not None, "only well-formed answers are judged"
    references = [record[name] for name in REFERENCES if record.get(name) not in (None, "")]
    reference = str(references[0]) if references else None
    return JudgeCase(question, turn.answer, reference, str(record.get("rubric") or ""))
