"""Problems: held-out ones for evaluation, training ones for SFT and rejection sampling.

Two disjoint held-out sets: "dev", on which this recipe was designed, and "final", for reports only.
The split itself is `rewards.task.in_split`: a hash of a problem's content.
"""

from __future__ import annotations

from random import Random

from qwen3 import rewards
from qwen3.recipe.world import documents, tools
from qwen3.rewards.locks import lock, lock_tasks
from qwen3.rewards.locks.dialogues import dialogue
from qwen3.rewards.task import draw_in_split

# First seeds. Those from 2, 3, 5, 7, 11, 13, 17, 19 and 23 million on were final sets once; what
# they showed of general RL, students, look-ups, entropy and several locks changed the recipe, so
# they are final no more.
SETS = {"dev": 1_000_000, "final": 29_000_000}


def locks(count, which, *, days=range(1, lock.MOST_DAYS + 1)):
    """One lock, English, `days` in turn. No problem of one set is in the other."""
    others = set()
    if which == "final":
        others = {_key(problem) for problem in _locks(4 * count, "dev", days)}
    return [p for p in _locks(2 * count, which, days) if _key(p) not in others][:count]


def _locks(count, which, days):
    task, days = rewards.get("lock"), list(days)
    found, seen = [], set()
    for i in range(count):
        difficulty = (days[i % len(days)] - 1) / (lock.MOST_DAYS - 1)
        problem = task.generate(SETS[which] + i, difficulty, "heldout")
        if _key(problem) not in seen:  # one-day problems are few
            seen.add(_key(problem))
            found.append(problem)
    return found


def _key(problem):
    return lock.key(lock_tasks.locks_of(problem))


def several(count, which, chinese=True):
    """Two or three locks, three to six days, held-out content; every second one in Chinese."""
    rng = Random(f"several/{SETS[which]}")
    languages = lock.LANGUAGES if chinese else ("en",)
    return [_several(rng, languages[i % len(languages)], "heldout") for i in range(count)]


def several_training(count, seed, chinese, mode="think"):
    """The same from the training split, for fine-tuning and RL."""
    rng = Random(f"training several/{seed}")
    return [
        _several(rng, "zh" if rng.random() < chinese else "en", "train").flagged(mode)
        for _ in range(count)
    ]


def _several(rng, language, split):
    names = lock.OWNERS[language][: rng.randint(2, 3)]
    days = rng.randint(3, lock.MOST_DAYS)

    def draw():
        # For training no single lock may be a held-out problem either.
        while True:
            locks = lock.draw_locks(rng, days, names)
            if split == "heldout" or documents.trainable(locks):
                return locks

    found = draw_in_split(draw, lock.key, split)
    return lock_tasks.problem(found, language, name="word_problems", difficulty=days / 6)


def share_right(answer):
    """The share of an answer's locks that are right: what partial thought is worth."""
    found = lock_tasks.locks_of(answer.problem)
    language = answer.problem.answer["language"]
    said = answer.text.rsplit("</think>", 1)[-1]
    right = [lock.ending(item, language, len(found) > 1) in said for item in found]
    return sum(right) / len(right)


def dialogues(count, which):
    """ThinkFollow: held-out problems, one to three turns, flags at any place, half of the last
    turns without a flag."""
    return [dialogue(Random(f"dialogue/{SETS[which]}/{i}"), "heldout") for i in range(count)]


def tool_requests(count, which):
    """Held-out requests for a tool."""
    return [tools.problem(SETS[which] + i, "heldout") for i in range(count)]


def training(count, seed, mode="think", task="lock", lowest=0.0):
    """Training problems of a library task, difficulty spread over lowest..1."""
    rng = Random(f"training/{task}/{seed}")
    return [
        rewards.get(task).generate(rng.getrandbits(40), rng.uniform(lowest, 1), "train", mode)
        for _ in range(count)
    ]
