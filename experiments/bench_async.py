"""Asynchronous GRPO against lockstep: a core for the sampler, a core for the trainer.

Two emulated devices of one process: the last one samples, the first one trains. A random model
answers prompts of a task whose scores are a coin's, so that every group is trained on. Lockstep
(staleness 0) and staleness 1 and 2 run in turn; steps an hour are by the median step without those
that compile. In lockstep of two processes with a core each, one of them waits at any time, so
lockstep is held to one core here; the others have both, which the devices' threads share. (XLA's
products on a CPU use all cores that a process has, whatever flags say.) `sampling` is the part of a
lockstep step that waits for answers: near one half, overlapping could at best double the speed.

With --processes sampler and trainer are two processes, each held to a core of its own in all forms:
`qwen3 serve --reload` samples, and gets the weights as a folder.

With --reward the same three forms learn a small task from the same random model, a seed each, and
the mean reward of each eighth of their phases is printed, the last one with its 95% interval over
phases.

Command:   python experiments/bench_async.py [--steps 12] [--rounds 2] [--slots 8] [--processes]
           python experiments/bench_async.py --reward 0 1 2 --steps 320 --staleness 1 --slots 64
Hardware:  two cores, both free for the first; some minutes each.
Expected:  see docs/log/2026-11-30-asynchronous-rollouts.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FLAGS = "--xla_force_host_platform_device_count="
CORES = os.sched_getaffinity(0)
WARM = 3  # steps that compile, of each run


class Coin:
    """A task whose scores depend on the answer's letters, and that nobody can learn."""

    name, group, record = "coin", "reasoning", dict[str, Any]()

    def generate(
        self, seed: int, difficulty: float = 0.5, split: str = "train", mode: str = "any"
    ) -> Any:
        from qwen3.rewards import Problem

        return Problem(self.name, [{"role": "user", "content": f"toss {seed % 1000}"}], {})

    def score(self, problem: Any, text: str) -> float:
        return float(sum(map(ord, text)) % 2)

    def require(self) -> None:
        pass


class Vowels(Coin):
    """A task that is learnt step by step, and whose rewards still differ at its end, when all
    answers are the same: an answer's share of vowels, less a quarter if a coin says so, which is
    tossed anew for every answer."""

    name, record = "vowels", dict[str, Any]()

    def __init__(self) -> None:
        self.answers = itertools.count()

    def score(self, problem: Any, text: str) -> float:
        coin = zlib.crc32(f"answer {next(self.answers)}".encode()) % 2
        vowels = sum(text.count(vowel) for vowel in "aeiou") / max(len(text), 1)
        return vowels * (1 - 0.25 * coin)


def use_cores(count: int) -> None:
    """Hold all threads of this process to so many cores."""
    cores = sorted(CORES)[:count]
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def settings(tokenizer: str, *, steps: int, slots: int, staleness: int) -> Any:
    from qwen3.config import MeshConfig, OptimConfig
    from qwen3.model.sizes import ModelConfig
    from qwen3.stages import grpo
    from qwen3.stages.prompts import Share
    from qwen3.stages.rollouts import Sampling
    from qwen3.train.recording import Log

    return grpo.Config(
        model=ModelConfig("bench", 4, 192, 512, 4, 2, head_dim=48, vocab=512, tied=True),
        tokenizer=tokenizer,
        tasks=(Share("coin"),),
        steps=steps,
        optim=OptimConfig(peak=1e-5, schedule="constant", warmup=0),
        sampling=Sampling(samples=8, max_tokens=96, slots=slots, block=8),
        prompts=8,
        length=128,
        staleness=staleness,
        rollout_devices=1,
        mesh=MeshConfig(data=1, fsdp=1),
        alarms=grpo.Alarms(truncated=1.0),
        save_every=10**6,
        log=Log(every=1, display=False),
    )


@contextlib.contextmanager
def served(config: Any, folder: str) -> Iterator[Any]:
    """The same settings with `qwen3 serve` as the sampler, on the first core; ours is the last."""
    import jax

    from qwen3.config import MeshConfig
    from qwen3.data.tokenizer import Tokenizer
    from qwen3.infer.http_backend import RolloutServer
    from qwen3.infer.language_model import LanguageModel
    from qwen3.mesh import make_mesh
    from qwen3.model import transformer

    model, sampling = config.model, config.sampling
    params = jax.jit(lambda key: transformer.init(model, key))(jax.random.key(0))
    mesh, words = make_mesh(MeshConfig(), jax.devices()[:1]), Tokenizer.load(config.tokenizer)
    LanguageModel(model, params, mesh=mesh, tokenizer=words).save(folder)
    options = {"name": "bench", "port": 0, "slots": sampling.slots, "block": sampling.block}
    options |= {"max-length": config.length + 1, "queue": 10_000}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    first, last = min(CORES), max(CORES)
    command = [sys.executable, "-m", "qwen3.cli", "serve", folder, "--reload", *arguments]
    environment = {**os.environ, "XLA_FLAGS": ""}
    process = subprocess.Popen(
        ["taskset", "-c", str(first), *command], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(m[1] for m in map(re.compile(r" at (http\S+)/v1").search, lines) if m)
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {last})
        server = RolloutServer(url=url, model="bench", weights=folder)
        yield dataclasses.replace(config, server=server, rollout_devices=0)
    finally:
        process.terminate()
        process.wait()


