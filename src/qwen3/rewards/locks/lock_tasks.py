"""Multi-step word problems about combination locks, in English and Chinese, one lock or several.

Three rows of the table: `lock` is one lock in one English wording (for tiny models: its splits
differ in codes and operations only); `lock_digits` the same with credit for every digit, for models
that hardly ever have all three; `word_problems` mixes languages, one to three locks, and wordings.
The answer must be exactly the template sentence(s) with the right code(s).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

from qwen3.rewards.locks import lock
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

_DIGIT = re.compile("[0-9]")

# (language, wording) -> (a lock, each of several locks, question). Held-out wordings ask first, in
# the same words.
WORDINGS = {
    ("en", "train"): (
        "{name} has a lock at {code}. {diary}",
        "{name} has {code}. {diary}",
        "{locks} Where does it end?",
    ),
    ("en", "heldout"): (
        "{name} has a lock at {code}. {diary}",
        "{name} has {code}. {diary}",
        "Where does it end? {locks}",
    ),
    ("zh", "train"): (
        "{name}的锁在{code}。{diary}",
        "{name}有{code}。{diary}",
        "{locks}它停在哪里？",
    ),
    ("zh", "heldout"): (
        "{name}的锁在{code}。{diary}",
        "{name}有{code}。{diary}",
        "它停在哪里？{locks}",
    ),
}


def question(locks: Sequence[lock.Lock], language: str, wording: str = "train") -> str:
    """The user text for `locks`; day names run on from lock to lock."""
    one, several, frame = WORDINGS[language, wording]
    texts, day = [], 0
    for item in locks:
        diary = lock.diary(item, day, language)
        pattern = one if len(locks) == 1 else several
        texts.append(pattern.format(name=item.name, code=item.start, diary=diary))
        day += len(item.ops)
    return frame.format(locks=("" if language == "zh" else " ").join(texts))


def draw(rng: Random, days: int, language: str, most_locks: int, split: str) -> list[lock.Lock]:
    """Locks whose content is in `split`: 1..most_locks of them with `days` operations in all."""
    count = rng.randint(1, min(most_locks, days))
    owners = lock.OWNERS[language][:count]
    names = owners if count > 1 else [rng.choice(lock.NAMES[language])]
    return draw_in_split(lambda: lock.draw_locks(rng, days, names), lock.key, split)


def make(
    rng: Random,
    difficulty: float,
    split: str,
    *,
    name: str,
    languages: Sequence[str],
    most_locks: int,
    wordings: Mapping[str, str],
) -> Problem:
    """A problem of the task `name`; wordings: split -> wording (of WORDINGS)."""
    language = rng.choice(languages)
    locks = draw(rng, levels(difficulty, 1, lock.MOST_DAYS), language, most_locks, split)
    return problem(locks, language, wordings[split], name=name, difficulty=difficulty)


one = partial(
    make, languages=("en",), most_locks=1, wordings={"train": "train", "heldout": "train"}
)


def problem(
    locks: Sequence[lock.Lock],
    language: str = "en",
    wording: str = "train",
    *,
    name: str = "lock",
    difficulty: float = 0.0,
) -> Problem:
    """The Problem of the task `name` over these locks."""
    record = {
        "language": language,
        "locks": [[item.name, item.start, [list(op) for op in item.ops]] for item in locks],
    }
    return Problem(name, ask(question(locks, language, wording)), record, difficulty)


def locks_of(problem: Problem) -> list[lock.Lock]:
    """The locks of a Problem."""
    rows = problem.answer["locks"]
    return [lock.Lock(name, start, tuple(tuple(op) for op in ops)) for name, start, ops in rows]


def trace(problem: Problem, style: str, rng: Random | None = None) -> tuple[str, str]:
    """(thinking, answer) for fine-tuning data, in a style of `lock.trace`."""
    locks, language = locks_of(problem), problem.answer["language"]
    return lock.trace(locks, language, style, rng), lock.answer(locks, language)


def grade(problem: Problem, answer: str) -> float:
    return answer == lock.answer(locks_of(problem), problem.answer["language"])


def grade_digits(problem: Problem, answer: str) -> float:
    """The share of the digits that are right, in a sentence that is right but for digits."""
    right = lock.answer(locks_of(problem), problem.answer["language"])
    if _DIGIT.sub("0", answer) != _DIGIT.sub("0", right):
        return 0.0
    places = [i for i, letter in enumerate(right) if _DIGIT.match(letter)]
    return sum(answer[i] == right[i] for i in places) / len(places)


def solve(problem: Problem) -> tuple[str, str]:
    return trace(problem, "careful")


def guess(problem: Problem, rng: Random) -> str:
    """The right sentences with random codes."""
    locks = [lock.Lock(item.name, lock.draw_code(rng), ()) for item in locks_of(problem)]
    gap = "" if problem.answer["language"] == "zh" else " "
    patterns = lock.ENDINGS[problem.answer["language"]]
    return gap.join(
        patterns[len(locks) > 1].format(name=item.name, code=item.start) for item in locks
    )


_MIA = lock.Lock("Mia", "604", (("swap_last", 0, 0), ("reverse", 0, 0), ("up", 0, 3)))
_ANN = lock.Lock("Ann", "452", (("down", 0, 5),))
_BOB = lock.Lock("Bob", "614", (("reverse", 0, 0), ("left", 0, 0)))
EXAMPLE, _TWO = problem([_MIA]), problem([_ANN, _BOB], name="word_problems")
_ZH = problem([lock.Lock("小美", "604", _MIA.ops)], "zh", name="word_problems")
_CAREFUL = "Monday swap last pair = 640. Tuesday reverse = 046. Wednesday turn first up 3 = 346."

one_lock = Task(
    "lock",
    partial(one, name="lock"),
    grade,
    solve,
    guess,
    examples=(
        (EXAMPLE, f"<think>\n{_CAREFUL}\n</think>\n\nThe lock ends at 346.", 1.0),
        (EXAMPLE, "<think>\n\n</think>\n\nThe lock ends at 346.<|im_end|>\n", 1.0),
        (EXAMPLE, "<think>\n\n</think>\n\nThe lock ends at 345.", 0.0),
        (EXAMPLE, "The lock ends at 346. The lock ends at 345.", 0.0),
        (EXAMPLE, "<think>\n346\n</think>\n\n", 0.0),
        (EXAMPLE, "<think>\nThe lock ends at 346.", 0.0),
        (EXAMPLE, "<think>\na\n</think>\n\n<think>\nb\n</think>\n\nThe lock ends at 346.", 0.0),
        (EXAMPLE.flagged("think"), "<think>\n\n</think>\n\nThe lock ends at 346.", 0.0),
    ),
)

_DIGITS = problem([_MIA], name="lock_digits")
lock_digits = Task(
    "lock_digits",
    partial(one, name="lock_digits"),
    grade_digits,
    solve,
    guess,
    examples=(
        (_DIGITS, f"<think>\n{_CAREFUL}\n</think>\n\nThe lock ends at 346.", 1.0),
        (_DIGITS, "<think>\n\n</think>\n\nThe lock ends at 345.", 2 / 3),
        (_DIGITS, "<think>\n\n</think>\n\nThe lock ends at 634.", 0.0),
        (_DIGITS, "<think>\n\n</think>\n\nThe lock ends at 3466.", 0.0),
        (_DIGITS, "<think>\n\n</think>\n\nThe lock ends at ３４６.", 0.0),
        (_DIGITS, "<think>\n\n</think>\n\nThe lock ended at 346.", 0.0),
        (_DIGITS, "The lock ends at 346. The lock ends at 346.", 0.0),
        (_DIGITS.flagged("think"), "<think>\n\n</think>\n\nThe lock ends at 346.", 0.0),
    ),
)

locks_and_languages = Task(
    "word_problems",
    partial(
        make,
        name="word_problems",
        languages=lock.LANGUAGES,
        most_locks=3,
        wordings={"train": "train", "heldout": "heldout"},
    ),
    grade,
    solve,
    guess,
    examples=(
        (_TWO, "<think>\n\n</think>\n\nAnn ends at 952. Bob ends at 164.", 1.0),
        (_TWO, "<think>\n\n</think>\n\nBob ends at 164. Ann ends at 952.", 0.0),
        (_TWO, "<think>\n\n</think>\n\nAnn ends at 952.", 0.0),
        (_TWO, "<think>\n\n</think>\n\nAnn ends at 952. Bob ends at 164 or 165.", 0.0),
        (_TWO, "<think>\nAnn ends at 952. Bob ends at 164.\n</think>\n\nDone.", 0.0),
        (_ZH, "<think>\n周一交换后两位=640。\n</think>\n\n锁停在346。", 1.0),
        (_ZH, "<think>\n\n</think>\n\nThe lock ends at 346.", 0.0),
    ),
)
