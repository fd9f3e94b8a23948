"""A clone of this tree's launch/ with a small program in it, and pods that are made from it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_cloud import Cloud

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
GIT = ["git", "-c", "user.name=tester", "-c", "user.email=tester@localhost"]
REAL = shutil.which("gcloud")
# Answers the health check, which needs JAX, at once; the loopback pods of test_loopback do not use it.
PYTHON = """#!/usr/bin/env bash
[[ "$1" == launch/health_check.py ]] || exec {python} "$@"
"""


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A repository of its own, so that a dirty tree here is none there."""
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "launch", root / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "experiments").mkdir()
    for name in ("trainer.py", "tiny_pod.py"):
        shutil.copy(HERE / name, root / "experiments")
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".gitignore").write_text("__pycache__/\n")
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "a commit"], cwd=root, check=True)
    return root


class Pod:
    """pod.py with an environment file, and what it answered."""

    def __init__(self, clone, folder, environment=None, **keys):
        self.clone, self.folder, self.bucket = clone, folder, folder / "bucket"
        self.bucket.mkdir(exist_ok=True)
        self.environment = {**os.environ, **(environment or {})}
        defaults = {
            "RUN": "toy",
            "BUCKET": self.bucket,
            "ENTRY": f"experiments/trainer.py --faults {folder / 'trouble'}",
            "PLAN": "none",
            "BEAT_SECONDS": 1,
            "POLL_SECONDS": 0.2,
            "STOP_SECONDS": 20,
            "CALL_SECONDS": 120,
        }
        self.trouble = folder / "trouble"
        self.trouble.mkdir(exist_ok=True)
        self.keys = {**defaults, **keys}

    def argv(self, verb, *options, **keys):
        file = self.folder / "run.env"
        lines = [f"{key}={value}\n" for key, value in {**self.keys, **keys}.items()]
        file.write_text("".join(lines))
        return [sys.executable, "launch/pod.py", verb, str(file), *options]

    def __call__(self, verb, *options, timeout=120, **keys):
        """(exit code, what was printed) of a verb."""
        done = subprocess.run(
            self.argv(verb, *options, **keys),
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        self.errors = done.stderr
        return done.returncode, done.stdout + "".join(
            line + "\n" for line in done.stderr.splitlines() if not line.startswith("+ ")
        )

    def ok(self, verb, *options, **keys):
        code, text = self(verb, *options, **keys)
        assert code == 0, (text, self.errors[-3000:])
        return text

    @property
    def run(self):
        return self.bucket / "runs" / self.keys["RUN"]

    def step(self):
        """The last step that was recorded."""
        file = self.run / "work" / "metrics.jsonl"
        return file.read_text().count("\n") if file.exists() else 0

    def until(self, what, seconds=240):
        """Wait until what() is true."""
        limit = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < limit, self("status")
            time.sleep(0.05)

    def log(self, host):
        files = sorted(
            self.run.glob(f"pod/*/{host}/attempt-*.log"), key=lambda f: f.stat().st_mtime
        )
        return "".join(file.read_text() for file in files)

    def end(self, hosts=None):
        """End all processes of hosts that are folders in `hosts`."""
        hosts = hosts or self.run / "hosts"
        for file in [*hosts.glob("*/qwen3/lock"), *hosts.glob("*/qwen3/*/host/child")]:
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(file.read_text().split()[-1])
                os.kill(pid, signal.SIGKILL)
                os.killpg(pid, signal.SIGKILL)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def hosts_python(folder):
    """An interpreter for hosts: this one, but for the health check."""
    python = folder / "python-of-hosts"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def loopback(clone, tmp_path):
    """A pod of two hosts on this machine."""
    pod = Pod(clone, tmp_path, BACKEND="loopback", TYPE="cpu-4")
    yield pod
    pod.end()


@pytest.fixture
def cloud(tmp_path):
    """Two hosts a node."""
    cloud = Cloud(tmp_path / "cloud", hosts=2)
    yield cloud
    cloud.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.slow)])
def tpu(request, clone, cloud, tmp_path):
    """A pod of queued resources, v4-16, through a fake gcloud and the real one where it is installed."""
    if request.param == "real" and REAL is None:
        pytest.skip("gcloud is not installed here")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("ssh", "scp", *(["gcloud"] if request.param == "fake" else [])):
        (tools / name).symlink_to(HERE / "bin" / name)
    environment = {
        **cloud.environment(),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "FAKE_PYTHON": hosts_python(tools),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    key = Path(environment["HOME"], ".ssh", "google_compute_engine")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pod = Pod(clone, tmp_path, environment, TYPE="v4-16", PROJECT="p", ZONE="us-central2-b")
    pod.real = request.param == "real"
    return pod
