"""Generation speed on one CPU core in fp32: this engine, transformers' generate, Tunix's sampler.

One model (width 256, 8 layers, 8 query and 4 kv heads of 64, ffn 768, 4,096 tokens), the same
weights on all sides, 16 prompts of 32 tokens, 256 new ones. This engine has two sides, with its KV
cache in rows and in pages. Sides take turns; the medians of tokens per second are printed, by
processor and by wall time (on a shared machine only the former means much). A run that makes one
token is timed apart, as prefill, and taken off. --tunix: the python of an environment that has
google-tunix; it runs as a child on the same core. Then, this engine alone: 128 answers of lognormal
length (median 60, sigma 0.9, 4 to 256) through 16 slots with and without refill (continuous
batching), and the prefill of 16 prompts x 8 samples with and without the prefix cache. --only int8:
this engine with floats, with its KV cache and with its weights in int8.

Command:   python experiments/bench_generate.py [--rounds 5] [--core 1] [--tunix PYTHON]
Hardware:  one core; some minutes.
Expected:  decode 2.2x transformers with its better cache, which is reached, and 3x Tunix, which is
           reached without AVX-512 alone (docs/log/2026-11-28-decode-speed.md); refill 1.8 to 1.9x
           static batches in rows and 2.16x in pages, goal 2.1
           (docs/log/2026-11-30-paged-kv-cache.md); sharing saves 87% of prefill, goal 80%.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # jax is imported once the allocator is set
    from qwen3.infer.request_state import RequestState
    from qwen3.infer.requests import Request
    from qwen3.model.sizes import ModelConfig

ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
}
PROMPTS, LENGTH, NEW, SLOTS = 16, 32, 256, 16
ENGINE: dict[str, Any] = {"slots": SLOTS, "max_length": LENGTH + NEW, "block": 64}
CACHES: dict[str, dict[str, Any]] = {
    "qwen3": {"buckets": (96, 160, 224, 288)},
    "qwen3, pages": {"cache": "paged"},
}
# Changes to the execution; greedy tokens are then others.
INT8: dict[str, dict[str, str]] = {
    "qwen3, int8 cache": {"cache_dtype": "int8"},
    "qwen3, int8 weights": {"weights": "int8"},
    "qwen3, int8 pages": {"cache_dtype": "int8"},
}
KINDS = ("prefill", "greedy", "sampled")
Times: TypeAlias = tuple[float, float]  # wall and processor seconds
Side: TypeAlias = Callable[[str], Times]  # runs one of KINDS


def one_core(core: int) -> None:
    """This process and its children on one core, with the allocator that suits large arrays."""
    os.sched_setaffinity(0, {core})
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ.update(ALLOCATOR, JAX_PLATFORMS="cpu")
        os.execv(sys.executable, [sys.executable, *sys.argv])


def timed(function: Callable[[], Any]) -> Times:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(config: ModelConfig, params: Any, prompts: list[list[int]], side: str) -> Side:
    """This engine, with the KV cache that is named in CACHES or the numerics in INT8."""
    from qwen3.infer.engine import Engine
    from qwen3.infer.requests import Request, sampling
    from qwen3.model.execution import Execution

    cache = CACHES["qwen3, pages" if side.endswith("pages") else "qwen3"]
    run = Execution.for_mesh(scan=False, **INT8.get(side, {}))
    engine = Engine(config, params, execution=run, **ENGINE, **cache)

    def run(kind: str) -> None:
        new = 1 if kind == "prefill" else NEW
        rules = sampling("model" if kind == "sampled" else "greedy")
        requests = [Request(prompt, sampling=rules, max_tokens=new) for prompt in prompts]
        completions = engine.generate(requests)
        assert all(len(completion.tokens) == new for completion in completions)
        firsts[side, kind] = completions[0].tokens[:8]

    return lambda kind: timed(partial(run, kind))


def transformers_sides(folder: Path, prompts: list[list[int]]) -> dict[str, Side]:
    """transformers with its two caches."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(prompts)
    free = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

    def run(side: str, extra: Mapping[str, Any], kind: str) -> None:
        new = 1 if kind == "prefill" else NEW
        rules = free if kind == "sampled" else {"do_sample": False}
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
                **rules,
                **extra,
            )
        assert out.shape == (PROMPTS, LENGTH + new)
        firsts[side, kind] = out[0, LENGTH : LENGTH + 8].tolist()

    caches: dict[str, dict[str, Any]] = {
        "transformers, dynamic cache": {},
        "transformers, static cache": {"cache_implementation": "static", "disable_compile": True},
    }
    return {
        side: lambda kind, side=side, extra=extra: timed(partial(run, side, extra, kind))
        for side, extra in caches.items()
    }


