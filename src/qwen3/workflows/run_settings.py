"""How a few lines become the config of a stage: rates, adapters, modes, lengths, files of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3.config import OptimConfig
from qwen3.curate.files import write_conversations, write_problems
from qwen3.data import tokenizer_cli
from qwen3.data.folder_template import has_switch
from qwen3.data.tokenizer import Tokenizer
from qwen3.data.tokenizer_settings import names_template
from qwen3.losses.forward import MODES
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import Problem
from qwen3.rewards.answers import prompt_ids
from qwen3.stages.problem_evaluation import SCORE, ProblemEvaluation
from qwen3.stages.prompts import ANY, FILE, Share, in_mode
from qwen3.stages.rollouts import Sampling
from qwen3.train.checkpoint import Keep
from qwen3.train.model_source import ModelSource
from qwen3.train.recording import Log
from qwen3.workflows import own_problems

log = logging.getLogger("qwen3")

Rows = str | Path | Iterable[Mapping[str, Any]]
BEST = Keep(
    best=SCORE, best_is="max"
)  # the last few checkpoints, and the best on held-out problems


def on_policy(
    source: ModelSource,
    problems: Rows,
    task: str,
    folder: Path,
    *,
    steps: int,
    columns: Mapping[str, str] | None,
    held_out: float,
    evaluate_every: int,
    prompts: int,
    samples: int,
    max_tokens: int,
    thinking: bool | None,
    learning_rate: float,
    lora: int,
    seed: int,
    track: Sequence[str],
) -> dict[str, Any]:
    """The fields that the configs of GRPO and of on-policy distillation share.

    Writes the problems into the run's `folder`, those held out apart.
    """
    mode = prompt_mode(source, thinking)
    rows = own_problems.read(problems, task, columns=columns)
    train, held = own_problems.held_out(rows, held_out)
    return dict(
        model=source.config,
        tokenizer=tokenizer_folder(source),
        tasks=(Share(FILE, modes=(mode,)),),
        steps=steps,
        optim=optimizer(learning_rate, steps, folder),
        problems=store(folder, "train", train),
        too_long="drop",
        sampling=Sampling(samples, max_tokens, min(64, prompts * samples)),
        prompts=prompts,
        length=row_length(source, train, max_tokens),
        seed=seed,
        init_from=start(source),
        lora=adapters(lora, source.config),
        log=Log(every=1, track=tuple(track)),
        **evaluation(folder, [in_mode(problem, mode) for problem in held], evaluate_every),
    )


def evaluation(
    folder: Path, problems: Sequence[Problem], every: int, *, max_tokens: int = 0
) -> dict[str, Any]:
    """The fields of a config that measures held-out problems, saves what it measured and keeps the
    best; {} without problems. max_tokens: of an answer; 0: as in training."""
    if not problems:
        return {}
    file = store(folder, "heldout", problems)
    settings = ProblemEvaluation(file, every, max_tokens=max_tokens)
    return {"evaluation": settings, "save_every": every, "keep": BEST}


def tokenizer_folder(source: ModelSource) -> str:
    """Where the model's tokenizer is. Raises ValueError for a model without one."""
    if not source.tokenizer_folder:
        raise ValueError(f"{source.name} has no tokenizer; put tokenizer.json beside its weights")
    return source.tokenizer_folder


def start(source: ModelSource) -> str:
    """What `init_from` finds the same model by, wherever the name came from."""
    return source.name if source.adapter is not None else str(source.path)


def optimizer(learning_rate: float, steps: int, folder: Path) -> OptimConfig:
    """A constant rate after a short warm-up, so that more steps can be asked for later.

    The warm-up is a tenth of the steps, at most 10, that the run in `folder` was begun with.
    """
    warmup = min(10, steps // 10)
    if (folder / "config.json").is_file():
        begun = json.loads((folder / "config.json").read_text())
        optim = begun["stages"][0]["optim"] if "stages" in begun else begun.get("optim", {})
        warmup = min(optim.get("warmup", warmup), steps)
    return OptimConfig(peak=learning_rate, schedule="constant", warmup=warmup, weight_decay=0.0)


def adapters(rank: int, model: ModelConfig) -> LoraConfig:
    """Adapters of a rank on all matrices of a dense model, on attention of a mixture of experts."""
    if not rank:
        return LoraConfig()
    attention = ("query", "key", "value", "out")
    return LoraConfig(rank, 2.0 * rank, attention) if model.moe else LoraConfig(rank, 2.0 * rank)


def prompt_mode(source: ModelSource, thinking: bool | None) -> str:
    """The mode whose flag, /think or /no_think, is put behind the prompts; "any" for no flag.

    A model whose chat template knows no modes (the 2507 releases, a base model without a template)
    was never taught the flags: they are left out, with a warning.
    """
    if thinking is None:
        return ANY[0]
    folder = tokenizer_folder(source)
    template = Tokenizer.load(folder).chat_template
    if names_template(folder, None) or (template is not None and has_switch(template)):
        return MODES[thinking]
    kind = "no chat template" if template is None else "a chat template without thinking modes"
    log.warning(
        "thinking=%s is not followed: %s has %s, so no flag is put behind the prompts",
        thinking,
        source.name,
        kind,
    )
    return ANY[0]


def row_length(source: ModelSource, problems: Sequence[Problem], max_tokens: int) -> int:
    """Slots of a row: the longest prompt with an answer, in steps of 64, at most the context."""
    tokenizer = Tokenizer.load(tokenizer_folder(source))
    flag = len(tokenizer.encode(" /no_think"))
    longest = max(len(prompt_ids(problem, tokenizer)) for problem in problems) + flag
    return min(-(-(longest + max_tokens) // 64) * 64, source.config.max_length - 1)


def store(folder: Path, name: str, problems: Sequence[Problem]) -> str:
    """The problems of a run, kept with it so that it can go on without the user's file."""
    path = folder / "problems" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_problems(path, problems)
    return str(path)


def conversations(data: Any, folder: Path) -> tuple[str, ...]:
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


def trained_tokenizer(sources: Sequence[Any], vocab: int, folder: Path) -> Path:
    """The folder of a byte-level BPE tokenizer of the texts, made once for a workdir."""
    if not (folder / "tokenizer.json").is_file():
        Tokenizer.train(tokenizer_cli.texts(sources), vocab).save(folder)
    return folder
