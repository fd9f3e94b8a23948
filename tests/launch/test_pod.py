"""What pod.py refuses, in one line, before anything is created; and what `plan` says."""

import json
import subprocess
import sys

import pytest
from trial_pods import ROOT, STAND_IN

STEP = {
    "fits": True,
    "used": 18.6e9,
    "limit": 102e9,
    "reason": "",
    "advice": [],
    "prediction": {"seconds": 5.52, "tokens_per_second_per_chip": 2968.0},
}
# Stands where `qwen3 plan` would be; the answer is a file.
PLAN = """import json, pathlib, sys
folder = pathlib.Path({folder!r})
assert sys.argv[1] == "plan" and "--json" in sys.argv, sys.argv
(folder / "arguments").write_text(" ".join(sys.argv[2:]))
answer = (folder / "answer").read_text()
sys.exit("no model '9b'") if not answer else print(answer)
"""


@pytest.fixture
def planned(clone, tmp_path):
    """planned(step): what `qwen3 plan` will say; the arguments that it was given are returned."""
    folder = tmp_path / "plan"
    folder.mkdir()
    (clone / STAND_IN).write_text(PLAN.format(folder=str(folder)))

    def say(step):
        (folder / "answer").write_text(json.dumps(step) if step else "")
        return lambda: (folder / "arguments").read_text()

    yield say
    (clone / STAND_IN).unlink()


def refused(pod, verb="up", **keys):
    code, text = pod(verb, **keys)
    assert code == 2 and len(text.splitlines()) == 1, text
    assert not (pod.run / "hosts").exists()
    return text


def test_a_dirty_tree_is_refused(loopback, clone):
    file = clone / "launch" / "worker.sh"
    before = file.read_text()
    file.write_text(before + "# a change\n")
    try:
        assert "the tree is dirty (1 files, launch/worker.sh): commit first" in refused(loopback)
    finally:
        file.write_text(before)


def test_a_missing_bucket_is_refused_with_the_command_that_makes_it(loopback, tmp_path):
    missing = tmp_path / "nowhere"
    text = refused(loopback, BUCKET=missing)
    assert f"BUCKET={missing} is not there, or not yours: mkdir -p {missing}" in text


def test_a_name_that_another_run_has_is_refused(loopback):
    loopback.ok("up")
    loopback.ok("down", "--yes")
    text = refused(loopback, ENTRY="experiments/other.py")
    assert "RUN=toy is the name of another run, of ENTRY=experiments/trainer.py" in text


def test_an_unknown_key_is_refused(loopback):
    assert "no key COLOUR; keys are RUN" in refused(loopback, COLOUR="red")


def test_run_without_a_pod_says_what_to_do(loopback):
    assert "the pod is absent : pod.py up brings it up" in refused(loopback, verb="run")


def test_without_a_plan_nothing_is_rented(loopback):
    assert "PLAN is empty" in refused(loopback, PLAN="")


def test_what_does_not_fit_is_refused_with_the_bytes(loopback, planned):
    step = {
        **STEP,
        "fits": False,
        "used": 120e9,
        "reason": "out of memory.",
        "advice": ["More chips."],
    }
    arguments = planned({**step, "prediction": None})
    text = refused(loopback, PLAN="--model 14b --mesh fsdp=4")
    assert "does not fit: 120.0 GB of 102.0 GB a device. out of memory. More chips." in text
    assert arguments() == "--model 14b --mesh fsdp=4 --json --type=cpu-4 --slices=1"


def test_what_plan_says_of_a_wrong_step_is_passed_on(loopback, planned):
    planned(None)
    assert "`qwen3 plan` says: no model '9b'" in refused(loopback, PLAN="--model 9b")


def test_plan_says_what_is_rented_and_the_commands(loopback, planned, tmp_path):
    planned(STEP)
    keys = {
        "BACKEND": "queued_resources",
        "BUCKET": "gs://bucket",
        "TYPE": "v5p-128",
        "PROJECT": "p",
        "ZONE": "us-east5-a",
        "PLAN": "--model 14b",
        "PRICE": 2,
        "PRICE_SOURCE": "a list of 2026-11-01",
        "MAX_HOURS": 10,
    }
    lines = loopback.ok("plan", **keys).splitlines()
    assert lines[:6] == [
        "1 x v5p-128 (v5p:4x4x4) on 16 hosts",
        "quota: 64 chips of v5p, spot, us-east5-a",
        "memory: fits: 18.6 GB of 102.0 GB a device.",
        "time: 10 h, 640 chip-hours",
        "cost: $128.00 an hour, $1,280 in all, at $2 a chip-hour (a list of 2026-11-01)",
        "speed: 5.52 s a step, 16,411,852,800 tokens a day",
    ]
    commands = [line for line in lines if line.startswith("+ ")]
    assert any("queued-resources create toy" in line for line in commands)
    assert any("worker.sh start" in line for line in commands) and not list(
        loopback.bucket.iterdir()
    )
    planned({**STEP, "fits": False, "prediction": None})
    code, text = loopback("plan", **keys)
    assert code == 1 and "memory: does not fit" in text


def test_pod_py_needs_the_standard_library_alone(loopback):
    _, *words = loopback.argv("run", "--dry-run", BACKEND="loopback")
    argv = [sys.executable, "-S", *words]
    done = subprocess.run(argv, cwd=loopback.clone, capture_output=True, text=True)
    assert done.returncode == 0 and "worker.sh start" in done.stdout, done.stderr


def test_files_are_found_from_anywhere_and_a_dry_run_compiles_nothing(loopback, planned):
    arguments = planned({**STEP, "fits": False})
    python, pod, verb, file, *_ = loopback.argv("plan", PLAN="--model 9b")
    argv = [python, loopback.clone / pod, verb, "run.env", "--dry-run"]
    done = subprocess.run(argv, cwd=loopback.folder, capture_output=True, text=True)
    assert done.returncode == 0 and "worker.sh start" in done.stdout, done.stderr
    with pytest.raises(FileNotFoundError):
        arguments()


def test_launch_stays_small():
    """All lines of its programs, blank ones and comments too; not the page and the examples."""
    files = [f for f in (ROOT / "launch").rglob("*") if f.suffix in (".py", ".sh", "")]
    lines = sum(len(file.read_text().splitlines()) for file in files if file.is_file())
    assert 800 < lines <= 900


def test_the_environment_file_is_the_one_argument_that_is_needed(clone):
    done = subprocess.run(["launch/pod.py", "up"], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 2 and "RUN.env" in done.stderr
    done = subprocess.run(
        ["launch/pod.py", "up", "no.env"], cwd=clone, capture_output=True, text=True
    )
    assert done.returncode == 2 and "No such file" in done.stderr
