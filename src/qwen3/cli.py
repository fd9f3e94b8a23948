"""`qwen3 COMMAND`: one module a command, imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "chat": "qwen3.infer.chat_cli",
    "plan": "qwen3.plan.plan_cli",
    "recipe": "qwen3.recipe.recipe_cli",
    "tokenizer": "qwen3.data.tokenizer_cli",
    "corpus": "qwen3.data.corpus_cli",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. A user's mistake is one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="qwen3", description="The Qwen3 recipe in JAX.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    wanted = [arguments[0]] if arguments and arguments[0] in COMMANDS else COMMANDS
    for name in wanted:
        importlib.import_module(COMMANDS[name]).add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except (ValueError, OSError) as error:
        print(f"qwen3 {parsed.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
