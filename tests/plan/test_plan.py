"""Plans: a tiny mixture's steps compiled for slices that are not here, and how they are counted."""

import argparse
import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

pytest.importorskip("libtpu")

from qwen3 import cli
from qwen3.config import MeshConfig, OptimConfig
from qwen3.mesh import make_mesh
from qwen3.model import sizes
from qwen3.model.lora import LoraConfig
from qwen3.plan import chips, fit, hlo, plan_cli, target
from qwen3.plan.compiling import plan
from qwen3.plan.plan_text import plan_text
from qwen3.plan.steps import Setting

plan_table = pytest.importorskip("plan_table")  # beside the experiments, see conftest

SMALL = sizes.ModelConfig(
    "small-moe", 3, 256, 512, 4, 2, vocab=1024, experts=8, active_experts=2, expert_ffn=128
)
DENSE = sizes.ModelConfig("small", 3, 256, 512, 4, 2, vocab=1024)
SHALLOW = dataclasses.replace(DENSE, name="shallow", layers=1)
LENGTH = 256


@pytest.fixture(scope="module", autouse=True)
def small():
    patch = pytest.MonkeyPatch()
    for model in (SMALL, DENSE, SHALLOW):
        patch.setitem(sizes.SIZES, model.name, model)
    yield
    patch.undo()


def setting(**changes):
    base = Setting("small-moe", "v5p:2x2x1", length=LENGTH, chunk=128)
    return base.replace(**changes)


@pytest.fixture(scope="module")
def train():
    return plan(setting())


def test_train_step_of_a_mixture_compiles_for_a_v5p_and_fits(train):
    assert train.fits and train.devices == 4 and train.limit == 95 * 2**30
    weights = 12 * train.parameters / 4
    assert train.memory["arguments"] == pytest.approx(weights, rel=0.05)
    assert train.memory["aliased"] > 0.95 * weights, "the state is donated"
    parts = train.memory
    at_once = parts["arguments"] + parts["outputs"] - parts["aliased"] + parts["temporaries"]
    assert parts["arguments"] < parts["peak"] <= at_once, "nothing is counted twice"
    assert train.used == parts["peak"] + parts["program"] < 1e9


def test_executed_flops_follow_from_the_layers(train):
    """Full remat: 8 instead of 6 FLOPs a weight of a layer, but the last product of the experts is
    not made again; the head 6; causal attention 2 + 2 + 5 products instead of 2 + 4."""
    model, tokens = SMALL, LENGTH
    attention = model.hidden * model.head_dim * (2 * model.heads + 2 * model.kv_heads)
    expert = model.active_experts * model.hidden * model.expert_ffn
    router = model.hidden * model.experts
    layer = 8 * (attention + router + 2 * expert) + 6 * expert
    square = model.heads * model.head_dim * tokens / 2
    flops = model.layers * (layer + 2 * 9 * square) + 6 * model.vocab * model.hidden
    assert train.flops_per_token == pytest.approx(flops, rel=0.02)
    assert train.flops["attention"] == pytest.approx(tokens * model.layers * 18 * square)
    assert train.flops["experts"] == pytest.approx(tokens * model.layers * (6 + 8 + 8) * expert)
    assert not train.unknown_loops


def test_weights_are_gathered_and_gradients_scattered(train):
    sent = {collective.kind: collective.bytes for collective in train.collectives}
    layers = sizes.count_parameters(SMALL).non_embedding
    # bf16 weights are gathered forwards and backwards: each device sends its quarter to three.
    assert sent["all-gather"] == pytest.approx(2 * 2 * layers * 3 / 4, rel=0.6)
    assert sum(sent.values()) > 3 * 2 * layers * 3 / 4


@pytest.mark.parametrize(
    "transport, kind",
    [
        pytest.param("all_to_all", "all-to-all", marks=pytest.mark.slow),
        ("ragged_all_to_all", "ragged-all-to-all"),
        pytest.param("ring", "all-gather", marks=pytest.mark.slow),
    ],
)
def test_every_transport_compiles_for_a_v5e(transport, kind):
    step = plan(
        setting(
            topology="v5e:2x2",
            mesh=MeshConfig(fsdp=2, expert=2),
            length=128,
            execution=(("transport", transport),),
        )
    )
    assert kind in {collective.kind for collective in step.collectives}
    assert step.fits and step.flops["experts"] > 0 and step.flops["attention"] > 0


@pytest.mark.slow
def test_kept_feed_forward_products_are_not_computed_twice(train):
    kept = plan(setting(remat="feed_forward"))
    model, tokens = SMALL, LENGTH
    expert = model.active_experts * model.hidden * model.expert_ffn
    square = model.heads * model.head_dim * tokens / 2
    assert kept.flops["experts"] == pytest.approx(tokens * model.layers * 18 * expert)
    assert kept.flops["attention"] == pytest.approx(tokens * model.layers * 14 * square)
    assert kept.flops_ratio < train.flops_ratio