def tunix_side(python: str, folder: Path, prompts: list[list[int]]) -> Side:
    """Tunix's sampler in a child process."""
    path = folder.parent / "prompts.json"
    path.write_text(json.dumps(prompts))
    script = Path(__file__).with_name("tunix_sampler.py")
    child = subprocess.Popen(
        [python, script, folder, path, str(NEW)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    if child.stdout.readline() != "ready\n":
        raise ImportError(f"{python} {script} did not start")

    def run(kind: str) -> Times:
        print(kind, file=child.stdin, flush=True)
        answer = json.loads(child.stdout.readline())
        firsts["Tunix", kind] = answer["first"]
        return answer["times"]

    return run


firsts: dict[tuple[str, str], Sequence[int]] = {}  # first tokens of each side and kind


def compare(sides: Mapping[str, Side], rounds: int) -> None:
    """Time all sides in turns and print tokens a second and the ratios to this engine."""
    times: dict[tuple[str, str], list[Times]] = {(s, kind): [] for s in sides for kind in KINDS}
    for turn in range(rounds + 1):
        for side, run in sides.items():
            for kind in KINDS:
                spent = run(kind)
                if turn:  # the first compiles
                    times[side, kind].append(spent)
    for side in sides:
        same = firsts[side, "greedy"] == firsts["qwen3", "greedy"]
        assert same or side in INT8, f"{side}: other greedy tokens"
    rates = {}
    print("| | prefill ms | greedy tokens/s | sampled tokens/s | greedy, wall | sampled, wall |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        middle = {
            kind: [statistics.median(column) for column in zip(*times[side, kind], strict=True)]
            for kind in KINDS
        }
        walls = []
        for kind in KINDS[1:]:
            # The prefill run makes one token too; NEW - 1 remain.
            wall, rates[side, kind] = (
                PROMPTS * (NEW - 1) / (a - b)
                for a, b in zip(middle[kind], middle["prefill"], strict=True)
            )
            walls.append(f"{wall:.0f}")
        cells = [f"{1e3 * middle['prefill'][1]:.0f}", *(f"{rates[side, k]:.0f}" for k in KINDS[1:])]
        print(f"| {side} | {' | '.join(cells + walls)} |")
    print()
    for kind in KINDS[1:]:
        for side in sides:
            if side.startswith("qwen3, "):
                ratio = rates[side, kind] / rates["qwen3", kind]
                print(f"decode, {kind}: {side.removeprefix('qwen3, ')} {ratio:.2f}x rows")
        for name in ("transformers", "Tunix"):
            others = [r for (side, k), r in rates.items() if side.startswith(name) and k == kind]
            if others:
                print(f"decode, {kind}: {rates['qwen3', kind] / max(others):.2f}x {name}")


def lognormal_requests(config: ModelConfig) -> list[Request]:
    """128 requests whose answers have lognormal lengths."""
    import numpy as np

    from qwen3.infer.requests import Request

    rng = np.random.default_rng(0)
    new = np.clip(np.exp(rng.normal(np.log(60), 0.9, 128)), 4, NEW).astype(int)
    return [Request(rng.integers(0, config.vocab, LENGTH).tolist(), max_tokens=int(n)) for n in new]


def refill(config: ModelConfig, params: Any, rounds: int) -> None:
    """Useful tokens a second with and without refill (continuous batching)."""
    from qwen3.infer.engine import Engine

    requests = lognormal_requests(config)
    useful = sum(request.max_tokens or 0 for request in requests)
    engines = {side: Engine(config, params, **ENGINE, **CACHES[side]) for side in CACHES}
    engines["static batches"] = Engine(config, params, refill=False, **ENGINE, **CACHES["qwen3"])
    seconds: dict[str, list[float]] = {side: [] for side in engines}
    for turn in range(rounds + 1):
        for side, engine in engines.items():
            _, cpu = timed(partial(engine.generate, requests))
            if turn:
                seconds[side].append(cpu)
    rates = {side: useful / statistics.median(seconds[side]) for side in engines}
    count = len(requests)
    print(f"\n{count} answers, mean {useful / count:.0f} tokens: useful tokens a second")
    for side, rate in rates.items():
        print(f"refill, {side}: {rate:.0f}, {rate / rates['static batches']:.2f}x static batches")


def sharing(config: ModelConfig, params: Any, rounds: int) -> None:
    """The time to read 16 prompts for 8 samples each, with the prefix cache and without."""
    import jax
    import numpy as np

    from qwen3.infer.engine import Engine
    from qwen3.infer.requests import Request

    rng = np.random.default_rng(0)
    engine = Engine(config, params, **ENGINE | {"block": 32}, **CACHES["qwen3"])
    prompts = rng.integers(0, config.vocab, (PROMPTS, NEW)).tolist()
    requests = [r for p in prompts for r in Request(p, max_tokens=1).samples(8)]
    states = engine.submit(requests)

    def prefill(groups: Sequence[Sequence[RequestState]]) -> None:
        for group in groups:
            engine.caches.prefix_cache.clear()
            engine.caches.prefix_cache.prefill(engine.params, group)
            jax.block_until_ready(
                [entry.kv_cache for entry in engine.caches.prefix_cache.entries.values()]
            )

    seconds: dict[int, list[float]] = {8: [], 1: []}
    for turn in range(rounds + 1):
        for size, times in seconds.items():
            groups = [states[i : i + size] for i in range(0, len(states), size)]
            _, cpu = timed(partial(prefill, groups))
            if turn:
                times.append(cpu)
    engine.abort(states)
    shared, alone = (statistics.median(seconds[size]) for size in (8, 1))
    print(
        f"\nprefill of 16 prompts of {NEW} tokens x 8 samples: {shared:.2f} s shared, "
        f"{alone:.2f} s alone: {1 - shared / alone:.0%} saved"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--tunix", help="python of an environment with google-tunix")
    parser.add_argument("--only", choices=("compare", "int8", "refill", "sharing"))
    arguments = parser.parse_args()
    one_core(arguments.core)

    import jax
    import numpy as np

    from qwen3.infer.language_model import create
    from qwen3.model.sizes import ModelConfig

    config = ModelConfig(
        "bench", 8, 256, 768, 8, 4, head_dim=64, vocab=4096, tied=True, max_length=LENGTH + NEW
    )
    model = create(config)
    print(f"jax {jax.__version__}, core {arguments.core}, {arguments.rounds} rounds", flush=True)
    if arguments.only == "int8":
        prompts = np.random.default_rng(0).integers(0, config.vocab, (PROMPTS, LENGTH)).tolist()
        names = (*CACHES, *INT8)
        compare({n: ours(config, model.params, prompts, n) for n in names}, arguments.rounds)
    if arguments.only in (None, "compare"):
        prompts = np.random.default_rng(0).integers(0, config.vocab, (PROMPTS, LENGTH)).tolist()
        sides = {side: ours(config, model.params, prompts, side) for side in CACHES}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            model.save(path)
            try:
                sides |= transformers_sides(path, prompts)
            except ImportError as error:
                print(f"transformers: not measured ({error})")
            if arguments.tunix:
                sides["Tunix"] = tunix_side(arguments.tunix, path, prompts)
            else:
                print("Tunix: not measured; --tunix names the python of an environment that has it")
            compare(sides, arguments.rounds)
    if arguments.only in (None, "refill"):
        refill(config, model.params, arguments.rounds)
    if arguments.only in (None, "sharing"):
        sharing(config, model.params, arguments.rounds)


if __name__ == "__main__":
    main()
