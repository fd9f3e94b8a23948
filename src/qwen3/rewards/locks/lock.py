"""The combination lock: three digits, one operation a day, in English and Chinese.

A thousand answers, so guessing cannot win; the trace needs the state after each day, so thinking
pays. Hasty traces leave states out: a cold start on them is short and often wrong, and
reinforcement learning has something to find. Words are few and fixed, for tiny models.
"""

from dataclasses import dataclass

PLACES = {"en": ("first", "middle", "last"), "zh": ("首位", "中位", "末位")}
# kind: (weight, English, Chinese). The last three are rare on purpose.
KINDS = {
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
MOVES = {"reverse": "cba", "left": "bca", "right": "cab", "swap_first": "bac", "swap_last": "acb"}
DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "zh": ("周一", "周二", "周三", "周四", "周五", "周六"),
}
NAMES = {
    "en": ("Mia", "Tom", "Ida", "Leo", "Eva", "Max", "Amy", "Sam"),
    "zh": ("小美", "小明", "小红", "小华"),
}
OWNERS = {"en": ("Ann", "Bob", "Cara"), "zh": ("小安", "小白", "小云")}  # fixed by position
STOPS = {"en": (".", ";", ",", ":", "!", "-"), "zh": ("。", "；", "，", "：", "！", "、")}
STOP_WEIGHTS = (26, 5, 4, 2, 2, 1)
LANGUAGES = tuple(DAYS)
MOST_DAYS = 6


@dataclass(frozen=True)
class Lock:
    """One lock: its owner, start code ("604") and operations (kind, place 0..2, k 1..5)."""

    name: str
    start: str
    ops: tuple[tuple[str, int, int], ...]

    def states(self):
        """The code after each operation."""
        codes, code = [], self.start
        for op in self.ops:
            codes.append(code := turn(code, op))
        return codes


def turn(code, op):
    """The code after one operation; digits are modulo 10, `mirror` is d -> 9 - d."""
    kind, place, k = op
    if kind in MOVES:
        return "".join(code["abc".index(letter)] for letter in MOVES[kind])
    if kind == "mirror":
        return "".join(str(9 - int(digit)) for digit in code)
    digits = list(code)
    digits[place] = str((int(code[place]) + (k if kind == "up" else -k)) % 10)
    return "".join(digits)


def words(op, language):
    """The operation in words: "turn first up 3"."""
    kind, place, k = op
    pattern = KINDS[kind][LANGUAGES.index(language) + 1]
    return pattern.format(place=PLACES[language][place], k=k)


def has_rare(locks):
    """Whether any lock has one of the rare operations."""
    return any(kind in RARE for lock in locks for kind, _, _ in lock.ops)


def draw_code(rng):
    return f"{rng.randrange(1000):03d}"


def draw_op(rng):
    kind = rng.choices(list(KINDS), [row[0] for row in KINDS.values()])[0]
    # A fixed place and k where the kind has none: equal operations compare equal.
    return (kind, rng.randrange(3), rng.randint(1, 5)) if kind in ("up", "down") else (kind, 0, 0)


def draw_locks(rng, days, names):
    """Locks of `names` that share `days` operations, 1..4 each if there are several."""
    cuts = sorted(rng.sample(range(1, days), len(names) - 1))
    sizes = [end - start for start, end in zip([0, *cuts], [*cuts, days], strict=True)]
    if len(names) > 1 and max(sizes) > 4:
        return draw_locks(rng, days, names)
    return [
        Lock(name, draw_code(rng), tuple(draw_op(rng) for _ in range(size)))
        for name, size in zip(names, sizes, strict=True)
    ]


def key(locks):
    """Content of a question without names and wording: what the splits are told apart by."""
    return ";".join(f"{lock.start}:{lock.ops}" for lock in locks)


def diary(lock, first_day, language):
    """ "Monday swap last pair. Tuesday reverse." """
    days = DAYS[language][first_day:]
    if language == "zh":
        return "".join(f"{d}{words(op, 'zh')}。" for d, op in zip(days, lock.ops, strict=False))
    return " ".join(f"{d} {words(op, 'en')}." for d, op in zip(days, lock.ops, strict=False))


def trace(locks, language, style, rng=None):
    """The thinking text over `locks`: "careful" writes every state.

    "hasty" leaves out each inner state with p = .6 and, among several locks, a whole lock with
    p = .3 (never all of them); the states it does write are right. After one of them stands any of
    STOPS: a choice that no answer depends on, as people's wording is, so that a policy which learns
    to write every state still has entropy to keep.
    """
    if style not in ("careful", "hasty"):
        raise ValueError(f"trace style {style!r} is none of ('careful', 'hasty')")
    hasty = style == "hasty"
    kept = [not (hasty and len(locks) > 1 and rng.random() < 0.3) for _ in locks]
    if not any(kept):
        kept[rng.randrange(len(locks))] = True
    parts, day = [], 0
    for lock, keep in zip(locks, kept, strict=True):
        if keep:
            parts.append(_lock_trace(lock, day, language, len(locks) > 1, rng if hasty else None))
        day += len(lock.ops)
    return ("" if language == "zh" else " ").join(parts)


def _lock_trace(lock, first_day, language, named, rng):
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


def ending(lock, language, named):
    """The answer sentence of one lock: "The lock ends at 346.", or by name among several."""
    return ENDINGS[language][named].format(name=lock.name, code=lock.states()[-1])


def answer(locks, language):
    """The whole answer: one sentence a lock."""
    gap = "" if language == "zh" else " "
    return gap.join(ending(lock, language, len(locks) > 1) for lock in locks)
