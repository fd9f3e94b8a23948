"""A pod that is driven through pod.py, and one host of it, with all that they leave in folders."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from pods.run import Run

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
STAND_IN = "src/qwen3/cli.py"  # where test_pod has a program that answers for `qwen3 plan`
# Answers the health check, which needs JAX, at once; pods of test_loopback do not use it.
PYTHON = """#!/usr/bin/env bash
[[ "$2" == qwen3.supervise.health_check ]] || exec {python} "$@"
"""


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

    def __call__(self, verb, *options, timeout=600, **keys):
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

    def until(self, what, seconds=900):
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


class Host:
    """One host without a pod: worker.sh in a folder of its own, with a run of one chip."""

    def __init__(self, clone, folder, **keys):
        self.home, self.bucket, self.trouble = (
            folder / "home",
            folder / "bucket",
            folder / "trouble",
        )
        for path in (self.home / "qwen3" / "toy", self.bucket, self.trouble):
            path.mkdir(parents=True)
        defaults = {
            "RUN": "toy",
            "BACKEND": "loopback",
            "TYPE": "cpu-2",
            "BUCKET": self.bucket,
            "PROJECT": "p",
            "ZONE": "z",
            "ENTRY": f"experiments/trainer.py --pause 0.05 --faults {self.trouble}",
            "BEAT_SECONDS": 1,
            "STOP_SECONDS": 20,
        }
        file = folder / "toy.env"
        file.write_text("".join(f"{k}={value}\n" for k, value in {**defaults, **keys}.items()))
        self.code = self.home / "qwen3" / "toy" / "code"
        shutil.copytree(clone, self.code, ignore=shutil.ignore_patterns(".git"))
        lines = Run(str(file)).host_lines
        (self.code / "run.env").write_text(f"{lines}START=START\nQWEN3_REVISION=abc\n")
        python = {
            "PYTHON": hosts_python(folder),
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
        }
        self.environment = python

    def worker(self, verb):
        """What worker.sh prints for a verb."""
        argv = ["bash", self.code / "launch/worker.sh", verb]
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    def run(self):
        """Start supervising; the process."""
        argv = ["bash", self.code / "launch/worker.sh", "run"]
        self.process = subprocess.Popen(
            argv, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        return self.process

    def until(self, what, seconds=90):
        limit = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < limit, self.log()
            time.sleep(0.05)

    def state(self):
        file = self.bucket / "runs/toy/pod/START/0.0/state.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def ends(self):
        """(code, error) of every attempt."""
        file = self.bucket / "runs/toy/pod/START/0.0/events.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [(row["code"], row["error"]) for row in rows if row["event"] == "end"]

    def log(self, attempt=1):
        return (self.bucket / f"runs/toy/pod/START/0.0/attempt-{attempt}.log").read_text()


def end_hosts(folder):
    """End all processes of hosts whose homes lie in a folder."""
    for file in [*folder.glob("*/qwen3/lock"), *folder.glob("*/qwen3/*/host/child")]:
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
