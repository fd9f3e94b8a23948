"""The command line `qwen3 COMMAND`: one module a command, imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence

COMMANDS = {
    "chat": "qwen3.infer.chat_cli",
    "plan": "qwen3.plan.plan_cli",
    "recipe": "qwen3.recipe.recipe_cli",
    "tokenizer": "qwen3.data.tokenizer_cli",
    "corpus": "qwen3.data.corpus_cli",
    "doctor": "qwen3.doctor",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. A user's mistake is one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="qwen3", description="The Qwen3 recipe in JAX.")
    version = importlib.import_module("qwen3").__version__
    parser.add_argument("--version", action="version", version=f"qwen3 {version}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name in _needed(arguments):
        importlib.import_module(COMMANDS[name]).add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except (ValueError, OSError) as error:
        print(f"qwen3 {parsed.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _needed(arguments: Sequence[str]) -> Iterable[str]:
    """The commands to import, which can take seconds: one, none for the version, all for help."""
    first = arguments[0] if arguments else ""
    return [first] if first in COMMANDS else [] if first == "--version" else COMMANDS


if __name__ == "__main__":
    sys.exit(main())
