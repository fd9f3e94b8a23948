"""Commands as argument lists, each printed and each with a time limit, and what they answer."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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


def dry(argv: Sequence[str], *_: object, **__: object) -> Answer:
    """Print a command and run nothing."""
    print("+", shlex.join(argv))
    return Answer(0, "", "")


def markers(text: str) -> dict[str, str]:
    """Host (SLICE.HOST) -> what its worker.sh said, from lines "@pod 0.1 started".

    Hosts are counted by these, never by exit codes: a gcloud that reached no host reports success.
    """
    return dict(re.findall(r"^@pod (\d+\.\d+) (.*)$", text, re.MULTILINE))
