"""Tile sizes of the grouped matmul on TPU, from the shapes of one product.

A grouped matmul visits row tiles; at each border between two experts one tile is computed twice, so
R rows of E experts cost about R / rows + E - 1 tiles. Small tiles waste less arithmetic, but each
has its fixed cost. The contracted width is taken whole where VMEM allows: consecutive row tiles of
one expert then find its weights in VMEM, whatever their size.

Letters: R rows, E experts, K contracted width, N columns.
"""

import math
from typing import TypeAlias

ROW_TILES = (128, 256, 512)  # the matrix unit of v4, v5e and v5p takes 128 rows of weights
LANES = 128  # widths of tiles are multiples of it, or the whole axis
# What one step of a Pallas grid costs beside its arithmetic, in rows of a tile: 0.35 us, the
# figure of the Pallas guide, at the time a v5p takes for a row of an expert of the 30B or 235B.
STEP_ROWS = 48
VMEM = 13 * 2**20  # bytes of a kernel's buffers; the compiler's limit is 16 MiB


Tiles: TypeAlias = tuple[int, int, int]  # of (rows, contraction, columns)


def product_tiles(rows: int, experts: int, contraction: int, columns: int) -> Tiles:
    """Tiles of x_RK @ w_EKN: the whole contraction where it fits, then the most columns."""
    tile = row_tile(rows, experts)
    pairs = _pairs(contraction, columns)
    fitting = (pair for pair in pairs if _product_bytes(tile, *pair) <= VMEM)
    return tile, *max(fitting, default=pairs[-1])


def weight_tiles(rows: int, experts: int, contraction: int, columns: int) -> Tiles:
    """Tiles of x_KR @ dy_RN, which contracts rows: the most FLOPs a byte that is read."""
    tile = row_tile(rows, experts)
    pairs = _pairs(contraction, columns)
    fitting = (pair for pair in pairs if _weights_bytes(tile, *pair) <= VMEM)
    return tile, *max(fitting, key=lambda kn: kn[0] * kn[1] / sum(kn), default=pairs[-1])


def row_tile(rows: int, experts: int) -> int:
    """Rows of a tile, at the least cost of an even load; at most `rows`, in whole registers."""

    def cost(tile: int) -> float:
        return (math.ceil(rows / tile) + experts - 1) * (tile + STEP_ROWS)

    # A bf16 register holds 16 rows, and the kernel needs a whole number of row tiles.
    return min(min(ROW_TILES, key=cost), -(-rows // 16) * 16)


def _product_bytes(rows: int, contraction: int, columns: int) -> int:
    """VMEM of x @ w in bf16: two buffers of each block, and the fp32 sum."""
    blocks = rows * contraction + contraction * columns + rows * columns
    return 4 * blocks + 4 * rows * columns


def _weights_bytes(rows: int, contraction: int, columns: int) -> int:
    """The same of x^T @ dy, whose result is [contraction, columns]."""
    blocks = rows * (contraction + columns) + contraction * columns
    return 4 * blocks + 4 * contraction * columns


def _pairs(contraction: int, columns: int) -> list[tuple[int, int]]:
    return [(k, n) for k in _parts(contraction) for n in _parts(columns)]


def _parts(width: int) -> list[int]:
    """Tiles that divide a width in whole lanes, the widest (the width itself) first."""
    counts = range(1, max(width // LANES, 1) + 1)
    return [width // n for n in counts if width % n == 0 and (n == 1 or width // n % LANES == 0)]
