"""Tiles of grouped matmuls: literal ones at the sizes of the report, and what holds of all."""

import itertools

import pytest

from qwen3.ops import grouped_tiles
from qwen3.ops.grouped_tiles import product_tiles, row_tile, weight_tiles


@pytest.mark.parametrize(
    "rows, contraction, columns, product, weights",
    [
        # 30B-A3B, 8 rows of 4,096 tokens a chip: the whole contraction, all columns
        (262_144, 2048, 768, (256, 2048, 768), (256, 1024, 768)),
        (262_144, 768, 2048, (256, 768, 2048), (256, 768, 1024)),
        # 235B-A22B, 2 rows a chip
        (65_536, 4096, 1536, (128, 4096, 512), (128, 1024, 768)),
        (65_536, 1536, 4096, (128, 1536, 1024), (128, 768, 1024)),
        (40, 96, 40, (48, 96, 40), (48, 96, 40)),  # no multiple of the lanes: whole
    ],
)
def test_tiles_of_the_released_sizes(rows, contraction, columns, product, weights):
    experts = 128 if rows > 100 else 4
    assert product_tiles(rows, experts, contraction, columns) == product
    assert weight_tiles(rows, experts, contraction, columns) == weights


@pytest.mark.parametrize(
    "rows_an_expert, tile", [(4096, 512), (2048, 256), (1024, 256), (512, 128), (64, 128)]
)
def test_fewer_rows_an_expert_take_smaller_tiles(rows_an_expert, tile):
    assert row_tile(128 * rows_an_expert, 128) == tile


def test_tiles_divide_the_widths_and_fit_into_vmem():
    widths = (256, 768, 1536, 2048, 4096, 5120, 8192)
    for contraction, columns, rows in itertools.product(widths, widths, (16_384, 1_048_576)):
        shape = rows, 64, contraction, columns
        tile, k, n = product_tiles(*shape)
        assert contraction % k == 0 and columns % n == 0 and k % 128 == 0 and n % 128 == 0
        assert grouped_tiles._product_bytes(tile, k, n) <= grouped_tiles.VMEM
        tile, k, n = weight_tiles(*shape)
        assert contraction % k == 0 and columns % n == 0 and k % 128 == 0 and n % 128 == 0
        assert grouped_tiles._weights_bytes(tile, k, n) <= grouped_tiles.VMEM
