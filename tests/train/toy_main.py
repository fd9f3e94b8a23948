"""A run of two toy stages by `qwen3.run.main` that tells on stdout where it is, and waits there.

python toy_main.py --workdir DIR
"""

import time
from dataclasses import dataclass

import jax
import toy

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.train import optim
from qwen3.train.loop import Hook, train
from qwen3.train.state import abstract, fresh
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Config:
    steps: int = 4  # of each stage
    pause: float = 1.0  # seconds in each place


def run(config, workdir):
    def tell(place):
        print(place, flush=True)
        time.sleep(config.pause)

    def told(close=None):
        tell("closing")
        close()

    tell("starting")
    rate = optim.schedule(OptimConfig(warmup=0), 2 * config.steps)
    tx = optim.build(OptimConfig(warmup=0), rate)
    with Workdir(workdir, config) as work:
        close = work.checkpoints.close
        work.checkpoints.close = lambda: told(close)
        tell("restoring")
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.tree.map(lambda p: p.update(sharding=device), jax.eval_shape(toy.init))
        template = abstract(shapes, tx)
        restored = work.restore(template)
        state = restored.state if restored else fresh(toy.init, tx, template)
        for stage, until in (("first", config.steps), ("second", 2 * config.steps)):
            if int(state.step) >= until:
                continue

            def note(step, state, metrics, stage=stage, until=until):
                if step == until - 2:
                    tell(f"training the {stage}")
                if step == until:  # the loop has looked for signals for the last time
                    tell(f"leaving the {stage}")

            save = work.checkpoints.hook(100, lambda step: {})
            hooks = [Hook(note), save]
            state = train(state, make_step(toy.loss, tx), toy.Source(), until=until, hooks=hooks)
            tell(f"behind the {stage}")
    tell("ending")


if __name__ == "__main__":
    main(run, Config())
