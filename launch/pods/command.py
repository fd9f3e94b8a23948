"""Commands as argument lists, each printed and each with a time limit, and what they answer."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Refused(Exception):
    """A request that is not carried out: one line that says why and what helps."""


class NotNow(Refused):
    """What may go well the next time: no capacity, a host that did not answer."""


class State(NamedTuple):
    """Of a pod: absent, waiting (for capacity), active (every host there) or lost."""

    kind: str
    why: str = ""


class Answer(NamedTuple):
    code: int | None  # None: it ran into its time limit
    out: str
    err: str

    def said(self, advice: Sequence[tuple[str, type[Refused], str]] = ()) -> str:
        """What a command that went well printed; else Refused with its last line.

        advice: (pattern of a complaint, the kind of refusal, what helps).
        """
        if self.code == 0:
            return self.out
        line = ([*self.out.splitlines(), *self.err.splitlines()] or ["no answer in time"])[-1]
        for pattern, kind, help in advice:
            if re.search(pattern, self.err):
                raise kind(f"{help} ({line})")
        raise (NotNow if self.code is None else Refused)(line)


def call(argv: Sequence[str], timeout: float = 120, stdin: str = "", **env: str) -> Answer:
    """Run a command in the repository's root with `env` added to the environment."""
    print("+", shlex.join(argv), file=sys.stderr, flush=True)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options = {"text": True, "cwd": ROOT, "env": {**os.environ, **env}, "start_new_session": True}
    try:
        process = subprocess.Popen(argv, **pipes, **options)
    except FileNotFoundError:
        raise Refused(f"{argv[0]} is not installed here") from None
    try:
        out, err = process.communicate(stdin, timeout)
        return Answer(process.returncode, out, err)
    except BaseException as error:  # Ctrl-C too; the command's children, such as ssh, end with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Answer(None, *process.communicate())


def qwen3(module: str, *arguments: str, timeout: float = 60, stdin: str = "") -> Answer:
    """Run a module of this checkout's package; it changes nothing, so in dry runs too."""
    argv = [sys.executable, "-m", f"qwen3.{module}", *arguments]
    return call(argv, timeout, stdin, PYTHONPATH=str(ROOT / "src"))


def dry(argv: Sequence[str], *_: object, **__: object) -> Answer:
    """Print a command and run nothing."""
    print("+", shlex.join(argv))
    return Answer(0, "", "")


def on_all(call_on: Callable[[Any], Answer], places: Sequence[Any]) -> dict[str, str]:
    """The markers of all places, which are called at once."""
    with ThreadPoolExecutor(64) as pool:
        return markers("\n".join(answer.out for answer in pool.map(call_on, places)))


def markers(text: str) -> dict[str, str]:
    """Host (SLICE.HOST) -> what its worker.sh said, from lines "@pod 0.1 started".

    Hosts are counted by these, never by exit codes: a gcloud that reached no host reports success.
    """
    return dict(re.findall(r"^@pod (\d+\.\d+) (.*)$", text, re.MULTILINE))
