"""Generation speed on one CPU core in fp32: this engine against transformers' generate.

    python experiments/bench_generate.py [--rounds 5] [--core 1]

One model (width 256, 8 layers, 8 query and 4 kv heads of 64, ffn 768, 4,096 tokens), the same
weights on both sides, 16 prompts of 32 tokens, 256 new ones. Sides take turns; the medians of
tokens per second are printed, by wall clock and by processor time (on a shared machine only the
latter means much). Prefill is timed apart and taken off. Then, this engine alone: 128 answers of
lognormal length (median 60, sigma 0.9, 4 to 256) through 16 slots with and without refill, and the
prefill of 16 prompts x 8 samples with and without sharing. Must reach: decode 2.2x transformers
(its better cache); refill 2x; sharing saves 80% of prefill time. Not yet run: no quiet machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
}
PROMPTS, LENGTH, NEW, SLOTS = 16, 32, 256, 16
BUCKETS = (96, 160, 224, 288)


def one_core(core: int) -> None:
    """This process and its children on one core, with the allocator that suits large arrays."""
    os.sched_setaffinity(0, {core})
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ.update(ALLOCATOR, JAX_PLATFORMS="cpu")
        os.execv(sys.executable, [sys.executable, *sys.argv])


def timed(function) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(config, params, prompts):
    """{name: function} of this engine."""
    from qwen3.infer.engine import Engine
    from qwen3.infer.requests import Request, sampling

    engine = Engine(config, params, slots=SLOTS, max_length=LENGTH + NEW, buckets=BUCKETS, block=64)

    def run(preset, new):
        def call():
            rules = sampling(preset)
            found = engine.generate(
                [Request(prompt, sampling=rules, max_tokens=new) for prompt in prompts]
            )
            assert all(len(each.tokens) == new for each in found)

        return call

    return {"greedy": run("greedy", NEW), "sampled": run("model", NEW), "prefill": run("greedy", 1)}


def transformers_sides(folder, prompts):
    """{side: {name: function}} of transformers, with its two caches."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(prompts)

    def run(new, **options):
        def call():
            with torch.no_grad():
                out = model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
                    min_new_tokens=new, pad_token_id=0, **options,
                )  # fmt: skip
            assert out.shape == (PROMPTS, LENGTH + new)

        return call

    free = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    sides = {}
    for cache, extra in (
        ("dynamic", {}),
        ("static", {"cache_implementation": "static", "disable_compile": True}),
    ):
        sides[f"transformers, {cache} cache"] = {
            "greedy": run(NEW, do_sample=False, **extra),
            "sampled": run(NEW, **free, **extra),
            "prefill": run(1, do_sample=False, **extra),
        }
    return sides


def compare(sides, rounds: int) -> None:
    times = {(side, name): [] for side in sides for name in sides[side]}
    for turn in range(rounds + 1):
        for side, parts in sides.items():
            for name, function in parts.items():
                spent = timed(function)
                if turn:  # the first compiles
                    times[side, name].append(spent)
    rates = {}
    print(f"{'':32s}{'prefill':>12s}{'greedy':>22s}{'sampled':>22s}")
    for side in sides:
        middle = {
            name: [statistics.median(column) for column in zip(*times[side, name], strict=True)]
            for name in sides[side]
        }
        shown = f"{side:32s}{1e3 * middle['prefill'][1]:9.0f} ms"
        for name in ("greedy", "sampled"):
            # The prefill run makes one token too; NEW - 1 remain.
            wall, cpu = (
                PROMPTS * (NEW - 1) / (a - b)
                for a, b in zip(middle[name], middle["prefill"], strict=True)
            )
            rates[side, name] = cpu
            shown += f"{wall:9.0f} wall {cpu:5.0f} cpu"
        print(shown)
    for name in ("greedy", "sampled"):
        best = max(rate for (side, kind), rate in rates.items() if side != "qwen3" and kind == name)
        print(f"decode, {name}: {rates['qwen3', name] / best:.2f}x of the best other (cpu time)")


def tails(config, params, rounds: int) -> None:
    """Refill against static batches, shared against separate prefill."""
    import numpy as np

    from qwen3.infer.engine import Engine
    from qwen3.infer.requests import Request

    rng = np.random.default_rng(0)
    new = np.clip(np.exp(rng.normal(np.log(60), 0.9, 128)), 4, NEW).astype(int)
    asked = [
        Request(rng.integers(0, config.vocab, LENGTH).tolist(), max_tokens=int(n)) for n in new
    ]
    options = {"slots": SLOTS, "max_length": LENGTH + NEW, "buckets": BUCKETS, "block": 64}
    engines = {refill: Engine(config, params, refill=refill, **options) for refill in (True, False)}
    rates = {True: [], False: []}
    for turn in range(rounds + 1):
        for refill, engine in engines.items():
            _, cpu = timed(lambda engine=engine: engine.generate(asked))
            if turn:
                rates[refill].append(new.sum() / cpu)
    refilled, static = (statistics.median(rates[refill]) for refill in (True, False))
    print(f"lognormal lengths, mean {new.mean():.0f}: useful tokens per cpu second")
    print(f"  refill {refilled:.0f}, static batches {static:.0f}: {refilled / static:.2f}x")

    engine, spent = engines[True], {True: [], False: []}
    prompts = rng.integers(0, config.vocab, (PROMPTS, NEW))
    for turn in range(rounds + 1):
        for shared in spent:
            tickets = engine.submit(
                [r for p in prompts for r in Request(p.tolist(), max_tokens=1).samples(8)]
            )
            chosen = list(engine.queue)
            engine.queue.clear()

            def prefill(shared=shared, chosen=chosen, engine=engine):
                for first in range(0, len(chosen), 8):
                    part = chosen[first : first + 8]
                    # Eight samples of one prompt; alone, each is read as if it stood alone.
                    for group in [part] if shared else [[ticket] for ticket in part]:
                        engine.prefilled.clear()
                        engine._prefill(group)
                import jax

                jax.block_until_ready([each.layers for each in engine.prefilled.values()])

            _, cpu = timed(prefill)
            engine.prefilled.clear()
            engine.queue.extend(chosen)
            engine.abort(tickets)
            if turn:
                spent[shared].append(cpu)
    shared, alone = (statistics.median(spent[kind]) for kind in (True, False))
    print(f"prefill of 16 prompts of {NEW} x 8 samples: {shared:.2f} s shared, {alone:.2f} s alone")
    print(f"  sharing saves {1 - shared / alone:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--skip-tails", action="store_true")
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
    prompts = np.random.default_rng(0).integers(0, config.vocab, (PROMPTS, LENGTH)).tolist()
    print(f"jax {jax.__version__}, core {arguments.core}, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        sides = {"qwen3": ours(config, model.params, prompts)}
        try:
            sides |= transformers_sides(Path(folder) / "model", prompts)
        except ImportError as error:
            print(f"transformers: not measured ({error})")
    compare(sides, arguments.rounds) if len(sides) > 1 else None
    print("Tunix: not measured")
    if not arguments.skip_tails:
        tails(config, model.params, arguments.rounds)


if __name__ == "__main__":
    main()
