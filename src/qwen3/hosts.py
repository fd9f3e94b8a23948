"""The hosts of a run: what they agree on, what they tell of themselves, and the store they share.

One process runs on every host. Decisions are made in process 0 and told to the others (`decided`),
inputs are compared before training (`assert_equal`), and a launcher sees how each host is doing by
two small files in the folder QWEN3_HOST_DIR: heartbeat.json and exit.json (`supervise.supervisor`).

Importing this module turns fsspec's cache of listings off for Google Cloud Storage: it would hide
the files that other hosts write, for which orbax then waits without end.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec.config
import jax
from jax._src import distributed  # the coordination service's key-value store has no other door

log = logging.getLogger("qwen3")

for protocol in ("gcs", "gs"):
    fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)

MILLISECONDS = 3_600_000  # to wait for another host's word; one that dies ends all before that
EXCHANGES = 64  # after so many at most, what was told in earlier ones is deleted
FAILED = "qwen3/failed"  # key under which a process that fails says why
HOST_FOLDER = "QWEN3_HOST_DIR"  # environment variable of a launcher

between_blocks: list[Callable[[], None]] = []  # what else `alive` does
_exchanges = itertools.count()  # every process counts the same
_told_in: list[int] = []  # exchanges in which this process left a text that is still there
_last_heartbeat: dict[str, Any] = {}
spent: dict[str, float] = {}  # seconds of this process by what they went into: "save", "input"...


class FirstHostError(RuntimeError):
    """The process that decides could not; the message is its own."""


def decided(decide: Callable[[], str], process: int = 0) -> str:
    """decide() of one process, in every process; all must call it.

    An exception of that process is raised there as it is, and in the others as FirstHostError.
    """
    if jax.process_count() == 1:
        return decide()
    number, failure = next(_exchanges), None
    if number % EXCHANGES == 0:
        gathered_words("")
    if jax.process_index() == process:
        try:
            text = "=" + decide()
        except Exception as error:
            failure, text = error, f"!{type(error).__name__}: {error}"
        _tell_hosts(number, text)
    if failure is not None:
        raise failure
    text = _told(number, process)
    if text.startswith("!"):
        raise FirstHostError(text[1:])
    return text[1:]


def gathered_words(text: str) -> list[str]:
    """The text of every process, in the order of their numbers; all must call it."""
    if jax.process_count() == 1:
        return [text]
    number = next(_exchanges)
    _tell_hosts(number, text)
    texts = [_told(number, process) for process in range(jax.process_count())]
    # All have come to this exchange, so what was told in earlier ones is read.
    for earlier in [told for told in _told_in if told < number]:
        _told_in.remove(earlier)
        _service().key_value_delete(f"qwen3/{earlier}/{jax.process_index()}")
    return texts


def assert_equal(values: dict[str, str]) -> None:
    """Raise ValueError, in every process, naming the hosts whose values differ from process 0's.

    values: what must be the same everywhere, by name: digests of config and data, versions.
    """
    records = [json.loads(text) for text in gathered_words(json.dumps(values))]
    lines = [
        f"process {process} has {name} {record.get(name)!r}, process 0 {first!r}"
        for process, record in enumerate(records)
        for name, first in records[0].items()
        if record.get(name) != first
    ]
    if lines:
        raise ValueError("the hosts of this run differ: " + "; ".join(lines))


def _tell_hosts(number: int, text: str) -> None:
    """Leave a text with JAX's coordination service, for all processes.

    Unlike collectives it compiles nothing and does not mind that hosts come minutes apart.
    """
    _service().key_value_set(f"qwen3/{number}/{jax.process_index()}", text)
    _told_in.append(number)


def _told(number: int, process: int) -> str:
    return _service().blocking_key_value_get(f"qwen3/{number}/{process}", MILLISECONDS)


def end_with_peers() -> None:
    """From now on, end this process as soon as another one says `tell_peers`.

    Where it waits for the other one, be it in a collective or for a checkpoint, JAX would notice
    only after its heartbeat timeout.
    """

    def look() -> None:
        # No daemon: a thread that is in a call of JAX's when Python ends would abort the process.
        while threading.main_thread().is_alive():
            time.sleep(0.5)
            with contextlib.suppress(Exception):  # there is no such key, as it should be
                log.error("ended, as %s", _service().key_value_try_get(FAILED))
                os._exit(1)

    threading.Thread(target=look, name="peers").start()


def tell_peers(error: BaseException) -> None:
    """Have all other processes end, as this one does by `error`."""
    words = f"process {jax.process_index()} fails: {type(error).__name__}: {error}"
    with contextlib.suppress(Exception):  # another one was first, or the service is gone
        _service().key_value_set(FAILED, words)


def _service() -> Any:
    """The client of JAX's coordination service."""
    if distributed.global_state.client is None:
        raise RuntimeError(
            "several processes that have not joined: call jax.distributed.initialize"
        )
    return distributed.global_state.client


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
    """Called between the blocks of a long phase: rollouts, an evaluation, an import.

    Renews the heartbeat, each ten seconds at most (before the first step there is none: a launcher
    waits longer for what is compiled then), and leaves where the run is told to: all processes
    call it alike, as they do in what their devices do together.
    """
    for check in between_blocks:
        check()
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
