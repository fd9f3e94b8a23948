"""Rows and microbatches of the batches that rollouts are packed into."""

import pytest

from qwen3.stages.rollout_batches import BatchRows


def test_a_packed_batch_has_fewer_rows_and_as_many_fewer_microbatches():
    batches = BatchRows(most=1024, parts=64, ways=16)
    counts = {rows: batches.microbatches(rows) for rows in map(batches.rows, range(1, 1025))}
    assert counts == {256: 16, 512: 32, 768: 48, 1024: 64}


@pytest.mark.parametrize(
    "batches",
    [BatchRows(1024, 1, 16), BatchRows(1024, 2, 64), BatchRows(24, 3, 4), BatchRows(5, 2, 8)],
    ids=str,
)
def test_microbatches_divide_over_the_mesh_and_are_no_larger_than_those_of_the_largest(batches):
    largest = batches.rows(batches.most)
    assert batches.parts > 1 or batches.microbatches(largest) == 1
    for packed in range(1, batches.most + 1):
        rows = batches.rows(packed)
        count = batches.microbatches(rows)
        assert packed <= rows and rows % (count * batches.ways) == 0
        assert rows / count <= max(batches.most / batches.parts, batches.ways)
