"""Training in a few lines: `qwen3.sft`, `reward_model`, `rl`, `distill` and `pretrain`, from a name
to a folder.

    result = qwen3.rl("Qwen/Qwen3-0.6B", "problems.jsonl", reward="my_reward.py", steps=100)
    print(result.scores)  # on held-out problems
    result.export("trained")

Each builds the config of a stage (`qwen3.stages`) and runs it; whatever that config has can be
changed by `settings=("optim.peak=1e-5", ...)`. Called again with the same workdir, a run goes on;
more steps may be asked for. What all take:

- workdir: the folder of the run, made where it is not there.
- steps: optimizer steps in all, those of earlier starts included.
- revision: branch, tag or commit of the model's Hub repository.
- track: "wandb", "trackio", which get the records that the workdir gets.
- export: folder that the trained model is written to at the end, in the Hugging Face layout; with
  `best` (where there are held-out problems) that of the highest held-out score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3.config import override
from qwen3.data import corpora
from qwen3.data.mixture import Stage
from qwen3.data.sources import open_source
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import SIZES, size
from qwen3.stages import distill as distill_stage
from qwen3.stages import grpo
from qwen3.stages import pretrain as pretrain_stage
from qwen3.stages import reward_model as reward_model_stage
from qwen3.stages import sft as sft_stage
from qwen3.stages.pair_evaluation import PairEvaluation
from qwen3.train.model_source import find
from qwen3.train.recording import Log
from qwen3.workflows import own_problems, own_rewards, run_settings
from qwen3.workflows.own_rewards import Reward
from qwen3.workflows.run_settings import Rows
from qwen3.workflows.training_run import TrainingRun

__all__ = ["TrainingRun", "distill", "pretrain", "reward_model", "rl", "sft"]


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
    export: str | Path | None = None,
    best: bool = False,
) -> TrainingRun:
    """Supervised fine-tuning on conversations.

    data: files or rows with "messages" (`stages.conversations`). evaluate: held-out problems, whose
    answers are scored by `reward`; `columns` names their columns. lora: rank of adapters, 0 to
    train the whole model.
    """
    source, folder = find(model, revision=revision), Path(workdir)
    problems = []
    if evaluate is not None:
        problems = own_problems.read(evaluate, own_rewards.register(reward), columns=columns)
    config = sft_stage.Config(
        source.config,
        run_settings.tokenizer_folder(source),
        run_settings.conversations(data, folder),
        steps,
        run_settings.optimizer(learning_rate, steps, folder),
        batch=batch,
        length=min(length, source.config.max_length),
        too_long="drop",
        seed=seed,
        init_from=run_settings.start(source),
        lora=run_settings.adapters(lora, source.config),
        log=Log(track=tuple(track)),
        **run_settings.evaluation(folder, problems, evaluate_every, max_tokens=max_tokens),
    )
    return _run(sft_stage, override(config, settings), folder, export, best)


def reward_model(
    model: str | Path,
    data: str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]],
    *,
    workdir: str | Path = "runs/reward_model",
    steps: int = 200,
    batch: int = 8,
    length: int = 2048,
    learning_rate: float = 1e-5,
    held_out: float = 0.1,
    evaluate_every: int = 50,
    seed: int = 0,
    revision: str | None = None,
    track: Sequence[str] = (),
    settings: Sequence[str] = (),
    export: str | Path | None = None,
    best: bool = False,
) -> TrainingRun:
    """A reward model (report, 4.4) from pairs of a better and a worse answer.

    data: files or rows of pairs (`curate.preference_pairs`). held_out: share of the questions whose
    pairs are measured every `evaluate_every` steps and not trained on. A pair takes the slots of
    both answers in a row of `length`; an answer has at most half, longer ones are cut. The exported
    folder is a sequence classifier of one label; `stages.reward_scores` scores with it, and RL
    takes it as `reward_model`.
    """
    source, folder = find(model, revision=revision), Path(workdir)
    evaluation = PairEvaluation(held_out=held_out, every=evaluate_every)
    measured: dict[str, Any] = {}
    if held_out:
        measured = {"save_every": evaluate_every, "keep": run_settings.BEST}
    config = reward_model_stage.Config(
        source.config.replace(scalar_head=True),
        run_settings.tokenizer_folder(source),
        run_settings.conversations(data, folder),
        steps,
        run_settings.optimizer(learning_rate, steps, folder),
        batch=batch,
        length=min(length, source.config.max_length),
        too_long="truncate",
        seed=seed,
        init_from=run_settings.start(source),
        log=Log(track=tuple(track)),
        evaluation=evaluation,
        **measured,
    )
    return _run(reward_model_stage, override(config, settings), folder, export, best)


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
    export: str | Path | None = None,
    best: bool = False,
) -> TrainingRun:
    """Reinforcement learning with GRPO (report, 4.2) on the user's problems and reward.

    problems: rows with a prompt and a reference, see `own_problems`. reward: name of a task of
    `rewards.TASKS`, "file.py:function", or a function, see `own_rewards`. held_out: share of the
    problems that is not trained on but asked every `evaluate_every` steps. prompts x samples
    answers of at most `max_tokens` tokens are made for every optimizer step. thinking: True and
    False put /think and /no_think behind the prompts, those held out too, of a model whose chat
    template knows the two modes.
    """
    source, folder = find(model, revision=revision), Path(workdir)
    common = run_settings.on_policy(
        source,
        problems,
        own_rewards.register(reward),
        folder,
        steps=steps,
        columns=columns,
        held_out=held_out,
        evaluate_every=evaluate_every,
        prompts=prompts,
        samples=samples,
        max_tokens=max_tokens,
        thinking=thinking,
        learning_rate=learning_rate,
        lora=lora,
        seed=seed,
        track=track,
    )
    return _run(grpo, override(grpo.Config(**common), settings), folder, export, best)


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
    teacher_revision: str | None = None,
    track: Sequence[str] = (),
    settings: Sequence[str] = (),
    export: str | Path | None = None,
    best: bool = False,
) -> TrainingRun:
    """On-policy distillation (report, 4.5): the student answers, the teacher's KL teaches.

    reward: scores answers for the record and for evaluation; "" for none. Otherwise as `rl`.
    """
    source, folder = find(student, revision=revision), Path(workdir)
    common = run_settings.on_policy(
        source,
        problems,
        own_rewards.register(reward) if reward else "",
        folder,
        steps=steps,
        columns=columns,
        held_out=held_out if reward else 0.0,
        evaluate_every=evaluate_every,
        prompts=prompts,
        samples=samples,
        max_tokens=max_tokens,
        thinking=thinking,
        learning_rate=learning_rate,
        lora=lora,
        seed=seed,
        track=track,
    )
    master = run_settings.start(find(teacher, revision=teacher_revision))
    config = distill_stage.Config(**common, teacher=master)
    return _run(distill_stage, override(config, settings), folder, export, best)


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
    export: str | Path | None = None,
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
        tokenizer = run_settings.tokenizer_folder(source)
    elif not tokenizer:
        tokenizer = run_settings.trained_tokenizer(opened, vocab, folder / "tokenizer")
    words = Tokenizer.load(tokenizer)
    config = size(str(model)) if source is None else source.config
    if source is None:
        config = config.replace(vocab=words.vocab_rows)
    corpus = corpora.prepare(opened, words, folder / "corpus")
    stage = pretrain_stage.StageConfig(
        data=Stage("texts", {"texts": 1.0}, length, batch, repeat_small=True),
        steps=steps,
        optim=run_settings.optimizer(learning_rate, steps, folder),
        rope_theta=config.rope_theta,
    )
    whole = pretrain_stage.Config(
        config,
        (stage,),
        {"texts": str(corpus.folder)},
        seed=seed,
        init_from="" if source is None else run_settings.start(source),
        save_every=max(1, steps // 10),
        tokenizer=str(tokenizer),
        log=Log(track=tuple(track)),
    )
    return _run(pretrain_stage, override(whole, settings), folder, export)


def _run(
    stage: Any, config: Any, folder: Path, export: str | Path | None, best: bool = False
) -> TrainingRun:
    """Run the stage in `folder`, and export what came of it where that is asked for."""
    stage.run(config, str(folder))
    result = TrainingRun(folder)
    if export is not None:
        result.export(export, best=best)
    return result