@pytest.mark.slow
def test_balance_over_microbatches_without_a_pass_that_counts(train):
    """FLOPs of two microbatches: with the counting pass a forward pass more than without."""
    more = setting(batch_per_device=2, microbatches=2)
    exact, late = (plan(more.replace(balance=form)) for form in ("global", "previous"))
    assert late.flops_ratio == pytest.approx(train.flops_ratio, rel=0.02)
    assert exact.flops_ratio > late.flops_ratio + 0.2


def test_adapters_have_a_small_state_beside_the_frozen_model():
    step = plan(setting(model="shallow", lora=LoraConfig(rank=8)))
    weights = 4 * step.parameters / 4  # fp32, a quarter a device; a whole state is three times it
    assert step.fits and weights < step.memory["arguments"] < 1.5 * weights


@pytest.mark.slow
def test_a_teacher_apart_leaves_its_hidden_states_and_head_to_the_students_step(monkeypatch):
    """Arguments a device: the student's state, the teacher's head and hidden states in bf16."""
    wide = dataclasses.replace(DENSE, name="wide", hidden=512)
    monkeypatch.setitem(sizes.SIZES, "wide", wide)
    apart = {"teacher": "wide", "teacher_apart": True, "microbatches": 2, "batch_per_device": 2}
    step = plan(setting(model="shallow", step="distill", **apart))
    handed_over = 2 * (2 * LENGTH * 512 + wide.vocab * 512 / 4)
    batch = 6 * 4 * 2 * LENGTH
    want = 12 * step.parameters / 4 + handed_over + batch
    assert step.fits and step.memory["arguments"] == pytest.approx(want, rel=0.01)


@pytest.mark.slow
def test_the_forward_pass_of_a_teacher_apart_has_no_logits():
    """Its microbatches are in a loop, and what comes out are the hidden states."""
    step = plan(setting(model="small", step="teacher", microbatches=2, batch_per_device=2))
    assert step.fits and not step.unknown_loops
    assert step.flops_ratio == pytest.approx(1.0, abs=0.02)
    assert step.memory["outputs"] == pytest.approx(2 * 2 * LENGTH * DENSE.hidden, rel=0.01)


@pytest.mark.slow
def test_int8_products_are_in_the_program_of_a_v5e(tmp_path):
    """The seven matrices of a block are multiplied as s8 forwards and in both backward products."""
    text = tmp_path / "program.txt"
    shallow = setting(model="shallow", topology="v5e:2x2", execution=(("products", "int8"),))
    step = plan(shallow, keep_text=str(text))
    operands = [
        {computation.instructions[name].shapes[0][0] for name in product.operands[:2]}
        for computation, product, _ in hlo.parse(text.read_text()).walk(fused=True)
        if product.opcode in ("convolution", "dot")
    ]
    assert step.fits and operands.count({"s8"}) >= 3 * 7
    # Only those of the output matrix are left: logits and both of their gradients.
    assert len(operands) - operands.count({"s8"}) == 3


@pytest.mark.slow
def test_a_reward_model_has_no_output_matrix():
    step = plan(setting(model="shallow", step="reward_model"))
    assert step.fits and step.flops_ratio == pytest.approx(1.3, abs=0.2)
    head = 12 * SHALLOW.vocab * SHALLOW.hidden / 4
    whole = 12 * step.parameters / 4
    assert step.memory["arguments"] == pytest.approx(whole - head, rel=0.1)


