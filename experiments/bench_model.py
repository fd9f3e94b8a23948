"""Our train step against transformers', in one run, on the same weights and tokens, in fp32.

Each side is a process of its own that holds one model; their steps alternate, so that a busy
machine slows both. A step is forward, backward and AdamW. Printed: the median of the per-pair
ratios with the extremes, medians of wall and processor time, peak resident memory, each side's
matmul peak (2048 x 2048, fp32, between the steps) and the share of it that the model's arithmetic
amounts to. transformers runs in its best fp32 mode: sdpa, and for experts the best of its
implementations; both sides get the allocator variables of launch/local.sh and the same cores.

Command:   launch/local.sh setup && .venv/bin/pip install torch transformers
           .venv/bin/python experiments/bench_model.py [--cases dense,moe,...] [--repeats 5]
Hardware:  any CPU; for dense-wide 16 GB of memory.
Expected:  1.6 to 1.7 times as fast with AVX-512, where XLA multiplies about twice as fast as the
           MKL of torch wheels on AMD processors; without, both are equal
           (docs/log/2026-11-28-train-step-and-avx512.md).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from qwen3.model.sizes import ModelConfig, flops_per_token

BASE = ModelConfig("bench", 8, 256, 768, 8, 4, head_dim=64, vocab=4096, tied=True)
EXPERTS = BASE.replace(layers=6, experts=32, active_experts=4, expert_ffn=128)
CASES = {  # model, rows, length
    "dense": (BASE, 8, 512),
    "dense-wide": (BASE.replace(vocab=151_936), 4, 512),
    "moe": (EXPERTS, 8, 512),
    "moe-wide": (EXPERTS.replace(vocab=151_936), 4, 512),
}
SQUARE = 2048
Calls: TypeAlias = tuple[Callable[[], float], Callable[[], Any]]
MODES = {False: ["sdpa"], True: ["grouped_mm", "eager"]}
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": "268435456",
}


def tokens_of(case: str) -> Any:
    """Random token ids, the same in every process: [rows, length]."""
    import numpy as np

    config, rows, length = CASES[case]
    return np.random.default_rng(0).integers(0, config.vocab, (rows, length)).astype(np.int32)


def ours(case: str, folder: str, remat: str) -> Calls:
    """(step() -> loss, one product of two squares) of our side."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from qwen3.config import OptimConfig
    from qwen3.losses import lm
    from qwen3.model import hf, transformer
    from qwen3.model.execution import Execution
    from qwen3.train import optim, state, step

    config, run = CASES[case][0], Execution(remat=remat)
    tx = optim.build(OptimConfig(warmup=0, clip_norm=0.0), lambda step: 1e-4)
    tokens = tokens_of(case)
    batch = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "weights": np.ones(tokens.shape, np.float32),
        "positions": np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape),
        "segment_ids": np.ones_like(tokens),
    }
    batch["weights"][:, -1] = 0

    apply = transformer.bind(config, run)
    train = step.make_step(lambda p, b, f: lm.next_token(apply, p, b, f), tx)
    current = state.create(hf.load_params(folder, config, dtype=jnp.float32), tx)

    def once() -> float:
        nonlocal current
        current, metrics = train(current, batch, ())
        return float(metrics["loss"])

    square = jnp.ones((SQUARE, SQUARE))
    product = jax.jit(lambda a: a @ a)
    product(square).block_until_ready()
    return once, lambda: product(square).block_until_ready()


def theirs(case: str, folder: str, mode: str) -> Calls:
    """(step() -> loss, one product of two squares) of transformers' side."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    options = {} if mode == "sdpa" else {"experts_implementation": mode}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", **options
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.from_numpy(tokens_of(case)).long()

    def once() -> float:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    square = torch.ones(SQUARE, SQUARE)
    return once, lambda: square @ square


def peak(product: Callable[[], Any]) -> float:
    """FLOP/s of the machine's largest matrix products, as this side makes them."""
    start = time.perf_counter()
    product()
    return 2 * SQUARE**3 / (time.perf_counter() - start)


def worker(side: str, case: str, folder: str, mode: str) -> None:
    """One step, and a line of JSON about it, for every line read."""
    once, product = (ours if side == "ours" else theirs)(case, folder, mode)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = once()
        record = {
            "loss": loss,
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak": peak(product),
        }
        print(json.dumps(record), flush=True)


class Side:
    """A worker process and the records of its steps."""

    def __init__(self, side: str, case: str, folder: Path, mode: str):
        self.name = f"{side} ({mode})"
        command = [sys.executable, __file__, "--worker", side, case, str(folder), mode]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ALLOCATOR,
        )
        self.records: list[dict[str, float]] = []

    def step(self) -> None:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died with {self.process.wait()}")
        self.records.append(json.loads(line))

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def median(self, field: str, skip: int = 2) -> float:
        return statistics.median(record[field] for record in self.records[skip:])


def bench(case: str, repeats: int, remat: str) -> None:
    import jax

    from qwen3.model import hf, transformer

    config, rows, length = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        hf.save(path, config, transformer.init(config, jax.random.key(0)))
        sides = [Side("ours", case, path, remat)]
        sides += [Side("transformers", case, path, mode) for mode in MODES[config.moe]]
        try:
            for _ in range(repeats + 2):  # the first two compile and warm up
                for side in sides:
                    side.step()
        finally:
            for side in sides:
                side.stop()
    report(case, config, rows * length, length, sides)


def report(case: str, config: ModelConfig, tokens: int, length: int, sides: list[Side]) -> None:
    first, others = sides[0], sides[1:]
    best = min(others, key=lambda side: side.median("wall"))
    for step in range(2):
        a, b = first.records[step]["loss"], best.records[step]["loss"]
        if abs(a - b) > 2e-3 * abs(b):
            raise RuntimeError(f"{case}: losses differ at step {step}: {a} and {b}")
    print(f"\n{case}: vocabulary {config.vocab:,}, {tokens} tokens a step, fp32")
    print(f"{'':32}{'wall s':>8}{'cpu s':>8}{'peak GB':>9}{'matmul peak':>17}{'of it':>7}")
    work = flops_per_token(config, length) * tokens
    for side in sides:
        cells = side.median("wall"), side.median("cpu"), side.records[-1]["memory"] / 1e9
        fastest = max(record["peak"] for record in side.records)
        print(
            f"  {side.name:30}{cells[0]:8.2f}{cells[1]:8.2f}{cells[2]:9.2f}"
            f"{fastest / 1e9:10.0f} GFLOP/s{work / cells[0] / fastest:7.0%}"
        )
    for what in ("wall", "cpu"):
        pairs = zip(best.records[2:], first.records[2:], strict=True)
        ratios = sorted(other[what] / own[what] for other, own in pairs)
        middle = statistics.median(ratios)
        print(f"  speed by {what}: {middle:.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    memory = first.records[-1]["memory"] / best.records[-1]["memory"]
    print(f"  memory {memory:.2f} of theirs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--remat", default="none", help="our policy (model.execution.REMAT)")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(*arguments.worker)
    for case in arguments.cases.split(","):
        if case not in CASES:
            parser.error(f"unknown case {case!r}; there are {', '.join(CASES)}")
        bench(case, arguments.repeats, arguments.remat)


if __name__ == "__main__":
    main()
