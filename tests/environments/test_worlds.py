"""Every world keeps its contract, and the contract tells a world that does not."""

from dataclasses import replace

import pytest

from qwen3.environments import WORLDS, get, world_contract
from qwen3.environments.scripted import dialogue
from qwen3.environments.world import calls, fixed
from qwen3.rewards.contract import BrokenContract, Sizes

EVERY = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
# Fewer where an episode starts processes or databases.
COUNTS = {
    "python_tool": {"problems": 4, "guesses": 4, "fuzzed": 8},
    "sql_database": {"problems": 20, "guesses": 20, "fuzzed": 200},
}
STORE = WORLDS["key_value"]
TWO = STORE.generate(0), STORE.generate(0)  # twins that one policy wins


def sizes(world):
    """Small ones for the default run."""
    values = {"problems": 60, "guesses": 100, "fuzzed": 1000}
    most = COUNTS.get(world.name, {})
    return Sizes(**{name: min(value, most.get(name, value)) for name, value in values.items()})


@EVERY
@pytest.mark.parametrize("check", world_contract.CHECKS.values(), ids=world_contract.CHECKS)
def test_the_contract_holds(world, check):
    check(world, sizes(world))


@EVERY
@pytest.mark.slow
def test_two_thousand_turns_of_odd_calls_end_in_observations(world):
    world_contract.odd_calls_end_in_observations(world, Sizes(fuzzed=2000))


@pytest.mark.parametrize(
    "check, fault, changes",
    [
        ("oracle scores 1", "scores 0.0", {"solve": lambda p: fixed("No.")}),
        ("adversaries score 0", "0 policies that cheat", {"hacks": {}}),
        ("adversaries score 0", "scores 1.0", {"hacks": dict.fromkeys("abcde", STORE.solve)}),
        ("random policy at most 0.1", "scores 1.000", {"guess": lambda p, rng: STORE.solve(p)}),
        ("odd calls end in observations", "odd calls score 1.0", {"grade": lambda *_: 1.0}),
        ("same seed, same problem", "seeds 3, 3 and 4", {"make": lambda *_: STORE.generate(0)}),
        ("splits share no problem", "in both splits", {"make": lambda *_: STORE.generate(0)}),
        ("constant policy at most half of a pair", "scores 1.0", {"make": lambda *_: TWO}),
    ],
)
def test_a_world_that_breaks_a_promise_is_told_so(check, fault, changes):
    paired = {"paired": True} if changes.get("make") and "pair" in check else {}
    broken = replace(STORE, **changes, **paired)
    with pytest.raises(BrokenContract, match=fault):
        world_contract.CHECKS[check](broken, Sizes(problems=4, guesses=4, fuzzed=20))


@EVERY
def test_both_languages_are_asked(world):
    asked = [world.generate(seed).messages[-1]["content"] for seed in range(40)]
    chinese = [any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in asked]
    assert 5 <= sum(chinese) <= 35


def test_of_twins_a_constant_policy_gets_one_at_most():
    world = WORLDS["late_requests"]
    for seed in range(0, 60, 2):
        twins = [world.generate(seed + side) for side in range(2)]
        assert twins[0].twin == twins[1].twin != ""
        order = calls(("order", twins[0].answer["goal"]))
        for turns in ((order, "Done.", "Done."), ("How many?", order, "Done.", "Done.")):
            scores = [dialogue(world, problem, fixed(*turns)).score for problem in twins]
            assert sorted(scores) == [0.0, 1.0]


def test_worlds_and_tasks_are_found_by_name():
    assert get("key_value") is WORLDS["key_value"] and get("lock").name == "lock"
    with pytest.raises(ValueError, match="task 'chess' does not exist; there are .*key_value"):
        get("chess")
