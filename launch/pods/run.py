"""The run that RUN.env describes, as the package of this checkout reads it, and its code."""

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from pods.command import Answer, Refused, call, dry, qwen3


class Run(SimpleNamespace):
    """The keys of RUN.env and what follows from them: src/qwen3/supervise/pod_settings.py."""

    def __init__(self, file: str, command: Callable[..., Answer] = call, *changes: str) -> None:
        values = json.loads(qwen3("supervise.pod_settings", file, *changes).said())
        super().__init__(**values, file=file, command=command)
        self.dry, self.remote = command is dry, self.BUCKET.startswith("gs://")
        self.backend = importlib.import_module(f"pods.{self.BACKEND}")


def quote(run: Run, *options: str) -> tuple[bool, str]:
    """Whether the step that PLAN names fits the chips, and what is said of the pod."""
    answer = qwen3("supervise.quote", run.file, *options, timeout=3600)
    if answer.code not in (0, 1):
        raise Refused((answer.err.strip() or "no answer").rpartition("\n")[2])
    return answer.code == 0, answer.out.strip()


def commit(run: Run) -> str:
    """The name of this tree's commit; Refused if files differ from it."""
    changed = run.command(["git", "status", "--porcelain"]).out.splitlines()
    if changed:
        raise Refused(f"the tree is dirty ({len(changed)} files, {changed[0][3:]}): commit first")
    return run.command(["git", "rev-parse", "HEAD"]).out.strip()[:12] or "COMMIT"


def archive(run: Run, folder: str) -> Path:
    """Write what hosts get into `folder`, as one file: the commit's files and run.env."""
    settings, file = Path(folder, "run.env"), Path(folder, f"qwen3-{run.RUN}.tgz")
    start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())  # logs of each start lie apart
    settings.write_text(f"{run.host_lines}START={start}\nQWEN3_REVISION={commit(run)}\n")
    options = ["--format=tar.gz", f"--add-file={settings}", f"--output={file}"]
    if run.command(["git", "archive", *options, "HEAD"]).code != 0:
        raise Refused("git archive failed: is this a clone, and git 2.30 or newer?")
    return file
