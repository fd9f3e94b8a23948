"""Records go to Weights & Biases and trackio too, and a resumed run goes on there."""

import sys
from types import SimpleNamespace

import pytest

from qwen3.train.recording import Log
from qwen3.train.trackers import Tracker


@pytest.fixture
def calls(monkeypatch):
    """What the two libraries are called with; each has the parameters of its own `init`."""
    calls = []

    def wandb(*, project, name, config, resume, id):
        calls.append(("wandb", project, name, resume, id))

    def trackio(*, project, name, config, resume):
        calls.append(("trackio", project, name, resume))

    for init in (wandb, trackio):
        library = SimpleNamespace(
            init=init,
            log=lambda values, step: calls.append((step, values)),
            finish=lambda: calls.append("finish"),
        )
        monkeypatch.setitem(sys.modules, init.__name__, library)
    return calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_found_again_by_what_the_tracker_knows_it_by(name, tmp_path, calls):
    workdir = tmp_path / "runs" / "rl"
    workdir.mkdir(parents=True)
    for resumed in (False, True, False):
        Tracker(name, workdir, {"seed": 0}, resumed=resumed).close()
    first, again, anew = (call for call in calls if call != "finish")
    assert first[:4] == (name, "runs", "rl", "never") and again[:4] == (name, "runs", "rl", "allow")
    if name == "wandb":
        assert first[4] == again[4] != anew[4] and len(first[4]) == 16


def test_numbers_are_sent_with_their_step_and_texts_are_not(tmp_path, calls):
    tracker = Tracker("trackio", tmp_path, {}, resumed=False)
    tracker.write(0, {"eval/score": 0.5, "stage": "rl"})
    assert calls[-1] == (0, {"eval/score": 0.5})


def test_other_trackers_and_absent_libraries_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="track .'mlflow'.: choose from wandb, trackio"):
        Log(track=("mlflow",))
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ImportError, match="trackio needs pip install .qwen3.track.."):
        Tracker("trackio", tmp_path, {}, resumed=False)
