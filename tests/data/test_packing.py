"""Best-fit packing against a plain search, and how documents are cut."""

import numpy as np

from qwen3.data.packing import best_fit, cut, pack


def searched(lengths, capacity):
    """Longest first; into the fullest row with room, the last to have got so full."""
    rows, free, changed = {}, [], []
    for clock, i in enumerate(np.argsort(-lengths, kind="stable")):
        fits = [r for r in range(len(free)) if free[r] >= lengths[i]]
        if fits:
            row = min(fits, key=lambda r: (free[r], -changed[r]))
        else:
            row = len(free)
            free.append(capacity)
            changed.append(0)
        free[row] -= lengths[i]
        changed[row] = clock
        rows[i] = row
    return [rows[i] for i in range(len(lengths))]


def test_best_fit_equals_a_search_over_all_rows():
    rng = np.random.default_rng(0)
    for capacity in (7, 40, 100):
        lengths = rng.integers(1, capacity + 1, 200)
        assert best_fit(lengths, capacity).tolist() == searched(lengths, capacity)


def test_best_fit_fills_the_fullest_row_that_has_room():
    assert best_fit(np.array([6, 5, 4, 3, 2]), 10).tolist() == [0, 1, 0, 1, 1]
    assert best_fit(np.array([10, 1, 10]), 10).tolist() == [0, 2, 1]
    assert best_fit(np.array([], np.int64), 10).tolist() == []


def test_documents_are_cut_into_whole_rows_and_a_rest():
    pieces = cut(np.array([7, 8, 9]), np.array([25, 10, 3]), 10)
    assert pieces.document.tolist() == [7, 7, 7, 8, 9]
    assert pieces.start.tolist() == [0, 10, 20, 0, 0]
    assert pieces.length.tolist() == [10, 10, 5, 10, 3]


def test_every_piece_is_in_one_row_and_no_row_overflows():
    pieces = cut(np.arange(300), np.random.default_rng(1).integers(1, 90, 300), 32)
    rows = pack(pieces, 32, lambda count: np.arange(count)[::-1])
    assert rows.used.max() <= 32
    assert rows.used.sum() == pieces.length.sum()
    assert np.add.reduceat(rows.pieces.length, rows.offsets[:-1]).tolist() == rows.used.tolist()
    spans = list(zip(rows.pieces.document, rows.pieces.start, strict=True))
    assert sorted(spans) == sorted(zip(pieces.document, pieces.start, strict=True))
    wasted = 1 - rows.used.sum() / (len(rows) * 32)
    assert wasted < 0.01
