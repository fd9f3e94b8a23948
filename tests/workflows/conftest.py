"""A tiny model and one device for the workflows: nothing in them depends on the number."""

import jax
import pytest

import qwen3
from qwen3 import mesh, rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig

TEXTS = [
    "write the letter e in the tree here now " * 20,
    "Mia would like 3 chairs. What is 12 + 34 - 5? Tom | lamps | 67 Ada | desks | 89 0 " * 20,
]
STAGES = ("grpo", "sft", "distill", "pretrain")


@pytest.fixture(autouse=True)
def clean_tasks(monkeypatch):
    """Rewards that a test registers are forgotten after it."""
    monkeypatch.setattr(rewards, "TASKS", dict(rewards.TASKS))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny random model with a tokenizer, in the Hugging Face layout."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = Tokenizer.train(TEXTS, 330)
    size = ModelConfig("toy", 2, 32, 64, 2, 1, head_dim=16, vocab=384, tied=True, max_length=256)
    qwen3.create(size, seed=3, tokenizer=tokenizer).save(folder)
    return folder


@pytest.fixture(scope="session")
def one_device():
    """The toy is trained on one of the suite's devices."""
    devices = jax.devices()[:1]
    make_mesh = mesh.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            patch.setattr(
                f"qwen3.stages.{stage}.make_mesh", lambda c, own=None: make_mesh(c, own or devices)
            )
        yield
