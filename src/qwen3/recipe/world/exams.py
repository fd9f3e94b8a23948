"""Problems: held-out ones for evaluation, training ones for SFT and rejection sampling.

Two disjoint held-out sets: "dev", on which this recipe was designed, and "final", for reports only.
The split itself is `rewards.task.in_split`: a hash of a problem's content.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from qwen3 import rewards
from qwen3.recipe.world import documents, tools
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer
from qwen3.rewards.locks import lock, lock_tasks
from qwen3.rewards.locks.dialogues import dialogue
from qwen3.rewards.task import draw_in_split

# First seeds. Those from 2, 3, 5, 7, 11, 13, 17, 19 and 23 million on were final sets once; what
# they showed of general RL, students, look-ups, entropy and several locks changed the recipe, so
# they are final no more.
SETS = {"dev": 1_000_000, "final": 29_000_000}


ALL_DAYS = range(1, lock.MOST_DAYS + 1)


def locks(count: int, which: str, *, days: Iterable[int] = ALL_DAYS) -> list[Problem]:
    """Problems of one lock of the set `which`, English, with `days` in turn.

    No problem of one set is in the other.
    """
    days, others = list(days), set()
    if which == "final":
        others = {_key(problem) for problem in _locks(4 * count, "dev", days)}
    return [p for p in _locks(2 * count, which, days) if _key(p) not in others][:count]


def _locks(count: int, which: str, days: list[int]) -> list[Problem]:
    """Up to `count` different problems, from the first seed of a set on."""
    task = rewards.get("lock")
    problems: dict[str, Problem] = {}
    for i in range(count):
        difficulty = (days[i % len(days)] - 1) / (lock.MOST_DAYS - 1)
        problem = task.generate(SETS[which] + i, difficulty, "heldout")
        problems.setdefault(_key(problem), problem)  # one-day problems are few
    return list(problems.values())


def _key(problem: Problem) -> str:
    return lock.key(lock_tasks.locks_of(problem))


def several(count: int, which: str, chinese: bool = True) -> list[Problem]:
    """Two or three locks, three to six days, held-out content; every second one in Chinese."""
    rng = Random(f"several/{SETS[which]}")
    languages = lock.LANGUAGES if chinese else ("en",)
    return [_several(rng, languages[i % len(languages)], "heldout") for i in range(count)]


def several_training(
    count: int, seed: int | str, chinese: float, mode: str = "think"
) -> list[Problem]:
    """Problems of several locks from the training split; chinese: their share."""
    rng = Random(f"training several/{seed}")
    return [
        _several(rng, "zh" if rng.random() < chinese else "en", "train").flagged(mode)
        for _ in range(count)
    ]


def _several(rng: Random, language: str, split: str) -> Problem:
    names = lock.OWNERS[language][: rng.randint(2, 3)]
    days = rng.randint(3, lock.MOST_DAYS)

    def draw() -> list[lock.Lock]:
        # For training no single lock may be a held-out problem either.
        while True:
            locks = lock.draw_locks(rng, days, names)
            if split == "heldout" or documents.trainable(locks):
                return locks

    drawn = draw_in_split(draw, lock.key, split)
    return lock_tasks.problem(drawn, language, name="word_problems", difficulty=days / 6)


def share_right(answer: ScoredAnswer) -> float:
    """The share of an answer's locks that are right: what partial thought is worth."""
    items = lock_tasks.locks_of(answer.problem)
    language = answer.problem.answer["language"]
    conclusion = answer.text.rsplit("</think>", 1)[-1]
    right = [lock.ending(item, language, len(items) > 1) in conclusion for item in items]
    return sum(right) / len(right)


def dialogues(count: int, which: str) -> list[Problem]:
    """ThinkFollow: one to three turns with held-out problems, flags at any place, half of the last
    turns without a flag."""
    return [dialogue(Random(f"dialogue/{SETS[which]}/{i}"), "heldout") for i in range(count)]


def tool_requests(count: int, which: str) -> list[Problem]:
    """Held-out requests for a tool."""
    return [tools.problem(SETS[which] + i, "heldout") for i in range(count)]


def training(count: int, seed: int | str, mode: str = "think") -> list[Problem]:
    """Training problems of one lock, of all difficulties, that ask for a mode."""
    rng, task = Random(f"training/lock/{seed}"), rewards.get("lock")
    return [
        task.generate(rng.getrandbits(40), rng.uniform(0.0, 1), "train", mode) for _ in range(count)
    ]
