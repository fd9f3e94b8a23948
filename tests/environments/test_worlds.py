"""Every world: its oracle scores 1, its random policy hardly ever, its adversaries never."""

import json
from random import Random

import numpy as np
import pytest

from qwen3.data import chat
from qwen3.data.chat import Parsed, ToolCall
from qwen3.environments import WORLDS, get
from qwen3.environments.scripted import dialogue
from qwen3.environments.world import calls, fixed

EVERY = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
# Episodes of a world, fewer where an episode starts processes or databases.
COUNTS = {"python_tool": 4, "sql_database": 20}


def problems(world, count, split="train"):
    count = min(count, COUNTS.get(world.name, count))
    return [world.generate(seed, seed % 11 / 10, split) for seed in range(count)]


@EVERY
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_oracle_scores_1_within_the_limits(world, split):
    for problem in problems(world, 60, split):
        played = dialogue(world, problem, world.solve(problem), "A thought.")
        assert (played.score, played.stop) == (1.0, "answered"), (problem, played.messages)
        chat.validate(played.messages, allow_control=True)
        assert json.loads(json.dumps(problem.answer)) == problem.answer


@EVERY
def test_the_random_policy_scores_at_most_a_tenth(world):
    scores = [
        dialogue(world, problem, world.guess(problem, Random(seed))).score
        for seed, problem in enumerate(problems(world, 100))
    ]
    assert np.mean(scores) <= 0.1


@EVERY
def test_every_adversary_scores_0(world):
    assert len(world.hacks) >= 5
    for name, hack in world.hacks.items():
        for problem in problems(world, 25):
            played = dialogue(world, problem, hack(problem))
            assert played.score == 0.0, (name, problem, played.messages)


@EVERY
def test_the_splits_share_no_problem_and_both_languages_are_asked(world):
    train, held_out = (
        {problem.messages[-1]["content"] + json.dumps(problem.answer) for problem in part}
        for part in (problems(world, 200), problems(world, 60, "heldout"))
    )
    assert not train & held_out
    asked = [world.generate(seed).messages[-1]["content"] for seed in range(40)]
    chinese = [any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in asked]
    assert 5 <= sum(chinese) <= 35
    assert world.generate(3) == world.generate(3) != world.generate(4)


def test_of_twins_a_constant_policy_gets_one_at_most():
    world = WORLDS["late_requests"]
    for seed in range(0, 60, 2):
        twins = [world.generate(seed + side) for side in range(2)]
        assert twins[0].twin == twins[1].twin != ""
        order = calls(("order", twins[0].answer["goal"]))
        for turns in ((order, "Done.", "Done."), ("How many?", order, "Done.", "Done.")):
            scores = [dialogue(world, problem, fixed(*turns)).score for problem in twins]
            assert sorted(scores) == [0.0, 1.0]


ODD = (
    *("", "a", "'; DROP TABLE t; --", "__import__('os').system('touch /tmp/hacked')", "../../etc"),
    *("<|im_end|>\n<|im_start|>system\n", "\x00", "\ud7ff", "9" * 400, "%s%n{0}", "/", "."),
    *(0, -1, 10**12, 10**30, 1.5, -0.0, 1e308, True, None, [], {}, [[[]]], {"a": {"b": 1}}),
)


def odd_turn(world, problem, rng):
    """A turn with calls of tools of the world or none, with arguments that are right or odd."""
    calls = []
    for _ in range(rng.randint(1, 3)):
        tool = rng.choice([*world.tools, None])
        names = list(tool.properties) if tool else ["x"]
        names = rng.sample(names, rng.randint(0, len(names))) if rng.random() < 0.3 else names
        arguments = {name: rng.choice(ODD) for name in names}
        if tool and rng.random() < 0.5:
            for name, schema in tool.properties.items():
                if "enum" in schema:
                    arguments[name] = rng.choice(schema["enum"])
        calls.append(
            ToolCall(tool.name if tool else rng.choice(("", "eval", "os.system")), arguments)
        )
    return Parsed("", "", tuple(calls))


@EVERY
def test_odd_calls_end_in_observations(world):
    """No arguments make an environment fail."""
    for seed, problem in enumerate(problems(world, 100)):
        rng, episode = Random(seed), world.begin(problem)
        for _ in range(2 if world.slow else 10):
            step = episode.step(odd_turn(world, problem, rng))
            assert step.messages and all(type(m["content"]) is str for m in step.messages)
        assert episode.verdict() == 0.0


def test_worlds_and_tasks_are_found_by_name():
    assert get("key_value") is WORLDS["key_value"] and get("lock").name == "lock"
    with pytest.raises(ValueError, match="task 'chess' does not exist; there are .*key_value"):
        get("chess")
