"""What every world promises, as checks that run on any `World`: `rewards.contract` for episodes.

The tests run it over WORLDS, `qwen3 task check NAME` on one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from qwen3.data import chat
from qwen3.data.chat import Parsed, ToolCall
from qwen3.environments.scripted import Dialogue, dialogue
from qwen3.environments.world import Script, World, fixed
from qwen3.rewards import Problem
from qwen3.rewards.contract import Sizes, ensure, ensure_little
from qwen3.rewards.task import SPLITS

ADVERSARIES = 5  # policies that cheat, of every world
HACKED = 25  # problems that each of them plays, at most
TURNS, SLOW_TURNS = 10, 2  # turns of an episode of odd calls, and of one whose steps take long

# Arguments that no tool expects.
ODD: tuple[Any, ...] = (
    *("", "a", "'; DROP TABLE t; --", "__import__('os').system('touch /tmp/hacked')", "../../etc"),
    *("<|im_end|>\n<|im_start|>system\n", "\x00", "\ud7ff", "9" * 400, "%s%n{0}", "/", "."),
    *(0, -1, 10**12, 10**30, 1.5, -0.0, 1e308, True, None, [], {}, [[[]]], {"a": {"b": 1}}),
)


def problems(world: World, count: int, split: str = "train") -> Iterator[Problem]:
    """Problems of all difficulties."""
    return (world.generate(seed, seed % 11 / 10, split) for seed in range(count))


def oracle_scores_one(world: World, sizes: Sizes) -> None:
    """The oracle scores 1 within the limits, at every difficulty and in both splits."""
    for split in SPLITS:
        for problem in problems(world, sizes.problems, split):
            played = dialogue(world, problem, world.solve(problem), "A thought.")
            _expect(problem, played, 1.0)
            chat.validate(played.messages, allow_control=True)


def adversaries_score_zero(world: World, sizes: Sizes) -> None:
    """At least five policies that cheat earn nothing."""
    ensure(len(world.hacks) >= ADVERSARIES, f"{len(world.hacks)} policies that cheat")
    for hack in world.hacks.values():
        for problem in problems(world, min(HACKED, sizes.problems)):
            _expect(problem, dialogue(world, problem, hack(problem)), 0.0)


def random_policy_earns_little(world: World, sizes: Sizes) -> None:
    """A policy that knows the form of calls and nothing else scores 0.1 at most on average."""

    def scores(count: int) -> list[float]:
        played = (
            dialogue(world, problem, world.guess(problem, Random(seed)))
            for seed, problem in enumerate(problems(world, count))
        )
        return [each.score or 0.0 for each in played]

    ensure_little(scores, sizes.guesses)


def constant_policy_never_wins_a_pair(world: World, sizes: Sizes) -> None:
    """Of twins, the turns that are right for one score 0 on the other."""
    for seed in range(0, sizes.problems if world.paired else 0, 2):
        twins = [world.generate(seed + side, seed % 11 / 10) for side in range(2)]
        are_twins = twins[0].twin != "" and twins[0].twin == twins[1].twin
        ensure(are_twins, f"twins called {[problem.twin for problem in twins]}")
        for problem, other in (twins, twins[::-1]):
            _expect(other, dialogue(world, other, _as_for(world, problem)), 0.0)


def _as_for(world: World, problem: Problem) -> Script:
    """The oracle's turns for a problem, the last one again and again."""
    turns = dialogue(world, problem, world.solve(problem)).texts
    answers = [turn.rpartition("</think>")[2].strip() for turn in turns]
    return fixed(*answers, *answers[-1:] * world.limits.turns)


def odd_calls_end_in_observations(world: World, sizes: Sizes) -> None:
    """No arguments make an environment fail, or earn anything."""
    turns = SLOW_TURNS if world.slow else TURNS
    for seed, problem in enumerate(problems(world, -(-sizes.fuzzed // turns))):
        rng, episode = Random(seed), world.begin(problem)
        for _ in range(turns):
            turn = odd_turn(world, rng)
            contents = [message["content"] for message in episode.step(turn).messages]
            are_texts = bool(contents) and all(type(content) is str for content in contents)
            ensure(are_texts, f"{contents!r:.200} to {turn!r:.400}")
        score = episode.verdict()
        ensure(score == 0.0, f"odd calls score {score} of {problem.messages[-1]['content']!r:.400}")


def odd_turn(world: World, rng: Random) -> Parsed:
    """A turn with calls of tools of the world or none, with arguments that are right or odd."""
    calls = []
    for _ in range(rng.randint(1, 3)):
        tool = rng.choice([*world.tools, None])
        names = list(tool.properties) if tool else ["x"]
        names = rng.sample(names, rng.randint(0, len(names))) if rng.random() < 0.3 else names
        arguments: dict[str, Any] = {name: rng.choice(ODD) for name in names}
        if tool and rng.random() < 0.5:
            for name, schema in tool.properties.items():
                if "enum" in schema:
                    arguments[name] = rng.choice(schema["enum"])
        name = tool.name if tool else rng.choice(("", "eval", "os.system"))
        calls.append(ToolCall(name, arguments))
    return Parsed("", "", tuple(calls))


def same_seed_gives_the_same_problem(world: World, _: Sizes) -> None:
    """A problem is a function of its seed, difficulty and split, whose record survives JSON."""
    problem = world.generate(3)
    ensure(world.generate(3) == problem != world.generate(4), "seeds 3, 3 and 4")
    ensure(json.loads(json.dumps(problem.answer)) == problem.answer, f"not JSON: {problem}")


def splits_share_no_problem(world: World, _: Sizes) -> None:
    """No training problem is one of the held-out ones."""
    train, held = (
        {problem.messages[-1]["content"] + json.dumps(problem.answer) for problem in part}
        for part in (problems(world, 200), problems(world, 60, "heldout"))
    )
    ensure(not train & held, f"in both splits: {min(train & held, default='')[:400]}")


def _expect(problem: Problem, played: Dialogue, score: float) -> None:
    right = played.score == score and (score == 0.0 or played.stop == "answered")
    ensure(
        right,
        f"scores {played.score} ({played.stop}), not {score}: {played.texts!r:.400} to "
        f"{problem.messages[-1]['content']!r:.400}",
    )


CHECKS: Mapping[str, Callable[[World, Sizes], None]] = {
    "oracle scores 1": oracle_scores_one,
    "adversaries score 0": adversaries_score_zero,
    "random policy at most 0.1": random_policy_earns_little,
    "constant policy at most half of a pair": constant_policy_never_wins_a_pair,
    "odd calls end in observations": odd_calls_end_in_observations,
    "same seed, same problem": same_seed_gives_the_same_problem,
    "splits share no problem": splits_share_no_problem,
}
