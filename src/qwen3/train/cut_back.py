"""Cutting metrics.jsonl back to the step that a run goes on from."""

from __future__ import annotations

import logging
from typing import Any

from etils import epath

from qwen3.data.jsonl import parse_row
from qwen3.data.unpacked import BadData
from qwen3.train.writing import write_atomically

log = logging.getLogger("qwen3")


def cut_back(path: Any, step: int) -> None:
    """Drop the records after `step`, which will come again, and lines that are no records.

    A crash can leave a torn last line, or bytes that are no text; a warning names such lines.
    """
    path = epath.Path(path)
    if not path.exists():
        return
    records, damaged = [], []
    # The lines stay as they were written, to the byte, so the reader of rows is asked line by line.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            if line and parse_row(line, str(path))["step"] <= step:
                records.append(line.decode() + "\n")
        except (BadData, KeyError, TypeError):
            damaged.append(number)
    if damaged:
        log.warning("%s: cut lines %s, which are no records (after a crash?)", path, damaged)
    write_atomically(path, "".join(records))
