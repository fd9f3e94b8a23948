"""One MoE layer forward + backward on CPU: our loop, jax.lax.ragged_dot, and all experts densely.

Hidden 256, 32 experts, top-4, expert FFN 128, 8 x 512 tokens, float32. The variants take turns and
a square matmul is timed between them, so that a busy machine shows. Process CPU time stands beside
the wall time: it is the fair one when other work shares the cores. The allocator variables of
launch/local.sh must be set (they halve the times of every variant).

Command:   python experiments/bench_moe_layer.py [--repeats 5]
Hardware:  any CPU; a minute.
Expected:  the loop is 16 times as fast as ragged_dot on two cores, 22 times on one
           (docs/log/2026-11-21-moe-block-loop.md).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.ops import transport

BATCH, LENGTH, HIDDEN, EXPERTS, ACTIVE, FFN = 8, 512, 256, 32, 4, 128
# Useful arithmetic: three matrices, forward and two gradients each.
FLOPS = 3 * 3 * 2 * BATCH * LENGTH * ACTIVE * HIDDEN * FFN
SQUARE = 2048
Params: TypeAlias = dict[str, jax.Array]


def ragged(
    x_RD: jax.Array,
    weights_R: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
) -> jax.Array:
    """SwiGLU of rows that are sorted by expert, with `jax.lax.ragged_dot`."""
    gate_RF = jax.lax.ragged_dot(x_RD, gate_EDF, sizes_E)
    hidden_RF = jax.nn.silu(gate_RF) * jax.lax.ragged_dot(x_RD, up_EDF, sizes_E)
    return jax.lax.ragged_dot(hidden_RF * weights_R[:, None], down_EFD, sizes_E)


def layer(kernel: str | Callable, x_BTD: jax.Array, params: Params) -> jax.Array:
    y_BTD, _ = transport.moe(x_BTD, params, active=ACTIVE, transport="fsdp", kernel=kernel)
    return y_BTD


def dense_layer(x_BTD: jax.Array, params: Params) -> jax.Array:
    """No sort: all tokens through all experts, weighted by a routing matrix that is mostly zero."""
    from qwen3.ops.moe import route

    x_MD = x_BTD.reshape(-1, HIDDEN)
    routing = route(x_MD, params["router"], active=ACTIVE)
    chosen_MAE = jax.nn.one_hot(routing.ids_MA, EXPERTS)
    weights_ME = jnp.einsum("MA,MAE->ME", routing.weights_MA, chosen_MAE)
    gate_EMF = jnp.einsum("MD,EDF->EMF", x_MD, params["gate"])
    hidden_EMF = jax.nn.silu(gate_EMF) * jnp.einsum("MD,EDF->EMF", x_MD, params["up"])
    hidden_EMF = hidden_EMF * weights_ME.T[:, :, None]
    return jnp.einsum("EMF,EFD->MD", hidden_EMF, params["down"]).reshape(x_BTD.shape)


VARIANTS = {
    "loop": lambda x, p: layer("loop", x, p),
    "dense": dense_layer,
    "ragged_dot": lambda x, p: layer(ragged, x, p),
}


def timed(function: Callable, *arguments: Any) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - wall, time.process_time() - cpu


def main(repeats: int) -> None:
    keys = jax.random.split(jax.random.key(0), 7)
    shapes = {
        "router": (HIDDEN, EXPERTS),
        "gate": (EXPERTS, HIDDEN, FFN),
        "up": (EXPERTS, HIDDEN, FFN),
        "down": (EXPERTS, FFN, HIDDEN),
    }
    params = {
        name: jax.random.normal(key, shape) * shape[-2] ** -0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    x, target = (jax.random.normal(k, (BATCH, LENGTH, HIDDEN)) for k in keys[4:6])
    square = jax.random.normal(keys[6], (SQUARE, SQUARE))
    matmul = jax.jit(lambda a: a @ a)
    steps = {
        name: jax.jit(
            jax.value_and_grad(lambda x, p, f=f: jnp.sum(f(x, p) * target), argnums=(0, 1))
        )
        for name, f in VARIANTS.items()
    }
    losses = {name: float(step(x, params)[0]) for name, step in steps.items()}
    print("losses", losses)
    times: dict[str, list] = {name: [] for name in ("matmul", *steps)}
    timed(matmul, square)
    for _ in range(repeats):
        times["matmul"].append(timed(matmul, square))
        for name, step in steps.items():
            times[name].append(timed(step, x, params))
    median = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in times.items()
    }
    peak = [2 * SQUARE**3 / t / 1e9 for t in median["matmul"]]
    print(f"matmul {SQUARE}^3: {peak[0]:.0f} GF/s by wall time, {peak[1]:.0f} by CPU time")
    print("variant       wall ms  CPU ms  loop is faster by (wall, CPU)  share of peak (wall, CPU)")
    for name in steps:
        wall, cpu = median[name]
        faster = [t / base for t, base in zip(median[name], median["loop"], strict=True)]
        share = [FLOPS / t / 1e9 / p for t, p in zip(median[name], peak, strict=True)]
        print(
            f"{name:12s} {wall * 1e3:8.0f} {cpu * 1e3:7.0f} {faster[0]:12.1f}x {faster[1]:6.1f}x"
            f" {share[0]:20.0%} {share[1]:6.0%}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)
