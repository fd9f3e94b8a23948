"""A whole run of the toy model, as a stage would do it: two stages, resume, save, metrics.

python toy_run.py WORKDIR [--steps 60] [--every 7] [--pause 0.02]
"""

import argparse

import jax
import toy

from qwen3.config import MeshConfig, OptimConfig
from qwen3.mesh import make_mesh
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import train
from qwen3.train.metrics import Meter, MetricsFile
from qwen3.train.placement import place_whole
from qwen3.train.state import abstract, fresh
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

parser = argparse.ArgumentParser()
parser.add_argument("workdir")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--every", type=int, default=7)
parser.add_argument("--pause", type=float, default=0.02)
parser.add_argument("--process", type=int, default=0)
parser.add_argument("--coordinator", default="")
options = parser.parse_args()

if options.coordinator:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(options.coordinator, 2, options.process)

ROWS = 16
one = OptimConfig(peak=0.05, warmup=5, schedule="wsd", skip_spikes=50.0, spike_window=8)
two = OptimConfig(peak=0.005, warmup=0, schedule="linear")
border = options.steps // 2
rate = optim.chain([(one, border), (two, options.steps - border)])
tx = optim.build(one, rate)
step = make_step(toy.loss, tx, microbatches=2)


class Paused(toy.Source):
    """This process's rows; the pause gives a killer time."""

    def __getitem__(self, at):
        import time

        time.sleep(options.pause)
        return place_whole(super().__getitem__(at), mesh)


mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
config = {"steps": options.steps, "every": options.every}
with jax.set_mesh(mesh), Workdir(options.workdir, config, keep=Keep(last=2, every=21)) as work:
    template = abstract(
        jax.tree.map(lambda p: p.update(sharding=rows), jax.eval_shape(toy.init)), tx
    )
    restored = work.restore(template)
    state = restored.state if restored else fresh(toy.init, tx, template)
    assert restored is None or restored.extra["position"] == int(state.step)
    lines = MetricsFile(work.metrics)
    for stage, until in enumerate((border, options.steps)):
        if int(state.step) >= until:
            continue
        meter = Meter(
            [lines],
            every=1,
            tokens_per_step=128,
            derived={"rate": rate},
            labels={"stage": str(stage)},
        )
        save = work.checkpoints.hook(
            options.every, lambda at, s=stage: {"position": at, "stage": s}
        )
        source = Paused(seed=stage)
        state = train(state, step, source, until=until, hooks=[meter.hook(), save])
