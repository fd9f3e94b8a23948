"""Seeds for synthesis: as many texts of each combination of labels, however rare it is."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import xxhash


def stratified(
    rows: Iterable[Mapping[str, Any]], by: Sequence[str], count: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """At most `count` rows of each combination of the labels `by`, drawn by a hash of their ids.

    The row's id becomes `document`, as a seed is a record of its own. The draw does not depend on
    the order of the rows. Raises ValueError naming a row without one of the labels.
    """
    if count < 1 or not by:
        raise ValueError(f"seeds: count {count} of each of {list(by)}: wanted is at least one")
    cells: dict[tuple[str, ...], list[tuple[int, str, Mapping[str, Any]]]] = {}
    for row in rows:
        if missing := [name for name in by if name not in row]:
            raise ValueError(f"document {row['id']} has no label {missing}; it has {sorted(row)}")
        rank = xxhash.xxh3_64_intdigest(f"{seed} {row['id']}".encode())
        cell = cells.setdefault(tuple(str(row[name]) for name in by), [])
        entry = (-rank, row["id"], row)  # a heap whose first is the one to go
        if len(cell) < count:
            heapq.heappush(cell, entry)
        else:
            heapq.heappushpop(cell, entry)
    hidden = {"id", "source", "history"}
    for key in sorted(cells):
        for _, identifier, row in sorted(cells[key], key=lambda entry: entry[:2], reverse=True):
            labels = {name: value for name, value in row.items() if name not in hidden}
            yield {"document": identifier, **labels}