def learning(config: Any, seed: int) -> Any:
    """The same settings for --reward: a smaller model, shorter answers, a task to be learnt."""
    from qwen3.config import OptimConfig
    from qwen3.losses.grpo_config import Grpo
    from qwen3.stages.entropy import EntropyTarget
    from qwen3.stages.prompts import Share

    return dataclasses.replace(
        config,
        model=config.model.replace(layers=2, hidden=64, ffn=192, heads=2, kv_heads=1, head_dim=32),
        tasks=(Share("vowels"),),
        optim=OptimConfig(peak=3e-3, schedule="constant", warmup=0),
        # Without it a policy may settle on any answer that is better than its neighbours.
        policy=Grpo(entropy=True),
        entropy=EntropyTarget(1.5, 0.2, relative=False),
        sampling=dataclasses.replace(config.sampling, max_tokens=24),
        length=48,
        seed=seed,
    )


def measure(config: Any, folder: str) -> dict[str, list[float]]:
    """Metrics of each step after the first ones; `input_wait` is the share of waiting."""
    from qwen3.stages import grpo

    grpo.run(config, folder)
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    names = ("seconds", "input_wait", "score", "staleness_tokens", "staleness_most", "mismatch_abs")
    return {name: [line.get(name, 0.0) for line in lines[WARM:]] for name in names}


def speed(tokenizer: str, folder: str, forms: Sequence[int], arguments: Any) -> None:
    """Print steps an hour of each form."""
    values: dict[int, dict[str, list[float]]] = {staleness: {} for staleness in forms}
    for number in range(arguments.rounds):
        for staleness in forms:
            options = {"steps": arguments.steps, "slots": arguments.slots}
            config = settings(tokenizer, **options, staleness=staleness)
            name = f"{folder}/run{number}_{staleness}"
            if arguments.processes:
                with served(config, f"{name}_weights") as config:
                    run = measure(config, name)
            else:
                use_cores(2 if staleness else 1)
                run = measure(config, name)
            for metric, more in run.items():
                values[staleness].setdefault(metric, []).extend(more)
    lockstep = statistics.median(values[0]["seconds"])
    sampling = statistics.mean(values[0]["input_wait"])  # a share of the step's time
    print(f"load {os.getloadavg()[0]:.1f}; sampling {sampling:.0%} of a lockstep step")
    for staleness, run in values.items():
        seconds = statistics.median(run["seconds"])
        means = {name: statistics.mean(run[name]) for name in run}
        print(
            f"staleness {staleness}: {3600 / seconds:6.0f} steps an hour, {lockstep / seconds:.2f} "
            f"of lockstep; tokens {means['staleness_tokens']:.2f} steps old, at most "
            f"{max(run['staleness_most']):.0f}; |log ratio| {means['mismatch_abs']:.4f}"
        )


def rewards_of(tokenizer: str, folder: str, forms: Sequence[int], arguments: Any) -> None:
    """Print the reward that each form of each seed ends with."""
    import numpy as np

    from qwen3.eval import intervals

    options = {"steps": arguments.steps, "slots": arguments.slots}
    for seed in arguments.reward:
        for staleness in forms:
            config = learning(settings(tokenizer, **options, staleness=staleness), seed)
            scores = measure(config, f"{folder}/reward{seed}_{staleness}")["score"]
            *before, last = (intervals.mean(part) for part in np.array_split(scores, 8))
            print(
                f"seed {seed}, staleness {staleness}: reward {scores[0]:.3f} at first, by eighths "
                f"{' '.join(f'{part.value:.3f}' for part in before)}, at last "
                f"{last.value:.3f} [{last.low:.3f}, {last.high:.3f}]",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--staleness", type=int, nargs="+", default=[1, 2], help="beside 0")
    parser.add_argument("--slots", type=int, default=8, help="fewer slots: slower sampling")
    parser.add_argument("--processes", action="store_true", help="a server is the sampler")
    parser.add_argument("--reward", type=int, nargs="+", default=[], help="seeds to learn with")
    arguments = parser.parse_args()
    devices = 1 if arguments.processes else 2
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}{devices}"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from qwen3 import rewards
    from qwen3.data.tokenizer import Tokenizer

    rewards.TASKS |= {"coin": Coin(), "vowels": Vowels()}  # type: ignore[dict-item]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = f"{folder}/tokenizer"
        Tokenizer.train(["user assistant\n toss 0 1 2 3 4 5 6 7 8 9"] * 3, size=290).save(tokenizer)
        run = rewards_of if arguments.reward else speed
        run(tokenizer, folder, [0, *arguments.staleness], arguments)


if __name__ == "__main__":
    main()
