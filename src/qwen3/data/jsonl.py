"""Reading JSON-lines files, compressed or not, with errors that name the file, line and field."""

import gzip
import json


def records(path, fields):
    """The objects of a .jsonl or .jsonl.gz file; ValueError for a bad line or a missing field."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not JSON: {line[:60]!r}") from error
            present = record if isinstance(record, dict) else {}
            missing = [name for name in fields if name not in present]
            if missing:
                raise ValueError(f"{path}:{number}: no field {missing} (wanted: {list(fields)})")
            yield record
