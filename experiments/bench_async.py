"""Asynchronous GRPO against lockstep, where sampler and trainer have a core each and take alike.

Two emulated devices, each with one thread: the last one samples, the first one trains. A random
model answers prompts of a task whose scores are a coin's, so that every group is trained on. The
same settings run phase by phase (staleness 0) and with staleness 1 and 2, in turn, all in one
process; steps an hour are by the median step without those that compile. `sampling` is the part of
a lockstep step that waits for answers: near one half, overlapping could at best double the speed.

Command:   python experiments/bench_async.py [--steps 12] [--rounds 2] [--slots 8]
Hardware:  two cores; some minutes.
Expected:  see docs/log/2026-11-30-asynchronous-rollouts.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

FLAGS = (
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false "
    "intra_op_parallelism_threads=1"
)
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


def measure(config: Any, folder: str) -> dict[str, list[float]]:
    """Metrics of each step after the first ones; `input_wait` is the share of waiting."""
    from qwen3.stages import grpo

    grpo.run(config, folder)
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    names = ("seconds", "input_wait", "staleness_tokens", "staleness_most", "mismatch_abs")
    return {name: [line.get(name, 0.0) for line in lines[WARM:]] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--staleness", type=int, nargs="+", default=[1, 2], help="beside 0")
    parser.add_argument("--slots", type=int, default=8, help="fewer slots: slower sampling")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    from qwen3 import rewards
    from qwen3.data.tokenizer import Tokenizer

    rewards.TASKS["coin"] = Coin()  # type: ignore[assignment]
    values: dict[int, dict[str, list[float]]] = {0: {}, **{k: {} for k in arguments.staleness}}
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.train(["user assistant\n toss 0 1 2 3 4 5 6 7 8 9"] * 3, size=290).save(folder)
        for number in range(arguments.rounds):
            for staleness in values:
                options = {"steps": arguments.steps, "slots": arguments.slots}
                config = settings(folder, **options, staleness=staleness)
                run = measure(config, f"{folder}/run{number}_{staleness}")
                for name, more in run.items():
                    values[staleness].setdefault(name, []).extend(more)
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


if __name__ == "__main__":
    main()