def test_forward_of_a_dense_model_and_its_text():
    dense = plan(setting(model="small", step="forward", params_dtype="bfloat16"))
    assert dense.flops_ratio == pytest.approx(1.0, abs=0.02)
    text = plan_text(dense)
    for word in ("fits", "all-gather", "predicted step", "MFU", "how it was counted"):
        assert word in text
    assert json.loads(json.dumps(dense.to_dict()))["prediction"]["seconds"] > 0


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ("--model 31b --topology v5p:2x2x1", "there are 0.6b, 1.7b"),
        ("--model 4b --topology v5q:2x2", "kinds: v4, v5e, v5p, v6e, tpu7x"),
        ("--model 4b --topology v5p:4x4", "slices are AxBxC"),
        ("--model 4b --topology v5e:3x3", "no topology 'v5e:3x3'"),
        ("--model 4b --topology v5p:2x2x1 --mesh fsdp=3", "needs 3 devices"),
        ("--model 4b --topology v5p:2x2x1 --mesh wide=4", "axes: data, fsdp"),
        ("--model 4b --topology v5p:2x2x1 --mesh fsdp=8", "there are 4"),
        ("--model 4b --topology v5p:4x4x4 --mesh tensor=64", "does not divide over tensor of 64"),
        ("--model 4b --topology v5p:2x2x1 --step nap", "there are train, forward"),
        ("--model 4b --topology v5p:2x2x1 --remat some", "there are none, full"),
        ("--model 4b --topology v5p:2x2x1 --batch-per-device 0.3", "1.2 rows"),
        ("--model 4b --topology v5p:2x2x1 --weights int8", "prefill and decode, not train"),
    ],
)
def test_a_mistake_is_one_line_with_the_choices(arguments, complaint, capsys):
    assert cli.main(["plan", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "model, topology",
    [
        ("shallow", "v4:2x2x1"),
        pytest.param("small-moe", "v4:2x2x1", marks=pytest.mark.slow),
        pytest.param("small-moe", "tpu7x:2x2x1", marks=pytest.mark.slow),
    ],
)
def test_a_train_step_compiles_for_chips_of_two_cores(model, topology):
    """A v4 chip is one device with all of its memory, a tpu7x chip two with half of it each."""
    chip, step = chips.chip_of(topology), plan(setting(model=model, topology=topology))
    assert step.fits and step.devices == 4 * chip.devices
    assert step.limit == {"v4": 32, "tpu7x": 96}[chip.name] * 2**30


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    target.devices.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'qwen3\[tpu\]'"):
        target.devices("v5p:2x2x1")


@pytest.mark.parametrize(
    ("topology", "rings"),
    [
        ("v5p:2x4x4", (False, False, False)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5e:8x16", (False, True, False)),
        ("v6e:16x16", (True, True, False)),
    ],
)
def test_large_slices_have_rings(topology, rings):
    assert chips.chip_of(topology).wrap(topology.partition(":")[2]) == rings


def test_weights_spread_over_a_cube_are_gathered_not_summed():
    """Without its rings the compiler made all-reduces of wholes, at twice the traffic."""
    mesh = make_mesh(MeshConfig(fsdp=64), target.devices("v5p:4x4x4"))
    rows = jax.ShapeDtypeStruct((512, 1024), np.float32, sharding=NamedSharding(mesh, P("fsdp")))
    weights = jax.ShapeDtypeStruct((1024, 64), np.float32, sharding=NamedSharding(mesh, P("fsdp")))
    with target.no_cache():
        step = jax.jit(lambda x, w: x @ w, out_shardings=NamedSharding(mesh, P("fsdp")))
        text = step.lower(rows, weights).compile().as_text()
    assert "all-gather" in text and "all-reduce" not in text


def test_every_option_of_the_command_reaches_the_setting():
    parser = argparse.ArgumentParser()
    plan_cli.add_parser(parser.add_subparsers())
    line = (
        "plan --model 4b --topology v5e:4x4 --mesh fsdp=8,tensor=2 --batch-per-device 2 --length 64"
        " --step distill --remat none --microbatches 4 --chunk 99 --transport ring --expert-bound 2"
        " --moments bfloat16 --params-dtype bfloat16 --teacher 8b --lora 16 --balance previous"
        " --teacher-apart"
    )
    assert plan_cli.setting(parser.parse_args(line.split())) == Setting(
        "4b",
        "v5e:4x4",
        MeshConfig(fsdp=8, tensor=2),
        "distill",
        2,
        64,
        4,
        "none",
        99,
        "8b",
        True,
        "bfloat16",
        OptimConfig(moments="bfloat16"),
        (("transport", "ring"), ("expert_bound", 2)),
        lora=LoraConfig(rank=16),
        balance="previous",
    )


def test_fit_offers_only_meshes_that_divide_and_prefers_what_fits():
    wide = setting(model="30b-a3b", topology="v5p:4x4x4", batch_per_device=4, length=4096)
    estimates = [fit.estimate(candidate) for candidate in fit.candidates(wide)]
    assert estimates
    for estimate in estimates:
        mesh = estimate.setting.mesh
        assert mesh.data * mesh.fsdp * mesh.context * mesh.expert * mesh.tensor == 64
        assert 4 % mesh.tensor == 0 and 128 % mesh.expert == 0 and mesh.context == 1
    chosen = fit.estimate(wide.replace(mesh=MeshConfig(fsdp=64)))
    assert 15e9 < chosen.bytes < 30e9, "what the compiler says is about 20 GB"


@pytest.mark.slow
@pytest.mark.parametrize("row", plan_table.ROWS, ids=lambda row: row.name)
def test_every_row_of_the_table_fits_its_slice(row):
    """The table of the README; 1 to 10 minutes each."""
    step = plan_table.compile_row(row)
    assert step["fits"] and step["flops_ratio"] < 1.36
    if row.name == "30b-a3b":
        assert step["used"] <= 23.9e9


def test_chips_are_as_many_devices_as_the_table_says():
    for topology in ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"):
        chip = chips.chip_of(topology)
        assert len(target.devices(topology)) == 4 * chip.devices == chips.device_count(topology)
        assert dataclasses.asdict(chip)["source"].startswith("https://")
