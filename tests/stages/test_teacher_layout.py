"""A teacher on devices of its own: the student learns what it does from a resident one."""

import threading
from dataclasses import replace

import jax
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.stages import builders, distill, teacher_layout
from qwen3.stages.teacher_layout import RemoteTeacher, teacher_mesh
from qwen3.train.loop import Stopped

TEACHER = post.model(layers=1, hidden=48, kv_heads=2)  # of another width than the student


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    post.save_hf(folder, TEACHER)
    return str(folder)


@pytest.fixture(scope="module")
def run_on(master, tmp_path_factory):
    """run_on(devices, **changes) -> (workdir, last state); the student has the first `devices`."""

    def run(devices, work=None, **changes):
        config = post.distill_config(master, **{"minibatches": 2, "microbatches": 2, **changes})
        work = work or tmp_path_factory.mktemp("run")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(rewards.TASKS, "letters", post.letters)
            patch.setattr(
                distill, "make_mesh", lambda c, own=None: make_mesh(c, jax.devices()[:devices])
            )
            return work, distill.run(config, work)

    return run


@pytest.fixture(scope="module")
def resident(run_on):
    return run_on(1)


@pytest.fixture(scope="module")
def apart(run_on):
    return run_on(1, teacher_devices=1)


def test_x(resident, apart):
    for a, b in zip(post.records(resident[0]), post.records(apart[0])):
        print(a, b, sep="\n")
    print(sorted((apart[0] / "metrics.jsonl").read_text().splitlines())[0])
    post.assert_same_trees(resident[1], apart[1])
