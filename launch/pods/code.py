"""What hosts run: the commit of this tree, with the run's settings, as one file."""

import time
from pathlib import Path

from pods.command import Refused
from pods.run_file import Run


def commit(run: Run) -> str:
    """The commit's name; Refused if files differ from it."""
    changed = run.command(["git", "status", "--porcelain"]).out.splitlines()
    if changed:
        raise Refused(f"the tree is dirty ({len(changed)} files, {changed[0][3:]}): commit first")
    return run.command(["git", "rev-parse", "HEAD"]).out.strip()[:12] or "COMMIT"


def archive(run: Run, folder: str) -> Path:
    """Write qwen3-RUN.tgz into `folder`: the commit's files and run.env."""
    settings, file = Path(folder, "run.env"), Path(folder, f"qwen3-{run.RUN}.tgz")
    start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    settings.write_text(run.host_settings(start, commit(run)))
    options = ["--format=tar.gz", f"--add-file={settings}", f"--output={file}"]
    if run.command(["git", "archive", *options, "HEAD"]).code != 0:
        raise Refused("git archive failed: is this a clone, and git 2.30 or newer?")
    return file
