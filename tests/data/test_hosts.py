"""Two processes, joined by jax.distributed over loopback, see the global batches of one process."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from qwen3.data.batches import FIELDS, Batches
from qwen3.data.mixture import Stage

STAGE = Stage("s1", {"a": 0.6, "b": 0.4}, 32, 8)
STEPS = (0, 1, 17)

HOST = """
import json, sys
import jax
address, process, folders, out = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=int(process))
import numpy as np
from jax.experimental import multihost_utils
from test_hosts import STAGE, STEPS
from qwen3.config import MeshConfig
from qwen3.data.batches import Batches
from qwen3.data.corpora import Corpus
from qwen3.train.prefetch import Feed
from qwen3.mesh import make_mesh

asked = set()

class Watched(Batches):
    def rows(self, step, rows):
        asked.update(rows)
        return super().rows(step, rows)

corpora = {name: Corpus(folder) for name, folder in json.loads(folders).items()}
mesh = make_mesh(MeshConfig(data=2, fsdp=-1))
for step in STEPS:
    batch = next(Feed(Watched(STAGE, corpora, 5, vocab=290), mesh, start=step, ahead=1))
    whole = multihost_utils.process_allgather(batch, tiled=True)
    np.savez(f"{out}/{process}-{step}.npz", **whole)
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
json.dump(sorted(int(row) for row in asked), open(f"{out}/{process}-rows.json", "w"))
"""


@pytest.fixture(scope="module")
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_hosts_hold_the_batches_of_one_and_read_half_each(make, port, tmp_path):
    lengths = np.random.default_rng(0).integers(2, 50, 200).tolist()
    given = {"a": make("a", lengths[:120]), "b": make("b", lengths[120:])}
    folders = json.dumps({name: str(corpus.folder) for name, corpus in given.items()})
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.path.dirname(__file__),
    }
    command = [sys.executable, "-c", HOST, f"127.0.0.1:{port}"]
    hosts = [
        subprocess.Popen([*command, str(process), folders, str(tmp_path)], env=env)
        for process in range(2)
    ]
    try:
        assert [host.wait(900) for host in hosts] == [0, 0]
    finally:
        for host in hosts:
            host.kill()
    alone = Batches(STAGE, given, 5, vocab=290)
    for step in STEPS:
        expected = alone[step]
        for process in range(2):
            seen = np.load(tmp_path / f"{process}-{step}.npz")
            assert all(np.array_equal(seen[name], expected[name]) for name in FIELDS)
    rows = [json.loads((tmp_path / f"{process}-rows.json").read_text()) for process in range(2)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7]]
