"""`qwen3 sft`, `reward_model`, `rl`, `distill`, `pretrain`: `workflows.training` as commands.

qwen3 rl Qwen/Qwen3-0.6B --problems mine.jsonl --reward my_reward.py --steps 100 --lora 16
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _columns(text: str) -> tuple[str, str]:
    kind, equals, name = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted kind=column, such as prompt=question")
    return kind, name


# flag: (keyword of `workflows.training`, argparse options); the defaults are the functions' own.
Flags = dict[str, tuple[str, dict[str, Any]]]
COMMON: Flags = {
    "--workdir": ("workdir", {"help": "what the run leaves; the same one goes on"}),
    "--steps": ("steps", {"type": int, "help": "optimizer steps; more when it goes on"}),
    "--learning-rate": ("learning_rate", {"type": float}),
    "--seed": ("seed", {"type": int}),
    "--revision": ("revision", {"help": "of the Hub repository"}),
    "--track": ("track", {"nargs": "+", "help": "wandb, trackio"}),
    "--export": (
        "export",
        {"type": Path, "help": "folder in the Hugging Face layout, written at the end"},
    ),
    "--set": (
        "settings",
        {"action": "append", "metavar": "a.b=c", "help": "of the stage's config"},
    ),
}
ADAPTERS: Flags = {"--lora": ("lora", {"type": int, "help": "rank of adapters; 0: whole model"})}
ROWS: Flags = {
    "--batch": ("batch", {"type": int, "help": "rows of a step"}),
    "--length": ("length", {"type": int, "help": "tokens of a row"}),
}
PROBLEMS: Flags = {
    "--reward": ("reward", {"help": "a task's name, or file.py:function"}),
    "--column": (
        "columns",
        {
            "action": "append",
            "type": _columns,
            "metavar": "kind=column",
            "help": "which column is the prompt, reference, system or messages",
        },
    ),
    "--evaluate-every": ("evaluate_every", {"type": int, "help": "steps"}),
    "--max-tokens": ("max_tokens", {"type": int, "help": "of an answer"}),
    "--best": (
        "best",
        {"action": "store_true", "help": "export the best on held-out problems, not the last"},
    ),
}
ROLLOUTS: Flags = {
    "--held-out": ("held_out", {"type": float, "help": "share of the problems, to measure on"}),
    "--prompts": ("prompts", {"type": int, "help": "of a phase of rollouts"}),
    "--samples": ("samples", {"type": int, "help": "answers to each prompt"}),
    "--think": ("thinking", {"action": "store_const", "const": True, "help": "/think"}),
    "--no-think": ("thinking", {"action": "store_const", "const": False, "help": "/no_think"}),
}
PAIR_FLAGS = ("--held-out", "--evaluate-every", "--best")
NOT_KEYWORDS = ("run", "command", "workflow")
MODEL = "a folder, a run's workdir, or a Hub name"


def add_sft(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `sft`."""
    parser = _parser(subparsers, "sft", "fine-tune a model on conversations", ("model",))
    parser.add_argument("--data", nargs="+", required=True, help="files with messages")
    parser.add_argument("--evaluate", default=argparse.SUPPRESS, help="held-out problems")
    return _with(parser, COMMON | ADAPTERS | ROWS | PROBLEMS)


def add_reward_model(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `reward_model`."""
    parser = _parser(subparsers, "reward_model", "a reward model from pairs of answers", ("model",))
    parser.add_argument("--data", nargs="+", required=True, help="files of chosen and rejected")
    shared = {name: (PROBLEMS | ROLLOUTS)[name] for name in PAIR_FLAGS}
    return _with(parser, COMMON | ROWS | shared)


def add_rl(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `rl`."""
    parser = _parser(subparsers, "rl", "GRPO on your problems and reward", ("model",))
    parser.add_argument("--problems", required=True, help="JSON lines, Parquet or a Hub data set")
    return _with(parser, COMMON | ADAPTERS | PROBLEMS | ROLLOUTS, required=("--reward",))


def add_distill(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `distill`."""
    parser = _parser(
        subparsers, "distill", "on-policy distillation from a teacher", ("student", "teacher")
    )
    parser.add_argument("--problems", required=True, help="JSON lines, Parquet or a Hub data set")
    parser.add_argument("--teacher-revision", default=argparse.SUPPRESS, help="as --revision")
    return _with(parser, COMMON | ADAPTERS | PROBLEMS | ROLLOUTS)


def add_pretrain(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `pretrain`."""
    parser = _parser(subparsers, "pretrain", "pretrain on your texts", ("model",))
    parser.add_argument("--texts", nargs="+", required=True, help="files, folders or globs")
    parser.add_argument("--tokenizer", default=argparse.SUPPRESS, help="a folder")
    parser.add_argument("--vocab", type=int, default=argparse.SUPPRESS, help="of a new tokenizer")
    return _with(parser, COMMON | ROWS)


def _parser(
    subparsers: Any, name: str, text: str, models: tuple[str, ...]
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text)
    for model in models:
        parser.add_argument(model, help=MODEL)
    parser.set_defaults(run=run, workflow=name)
    return parser


def _with(
    parser: argparse.ArgumentParser, flags: Flags, required: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    for flag, (keyword, options) in flags.items():
        needed = {"required": True} if flag in required else {"default": argparse.SUPPRESS}
        parser.add_argument(flag, dest=keyword, **options, **needed)
    return parser


def run(options: argparse.Namespace) -> int:
    """Train, print the held-out scores and where the model is."""
    from qwen3.run import use_compile_cache
    from qwen3.workflows import training

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("qwen3").setLevel(logging.INFO)
    use_compile_cache()
    function: Callable[..., training.TrainingRun] = getattr(training, options.workflow)
    result = function(**arguments(options))
    for record in result.scores:
        print(
            f"step {record['step']}: score {record['score']:.3f} "
            f"[{record['low']:.3f}, {record['high']:.3f}] on {record['n']} held-out problems"
        )
    folder = getattr(options, "export", None)
    if folder is not None:
        print(f"exported: {folder}")
    if options.workflow != "reward_model":
        print(f"chat with it: qwen3 chat {folder or result.workdir}")
    return 0


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords of the function of `workflows.training` that the command stands for."""
    keywords = {name: value for name, value in vars(options).items() if name not in NOT_KEYWORDS}
    if "columns" in keywords:
        keywords["columns"] = dict(keywords["columns"])
    return keywords
