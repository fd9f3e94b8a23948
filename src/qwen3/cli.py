"""The command line `qwen3 COMMAND`: one module a command, imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence

from qwen3.train.stop_signals import answer_sigterm, leaving_at_once
from qwen3.train.writing import WorkdirError

# command: the module that has it, and the function there that registers it, if not add_parser
COMMANDS = {
    "pretrain": "qwen3.workflows.training_cli:add_pretrain",
    "sft": "qwen3.workflows.training_cli:add_sft",
    "reward_model": "qwen3.workflows.training_cli:add_reward_model",
    "rl": "qwen3.workflows.training_cli:add_rl",
    "distill": "qwen3.workflows.training_cli:add_distill",
    "task": "qwen3.workflows.task_check",
    "export": "qwen3.workflows.export_cli",
    "chat": "qwen3.infer.chat_cli",
    "eval": "qwen3.eval.eval_cli",
    "serve": "qwen3.serve.serve_cli",
    "research": "qwen3.research.research_cli",
    "budget": "qwen3.stages.budget_cli",
    "plan": "qwen3.plan.plan_cli",
    "recipe": "qwen3.recipe.recipe_cli",
    "tokenizer": "qwen3.data.tokenizer_cli",
    "corpus": "qwen3.data.corpus_cli",
    "data": "qwen3.pipeline.data_cli",
    "status": "qwen3.supervise.status_cli",
    "doctor": "qwen3.doctor",
}

# Commands that go on where they stand: SIGTERM ends them, at whatever moment, with exit code 42.
RESUMABLE = {"pretrain", "sft", "reward_model", "rl", "distill", "recipe"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. A user's mistake is one line on stderr and exit code 2.

    A workdir that cannot be used is one line and exit code 1.
    """
    is_program = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in RESUMABLE:
        if is_program:
            answer_sigterm()  # to its last moment, when this function has returned
        with leaving_at_once():
            return _run(arguments)
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="qwen3", description="The Qwen3 recipe in JAX.")
    version = importlib.import_module("qwen3").__version__
    parser.add_argument("--version", action="version", version=f"qwen3 {version}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name in _needed(arguments):
        module, _, function = COMMANDS[name].partition(":")
        getattr(importlib.import_module(module), function or "add_parser")(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except (ValueError, OSError) as error:
        print(f"{_typed(parsed)}: {error}", file=sys.stderr)
        return 2
    except WorkdirError as error:
        print(f"{_typed(parsed)}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _typed(parsed: argparse.Namespace) -> str:
    """The command as it was typed, up to its options: qwen3 data mixture propose."""
    words = (getattr(parsed, name, None) for name in ("command", "verb", "part"))
    return " ".join(["qwen3", *(word for word in words if word)])


def _needed(arguments: Sequence[str]) -> Iterable[str]:
    """The commands to import, which can take seconds: one, none for the version, all for help."""
    first = arguments[0] if arguments else ""
    return [first] if first in COMMANDS else [] if first == "--version" else COMMANDS


if __name__ == "__main__":
    sys.exit(main())
