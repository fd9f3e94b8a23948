"""Arrays between meshes of other hosts, and their values in every process.

python across_run.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from together import compile_together

from qwen3.run import join_hosts
from qwen3 import hosts
from qwen3.train import across


def on(devices, *spec):
    return NamedSharding(Mesh(np.array(devices, dtype=object), "x"), P(*spec))


def trees():
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((6, 12)).astype(np.float32)
    floats[0, :4] = -0.0, np.nan, np.inf, 1e-45
    return {
        "float32": floats,
        "bfloat16": floats.astype(jnp.bfloat16),
        "int32": rng.integers(-9, 9, (6, 12), np.int32),
        "bool": rng.random((6, 12)) < 0.5,
        "scalar": np.float32(1.5),
    }


def bits(array):
    return np.asarray(array).tobytes()


def moves(devices):
    """Between equal numbers of devices and others, whole and in pieces, to the bit."""
    values = trees()
    for source, target in (
        (on(devices[:2], "x"), on(devices[2:], None, "x")),
        (on(devices[2:], None, "x"), on(devices[:1], "x")),
        (on(devices[:3], "x"), on(devices[3:], "x")),
        (on(devices[3:], "x"), on(devices[:3], "x")),
    ):
        scalar = (NamedSharding(source.mesh, P()), NamedSharding(target.mesh, P()))
        for piece in (1 << 28, 100):
            across.PIECE = piece
            for name, value in values.items():
                there, here = scalar if name == "scalar" else (source, target)
                moved = across.move(across.place({"a": value}, there), {"a": here})["a"]
                assert moved.sharding == here and moved.dtype == value.dtype, name
                assert bits(across.read(across.replicated(moved))) == bits(value), (name, piece)


def reads(devices, me):
    only = across.place(np.arange(3), on(devices[2:]))
    got = across.read({"a": only, "b": 7, "c": np.float32(2)})
    assert got["a"].tolist() == [0, 1, 2] and (got["b"], got["c"]) == (7, 2)
    assert across.holders({"a": only}) == {1} and across.holders({"b": 7}) == {0, 1}
    assert across.holders({"a": only, "b": across.place(np.arange(3), on(devices))}) == {1}
    assert bool(only.addressable_shards) == (me == 1)
    with across.alone():
        assert int(jnp.arange(3).sum()) == 3  # a process by itself
    if me:
        only.delete()
    try:
        across.read(only)
    except RuntimeError as error:
        assert ("deleted" in str(error)) and isinstance(error, hosts.FirstHostError) == (me == 0)
    else:
        raise AssertionError("a deleted array was read")


def main():
    compile_together()
    join_hosts()
    me, devices = jax.process_index(), jax.devices()
    assert hosts.decided(lambda: f"from {me}", 1) == "from 1"
    moves(devices)
    reads(devices, me)
    value = across.place(np.arange(3), on(devices[:2]))
    assert across.computed(jax.block_until_ready(value))
    for _ in range(3 * hosts.EXCHANGES):
        across.read(value)
    left = distributed.global_state.client.key_value_dir_get("qwen3/")
    assert len(left) <= hosts.EXCHANGES + 4, len(left)
    print("done")


if __name__ == "__main__":
    main()
