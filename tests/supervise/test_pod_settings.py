"""Environment files: every wrong one is one clear line, and nothing is created."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3.supervise import copy_data, environment, pod_settings

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
    return pod_settings.read(file)


WRONG = {
    "an unknown key": ({"ZONES": "x"}, "run.env:9: no key ZONES; keys are RUN, ENTRY"),
    "a number that is none": ({"SLICES": "two"}, "run.env: SLICES=two is no number"),
    "a key without a value": ({"ENTRY": ""}, "ENTRY is missing"),
    "an unknown type": ({"TYPE": "v9-16"}, "there is no type 'v9-16'; known: v4-N, v5litepod-N"),
    "a number no type has": ({"TYPE": "v6e-17"}, "known: v6e-1, v6e-4, v6e-8, v6e-16, v6e-32"),
    "an unknown capacity": (
        {"CAPACITY": "cheap"},
        "CAPACITY=cheap: known are spot, on-demand",
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
    with pytest.raises(ValueError) as refusal:
        read(tmp_path, **keys)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_follows_from_the_keys(tmp_path):
    run = read(tmp_path, SLICES=2, PRICE=1.5, ALLOW="v6e-16@us-east5-b:spot v4-8@x:spot")
    assert run.chips == 32 and run.hosts == [f"{s}.{h}" for s in (0, 1) for h in range(4)]
    assert run.dollars(2) == 96 and run.folder == "gs://bucket/runs/toy"
    with pytest.raises(ValueError, match="not in ALLOW"):
        read(tmp_path, CAPACITY="on-demand", ALLOW="v6e-16@us-east5-b:spot")


def test_settings_are_what_bash_reads_and_the_program_is_what_entry_says(tmp_path):
    """Quotes, dollars and spaces arrive as they are; nothing is expanded or run."""
    entry = "experiments/x.py --set 'a=[\"x y\"]' --set b=$HOME"
    extra = {"ENV": "A=1 B='two words'", "PRICE_SOURCE": "a;b $(false)"}
    run = read(tmp_path, ENTRY=entry, SLICES=2, **extra)
    file = tmp_path / "settings"
    file.write_text(run.host_lines())
    script = f"set -u; set -a; source {file}; env -0"
    argv = ["env", "-i", "PATH=/usr/bin:/bin", "bash", "-c", script]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    values = dict(word.partition("=")[::2] for word in text.split("\0"))
    assert environment.command(run) == [
        *("experiments/x.py", "--set", 'a=["x y"]', "--set", "b=$HOME"),
        *("--workdir", "gs://bucket/runs/toy/work", "--distributed"),
    ]
    assert (values["PRICE_SOURCE"], values["HOSTS"], values["CHIPS"]) == ("a;b $(false)", "8", "4")
    assert values["B"] == "two words" and json.loads(values["FSSPEC_GCS"])
    assert pod_settings.PodSettings.of(values) == run
    assert pod_settings.read_host_lines(file.read_text()) == run
    made = environment.environment(run)
    flags = [f"--{flag}" for flag in environment.FLAGS["v6e"].split()]
    assert made["LIBTPU_INIT_ARGS"].split() == [*flags, "--megascale_abort_on_hangs=true"]
    assert made["JAX_PLATFORMS"] == "tpu,cpu" and made["B"] == "two words"
    assert made["JAX_COMPILATION_CACHE_DIR"] == "gs://bucket/cache"


def test_what_env_says_comes_before_what_pods_set(tmp_path):
    run = read(tmp_path, ENV="LIBTPU_INIT_ARGS=--mine")
    assert environment.environment(run)["LIBTPU_INIT_ARGS"] == "--mine"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_files_that_are_read(path):
    assert pod_settings.read(path).hosts


def test_launchers_ask_with_the_standard_library_alone(tmp_path):
    read(tmp_path, PRICE=1.5)
    argv = [sys.executable, "-S", "-m", "qwen3.supervise.pod_settings", str(tmp_path / "run.env")]
    environment = {"PYTHONPATH": str(Path(pod_settings.__file__).parents[2])}
    done = subprocess.run([*argv, "RUN=other"], env=environment, capture_output=True, text=True)
    run = json.loads(done.stdout)
    assert (run["RUN"], run["chips"], run["topology"]) == ("other", 16, "v6e:4x4")
    assert run["folder"] == "gs://bucket/runs/other" and run["dollars_an_hour"] == 24
    done = subprocess.run([*argv, "SLICES=0"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("run.env: SLICES=0: at least 1\n")


def test_secrets_are_read_by_name_and_a_missing_one_is_named(tmp_path, monkeypatch):
    tool = tmp_path / "gcloud"
    tool.write_text('#!/bin/sh\n[ "$5" = --secret=hf ] && printf token || exit 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert environment.secrets(read(tmp_path, SECRETS="HF_TOKEN=hf")) == {"HF_TOKEN": "token"}
    with pytest.raises(RuntimeError, match="SECRETS: other cannot be read"):
        environment.secrets(read(tmp_path, SECRETS="HF_TOKEN=other"))


def test_data_is_copied_once(tmp_path):
    (tmp_path / "from" / "s1").mkdir(parents=True)
    (tmp_path / "from" / "s1" / "rows").write_text("1")
    to = tmp_path / "to"
    to.mkdir()
    assert copy_data.copy_data(str(tmp_path / "from"), str(to))
    assert (to / "s1" / "rows").read_text() == "1"
    assert not copy_data.copy_data(str(tmp_path / "from"), str(to))


def test_every_kind_of_user_has_an_example():
    runs = [pod_settings.read(path) for path in EXAMPLES]
    kinds = {(run.BACKEND, run.TYPE.partition("-")[0], run.CAPACITY) for run in runs}
    assert kinds >= {
        ("queued_resources", "v4", "spot"),
        ("queued_resources", "v5litepod", "spot"),
        ("queued_resources", "v6e", "spot"),
        ("queued_resources", "v5p", "reserved"),
        ("loopback", "cpu", "spot"),
    }
    assert "gke" in {run.BACKEND for run in runs}
