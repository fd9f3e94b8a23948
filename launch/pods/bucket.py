"""The run's folder in the bucket, where all state of a pod lies: none is kept elsewhere."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

from pods.command import Refused, qwen3
from pods.run import Run

LEFT_OUT = r"(.*/)?(checkpoints|samples|profile|tensorboard|hosts)/.*"  # large: not fetched


def check(run: Run) -> None:
    """Refused if the bucket is not there, or holds another run of this name."""
    exists, make = Path(run.BUCKET).is_dir(), f"mkdir -p {run.BUCKET}"
    if run.remote:
        place = f"--location={run.ZONE.rpartition('-')[0]}"
        make = f"gcloud storage buckets create {run.BUCKET} {place}"
        exists = run.command(["gcloud", "storage", "ls", run.BUCKET, "--buckets"]).code == 0
    if not exists:
        raise Refused(f"BUCKET={run.BUCKET} is not there, or not yours: {make}")
    if (entry := verdict(run).entry) not in ("", run.ENTRY):
        raise Refused(f"RUN={run.RUN} is the name of another run, of ENTRY={entry}")


def write(run: Run, name: str, text: str) -> None:
    """Write an object; an empty text deletes it."""
    target = f"{run.folder}/{name}"
    if run.remote:
        argv = ["cp", "-", target] if text else ["rm", target]
        if run.command(["gcloud", "storage", *argv], stdin=text).code != 0 and text:
            raise Refused(f"{target} cannot be written")
    elif text and not run.dry:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text)
    elif not run.dry:
        Path(target).unlink(missing_ok=True)


def note(run: Run, event: str) -> None:
    """Record an event of the pod: up (requested), active, run, lost, down."""
    now = time.time()
    write(run, f"pod/events/{now:.3f}.json", json.dumps({"time": now, "event": event}))


def status(run: Run, *options: str) -> str:
    """What `qwen3 status` prints of the run, after its small files were fetched."""
    folder = run.folder
    if run.remote:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        local = cache / "qwen3-pods" / run.BUCKET.removeprefix("gs://") / run.RUN
        local.mkdir(parents=True, exist_ok=True)
        sync = ["--recursive", "--delete-unmatched-destination-objects", f"--exclude={LEFT_OUT}"]
        run.command(["gcloud", "storage", "rsync", *sync, folder, str(local)], 600)
        folder = str(local)
    words = [folder, "--stdin", *options]
    return qwen3("supervise.status_cli", *words, stdin=run.host_lines).said()


def verdict(run: Run) -> SimpleNamespace:
    """The status' text, and what is decided by it: `Status.verdict` of supervise/status.py."""
    return SimpleNamespace(**json.loads(status(run, "--json")))
