"""Copy the data of a run to this host's disk: DATA="gs://FROM /TO" of its settings.

    python -m qwen3.supervise.copy_data

Corpora are mapped into memory, so every host needs them as files. A copy that is complete is not
made again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fsspec

COPIED = ".copied"  # in the folder: where its content is from


def copy_data(source: str, target: str) -> bool:
    """Copy a folder; False if it is there already. Raises OSError where it cannot be read."""
    mark = Path(target, COPIED)
    if mark.exists() and mark.read_text() == source:
        return False
    filesystem, path = fsspec.url_to_fs(source)
    filesystem.get(f"{path.rstrip('/')}/", f"{target.rstrip('/')}/", recursive=True)
    mark.write_text(source)
    return True


if __name__ == "__main__":
    try:
        copy_data(*os.environ["DATA"].split())
    except OSError as error:
        sys.exit(f"DATA={os.environ['DATA']} cannot be copied: {error}")
