"""The combination lock: three digits, one operation a day, in English and Chinese.

A thousand answers, so guessing cannot win; the trace needs the state after each day, so thinking
pays. Hasty traces leave states out: a cold start on them is short and often wrong, and
reinforcement learning has something to find. Words are few and fixed, for tiny models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

Op: TypeAlias = tuple[str, int, int]  # (kind, place 0..2, k 1..5); place and k are 0 if unused

PLACES = {"en": ("first", "middle", "last"), "zh": ("首位", "中位", "末位")}
# kind: (weight of the draw, English, Chinese). The last three are rare on purpose.
KINDS: dict[str, tuple[int, str, str]] = {
    "up": (28, "turn {place} up {k}", "{place}加{k}"),
    "down": (20, "turn {place} down {k}", "{place}减{k}"),
    "reverse": (16, "reverse", "反转"),
    "left": (14, "shift left", "左移"),
    "right": (12, "shift right", "右移"),
    "swap_first": (4, "swap first pair", "交换前两位"),
    "swap_last": (3, "swap last pair", "交换后两位"),
    "mirror": (3, "mirror", "取补"),
}
RARE = ("swap_first", "swap_last", "mirror")
# The kinds that permute the digits "abc".
MOVES = {"reverse": "cba", "left": "bca", "right": "cab", "swap_first": "bac", "swap_last": "acb"}
DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "zh": ("周一", "周二", "周三", "周四", "周五", "周六"),
}
NAMES = {
    "en": ("Mia", "Tom", "Ida", "Leo", "Eva", "Max", "Amy", "Sam"),
    "zh": ("小美", "小明", "小红", "小华"),
}
OWNERS = {"en": ("Ann", "Bob", "Cara"), "zh": ("小安", "小白", "小云")}  # of the 1st, 2nd, 3rd lock
STOPS = {"en": (".", ";", ",", ":", "!", "-"), "zh": ("。", "；", "，", "：", "！", "、")}
STOP_WEIGHTS = (26, 5, 4, 2, 2, 1)
LANGUAGES = tuple(DAYS)
MOST_DAYS = 6


@dataclass(frozen=True)
class Lock:
    """One lock with its operations, one a day."""

    name: str  # its owner
    start: str  # code at the start, three digits
    ops: tuple[Op, ...]

    def states(self) -> list[str]:
        """The code after each operation."""
        codes, code = [], self.start
        for op in self.ops:
            codes.append(code := turn(code, op))
        return codes


def turn(code: str, op: Op) -> str:
    """The code after one operation; digits are modulo 10, `mirror` is d -> 9 - d."""
    kind, place, k = op
    if kind in MOVES:
        return "".join(code["abc".index(letter)] for letter in MOVES[kind])
    if kind == "mirror":
        return "".join(str(9 - int(digit)) for digit in code)
    digits = list(code)
    digits[place] = str((int(code[place]) + (k if kind == "up" else -k)) % 10)
    return "".join(digits)


def words(op: Op, language: str) -> str:
    """The operation in words: "turn first up 3"."""
    kind, place, k = op
    _, english, chinese = KINDS[kind]
    pattern = {"en": english, "zh": chinese}[language]
    return pattern.format(place=PLACES[language][place], k=k)


def has_rare(locks: Sequence[Lock]) -> bool:
    """Whether any lock has one of the rare operations."""
    return any(kind in RARE for lock in locks for kind, _, _ in lock.ops)


def draw_code(rng: Random) -> str:
    """Three random digits."""
    return f"{rng.randrange(1000):03d}"


def draw_op(rng: Random) -> Op:
    """A random operation, kinds by their weights."""
    kind = rng.choices(list(KINDS), [row[0] for row in KINDS.values()])[0]
    # Zeros where the kind has no place and k: equal operations compare equal.
    return (kind, rng.randrange(3), rng.randint(1, 5)) if kind in ("up", "down") else (kind, 0, 0)


def draw_locks(rng: Random, days: int, names: Sequence[str]) -> list[Lock]:
    """Locks of `names` that share `days` operations, 1..4 each if there are several."""
    cuts = sorted(rng.sample(range(1, days), len(names) - 1))
    sizes = [end - start for start, end in zip([0, *cuts], [*cuts, days], strict=True)]
    if len(names) > 1 and max(sizes) > 4:
        return draw_locks(rng, days, names)
    return [
        Lock(name, draw_code(rng), tuple(draw_op(rng) for _ in range(size)))
        for name, size in zip(names, sizes, strict=True)
    ]


def key(locks: Sequence[Lock]) -> str:
    """Content of a question without names and wording; its hash decides the split."""
    return ";".join(f"{lock.start}:{lock.ops}" for lock in locks)


def diary(lock: Lock, first_day: int, language: str) -> str:
    """The operations day by day: "Monday swap last pair. Tuesday reverse."."""
    days = DAYS[language][first_day:]
    if language == "zh":
        return "".join(f"{d}{words(op, 'zh')}。" for d, op in zip(days, lock.ops, strict=False))
    return " ".join(f"{d} {words(op, 'en')}." for d, op in zip(days, lock.ops, strict=False))


def trace(locks: Sequence[Lock], language: str, style: str, rng: Random | None = None) -> str:
    """The thinking text over `locks`, in a style: "careful" writes every state.

    "hasty" (needs `rng`) leaves out each inner state with p = .6 and, among several locks, a whole
    lock with p = .3 (never all of them); the states it does write are right. After one of them
    stands any of STOPS: a choice that no answer depends on, as people's wording is, so that a
    policy which learns to write every state still has entropy to keep.

    Raises ValueError for another style, or a hasty one without `rng`.
    """
    if style not in ("careful", "hasty"):
        raise ValueError(f"trace style {style!r} is none of ('careful', 'hasty')")
    if style == "hasty" and rng is None:
        raise ValueError("a hasty trace needs a random generator: rng is None")
    rng = rng if style == "hasty" else None
    mentions = [not (rng and len(locks) > 1 and rng.random() < 0.3) for _ in locks]
    if rng and not any(mentions):
        mentions[rng.randrange(len(locks))] = True
    parts, day = [], 0
    for lock, mentioned in zip(locks, mentions, strict=True):
        if mentioned:
            parts.append(_lock_trace(lock, day, language, len(locks) > 1, rng))
        day += len(lock.ops)
    return ("" if language == "zh" else " ").join(parts)


def _lock_trace(lock: Lock, first_day: int, language: str, named: bool, rng: Random | None) -> str:
    """The trace of one lock; with `rng` a hasty one."""
    gap, equals = ("", "=") if language == "zh" else (" ", " = ")
    stop, *_ = stops = STOPS[language]
    parts = [lock.name] if named else []
    for day, (op, code) in enumerate(zip(lock.ops, lock.states(), strict=True), first_day):
        text = f"{DAYS[language][day]}{gap}{words(op, language)}"
        if day == first_day + len(lock.ops) - 1:
            text += gap + ending(lock, language, named) if named else f"{equals}{code}{stop}"
        elif rng is None:
            text += f"{equals}{code}{stop}"
        elif rng.random() < 0.6:
            text += stop
        else:
            text += f"{equals}{code}{rng.choices(stops, STOP_WEIGHTS)[0]}"
        parts.append(text)
    return gap.join(parts)


ENDINGS = {
    "en": ("The lock ends at {code}.", "{name} ends at {code}."),
    "zh": ("锁停在{code}。", "{name}停在{code}。"),
}


def ending(lock: Lock, language: str, named: bool) -> str:
    """The answer sentence of one lock: "The lock ends at 346.", or by name among several."""
    return ENDINGS[language][named].format(name=lock.name, code=lock.states()[-1])


def answer(locks: Sequence[Lock], language: str) -> str:
    """The right answer: one sentence a lock."""
    gap = "" if language == "zh" else " "
    return gap.join(ending(lock, language, len(locks) > 1) for lock in locks)
