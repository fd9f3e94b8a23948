"""The first cause of a failure among the errors that it sets off on every other host."""

import re

# What a process says when another one is gone: consequences.
CASCADE = re.compile(
    r"PollForError|UNAVAILABLE|Connection (closed|reset) by peer|[Hh]eartbeat timeout"
    r"|[Cc]oordination ?[Ss]ervice|Terminated|[Bb]arrier (timed out|failed)|Gloo.*(closed|timeout)"
    r"|distributed service detected fatal errors"
    r"|ended, as process \d+ fails|SystemExit|told to stop|signal 1?5\b|signal 6\b"
)
# What libtpu says on a machine that will not get well.
BAD_NODE = re.compile(
    r"Couldn't open iommu group|open\(/dev/vfio|Failed to initialize TPU system"
    r"|TPU initialization failed|No accelerator found"
)
ERROR = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|SystemExit)\b(?:: .*)?$|^F\d{4} .*|^Fatal .*"
    r"|.*ended, as process \d+ fails.*"
    rf"|.*(?:{BAD_NODE.pattern}).*",
    re.MULTILINE,
)
FRAME = r'File "(?:[^"]*/)?([^"/]+)", line (\d+),? in (\S+)'
# Threads that sleep there look after the process, and tell nothing.
LIBRARY = re.compile(r"/lib/python|-packages/|<frozen|qwen3/hosts.py")


def first_error(log: str) -> str:
    """The first error of a log that is no consequence, else its first, with its place; else "".

    Such as "ValueError: no text (rows.py:12 in read)", the innermost frame of the traceback.
    """
    errors = list(ERROR.finditer(log))
    error = next((error for error in errors if not CASCADE.search(error[0])), (*errors, None)[0])
    if error is None:
        return ""
    before = log[max(0, error.start() - 4000) : error.start()]
    frames = re.findall(FRAME, before.rpartition("Traceback (most recent call last)")[2])
    place = " ({}:{} in {})".format(*frames[-1]) if frames else ""
    return f"{error[0].strip()[:300]}{place}"


def hung_at(log: str) -> str:
    """Where the threads stood, in code that is no library's, when SIGUSR2 had stacks printed.

    A thread that sleeps in such code itself comes before one that waits for another thread.
    """
    places = []
    for stack in re.split(r"\(most recent call first\):\n", log)[1:]:
        frames = [line for line in stack.split("\n\n")[0].splitlines() if "File" in line]
        own = [depth for depth, line in enumerate(frames) if not LIBRARY.search(line)]
        if own and (match := re.search(FRAME, frames[own[0]])):
            places.append((own[0], "{}:{} in {}".format(*match.groups())))
    return min(places, default=(0, "an unknown place"))[1]
