"""Environment files: every wrong one is one clear line, and nothing is created."""

import subprocess
from pathlib import Path

import pytest
from pods import run_file, types
from pods.command import Refused, call

from qwen3.plan import chips, target

EXAMPLES = sorted((Path(__file__).parents[2] / "launch" / "examples").glob("*.env"))
BASE = {
    "RUN": "toy",
    "ENTRY": "experiments/x.py --set a.b=c",
    "TYPE": "v6e-16",
    "BUCKET": "gs://bucket",
    "PROJECT": "p",
    "ZONE": "us-east5-b",
}


def read(folder, **keys):
    file = folder / "run.env"
    lines = ["# a comment", "", *(f"{key}={value}" for key, value in {**BASE, **keys}.items())]
    file.write_text("\n".join(lines))
    return run_file.read(str(file), call)


WRONG = {
    "an unknown key": ({"ZONES": "x"}, "run.env:9: no key ZONES; keys are RUN, ENTRY"),
    "a number that is none": ({"SLICES": "two"}, "run.env:9: SLICES=two is no number"),
    "a key without a value": ({"ENTRY": ""}, "ENTRY is missing"),
    "an unknown type": ({"TYPE": "v9-16"}, "there is no TYPE=v9-16; known are v4-N, v5litepod-N"),
    "a number no type has": ({"TYPE": "v6e-17"}, "known are v6e-1, v6e-4, v6e-8, v6e-16, v6e-32"),
    "an unknown capacity": (
        {"CAPACITY": "cheap"},
        "CAPACITY=cheap: known are ('spot', 'on-demand'",
    ),
    "an unknown backend": ({"BACKEND": "slurm"}, "BACKEND=slurm: known are queued_resources"),
    "a name that is none": ({"RUN": "My_Run"}, "RUN=My_Run is no name"),
    "no project": ({"PROJECT": ""}, "BACKEND=queued_resources needs PROJECT"),
    "no cluster": ({"BACKEND": "gke"}, "BACKEND=gke needs CLUSTER, IMAGE"),
    "a relative folder": ({"BUCKET": "bucket"}, "BUCKET=bucket: neither gs:// nor a folder"),
    "a type of GKE alone": ({"TYPE": "tpu7x-16"}, "TYPE=tpu7x-16 does not come with BACKEND="),
    "chips on this machine": ({"BACKEND": "loopback"}, "TYPE=v6e-16 does not come with"),
    "CPUs in the cloud": ({"TYPE": "cpu-4"}, "TYPE=cpu-4 does not come with"),
    "what was not granted": (
        {"ALLOW": "v4-64@us-central2-b:on-demand"},
        "v6e-16@us-east5-b:spot is not in ALLOW, and would be billed",
    ),
    "a limit without a price": ({"MAX_COST": 100}, "MAX_COST needs PRICE and MAX_HOURS"),
    "what costs too much": (
        {"MAX_COST": 100, "PRICE": 1.5, "MAX_HOURS": 10},
        "MAX_HOURS may cost $240, over MAX_COST",
    ),
    "secrets on GKE": (
        {"BACKEND": "gke", "CLUSTER": "c", "IMAGE": "i", "SECRETS": "A=b"},
        "SECRETS are for queued resources alone",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line(case, tmp_path):
    keys, line = WRONG[case]
    with pytest.raises(Refused) as refusal:
        read(tmp_path, **keys)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_follows_from_the_keys(tmp_path):
    run = read(tmp_path, SLICES=2, PRICE=1.5, ALLOW="v6e-16@us-east5-b:spot v4-8@x:spot")
    assert run.chips == 32 and run.hosts == [f"{s}.{h}" for s in (0, 1) for h in range(4)]
    assert run.dollars(2) == 96 and run.folder == "gs://bucket/runs/toy"
    with pytest.raises(Refused, match="not in ALLOW"):
        read(tmp_path, CAPACITY="on-demand", ALLOW="v6e-16@us-east5-b:spot")


def test_host_settings_are_what_bash_reads(tmp_path):
    """Quotes, dollars and spaces arrive as they are; nothing is expanded or run."""
    entry = "experiments/x.py --set 'a=[\"x y\"]' --set b=$HOME"
    run = read(
        tmp_path, ENTRY=entry, SLICES=2, ENV="A=1 B='two words'", PRICE_SOURCE="a;b $(false)"
    )
    file = tmp_path / "settings"
    file.write_text(run.host_settings("START", "abc"))
    script = (
        f'set -u; source {file}; printf "%s\\n" "${{COMMAND[@]}}" "$B" "$PRICE_SOURCE" "$HOSTS" \
"$CHIPS" "$LIBTPU_INIT_ARGS" "$JAX_PLATFORMS" "$QWEN3_REVISION"'
    )
    lines = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert lines.splitlines() == [
        *("experiments/x.py", "--set", 'a=["x y"]', "--set", "b=$HOME"),
        *("--workdir", "gs://bucket/runs/toy/work", "--distributed"),
        *("two words", "a;b $(false)", "8", "4"),
        " ".join(f"--{flag}" for flag in types.GENERATIONS["v6e"].flags.split())
        + " --megascale_abort_on_hangs=true",
        *("tpu,cpu", "abc"),
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_files_that_are_read(path):
    assert run_file.read(str(path), call).hosts


def test_every_kind_of_user_has_an_example():
    runs = [run_file.read(str(path), call) for path in EXAMPLES]
    kinds = {(run.BACKEND, run.TYPE.partition("-")[0], run.CAPACITY) for run in runs}
    assert kinds >= {
        ("queued_resources", "v4", "spot"),
        ("queued_resources", "v5litepod", "spot"),
        ("queued_resources", "v6e", "spot"),
        ("queued_resources", "v5p", "reserved"),
        ("loopback", "cpu", "spot"),
    }
    assert "gke" in {run.BACKEND for run in runs}


def test_topologies_are_those_of_the_compiler():
    """Chips and hosts of every slice, as libtpu describes it."""
    pytest.importorskip("libtpu")
    target.prepare()
    for name, generation in types.GENERATIONS.items():
        for count in generation.shapes if name in ("v5e", "v6e", "v5p") else ():
            if not 4 <= count <= 512:
                continue  # large ones take long; a single chip has no topology of its own
            kind = types.parse(f"{generation.prefix}-{count * generation.counts}")
            devices = target.devices(kind.topology)
            assert len(devices) == count == kind.chips
            assert len({device.process_index for device in devices}) == kind.hosts("gke")


def test_types_are_those_of_the_planner():
    """`qwen3 plan --type` is asked with the same names."""
    for name, kind in types.TYPES.items():
        if kind.topology.partition(":")[0] in ("v4", "v5e", "v5p", "v6e"):
            assert chips.topology_of(name) == kind.topology


def test_eight_chips_of_the_plane_are_one_machine_as_a_tpu_vm():
    assert types.parse("v6e-8").hosts("queued_resources") == 1
    assert types.parse("v6e-8").hosts("gke") == 2
    assert types.parse("v4-16").hosts("queued_resources") == 2
    assert types.parse("v6e-1").hosts("queued_resources") == 1
