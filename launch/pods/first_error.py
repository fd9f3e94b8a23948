"""The first cause of a failure among the errors that it sets off on every other host."""

from __future__ import annotations

import re
from typing import NamedTuple

# What a process says when another one is gone: consequences.
CASCADE = re.compile(
    r"PollForError|UNAVAILABLE|Connection (closed|reset) by peer|[Hh]eartbeat timeout"
    r"|[Cc]oordination ?[Ss]ervice|Terminated|[Bb]arrier (timed out|failed)|Gloo.*(closed|timeout)"
    r"|SystemExit|told to stop|signal 1?5\b|signal 6\b"
)
# What libtpu says on a machine that will not get well: delete that machine.
BAD_NODE = re.compile(
    r"Couldn't open iommu group|open\(/dev/vfio|Failed to initialize TPU system"
    r"|TPU initialization failed|No accelerator found"
)
ERROR = re.compile(
    rf"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|SystemExit)\b(?:: .*)?$|^F\d{{4}} .*|^Fatal .*"
    rf"|.*{BAD_NODE.pattern}.*",
    re.MULTILINE,
)
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+),? in (?P<name>\S+)')
STACK = re.compile(r"^Current thread .*\n\s+" + FRAME.pattern, re.MULTILINE)


class LogError(NamedTuple):
    """One error of a log."""

    text: str  # its line
    number: int  # of the line
    place: str  # "file.py:74 in step" of the innermost frame, or ""
    cause: bool  # not a mere consequence of another host's failure


def first_error(log: str) -> LogError | None:
    """The first error of one host's log that is no consequence, else its first, else None."""
    errors = [
        LogError(
            match[0].strip(),
            log.count("\n", 0, match.start()) + 1,
            _place(log[: match.start()]),
            not CASCADE.search(match[0]),
        )
        for match in ERROR.finditer(log)
    ]
    return next((error for error in errors if error.cause), errors[0] if errors else None)


def hung_at(log: str) -> str:
    """Where the main thread stood when SIGUSR2 had its stack printed: "file.py:74 in step"."""
    stacks = list(STACK.finditer(log))
    return _words(stacks[-1]) if stacks else ""


def _place(before: str) -> str:
    frames = list(FRAME.finditer(before[-4000:].rpartition("Traceback (most recent call last)")[2]))
    return _words(frames[-1]) if frames else ""


def _words(frame: re.Match) -> str:
    return f"{frame['file'].rpartition('/')[2]}:{frame['line']} in {frame['name']}"
