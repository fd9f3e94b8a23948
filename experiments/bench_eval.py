"""An evaluation's rate of tokens against that of its engine alone.

The engine decodes the requests of `--items` chat items of the suite of locks, in both modes with
the report's sampling; then `eval.suite_run.run` asks the same items of the same engine, and
renders prompts, reads, scores and stores every answer; then the engine alone again. A first round
compiles and is left out. The ratio of tokens per second is printed, by wall time and by processor
time.

Command:   python experiments/bench_eval.py MODEL [--items 500] [--slots 64] [--max-tokens 200]
           MODEL: a folder, e.g. export/model of a seed of `qwen3 recipe`
Hardware:  two cores; a few minutes with the recipe's model.
Expected:  a ratio of at least 0.9.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from qwen3.eval.suite_answers import Asked, request, subject_of
from qwen3.eval.suite_records import EvalSettings, open_runs
from qwen3.eval.suite_run import run
from qwen3.eval.suites import SUITES
from qwen3.infer.language_model import LanguageModel, load
from qwen3.infer.requests import Request

SUITE = SUITES["locks"]


def requests_of(model: LanguageModel, settings: EvalSettings, slots: int) -> list[Request]:
    """What the evaluation asks of the engine."""
    subject, requests = subject_of(model, slots), []
    place = Path("nowhere")
    for opened in open_runs(SUITE, settings, place, data=None, tokenizer=model.tokenizer):
        asked = [Asked(item, 0, list(SUITE.ask(item))) for item in opened.items]
        requests += [request(subject, opened, one, settings) for one in asked]
    return requests


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Tokens per second of wall time and of processor time; work() returns tokens."""
    wall, processor = time.perf_counter(), time.process_time()
    tokens = work()
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=200)
    options = parser.parse_args()
    model = load(options.model)
    settings = EvalSettings(
        options.model, limit=(options.items + 1) // 2, samples=1, max_tokens=options.max_tokens
    )
    requests = requests_of(model, settings, options.slots)
    engine = model.engine(slots=options.slots)

    def alone() -> int:
        half = len(requests) // 2  # as the evaluation does, one mode after the other
        parts = (requests[:half], requests[half:])
        return sum(len(c.tokens) for part in parts for c in engine.generate(part))

    def evaluation() -> int:
        with tempfile.TemporaryDirectory() as folder:
            runs = run(model, [SUITE], settings, Path(folder), slots=options.slots)
        return sum(record["tokens"] for one in runs for record in one.records.values())

    alone()
    before, measured, after = timed(alone), timed(evaluation), timed(alone)
    engines = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    rates = {"engine": engines, "evaluation": list(measured)}
    ratios = [m / e for m, e in zip(measured, engines, strict=True)]
    print(json.dumps({"items": len(requests), "tokens/s, wall and processor": rates}))
    print(f"ratio: {ratios[0]:.3f} by wall time, {ratios[1]:.3f} by processor time")


if __name__ == "__main__":
    main()
