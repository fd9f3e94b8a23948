"""A run of a few numbers through `qwen3.run.main`, on as many hosts as there are.

Files in --set faults=FOLDER say what goes wrong: FOLDER/HOST holds crash, hang or a signal number,
and is used up three steps after the checkpoint that this process found or made.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.run import main
from qwen3.config import MeshConfig, OptimConfig, to_dict
from qwen3.mesh import make_mesh
from qwen3.train import optim
from qwen3.train.loop import train
from qwen3.train.metrics import Meter, MetricsFile
from qwen3.train.placement import place_whole
from qwen3.train.state import abstract, fresh
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

NAME = os.environ["QWEN3_NAME"]


@dataclass(frozen=True)
class Config:
    """steps: of the run. every: steps between checkpoints. pause: seconds a step takes."""

    steps: int = 30
    every: int = 5
    pause: float = 0.05
    faults: str = ""


def loss(params, batch, frozen=()):
    """Squared error of a linear map."""
    error = batch["x"] @ params["w"] - batch["y"]
    return jnp.sum(error**2), {"weight": jnp.float32(len(error))}


class Source:
    """source[step] -> batch, a pure function of the step; faults come from here."""

    def __init__(self, config, mesh, restored):
        self.config, self.mesh, self.restored = config, mesh, restored

    def __getitem__(self, step):
        time.sleep(self.config.pause)
        file = Path(self.config.faults, NAME)
        if (
            self.config.faults
            and file.exists()
            and step > max(self.restored, self.config.every) + 2
        ):
            kind = file.read_text().strip()
            file.unlink()
            if kind == "crash":
                raise ValueError("a bad row in shard 17")
            if kind == "hang":
                time.sleep(600)
            os.kill(os.getpid(), int(kind))
        rows = np.random.default_rng(step).normal(size=(8, 5)).astype(np.float32)
        return place_whole({"x": rows[:, :4], "y": rows[:, 4:]}, self.mesh)


def run(config, workdir):
    """Train."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    settings = OptimConfig(peak=0.05, warmup=0, schedule="constant")
    tx = optim.build(settings, optim.chain([(settings, config.steps)]))

    def init():
        return {"w": jnp.ones((4, 1))}

    stored = {"steps": config.steps, "every": config.every}
    with jax.set_mesh(mesh), Workdir(workdir, stored) as work:
        shapes = jax.tree.map(lambda leaf: leaf.update(sharding=place), jax.eval_shape(init))
        template = abstract(shapes, tx)
        restored = work.restore(template)
        state = restored.state if restored else fresh(init, tx, template)
        step = make_step(loss, tx)
        logging.getLogger("qwen3").info("resumed at %d", int(state.step))
        writers = [MetricsFile(work.metrics)] if jax.process_index() == 0 else []
        hooks = [
            Meter(writers, every=1, tokens_per_step=8).hook(),
            work.checkpoints.hook(config.every, lambda at: {"position": at}),
        ]
        source = Source(config, mesh, int(state.step))
        train(state, step, source, until=config.steps, hooks=hooks)


CONFIG = Config()

if __name__ == "__main__":
    assert to_dict(CONFIG)
    main(run, CONFIG)
