"""What every family of problems promises, as checks that run on any Task: the contract.

    for check, state, what in outcomes(task):
        print(check, state, what)

The tests run it over TASKS, `qwen3 task check` on a user's own tasks.
"""

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, NamedTuple

from qwen3.rewards import response
from qwen3.rewards.task import SPLITS, Problem, Task

RANDOM_SCORE = 0.1  # the most that a policy earns which knows the form only
PAIR_SCORE = 0.5  # the most that a policy earns which treats both problems of a pair alike
SECONDS = 5.0  # longest processor time of one score, on an answer of 65,536 characters


class BrokenContract(AssertionError):
    """A family does not keep a promise; says which problem and answer show it."""


class NotGiven(ValueError):
    """A user's file has not what a check needs; says what to add."""


class CheckResult(NamedTuple):
    """What a check of a family came to."""

    check: str  # a name of CHECKS
    state: str  # "holds", "broken" or "not given"
    what: str = ""  # does not hold, or has to be given


def ensure(holds: bool, what: str) -> None:
    """Raise BrokenContract saying `what` unless it `holds`."""
    if not holds:
        raise BrokenContract(what)


@dataclass(frozen=True)
class Sizes:
    """How much the checks draw."""

    problems: int = 40  # of a split
    guesses: int = 150  # of the random policy
    fuzzed: int = 100  # mangled answers


PIECES = (
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "\u202e",
        "\n",
        "\\boxed{7}",
        "Answer:",
        "答案：",
        "42",
        "-0",
        "1e9",
    ),
    *("```", "```python\n", "[1]", "{", "}", "| a |", "<a>", "</a>", "NaN", "9" * 5_000, "٣", "４"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "[" * 3_000, "a" * 9_000),
)
NUMBERS = [str(n) for n in range(1, 1001)]
# Long answers that a careless pattern or parser would never finish with: (start, repeated, end).
LONG = (
    *(("**", "a", ""), ("[", "a", ""), ("", "\n", "x"), ("", " ", "x"), ("```\n", " ", "```x")),
    *(("", "<tool_call>", ""), ("<tool_call>", "\n", "</tool_call>"), ("", "<think>", "")),
    *(("<think>\n", "\n</think>", ""), ("", "\\boxed{", ""), ("\\boxed{", "{", "")),
    *(("\\boxed{", " ", "}"), ("\\boxed{", "x=", "}"), ("\\boxed{", "9", "}"), ("", "Answer:", "")),
    *(("Answer: ", "(", ""), ("", "a-", ""), ("", "1,", ""), ("", "*a", ""), ("", "<a>", "")),
    *(("", "| a ", "|"), ("", "[", ""), ("", '{"a":', ""), ("", '"', ""), ("", "A. ", "")),
    *(("```python\n", "(", "\n```"), ("```python\n", "x = 1\n", "```"), ("<<", "<", ">>")),
)


def oracle_scores_one(task: Task, sizes: Sizes) -> None:
    """The oracle's answer scores 1, at every difficulty and in both splits."""
    for split in SPLITS:
        for seed in range(sizes.problems):
            problem = task.generate(seed, (seed % 11) / 10, split)
            _expect(task, problem, task.oracle(problem), 1.0)


def examples_score_as_written(task: Task, _: Sizes) -> None:
    """A right example and at least five that score 0 are there, and score as it says."""
    scores = Counter(score for *_, score in task.examples)
    ensure(scores[1.0] >= 1 and scores[0.0] >= 5, f"examples with the scores {dict(scores)}")
    for problem, text, score in task.examples:
        _expect(task, problem, text, score)


def hostile_answers_score_zero(task: Task, _: Sizes) -> None:
    """Echoes, lists of all numbers, malformed turns and the like earn nothing."""
    for seed in range(3):
        problem = task.generate(seed, seed / 2, SPLITS[seed % 2])
        for text in hostile(task, problem):
            _expect(task, problem, text, 0.0)


def hostile(task: Task, problem: Problem) -> list[str]:
    """Turns that must earn nothing, whatever the problem is."""
    asked, (thinking, right) = problem.messages[-1]["content"], task.solve(problem)
    block = response.render("" if problem.mode == "no_think" else "Hm.", "")
    bodies = [
        *("", "   \n", asked, f"{asked}\n{asked}", "I cannot answer that.", "null", "9" * 5000),
        *("The answer is any of " + ", ".join(NUMBERS) + ".", "Answer: " + " or ".join(NUMBERS)),
        *(" ".join(f"\\boxed{{{n}}}" for n in NUMBERS), "\\boxed{" + ",".join(NUMBERS) + "}"),
        *("Answer: " + "9" * 5000, "\\boxed{10^{10^{10^{10}}}}", "答案：" + "或".join(NUMBERS)),
        "".join(chr(c) for c in range(0x250, 0x2B0)) + "\u202e\u0000\ud83d 🤷 ٣٤٥ ４２",
        "The lock ends at ٣٤٦. \\boxed{３} Answer: ７",
    ]
    turns = [block + body for body in bodies]
    return (
        turns
        if not task.strict_turns
        else turns
        + [
            f"<think>\n<think>\n{thinking}\n</think>\n</think>\n\n{right}",
            f"<think>\n{thinking}\n</think>\n\n<think>\n{thinking}\n</think>\n\n{right}",
            f"<think>\n{thinking}\n{right}",
            f"{thinking}\n</think>\n\n{right}",
            f"<think>\n{right}\n</think>\n\n",
            f"<think>\n{right}\n</think>",
            f"{block}{right}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>",
            f"{right}\n<think>\n\n</think>\n\n",
            *(block, "", "<|im_end|>"),
        ]
    )


