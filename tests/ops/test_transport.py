"""The MoE layer on eight devices equals the dense layer on one, whatever moves where."""

import functools
import os
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3.ops import transport

AXES = ("data", "fsdp", "context", "expert", "tensor")
BATCH, LENGTH, MODEL, EXPERTS, ACTIVE, FFN = 8, 4, 16, 8, 2, 8
MESHES = {
    "expert x fsdp": {"expert": 4, "fsdp": 2},
    "expert x tensor": {"expert": 4, "tensor": 2},
    "data x expert": {"data": 2, "expert": 4},
    "context x expert": {"context": 2, "expert": 4},
    "fsdp x context x tensor": {"fsdp": 2, "context": 2, "tensor": 2},
}


def mesh_of(sizes, devices=None):
    devices = jax.devices()[:8] if devices is None else devices
    grid = np.array(devices).reshape([sizes.get(axis, 1) for axis in AXES])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 5)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs():
    into = (EXPERTS, MODEL, FFN)
    return draw(BATCH, LENGTH, MODEL), {
        "router": draw(MODEL, EXPERTS, seed=1),
        "gate": draw(*into, seed=2),
        "up": draw(*into, seed=3),
        "down": draw(EXPERTS, FFN, MODEL, seed=4),
    }


MASK = np.random.default_rng(6).random((BATCH, LENGTH)) < 0.8


def run(name, kernel, *, one_expert=False, bound=None):
    """y, stats and the gradients of x and all weights; the loss reads y and the statistics."""
    ids = jnp.tile(jnp.arange(ACTIVE), (BATCH, LENGTH, 1)) if one_expert else None

    def loss(x, params):
        y, stats = transport.moe(
            x,
            params,
            active=ACTIVE,
            transport=name,
            kernel=kernel,
            mask_BT=MASK,
            ids_BTA=ids,
            bound=bound,
        )
        direction = draw(BATCH, LENGTH, MODEL, seed=7)
        return jnp.sum(y * direction) + jnp.sum(stats.probs_BE**2), (y, stats)

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (y, stats)), gradients = step(*inputs())
    return y, stats, gradients


@functools.cache
def reference(one_expert=False):
    return run("fsdp", "dense", one_expert=one_expert)


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * float(jnp.abs(b).max()))


def ragged_by_gathering(operand, output, into, sent, onto, received, *, axis_name):
    """What lax.ragged_all_to_all is documented to do, said with gathers; XLA:CPU has none."""
    mine = lax.axis_index(axis_name)
    operands, intos, ontos = (lax.all_gather(v, axis_name) for v in (operand, into, onto))
    for source in range(operands.shape[0]):
        row = jnp.arange(output.shape[0])
        nth = row - ontos[source, mine]
        arrives = (nth >= 0) & (nth < received[source])
        index = jnp.clip(intos[source, mine] + nth, 0, operand.shape[0] - 1)
        output = jnp.where(arrives[:, None], operands[source][index], output)
    return output


emulated_ragged = mock.patch.object(lax, "ragged_all_to_all", ragged_by_gathering)

CASES = [
    *((mesh, "fsdp") for mesh in ("expert x fsdp", "fsdp x context x tensor")),
    *((mesh, "all_to_all") for mesh in ("expert x fsdp", "expert x tensor", "context x expert")),
    *((mesh, "ring") for mesh in ("expert x tensor", "data x expert", "context x expert")),
    ("expert x fsdp", "ragged_all_to_all"),
]


@emulated_ragged
@pytest.mark.parametrize("mesh, name", CASES)
def test_values_and_gradients_on_eight_devices_equal_a_dense_loop(mesh, name):
    with jax.set_mesh(mesh_of(MESHES[mesh])):
        found = run(name, "loop" if name == "fsdp" else "dense")
    assert_same(found, reference())
    assert not found[1].dropped_B.any()


@emulated_ragged
@pytest.mark.parametrize("name", ["all_to_all", "ragged_all_to_all", "ring"])
def test_nothing_is_dropped_when_every_token_wants_the_same_experts(name):
    with jax.set_mesh(mesh_of({"expert": 8})):
        found = run(name, "dense", one_expert=True)
    assert_same(found, reference(one_expert=True))
    assert not found[1].dropped_B.any()


