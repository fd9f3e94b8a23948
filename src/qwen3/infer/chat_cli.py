"""`qwen3 chat MODEL`: talk to a model in the terminal.

Thinking is dimmed. Commands: /think, /no_think, /budget N (off, auto), /clear, /help, /quit;
Ctrl-C stops an answer and keeps the conversation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from qwen3.infer import language_model, requests, thinking_head
from qwen3.infer.chat_session import THINKING, ChatPiece, ChatSession, as_sampling
from qwen3.infer.language_model import LanguageModel

HELP = (
    "/think, /no_think: mode of the next answers; /budget N: tokens of thinking (/budget off: no "
    "limit; /budget auto: the model's choice); /clear: forget the conversation; "
    "/quit: leave; Ctrl-C: stop an answer"
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Register the command `chat`."""
    parser = subparsers.add_parser("chat", help="talk to a model in the terminal")
    parser.add_argument("model", help="a folder, a run's workdir, or a Hub name")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--think", dest="thinking", action="store_true", default=None)
    mode.add_argument("--no-think", dest="thinking", action="store_false")
    parser.add_argument("--budget", help="tokens of thinking, auto, or auto:Q, Q from 0 to 1")
    parser.add_argument(
        "--preset", choices=list(requests.PRESETS), help="default: the folder's, or by the mode"
    )
    for field in dataclasses.fields(requests.SamplingParams):
        kind = int if field.name == "top_k" else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, type=kind)
    parser.add_argument("--max-tokens", type=int, help="longest answer; default: the context")
    parser.add_argument("--max-length", type=int, help="longest conversation; default: the model's")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--tools", type=Path, help="a JSON file: a list of function schemas")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the command; exit code 2 for a model or an option that cannot be used."""
    console = Console()
    try:
        model = language_model.load(arguments.model)
        session = open_session(model, arguments)
    except (ValueError, OSError) as error:
        console.print(f"qwen3 chat: {error}", style="red", markup=False)
        return 2
    console.print(HELP, style="dim", markup=False)
    return talk(session, console, lambda: console.input("[bold]> [/bold]"))


def open_session(model: LanguageModel, arguments: argparse.Namespace) -> ChatSession:
    """A session from the command's options. ValueError for a value out of its range."""
    changes = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(requests.SamplingParams)
        if getattr(arguments, field.name) is not None
    }
    sampling = model.chat_sampling(arguments.preset)
    if changes:
        default = "non_thinking" if arguments.thinking is False else "thinking"
        sampling = dataclasses.replace(as_sampling(sampling or default), **changes)
    engine = model.engine(slots=1, max_length=arguments.max_length, block=8, seed=arguments.seed)
    return ChatSession(
        engine,
        thinking=arguments.thinking,
        budget=None if arguments.budget is None else thinking_head.parse(arguments.budget),
        sampling=sampling,
        tools=None if arguments.tools is None else json.loads(arguments.tools.read_text()),
        options={"max_tokens": arguments.max_tokens},
        choose_budget=model.auto_budget,
        messages=[{"role": "system", "content": arguments.system}] if arguments.system else [],
    )


def talk(session: ChatSession, console: Console, ask: Callable[[], str]) -> int:
    """Read lines and show answers until /quit or the end of the input; the exit code, 0."""
    while True:
        try:
            line = ask().strip()
        except KeyboardInterrupt:
            console.print()
            continue
        except EOFError:
            return 0
        if line == "/quit":
            return 0
        if not line:
            continue
        try:
            if not run_command(session, console, line):
                show(console, session.say(line))
                while session.calls:
                    show(console, session.give_results(_results(session, console, ask)))
        except ValueError as error:
            console.print(str(error), style="red", markup=False)
        except (KeyboardInterrupt, EOFError):
            console.print("\n(stopped)", style="dim")


def run_command(session: ChatSession, console: Console, line: str) -> bool:
    """Carry out a line that is a command; False if it is a message to the model."""
    word, _, rest = line.partition(" ")
    if word in ("/think", "/no_think") and not rest:
        session.thinking = word == "/think"
        console.print("thinking" if session.thinking else "not thinking", style="dim")
    elif word == "/budget":
        try:
            session.budget = None if rest == "off" else thinking_head.parse(rest)
        except ValueError:
            wanted = "a number of tokens, or off, auto, auto:Q"
            raise ValueError(f"/budget {rest!r}: wanted {wanted}") from None
        console.print(f"thinking budget: {rest}", style="dim")
    elif line == "/clear":
        session.messages = [m for m in session.messages[:1] if m["role"] == "system"]
        console.print("cleared", style="dim")
    elif line == "/help":
        console.print(HELP, style="dim", markup=False)
    else:
        return False
    return True


def show(console: Console, pieces: Iterable[ChatPiece]) -> None:
    """Print pieces as they come; thinking dimmed."""
    for piece in pieces:
        style = "dim italic" if piece.kind == THINKING else None
        console.print(printable(piece.text), style=style, end="", markup=False, highlight=False)
    console.print()


def printable(text: str) -> str:
    """The text without what a terminal would obey: escape sequences (which can write the clipboard
    or the window's title) and marks that turn the direction of writing round.
    """
    return _CONTROLS.sub("\ufffd", text)


# C0 and C1 controls but tab and line feed; bidirectional embeddings, overrides and isolates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _results(session: ChatSession, console: Console, ask: Callable[[], str]) -> list[str]:
    """Ask the person for the result of each tool call."""
    results = []
    for call in session.calls:
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        shown = printable(f"{call['name']}({arguments}) gives:")
        console.print(shown, style="yellow", markup=False)
        results.append(ask())
    return results