def random_policy_earns_little(task: Task, sizes: Sizes) -> None:
    """A policy that knows the form and nothing else scores 0.1 at most on average."""

    def scores(count: int) -> list[float]:
        problems = ((seed, task.generate(seed, (seed % 11) / 10)) for seed in range(count))
        return [task.score(p, task.random_answer(p, seed)) or 0.0 for seed, p in problems]

    ensure_little(scores, sizes.guesses)


def ensure_little(scores: Callable[[int], Sequence[float]], guesses: int) -> None:
    """Ensure that a random policy, of which there are so many `scores`, earns RANDOM_SCORE at most.

    A mean that is above by less than two standard errors may be chance: twenty times as many
    guesses decide.
    """
    for count in (guesses, 20 * guesses):
        values = scores(count)
        mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(count)
        ensure(mean - 2 * error <= RANDOM_SCORE, f"the random policy scores {mean:.3f} on average")
        if mean <= RANDOM_SCORE:
            return


def constant_policy_never_wins_a_pair(task: Task, sizes: Sizes) -> None:
    """Of twins, the right answer to one scores 0 on the other: acting alike earns half at most."""
    for seed in range(0, sizes.problems if task.paired else 0, 2):
        first, second = (task.generate(seed + i, (seed % 11) / 10) for i in range(2))
        are_twins = first.twin != "" and first.twin == second.twin
        ensure(are_twins, f"twins called {first.twin!r}, {second.twin!r}")
        for problem, other in ((first, second), (second, first)):
            _expect(task, problem, task.oracle(other), 0.0)


def fuzzed_answers_get_a_score(task: Task, sizes: Sizes) -> None:
    """Mangled and long answers are scored in 0..1, at once and without an exception."""
    problem = task.generate(0, 0.5)
    right = task.solve(problem)[1]
    # Many right answers with a wrong end: where a pattern can part them in several ways, it tries
    # all of them.
    for start, unit, end in (*LONG, ("", f"{right}\n", "x")):
        _score_at_once(task, problem, start + unit * (60_000 // len(unit)) + end)
    for seed in range(sizes.fuzzed):
        rng = Random(f"fuzz/{task.name}/{seed}")
        problem = task.generate(seed // 10, rng.random())
        thinking = "" if problem.mode == "no_think" else "Hm."
        _score_at_once(
            task, problem, response.render(thinking, mangled(task.solve(problem)[1], rng))
        )


def mangled(text: str, rng: Random) -> str:
    """The text with one to four stretches dropped, doubled, swapped for others, or filled in."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        stretch = text[a:b]
        text = (
            text[:a] + rng.choice(("", stretch * 2, stretch[::-1], rng.choice(PIECES))) + text[b:]
        )
    return text


def same_seed_gives_the_same_problem(task: Task, _: Sizes) -> None:
    """A problem is a function of its seed, difficulty and split, and survives JSON."""
    problem = task.generate(7)
    ensure(task.generate(7) == problem, f"seed 7 gave {problem} and {task.generate(7)}")
    different = len({repr(task.generate(seed)) for seed in range(20)})
    ensure(different > 10, f"20 seeds gave {different} different problems")
    ensure(Problem(**json.loads(json.dumps(asdict(problem)))) == problem, f"not JSON: {problem}")


def splits_share_no_prompt(task: Task, sizes: Sizes) -> None:
    """No training problem asks what a held-out problem asks, in the same words."""
    train, held = (
        {
            repr(task.generate(seed, (seed % 5) / 4, split).messages)
            for seed in range(5 * sizes.problems)
        }
        for split in SPLITS
    )
    ensure(not train & held, f"in both splits: {min(train & held, default='')[:400]}")


def _score_at_once(task: Task, problem: Problem, text: str) -> None:
    start = time.thread_time()
    score = task.score(problem, text)
    seconds = time.thread_time() - start
    in_range = score is None or 0 <= score <= 1 or not task.strict_turns
    ensure(in_range, f"score {score} of {text[:200]!r}")
    ensure(seconds < SECONDS, f"{seconds:.1f} s for {text[:200]!r}")


def _expect(task: Task, problem: Problem, text: str, score: float) -> None:
    value = task.score(problem, text)
    ensure(
        value == score,
        f"scores {value}, not {score}: {text[:400]!r} to {problem.messages[-1]['content'][:400]!r}",
    )


CHECKS: Mapping[str, Callable[[Task, Sizes], None]] = {
    "oracle scores 1": oracle_scores_one,
    "examples score as written": examples_score_as_written,
    "hostile answers score 0": hostile_answers_score_zero,
    "random policy at most 0.1": random_policy_earns_little,
    "constant policy at most half of a pair": constant_policy_never_wins_a_pair,
    "fuzzed answers are scored": fuzzed_answers_get_a_score,
    "same seed, same problem": same_seed_gives_the_same_problem,
    "splits share no prompt": splits_share_no_prompt,
}


def outcomes(
    task: Any,
    sizes: Sizes = Sizes(),  # noqa: B008
    checks: Mapping[str, Callable[[Any, Sizes], None]] = CHECKS,
) -> Iterator[CheckResult]:
    """The outcome of each of the checks; whatever a user's functions raise is one."""
    for name, check in checks.items():
        try:
            check(task, sizes)
        except BrokenContract as error:
            yield CheckResult(name, "broken", str(error))
        except NotGiven as error:
            yield CheckResult(name, "not given", str(error))
        except Exception as error:
            yield CheckResult(name, "broken", f"{type(error).__name__}: {error}")
        else:
            yield CheckResult(name, "holds")