@emulated_ragged
@pytest.mark.parametrize("name", ["all_to_all", "ragged_all_to_all", "ring"])
def test_a_bound_drops_what_does_not_fit_and_counts_it(name):
    """All rows want device 0 of 4, which then has room for `bound` times a quarter of them."""
    with jax.set_mesh(mesh_of({"expert": 4, "data": 2})):
        y, stats, _ = run(name, "dense", one_expert=True, bound=2.0)
    # Rows 0-3 of the batch are one data shard, with one row on each device; so are rows 4-7.
    wanted = ACTIVE * MASK.sum(1)
    row = LENGTH * ACTIVE
    if name == "all_to_all":  # each device may send 2 x a quarter of its own rows
        kept = np.minimum(wanted, 2 * row // 4)
    else:  # device 0 takes 2 x the rows of one device; who comes first differs
        kept = np.minimum(wanted.reshape(2, 4).sum(1), 2 * row)
    dropped = np.asarray(stats.dropped_B)
    assert dropped.sum() == wanted.sum() - kept.sum() > 0
    assert (dropped <= wanted).all()
    whole = reference(one_expert=True)[0]
    changed = (np.abs(np.asarray(y - whole)).max(-1) > 1e-4).any(1)
    np.testing.assert_array_equal(changed, dropped > 0)
    np.testing.assert_array_equal(stats.counts_BE.sum(1), wanted)  # as routed, not as fitted


def test_the_sort_stays_on_each_device():
    mesh = mesh_of({"fsdp": 8})
    x, params = inputs()
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P("fsdp")))
        step = jax.jit(
            lambda x, p: transport.moe(x, p, active=ACTIVE, transport="fsdp", kernel="dense")[0]
        )
        text = step.lower(x, params).compile().as_text()
    sorted_rows = BATCH * LENGTH * ACTIVE // 8
    assert f"s32[{sorted_rows}]" in text
    assert f"s32[{BATCH * LENGTH * ACTIVE}]" not in text


@pytest.mark.parametrize(
    "sizes, options, words",
    [
        ({}, {"transport": "post"}, "'post'; known: fsdp, all_to_all, ragged_all_to_all, ring"),
        ({}, {"transport": "ring", "bound": 0.0}, "bound=0.0"),
        ({}, {"bound": 2.0}, "bound=2.0 with transport 'fsdp'"),
        ({"data": 8}, {"x": draw(6, LENGTH, MODEL)}, "batch rows: 6 does not divide"),
        ({"context": 8}, {}, "positions: 4 does not divide"),
        ({"tensor": 8}, {"ffn": 4}, "expert FFN width: 4 does not divide over a tensor axis of 8"),
    ],
)
def test_what_does_not_fit_the_mesh_is_named(sizes, options, words):
    x, params = inputs()
    options = {"transport": "fsdp", **options}
    x, ffn = options.pop("x", x), options.pop("ffn", FFN)
    params = params | {name: params[name][:, :, :ffn] for name in ("gate", "up")}
    with jax.set_mesh(mesh_of(sizes, jax.devices()[: max(sizes.values(), default=1)])):
        with pytest.raises(ValueError, match=words):
            transport.moe(x, params, active=ACTIVE, kernel="dense", **options)


# --- compiled by the real TPU compiler, on a machine without a TPU -----------------------------


def compile_for_tpu(topology, name):
    """Forward and backward of one layer in bfloat16 with the TPU kernel; the compiled text."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    assert os.environ.get("TPU_SKIP_MDS_QUERY"), "tests/conftest.py sets it"
    devices = topologies.get_topology_desc(topology, "tpu").devices
    mesh = mesh_of({"expert": 4, "fsdp": 2}, devices)

    def shape(dims, *spec):
        return jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=NamedSharding(mesh, P(*spec)))

    model, ffn, into = 256, 128, P("expert", "fsdp", "tensor")
    x = shape((8, 32, model), ("data", "fsdp", "expert"), "context")
    params = {
        "router": shape((model, EXPERTS), "fsdp"),
        "gate": shape((EXPERTS, model, ffn), *into),
        "up": shape((EXPERTS, model, ffn), *into),
        "down": shape((EXPERTS, ffn, model), "expert", "tensor", "fsdp"),
    }

    def loss(x, params):
        y, stats = transport.moe(x, params, active=ACTIVE, transport=name, kernel="megablox")
        return jnp.sum(y.astype(jnp.float32) ** 2) + jnp.sum(stats.probs_BE)

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss, (0, 1))).lower(x, params).compile().as_text()


MOVES = {
    "fsdp": "reduce-scatter",
    "all_to_all": "all-to-all",
    "ragged_all_to_all": "ragged-all-to-all",
    "ring": "reduce-scatter",
}
QUICK = [("v5e:2x4", "ragged_all_to_all"), ("v5p:2x2x2", "ring")]
REST = [(t, name) for t in ("v5e:2x4", "v5p:2x2x2") for name in MOVES if (t, name) not in QUICK]


@pytest.mark.parametrize(
    "topology, name", [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_a_layer_compiles_for_tpu(topology, name):
    text = compile_for_tpu(topology, name)
    assert MOVES[name] in text
    # gate, up, down: one kernel forward and two backward each.
    assert text.count('custom_call_target="tpu_custom_call"') == 9
