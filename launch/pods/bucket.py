"""The run's folder in the bucket, where all state of a pod lies: none is kept elsewhere."""

import json
import os
import time
from pathlib import Path

from pods.command import Refused
from pods.run_file import Run

# Hosts' reports, events and metrics are small; the rest is not fetched.
LEFT_OUT = r"(.*/)?(checkpoints|samples|profile|tensorboard|hosts)/.*"


def check(run: Run) -> None:
    """Refused if the bucket is not there, or holds another run of this name."""
    make = f"mkdir -p {run.BUCKET}"
    if run.remote:
        make = (
            f"gcloud storage buckets create {run.BUCKET} --location={run.ZONE.rpartition('-')[0]}"
        )
        exists = run.command(["gcloud", "storage", "ls", run.BUCKET, "--buckets"]).code == 0
        entry = run.command(["gcloud", "storage", "cat", f"{run.folder}/pod/entry"]).out
    else:
        exists, file = Path(run.BUCKET).is_dir(), Path(run.folder, "pod", "entry")
        entry = file.read_text() if file.exists() else ""
    if not exists:
        raise Refused(f"BUCKET={run.BUCKET} is not there, or not yours: {make}")
    if entry not in ("", run.ENTRY):
        raise Refused(f"RUN={run.RUN} is the name of another run, of ENTRY={entry}")


def write(run: Run, name: str, text: str) -> None:
    """Write an object; an empty text deletes it."""
    path = Path(run.folder, name)
    if run.remote:
        target = f"{run.folder}/{name}"
        argv = ["cp", "-", target] if text else ["rm", target]
        if run.command(["gcloud", "storage", *argv], stdin=text).code != 0 and text:
            raise Refused(f"{target} cannot be written")
    elif not run.dry and not text:
        path.unlink(missing_ok=True)
    elif not run.dry:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def note(run: Run, event: str) -> None:
    """Record an event of the pod: up (requested), active, run, lost, down."""
    now = time.time()
    write(run, f"pod/events/{now:.3f}.json", json.dumps({"time": now, "event": event}))


def fetch(run: Run) -> Path:
    """A local folder with the reports, the events and the metrics."""
    if not run.remote:
        return Path(run.folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    local = cache / "qwen3-pods" / run.BUCKET.removeprefix("gs://") / run.RUN
    local.mkdir(parents=True, exist_ok=True)
    options = ["--recursive", "--delete-unmatched-destination-objects", f"--exclude={LEFT_OUT}"]
    run.command(["gcloud", "storage", "rsync", *options, run.folder, str(local)], 600)
    return local
