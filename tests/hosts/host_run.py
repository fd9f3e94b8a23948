"""The toy model through `qwen3.run.main` on several hosts; one of them can fail.

python host_run.py --workdir DIR [--set fault=crash|hang --set host=1 --set at=3]
"""

import logging
import time
from dataclasses import dataclass

import jax
import toy
from together import compile_together

from qwen3.run import main
from qwen3.config import MeshConfig, OptimConfig
from qwen3.mesh import make_mesh
from qwen3.train import optim
from qwen3.train.loop import train
from qwen3.train.placement import place_whole
from qwen3.train.state import abstract, fresh
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Config:
    steps: int = 12
    every: int = 2  # steps between checkpoints
    minutes: float = 0.0  # or minutes, by the clock of process 0
    pause: float = 0.0  # seconds a batch
    fault: str = ""  # "crash", "hang"
    host: int = 1  # the one that fails
    at: int = 5  # step at which it does


class Source:
    """source[step] -> the whole batch, placed; the fault comes from here."""

    def __init__(self, config, mesh):
        self.config, self.mesh = config, mesh

    def __getitem__(self, step):
        time.sleep(self.config.pause)
        if step == self.config.at and jax.process_index() == self.config.host:
            if self.config.fault == "crash":
                raise ValueError("a bad row in shard 17")
            if self.config.fault == "hang":
                time.sleep(600)
        return place_whole(toy.batch(step), self.mesh)


def run(config, workdir):
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    settings = OptimConfig(peak=0.05, warmup=2)
    tx = optim.build(settings, optim.chain([(settings, config.steps)]))
    stored = {"steps": config.steps, "every": config.every}
    with jax.set_mesh(mesh), Workdir(workdir, stored) as work:
        shapes = jax.tree.map(lambda p: p.update(sharding=rows), jax.eval_shape(toy.init))
        template = abstract(shapes, tx)
        restored = work.restore(template)
        state = restored.state if restored else fresh(toy.init, tx, template)
        logging.getLogger("qwen3").info("begins at %d", int(state.step))
        save = work.checkpoints.hook(
            config.every, lambda at: {"position": at}, minutes=config.minutes
        )
        step = make_step(toy.loss, tx)
        train(state, step, Source(config, mesh), until=config.steps, hooks=[save])


if __name__ == "__main__":
    compile_together()
    main(run, Config())
