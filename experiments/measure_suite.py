"""A public benchmark with checkable answers (`eval.suites`), asked of a model in either mode.

Command:   python experiments/measure_suite.py MODEL SUITE FILE [--mode no_think] [--count 100]
           MODEL: a Hub name, a folder or a run; SUITE: gsm8k, math, mbpp, humaneval_plus, ifeval;
           FILE: the suite's own, .jsonl or .jsonl.gz
Hardware:  whatever holds the model; --slots answers are decoded together.
Expected:  accuracy with its 95% interval, the share of answers cut at --max-tokens, tokens of an
           answer; with --out every answer. Not yet run with a released model.
"""

from __future__ import annotations

import argparse

import qwen3
from qwen3.data.jsonl import write_rows
from qwen3.eval import suites


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("suite", choices=suites.SUITES)
    parser.add_argument("file")
    parser.add_argument("--mode", choices=suites.MODES, default="think")
    parser.add_argument("--count", type=int, help="first problems of the file; default: all")
    parser.add_argument("--samples", type=int, default=1, help="answers of a problem")
    parser.add_argument("--max-tokens", type=int, default=4096, help="longest answer")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file of the answers, .jsonl or .parquet")
    options = parser.parse_args()
    model = qwen3.load(options.model)
    result = suites.measure(
        model.engine(slots=options.slots),
        model.tokenizer,
        options.suite,
        options.file,
        mode=options.mode,
        count=options.count,
        samples=options.samples,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )
    for name, estimate in {"accuracy": result.accuracy, **result.pass_at}.items():
        label = name if isinstance(name, str) else f"pass@{name}"
        print(
            f"{label:9} {estimate.value:6.1%}  ({estimate.low:.1%} to {estimate.high:.1%}, "
            f"{estimate.n} problems)"
        )
    print(f"cut at {options.max_tokens} tokens: {result.truncated:.1%}")
    print(f"tokens of an answer: {result.tokens:.0f}")
    if options.out:
        answers = [answer for group in result.answers for answer in group]
        write_rows(
            options.out,
            (
                {"prompt": a.problem.messages[-1]["content"], "answer": a.text, "score": a.score}
                for a in answers
            ),
        )


if __name__ == "__main__":
    main()
