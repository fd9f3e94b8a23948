"""Several slices: a mesh over them, their names, and a step that is compiled for two."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("libtpu")

from qwen3 import cli
from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.plan import chips, plan_cli, target
from qwen3.plan.compiling import plan
from qwen3.plan.slice_types import LOOPBACK, TYPES, slice_type
from qwen3.plan.steps import Setting
from qwen3.plan.traffic import BETWEEN_SLICES

ROOT = Path(__file__).parents[2]


def test_slices_lie_along_data():
    devices = target.devices("v5e:4x4*2")
    mesh = make_mesh(MeshConfig(data=4, fsdp=-1, tensor=2), devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert slices.shape == (4, 4, 1, 1, 2)
    assert [set(slices[i].flat) for i in range(4)] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=1, fsdp=4, tensor=8)])
def test_other_axes_do_not_cross_slices(mesh):
    with pytest.raises(ValueError, match="2 slices has data=2 or a multiple of it, not data=1"):
        make_mesh(mesh, target.devices("v5e:4x4*2"))


def parsed(*words):
    parser = argparse.ArgumentParser()
    plan_cli.add_parser(parser.add_subparsers())
    return plan_cli.setting(parser.parse_args(["plan", "--model", "tiny-moe", *words]))


@pytest.mark.parametrize(
    "name, topology",
    [
        ("v6e-256", "v6e:16x16"),
        ("v5litepod-16", "v5e:4x4"),
        ("v5p-128", "v5p:4x4x4"),
        ("v4-32", "v4:2x2x4"),
    ],
)
def test_types_of_the_cloud_are_topologies(name, topology):
    assert parsed("--type", name).topology == topology


# A single chip has no topology of its own, and large ones take long.
DESCRIBED = [k for k in TYPES.values() if LOOPBACK not in k.hosts and 4 <= k.chips <= 128]


@pytest.mark.parametrize("kind", DESCRIBED, ids=lambda kind: kind.name)
def test_chips_and_hosts_of_a_type_are_those_of_the_compiler(kind):
    devices = target.devices(kind.topology)
    assert len(devices) == kind.chips * chips.chip_of(kind.topology).devices
    assert len({device.process_index for device in devices}) == kind.hosts["gke"]


def test_eight_chips_of_the_plane_are_one_machine_as_a_tpu_vm():
    assert slice_type("v6e-8").hosts == {"queued_resources": 1, "gke": 2}
    assert slice_type("v4-16").hosts["queued_resources"] == 2
    assert slice_type("v6e-1").hosts["queued_resources"] == 1
    assert slice_type("cpu-4").hosts == {"loopback": 2} and slice_type("tpu7x-16").chips == 8


@pytest.mark.parametrize("topology", ["v4:2x4x4", "v4:2x2x1*2", "tpu7x:2x2x2"])
def test_a_mesh_lies_over_chips_of_two_cores(topology):
    """Cores of a v4 chip are one device, as on a TPU VM; those of a tpu7x chip are two."""
    devices = target.devices(topology)
    _, slices = chips.one_slice(topology)
    mesh = make_mesh(MeshConfig(data=slices), devices)
    assert mesh.size == len(devices)


def test_what_launchers_ask_needs_the_standard_library_alone():
    environment = {"PYTHONPATH": str(ROOT / "src")}
    argv = [sys.executable, "-S", "-m", "qwen3.plan.slice_types"]
    done = subprocess.run([*argv, "v6e-16"], env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["topology"] == "v6e:4x4"
    done = subprocess.run([*argv, "v6e-17"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(
        "there is no type 'v6e-17'; known: v6e-1"
    )


def test_slices_are_data_parallel_unless_more_is_told():
    assert parsed("--type", "v5litepod-16", "--slices", "2").topology == "v5e:4x4*2"
    assert parsed("--topology", "v5e:4x4", "--slices", "2").mesh == MeshConfig(data=2)
    more = parsed("--topology", "v5e:4x4", "--slices", "2", "--mesh", "data=4")
    assert more.mesh == MeshConfig(data=4)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--type", "v6e-7"], "no type 'v6e-7'; known: v6e-1, v6e-4, v6e-8, v6e-16"),
        (["--type", "v9-8"], "no type 'v9-8'; known: v4-N, v5litepod-N"),
        (["--type", "cpu-4"], "cpu-4 is no slice of TPUs"),
        (["--topology", "v5e:4x4", "--slices", "0"], "--slices 0: at least 1"),
        (["--topology", "v5e:4x4*x"], "'x' is no number of slices"),
    ],
)
def test_a_slice_that_is_none_is_one_line(words, complaint, capsys):
    assert cli.main(["plan", "--model", "tiny-moe", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
def test_a_train_step_of_a_mixture_compiles_for_two_slices():
    plain = (("attention", "reference"), ("experts", "loop"))  # its heads are too narrow for splash
    mesh = MeshConfig(data=2)
    step = plan(Setting("tiny-moe", "v5e:4x4*2", mesh=mesh, length=256, execution=plain))
    assert step.devices == 32 and step.fits
    between = {collective.kind: collective for collective in step.collectives}[BETWEEN_SLICES]
    # Each device has its sixteenth of the gradients in bf16 or fp32, padded to whole tiles.
    share = step.parameters / 16
    assert 2 * share < between.bytes < 8 * share
    assert jax.default_backend() == "cpu"
