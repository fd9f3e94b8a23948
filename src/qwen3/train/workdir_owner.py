"""The owner of a workdir on Google Cloud Storage: one run at a time writes there.

The object owner.json says who writes. It is only ever written where its generation is the one that
the writer has seen (ifGenerationMatch), so that of two runs one succeeds. The owner renews it; a
run that was cut off, and whose workdir another took over, is refused at its next checkpoint.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from etils import epath

from qwen3.train.writing import WorkdirError

log = logging.getLogger("qwen3")

OWNER = "owner.json"
RENEW = 30.0  # seconds between renewals
STALE = 180.0  # seconds without a renewal after which another run may take the workdir


class Owner:
    """The ownership of `directory`, held until `release` and renewed by a thread.

    Raises WorkdirError naming the run that holds it: one that renewed it less than STALE seconds
    ago, unless its process was of this host and is gone.
    """

    def __init__(self, directory: epath.Path) -> None:
        self.directory = directory
        self._identity = uuid.uuid4().hex
        self._blob = _blob(directory / OWNER)
        self._generation = self._free_generation()
        self._guard, self._released = threading.Lock(), threading.Event()
        self.renew()
        threading.Thread(target=self._keep, name="owner", daemon=True).start()

    def renew(self) -> None:
        """Write owner.json anew. Raises WorkdirError if another run has taken the workdir."""
        from google.api_core.exceptions import PreconditionFailed

        record = {"run": self._identity, "process": os.getpid(), "host": socket.gethostname()}
        text = json.dumps({**record, "time": time.time()})
        with self._guard:
            if self._released.is_set():
                return
            try:
                self._blob.upload_from_string(text, if_generation_match=self._generation)
                self._generation = self._blob.generation
            except PreconditionFailed:
                generation, stored = _read(self._blob)
                # A request that was repeated, after its answer was lost, meets its own writing.
                if stored.get("run") != self._identity:
                    raise WorkdirError(_taken(self.directory, stored)) from None
                self._generation = generation

    def release(self) -> None:
        """Leave the workdir to others."""
        from google.api_core.exceptions import GoogleAPIError

        with self._guard:
            self._released.set()
            with contextlib.suppress(GoogleAPIError):
                if _read(self._blob)[1].get("run") == self._identity:
                    self._blob.delete(if_generation_match=self._generation)

    def _free_generation(self) -> int:
        """The generation that owner.json has and may be replaced at; 0 where there is none."""
        generation, stored = _read(self._blob)
        if not generation:
            return 0
        age = (datetime.datetime.now(datetime.UTC) - self._blob.updated).total_seconds()
        if age < STALE and not _gone(stored):
            raise WorkdirError(
                f"{_taken(self.directory, stored)}; renewed {age:.0f} s ago, and free "
                f"{STALE:.0f} s after the last renewal"
            )
        log.info("%s was left by process %s", self.directory, _name(stored))
        return generation

    def _keep(self) -> None:
        while not self._released.wait(RENEW):
            try:
                self.renew()
            except WorkdirError as error:
                log.error("%s", error)
                return
            except Exception as error:  # the network; the next renewal may come through
                log.warning("%s was not renewed: %s", self.directory / OWNER, error)


def _blob(path: epath.Path) -> Any:
    """The object of that name, as google-cloud-storage knows it."""
    from google.cloud import storage

    bucket, _, name = str(path).partition("://")[2].partition("/")
    project = os.environ.get("GOOGLE_CLOUD_PROJECT", "none")  # only making buckets needs one
    return storage.Client(project=project).bucket(bucket).blob(name)


def _read(blob: Any) -> tuple[int, dict]:
    """(generation, record) of owner.json; (0, {}) where there is none."""
    from google.api_core.exceptions import NotFound

    try:
        text = blob.download_as_bytes()
        blob.reload()
    except NotFound:
        return 0, {}
    try:
        record = json.loads(text)
    except ValueError:
        record = {}
    return blob.generation, record if isinstance(record, dict) else {}


def _gone(stored: dict) -> bool:
    """Whether the owner was a process of this host that has ended."""
    process = stored.get("process")
    if stored.get("host") != socket.gethostname() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _taken(directory: epath.Path, stored: dict) -> str:
    return f"{directory} is in use by process {_name(stored)}: wait for it, or take another workdir"


def _name(stored: dict) -> str:
    return f"{stored.get('process', 'unknown')} on {stored.get('host', 'an unknown host')}"
