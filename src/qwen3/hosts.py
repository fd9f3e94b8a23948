"""The hosts of a run: what they agree on, what they tell of themselves, and the store they share.

One process runs on every host. Decisions are made in process 0 and told to the others (`decided`),
inputs are compared before training (`assert_equal`), and a launcher sees how each host is doing by
two small files in the folder QWEN3_HOST_DIR: heartbeat.json and exit.json (launch/supervise.py).

Importing this module turns fsspec's cache of listings off for Google Cloud Storage: it would hide
the files that other hosts write, for which orbax then waits without end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec.config
import jax
import numpy as np
from jax.experimental import multihost_utils

for protocol in ("gcs", "gs"):
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)

WORDS = 2_000  # bytes of a decision, or of an error, that are told to the other hosts
HOST_FOLDER = "QWEN3_HOST_DIR"  # environment variable of a launcher

_last_heartbeat: dict[str, Any] = {}
spent: dict[str, float] = {}  # seconds of this process by what they went into: "save", "input"...


class FirstHostError(RuntimeError):
    """Process 0 could not decide; the message is its own."""


def decided(decide: Callable[[], str]) -> str:
    """decide() of process 0, in every process; all must call it.

    An exception of process 0 is raised there as it is, and in the others as FirstHostError.
    """
    if jax.process_count() == 1:
        return decide()
    failure: BaseException | None = None
    text = ""
    if jax.process_index() == 0:
        try:
            text = "=" + decide()
        except Exception as error:
            failure = error
            text = f"!{type(error).__name__}: {error}"
    letters = multihost_utils.broadcast_one_to_all(_letters(text))
    if failure is not None:
        raise failure
    text = _text(letters)
    if text.startswith("!"):
        raise FirstHostError(text[1:])
    return text[1:]


def gathered_words(text: str) -> list[str]:
    """The text of every process, in the order of their numbers; all must call it."""
    if jax.process_count() == 1:
        return [text]
    rows = multihost_utils.process_allgather(_letters(text))
    return [_text(row) for row in np.asarray(rows).reshape(-1, WORDS)]


def assert_equal(values: dict[str, str]) -> None:
    """Raise ValueError, in every process, naming the hosts whose values differ from process 0's.

    values: what must be the same everywhere, by name: digests of config and data, versions.
    """
    text = json.dumps(values)
    if len(text) > WORDS:
        raise ValueError(f"{len(text)} bytes to compare between hosts, at most {WORDS}: {values}")
    records = [json.loads(other) for other in gathered_words(text)]
    lines = [
        f"process {process} has {name} {record.get(name)!r}, process 0 {first!r}"
        for process, record in enumerate(records)
        for name, first in records[0].items()
        if record.get(name) != first
    ]
    if lines:
        raise ValueError("the hosts of this run differ: " + "; ".join(lines))


def _letters(text: str) -> np.ndarray:
    """The text as bytes [WORDS], cut or filled with zeros: collectives need one shape."""
    # A cut must not leave half a letter, so that it is done on ASCII escapes.
    encoded = text.encode("ascii", "backslashreplace")[:WORDS]
    return np.frombuffer(encoded.ljust(WORDS, b"\0"), np.uint8)


def _text(letters: Any) -> str:
    return bytes(np.asarray(letters, np.uint8)).rstrip(b"\0").decode("ascii")


def local_folder(path: str | os.PathLike) -> Path:
    """The path of a folder whose files are mapped into memory, which must be on this machine.

    Raises ValueError for a URL, with the command that copies it.
    """
    url = os.fspath(path)
    if "://" in url:
        name = url.rstrip("/").rpartition("/")[2]
        raise ValueError(
            f"{url} is on an object store, and its files are mapped into memory: copy it to every "
            f"host first, `gcloud storage cp -r {url.rstrip('/')} .`, and give ./{name}"
        )
    return Path(url)


@contextlib.contextmanager
def spending(kind: str) -> Iterator[None]:
    """Count the seconds of the block as spent on `kind`."""
    start = time.monotonic()
    try:
        yield
    finally:
        spent[kind] = spent.get(kind, 0.0) + time.monotonic() - start


@functools.cache
def count_compilation() -> None:
    """Count the seconds that XLA compiles, from the first call on, as spent on "compile"."""

    def count(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            spent["compile"] = spent.get("compile", 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(count)


def heartbeat(step: int, seconds: float = 0.0, input_wait: float = 0.0) -> None:
    """Tell the launcher's watchdog, if there is one, that this process has come to `step`.

    seconds: wall time since the heartbeat of the step before, with `input_wait` seconds of waiting
    for data. What was compiled, saved or restored in it is not counted as spent on steps.
    """
    aside = sum(spent.get(kind, 0.0) for kind in ("compile", "save", "restore"))
    others = aside - spent.pop("aside", 0.0)
    for kind, value in (("input", input_wait), ("step", max(0.0, seconds - input_wait - others))):
        spent[kind] = spent.get(kind, 0.0) + value
    _last_heartbeat.update({"step": step, "time": time.time(), "spent": dict(spent)})
    spent["aside"] = aside
    _tell("heartbeat.json", _last_heartbeat)


def alive() -> None:
    """Renew the heartbeat, each ten seconds at most, in a long phase between two steps.

    Before the first step there is none: a launcher waits longer for what is compiled then.
    """
    now = time.time()
    if _last_heartbeat and now > _last_heartbeat["time"] + 10:
        _last_heartbeat["time"] = now
        _tell("heartbeat.json", _last_heartbeat)


def last_words(error: BaseException, code: int) -> None:
    """Tell the launcher what ended this process: the code, the error's first line and its place."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = frames[-1] if frames else None
    where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" if frame else ""
    first = (str(error).splitlines() or [""])[0]
    record = {
        "rc": code,
        "error": f"{type(error).__name__}: {first}",
        "where": where,
        "process": jax.process_index() if jax.distributed.is_initialized() else 0,
        "time": time.time(),
    }
    _tell("exit.json", record)


def _tell(name: str, record: dict[str, Any]) -> None:
    folder = os.environ.get(HOST_FOLDER)
    if not folder:
        return
    beside = Path(folder, f"{name}.new")
    beside.write_text(json.dumps(record))
    beside.replace(Path(folder, name))
