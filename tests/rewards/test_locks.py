"""The lock world: operations, wordings, traces, and dialogues with mode flags."""

import re
from collections import Counter
from random import Random

import pytest

from qwen3.data.chat_parse import mode_of
from qwen3.rewards.locks import dialogues, lock, lock_tasks
from qwen3.rewards.locks.lock import Lock, turn

OPERATIONS = [
    (("up", 0, 3), "846", "146"),
    (("down", 2, 3), "602", "609"),
    (("up", 1, 5), "684", "634"),
    (("reverse", 0, 0), "604", "406"),
    (("left", 0, 0), "604", "046"),
    (("right", 0, 0), "604", "460"),
    (("swap_first", 0, 0), "604", "064"),
    (("swap_last", 0, 0), "604", "640"),
    (("mirror", 0, 0), "604", "395"),
]


@pytest.mark.parametrize("op, before, after", OPERATIONS)
def test_each_operation_turns_the_digits_as_named(op, before, after):
    assert turn(before, op) == after


def test_the_table_of_operations_is_covered_and_drawn_by_weight():
    assert {op[0] for op, _, _ in OPERATIONS} == set(lock.KINDS)
    rng = Random(0)
    drawn = [lock.draw_op(rng)[0] for _ in range(5000)]
    shares = {kind: drawn.count(kind) / 5000 for kind in lock.KINDS}
    assert shares["up"] == pytest.approx(0.28, abs=0.03)
    assert shares["mirror"] == pytest.approx(0.03, abs=0.01)


def test_the_worked_example_reads_as_specified():
    problem = lock_tasks.EXAMPLE
    assert problem.messages[0]["content"] == (
        "Mia has a lock at 604. Monday swap last pair. Tuesday reverse. "
        "Wednesday turn first up 3. Where does it end?"
    )
    assert lock_tasks.trace(problem, "careful") == (
        "Monday swap last pair = 640. Tuesday reverse = 046. Wednesday turn first up 3 = 346.",
        "The lock ends at 346.",
    )


def test_several_locks_run_on_through_the_week():
    locks = [
        Lock("Ann", "452", (("down", 0, 5),)),
        Lock("Bob", "614", (("reverse", 0, 0), ("left", 0, 0))),
    ]
    assert lock_tasks.question(locks, "en") == (
        "Ann has 452. Monday turn first down 5. "
        "Bob has 614. Tuesday reverse. Wednesday shift left. Where does it end?"
    )
    assert lock.trace(locks, "en", "careful") == (
        "Ann Monday turn first down 5 Ann ends at 952. "
        "Bob Tuesday reverse = 416. Wednesday shift left Bob ends at 164."
    )


def test_hasty_traces_leave_out_states_but_never_the_last_nor_a_wrong_one():
    rng, kept, inner, stops = Random(1), 0, 0, Counter()
    for seed in range(200):
        problem = lock_tasks.one_lock.generate(seed, difficulty=1.0)
        careful, answer = lock_tasks.trace(problem, "careful")
        hasty, same = lock_tasks.trace(problem, "hasty", rng)
        steps, whole = re.split("[.;,:!-] ", hasty), careful.split(". ")
        assert answer == same and steps[-1] == whole[-1]
        assert {step for step in steps if "=" in step} <= set(whole)
        stops.update(re.findall(r"= \d+([.;,:!-]) ", hasty))
        assert not re.search("[a-z][;,:!-]", hasty)  # only after a state
        kept += hasty.count("=") - 1
        inner += 5
    assert kept / inner == pytest.approx(0.4, abs=0.05) and stops.total() == kept
    shares = {".": 0.65, ";": 0.125, ",": 0.1, ":": 0.05, "!": 0.05, "-": 0.025}
    assert {stop: stops[stop] / kept for stop in shares} == pytest.approx(shares, abs=0.05)
    with pytest.raises(ValueError, match="'sloppy' is none of"):
        lock_tasks.trace(problem, "sloppy")


def test_both_languages_and_one_to_three_locks_occur():
    problems = [lock_tasks.locks_and_languages.generate(seed, 0.8) for seed in range(60)]
    assert {p.answer["language"] for p in problems} == {"en", "zh"}
    assert {len(p.answer["locks"]) for p in problems} == {1, 2, 3}


def test_splits_share_no_code_and_operations_whatever_the_wording():
    def contents(split):
        task = lock_tasks.one_lock
        problems = [task.generate(seed, 0.2, split) for seed in range(400)]
        return {lock.key(lock_tasks.locks_of(p)) for p in problems}

    assert not contents("train") & contents("heldout")


def test_dialogues_cover_flags_no_flags_and_flags_kept_from_earlier_turns():
    seen = set()
    for split in ("train", "heldout"):
        for seed in range(120):
            problem = dialogues.last_flag_wins.generate(seed, 1.0, split)
            thinks = mode_of(problem.messages)
            assert problem.mode == ("think" if thinks else "no_think")
            texts = [m["content"] for m in problem.messages if m["role"] != "assistant"]
            flagged = ["/think" in text or "/no_think" in text for text in texts]
            kind = "none" if not any(flagged) else "last" if flagged[-1] else "kept"
            seen.add((kind, problem.mode))
    assert seen == {("none", "think")} | {
        (k, m) for k in ("last", "kept") for m in ("think", "no_think")
    }


def test_following_the_mode_counts_apart_from_the_answer():
    problem = next(
        p for p in map(dialogues.last_flag_wins.generate, range(50)) if p.mode == "no_think"
    )
    wrong = "<think>\n\n</think>\n\nThe lock ends at nowhere."
    assert dialogues.followed(problem, wrong) == 1.0
    assert dialogues.last_flag_wins.score(problem, wrong) == 0.0
    assert dialogues.followed(problem, "<think>\na\n</think>\n\nThe lock.") == 0.0
