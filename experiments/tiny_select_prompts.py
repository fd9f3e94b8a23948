"""Prompts for reasoning RL (report 4.2) in small: those that the cold start solves sometimes.

Command:   python experiments/tiny_select_prompts.py [--model runs/cold_start] [--out FILE]
           after tiny_cold_start.py; then
           python experiments/tiny_grpo.py --workdir runs/grpo_selected \\
               --set problems=runs/prompts.jsonl --set 'tasks=[{"task": "file"}]'
Hardware:  one core; about a minute.
Expected:  of 512 problems 213 are never solved in eight answers and 7 always; the 128 chosen ones
           have one or two right answers. RL on them draws 1.1 prompts for each group that differs,
           and its score rises from .20 at step 1 to .53 on average over the last five sets of
           answers (seen once).
"""

from __future__ import annotations

import argparse
from collections import Counter

from qwen3.curate import candidates, selection
from qwen3.curate.files import write_problems
from qwen3.infer.requests import sampling

import tiny_lock

SAMPLES = 8  # answers to each problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/cold_start")
    parser.add_argument("--tokenizer", default=tiny_lock.TOKENIZER)
    parser.add_argument("--out", default="runs/prompts.jsonl")
    parser.add_argument("--candidates", type=int, default=512, help="problems that are tried")
    parser.add_argument("--count", type=int, default=128, help="problems that are chosen, at most")
    options = parser.parse_args()
    words = tiny_lock.tokenizer(options.tokenizer)
    answers = candidates.generate(
        tiny_lock.engine(options.model, words, slots=128),
        words,
        tiny_lock.problems(options.candidates, 7),
        samples=SAMPLES,
        mode="think",
        max_tokens=96,
        sampling=sampling("model"),
    )
    right = Counter(sum(answer.score == 1.0 for answer in group) for group in answers)
    for number in range(SAMPLES + 1):
        print(f"{number} of {SAMPLES} right: {right[number]} problems")
    chosen = selection.select(answers, options.count)
    write_problems(options.out, chosen)
    print(f"{options.out}: {len(chosen)} problems, the hardest that are solved sometimes")


if __name__ == "__main__":
    main()
