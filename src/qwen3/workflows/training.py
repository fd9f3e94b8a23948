"""Training in a few lines: `qwen3.sft`, `rl`, `distill` and `pretrain`, from a name to a folder.

    result = qwen3.rl("Qwen/Qwen3-0.6B", "problems.jsonl", reward="my_reward.py", steps=100)
    print(result.scores)  # on held-out problems
    result.export("trained")

Each builds the config of a stage (`qwen3.stages`) and runs it; whatever that config has can be
changed by `settings=("optim.peak=1e-5", ...)`. Called again with the same workdir, a run goes on;
more steps may be asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.config import OptimConfig, override
from qwen3.curate.files import write_conversations, write_problems
from qwen3.data import corpora, tokenizer_cli
from qwen3.data.mixture import Stage
from qwen3.data.sources import open_source
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import language_model
from qwen3.infer.language_model import LanguageModel
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import SIZES, ModelConfig, size
from qwen3.rewards import Problem
from qwen3.rewards.answers import prompt_ids
from qwen3.stages import distill as distill_stage
from qwen3.stages import grpo
from qwen3.stages import pretrain as pretrain_stage
from qwen3.stages import sft as sft_stage
from qwen3.stages.problem_evaluation import ProblemEvaluation, records
from qwen3.stages.prompts import FILE, Share
from qwen3.stages.rollouts import Sampling
from qwen3.train.model_source import ModelSource, find
from qwen3.train.recording import Log
from qwen3.workflows import own_problems, own_rewards
from qwen3.workflows.own_rewards import Reward

Rows = str | Path | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingRun:
    """What a run left in its workdir."""

    workdir: Path

    @property
    def scores(self) -> list[dict[str, Any]]:
        """Measurements on the held-out problems: step, score with its 95% interval, problems."""
        return records(self.workdir)

    def load(self) -> LanguageModel:
        """The trained model, adapters merged."""
        return language_model.load(self.workdir)

    def export(self, folder: str | Path) -> Path:
        """Write the trained model in the Hugging Face layout."""
        self.load().save(folder)
        return Path(folder)


def sft(
    model: str | Path,
    data: str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]],
    *,
    workdir: str | Path = "runs/sft",
    steps: int = 100,
    batch: int = 8,
    length: int = 1024,
    learning_rate: float = 1e-5,
    lora: int = 0,
    evaluate: Rows | None = None,
    reward: str | Reward = "maths",
    columns: Mapping[str, str] | None = None,
    evaluate_every: int = 50,
    max_tokens: int = 512,
    seed: int = 0,
    revision: str | None = None,
    track: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> TrainingRun:
    """Supervised fine-tuning on conversations.

    data: files or rows with "messages" (`stages.conversations`). evaluate: held-out problems, whose
    answers are scored by `reward`; `columns` names their columns. lora: rank of adapters, 0 to
    train the whole model. track: "wandb", "trackio".
    """
    source, folder = find(model, revision=revision), Path(workdir)
    evaluation = ProblemEvaluation()
    if evaluate is not None:
        problems = own_problems.read(evaluate, own_rewards.register(reward), columns=columns)
        file = _store(folder, "heldout", problems)
        evaluation = ProblemEvaluation(file, evaluate_every, max_tokens=max_tokens)
    config = sft_stage.Config(
        source.config,
        _tokenizer(source),
        _conversations(data, folder),
        steps,
        _optim(learning_rate, steps),
        batch=batch,
        length=min(length, source.config.max_length),
        too_long="drop",
        seed=seed,
        init_from=str(source.path) if source.adapter is None else source.name,
        lora=_lora(lora, source.config),
        evaluation=evaluation,
        log=Log(track=tuple(track)),
    )
    return _run(sft_stage, override(config, settings), folder)


def rl(
    model: str | Path,
    problems: Rows,
    *,
    reward: str | Reward,
    workdir: str | Path = "runs/rl",
    steps: int = 100,
    columns: Mapping[str, str] | None = None,
    held_out: float = 0.1,
    evaluate_every: int = 10,
    prompts: int = 8,
    samples: int = 8,
    max_tokens: int = 512,
    thinking: bool | None = None,
    learning_rate: float = 1e-6,
    lora: int = 0,
    seed: int = 0,
    revision: str | None = None,
    track: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> TrainingRun:
    """Reinforcement learning with GRPO (report, 4.2) on the user's problems and reward.

    problems: rows with a prompt and a reference, see `own_problems`. reward: name of a task of
    `rewards.TASKS`, "file.py:function", or a function, see `own_rewards`. held_out: share of the
    problems that is not trained on but asked every `evaluate_every` steps. prompts x samples
    answers of at most `max_tokens` tokens are made for every optimizer step. thinking: True and
    False put /think and /no_think behind the prompts.
    """
    source, folder = find(model, revision=revision), Path(workdir)
    task = own_rewards.register(reward)
    train, held = own_problems.held_out(
        own_problems.read(problems, task, columns=columns), held_out
    )
    evaluation = ProblemEvaluation()
    if held:
        evaluation = ProblemEvaluation(_store(folder, "heldout", held), evaluate_every)
    config = grpo.Config(
        source.config,
        _tokenizer(source),
        (Share(FILE, modes=_modes(thinking)),),
        steps,
        _optim(learning_rate, steps),
        problems=_store(folder, "train", train),
        too_long="drop",
        sampling=Sampling(samples, max_tokens, min(64, prompts * samples)),
        prompts=prompts,
        length=_length(source, train, max_tokens),
        seed=seed,
        init_from=_start(source),
        lora=_lora(lora, source.config),
        evaluation=evaluation,
        log=Log(every=1, track=tuple(track)),
    )
    return _run(grpo, override(config, settings), folder)


def distill(
    student: str | Path,
    teacher: str | Path,
    problems: Rows,
    *,
    reward: str | Reward = "",
    workdir: str | Path = "runs/distill",
    steps: int = 100,
    columns: Mapping[str, str] | None = None,
    held_out: float = 0.1,
    evaluate_every: int = 10,
    prompts: int = 8,
    samples: int = 2,
    max_tokens: int = 512,
    thinking: bool | None = None,
    learning_rate: float = 1e-5,
    lora: int = 0,
    seed: int = 0,
    revision: str | None = None,
    track: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> TrainingRun:
    """On-policy distillation (report, 4.5): the student answers, the teacher's KL teaches.

    reward: scores answers for the record and for evaluation; "" for none. Otherwise as `rl`.
    """
    source, folder = find(student, revision=revision), Path(workdir)
    task = own_rewards.register(reward) if reward else ""
    train, held = own_problems.held_out(
        own_problems.read(problems, task, columns=columns), held_out if reward else 0.0
    )
    evaluation = ProblemEvaluation()
    if held:
        evaluation = ProblemEvaluation(_store(folder, "heldout", held), evaluate_every)
    config = distill_stage.Config(
        source.config,
        _tokenizer(source),
        (Share(FILE, modes=_modes(thinking)),),
        steps,
        _optim(learning_rate, steps),
        teacher=str(find(teacher).path),
        problems=_store(folder, "train", train),
        too_long="drop",
        sampling=Sampling(samples, max_tokens, min(64, prompts * samples)),
        prompts=prompts,
        length=_length(source, train, max_tokens),
        seed=seed,
        init_from=_start(source),
        lora=_lora(lora, source.config),
        evaluation=evaluation,
        log=Log(every=1, track=tuple(track)),
    )
    return _run(distill_stage, override(config, settings), folder)


def pretrain(
    model: str | Path,
    texts: str | Path | Sequence[str | Path],
    *,
    workdir: str | Path = "runs/pretrain",
    steps: int = 1000,
    batch: int = 8,
    length: int = 512,
    learning_rate: float = 3e-4,
    tokenizer: str | Path = "",
    vocab: int = 4096,
    seed: int = 0,
    revision: str | None = None,
    track: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> TrainingRun:
    """Pretraining on text: a new model of a size by name ("tiny", "0.6b"), or a model on.

    texts: files, folders or globs of text, JSON lines or Parquet. tokenizer: a folder; "" takes the
    model's own, or for a new model trains one of `vocab` ids on the texts.
    """
    folder, files = Path(workdir), [texts] if isinstance(texts, str | Path) else list(texts)
    opened = [open_source(path) for path in files]
    new = str(model) in SIZES
    source = None if new else find(model, revision=revision)
    if not tokenizer and source is not None:
        tokenizer = _tokenizer(source)
    elif not tokenizer:
        tokenizer = _trained_tokenizer(opened, vocab, folder / "tokenizer")
    words = Tokenizer.load(tokenizer)
    config = size(str(model)) if source is None else source.config
    if source is None:
        config = config.replace(vocab=words.vocab_rows)
    corpus = corpora.prepare(opened, words, folder / "corpus")
    stage = pretrain_stage.StageConfig(
        data=Stage("texts", {"texts": 1.0}, length, batch, repeat_small=True),
        steps=steps,
        optim=_optim(learning_rate, steps),
        rope_theta=config.rope_theta,
    )
    whole = pretrain_stage.Config(
        config,
        (stage,),
        {"texts": str(corpus.folder)},
        seed=seed,
        init_from="" if source is None else _start(source),
        save_every=max(1, steps // 10),
        tokenizer=str(tokenizer),
        log=Log(track=tuple(track)),
    )
    return _run(pretrain_stage, override(whole, settings), folder)


def _run(stage: Any, config: Any, folder: Path) -> TrainingRun:
    stage.run(config, str(folder))
    return TrainingRun(folder)


def _tokenizer(source: ModelSource) -> str:
    if not source.tokenizer_folder:
        raise ValueError(f"{source.name} has no tokenizer; put tokenizer.json beside its weights")
    return source.tokenizer_folder


def _start(source: ModelSource) -> str:
    """What `init_from` finds the same model by, wherever the name came from."""
    return source.name if source.adapter is not None else str(source.path)


def _optim(learning_rate: float, steps: int) -> OptimConfig:
    """A constant rate after a short warm-up, so that more steps can be asked for later."""
    return OptimConfig(
        peak=learning_rate, schedule="constant", warmup=min(10, steps // 10), weight_decay=0.0
    )


def _lora(rank: int, model: ModelConfig) -> LoraConfig:
    """Adapters of a rank on all matrices of a dense model, on attention of a mixture of experts."""
    if not rank:
        return LoraConfig()
    attention = ("query", "key", "value", "out")
    return LoraConfig(rank, 2.0 * rank, attention) if model.moe else LoraConfig(rank, 2.0 * rank)


def _modes(thinking: bool | None) -> tuple[str, ...]:
    return {None: ("any",), True: ("think",), False: ("no_think",)}[thinking]


def _length(source: ModelSource, problems: Sequence[Problem], max_tokens: int) -> int:
    """Slots of a row: the longest prompt with an answer, in steps of 64, at most the context."""
    tokenizer = Tokenizer.load(_tokenizer(source))
    flag = len(tokenizer.encode(" /no_think"))
    longest = max(len(prompt_ids(problem, tokenizer)) for problem in problems) + flag
    return min(-(-(longest + max_tokens) // 64) * 64, source.config.max_length - 1)


def _store(folder: Path, name: str, problems: Sequence[Problem]) -> str:
    """The problems of a run, kept with it so that it can go on without the user's file."""
    path = folder / "problems" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_problems(path, problems)
    return str(path)


def _conversations(data: Any, folder: Path) -> tuple[str, ...]:
    """Files of conversations: the user's own, or one that holds the user's rows."""
    if isinstance(data, str | Path):
        return (str(data),)
    items = list(data)
    if all(isinstance(item, str | Path) for item in items):
        return tuple(map(str, items))
    path = folder / "data" / "conversations.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_conversations(path, items)
    return (str(path),)


def _trained_tokenizer(sources: Sequence[Any], vocab: int, folder: Path) -> Path:
    """The folder of a byte-level BPE tokenizer of the texts, made once for a workdir."""
    if not (folder / "tokenizer.json").is_file():
        Tokenizer.train(tokenizer_cli.texts(sources), vocab).save(folder)
    return folder
