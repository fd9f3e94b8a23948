"""How long the tiny train step takes to compile: cold, and from the persistent cache.

Every figure is a process of its own, as a user's second start is. Counted: lowering, and compiling
or reading from the cache, of forward, backward and AdamW (8 rows of 160 tokens, fp32); not the
start of Python and jax.

Command:   python experiments/bench_compile.py [--repeats 3]
Hardware:  any CPU; a minute or two.
Expected:  6.7 s cold, 0.8 s warm (goals 15 and 1; docs/log/2026-11-28-compile-times.md).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = ("tiny", "tiny-moe")
ROWS, LENGTH = 8, 160


def compile_once(name: str) -> float:
    """Seconds to lower and compile the train step of a size, in this process."""
    import jax
    import jax.numpy as jnp

    from qwen3.run import use_compile_cache
    from qwen3.config import OptimConfig
    from qwen3.losses import lm
    from qwen3.model import sizes, transformer
    from qwen3.model.execution import Execution
    from qwen3.train import optim, state, step

    use_compile_cache()
    model = sizes.size(name)
    tx = optim.build(OptimConfig(), lambda step: 1e-3)
    start = state.create(transformer.init(model, jax.random.key(0)), tx)
    ids = jnp.zeros((ROWS, LENGTH), jnp.int32)
    batch = dict.fromkeys(("tokens", "targets", "positions"), ids)
    batch |= {"segment_ids": ids + 1, "weights": jnp.ones(ids.shape)}

    apply = transformer.bind(model, Execution())
    train = step.make_step(lambda p, b, f: lm.next_token(apply, p, b, f), tx)
    began = time.perf_counter()
    train.lower(start, batch, ()).compile()
    return time.perf_counter() - began


def seconds(name: str, cache: str) -> float:
    """The seconds of `compile_once` in a new process with this folder as its cache."""
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, __file__, "--one", name]
    process = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return float(process.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(compile_once(options.one))
        return
    for name in SIZES:
        cold, warm = [], []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(seconds(name, cache))
                warm.append(seconds(name, cache))
        print(f"{name}: cold {statistics.median(cold):.1f} s, warm {statistics.median(warm):.2f} s")


if __name__ == "__main__":
    main()
