"""Pretraining documents of the lock world: stories, facts, look-ups, worked and direct problems.

A document never holds the content of a held-out problem, neither whole nor as one of its locks.
Every part is a row of PARTS: a function of a random generator and a language, "en" or "zh".
docs/tiny_world.md has an example of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import TypeAlias

from qwen3.rewards.locks import lock, lock_tasks
from qwen3.rewards.task import in_split

KEYS = {
    "en": (
        "Ash Oak Elm Fir Bay Fig Ivy Yew Rye Hop Dew Fen Bog Sea Sun Sky Ice Fog Hay Jam Tea "
        "Oil Tin Zinc Gold Iron Clay Silk Wool Salt"
    ).split(),
    "zh": "松 柏 梅 兰 竹 菊 桃 李 杏 梨".split(),
}
# A key and its code touch: with ": " between them, whether a model of this size ever learnt to find
# the code by the key was chance (docs/log/2026-11-28-look-ups-by-key.md).
# language: (text between sentences, entry, look-up)
LOOKUP = {
    "en": (" ", "ledger {key}{code}.", "look up {key}{code}."),
    "zh": ("", "账本{key}{code}。", "查{key}{code}。"),
}
AGAIN = {"en": "Again:", "zh": "再说："}
FACT = {"en": "{start} {op} gives {code}.", "zh": "{start}{op}得{code}。"}
WHEEL = {"en": "{a} {way} {k} gives {b}.", "zh": "{a}{way}{k}得{b}。"}
WAYS = {"en": ("up", "down"), "zh": ("加", "减")}
MARKS = {"en": ("Working:", "Answer:"), "zh": ("过程：", "答案：")}


Make: TypeAlias = Callable[[Random, str], str]  # (generator, language) -> text of a document


def trainable(locks: Sequence[lock.Lock]) -> bool:
    """Whether neither the problem nor any single lock of it belongs to the held-out split."""
    return all(in_split(lock.key(part), "train") for part in [locks, *([item] for item in locks)])


def draw_locks(rng: Random, language: str, several: float = 0.0) -> list[lock.Lock]:
    """Locks for training, 1..6 days in all: one, or with probability `several` two or three."""
    while True:
        total = rng.randint(1, lock.MOST_DAYS)
        count = rng.randint(2, 3) if rng.random() < several else 1
        if count > total:
            continue
        owners = lock.OWNERS[language][:count]
        names = owners if count > 1 else [rng.choice(lock.NAMES[language])]
        locks = lock.draw_locks(rng, total, names)
        if trainable(locks):
            return locks


def story(rng: Random, language: str) -> str:
    """A diary with every state, and where it ends."""
    locks = draw_locks(rng, language)
    lead = lock_tasks.WORDINGS[language, "train"][0]
    lead = lead.format(name=locks[0].name, code=locks[0].start, diary="").strip()
    steps, end = lock.trace(locks, language, "careful"), lock.answer(locks, language)
    return LOOKUP[language][0].join([lead, steps, end])


def facts(rng: Random, language: str, count: int = 8) -> str:
    """Operations on single codes: "604 reverse gives 406." """
    lines: list[str] = []
    while len(lines) < count:
        item = lock.Lock("", lock.draw_code(rng), (lock.draw_op(rng),))
        if trainable([item]):
            op = lock.words(item.ops[0], language)
            lines.append(FACT[language].format(start=item.start, op=op, code=item.states()[0]))
    return LOOKUP[language][0].join(lines)


def wheel(rng: Random, language: str, count: int = 10) -> str:
    """One digit up or down: "9 down 5 gives 4." """
    lines = []
    for _ in range(count):
        a, k, down = rng.randrange(10), rng.randint(1, 5), rng.randrange(2)
        b = (a - k if down else a + k) % 10
        lines.append(WHEEL[language].format(a=a, way=WAYS[language][down], k=k, b=b))
    return LOOKUP[language][0].join(lines)


def recall(rng: Random, language: str, rounds: int = 2) -> str:
    """A diary, then its days again in other orders: the look-up that every step of a trace is."""
    item = lock.Lock(
        "", "", tuple(lock.draw_op(rng) for _ in range(rng.randint(3, lock.MOST_DAYS)))
    )
    days = [lock.diary(lock.Lock("", "", (op,)), i, language) for i, op in enumerate(item.ops)]
    gap, parts = LOOKUP[language][0], list(days)
    for _ in range(rounds):
        parts += [AGAIN[language], *rng.sample(days, len(days))]
    return gap.join(parts)


def ledger(rng: Random, language: str, most: int = 6, rounds: int = 3) -> str:
    """Two to `most` entries, then `rounds` look-ups of all of them in other orders.

    Sometimes few entries, as one among two is learnt first, but mostly more: among four at most, a
    model may go on copying the code of any (docs/log/2026-11-28-look-ups-by-key.md). Several
    rounds, as a copy of a look-up is learnt sooner than of an entry. Not in the order of the
    entries, which would be learnt instead of the key.
    """
    gap, entry, lookup = LOOKUP[language]
    keys = rng.sample(KEYS[language], rng.randint(2, most))
    codes = {key: lock.draw_code(rng) for key in keys}
    lines = [entry.format(key=key, code=codes[key]) for key in keys]
    for _ in range(rounds):
        rng.shuffle(keys)
        lines += [lookup.format(key=key, code=codes[key]) for key in keys]
    return gap.join(lines)


def haystack(
    rng: Random, language: str, characters: int, lookups: int = 4, entries: int = 6
) -> str:
    """Ledger entries among stories, then look-ups: the long-context document and needle test.

    The stories have about `characters` characters in all.
    """
    gap, entry, lookup = LOOKUP[language]
    keys = rng.sample(KEYS[language], entries)
    codes = {key: lock.draw_code(rng) for key in keys}
    lines: list[str] = []
    length = 0
    while length < characters:
        lines.append(story(rng, language))
        length += len(lines[-1]) + 1
    for key in keys:
        lines.insert(rng.randint(0, len(lines)), entry.format(key=key, code=codes[key]))
    last = rng.sample(keys, min(lookups, entries))
    return gap.join(lines + [lookup.format(key=key, code=codes[key]) for key in last])


def problem(rng: Random, language: str, style: str, several: float = 0.0) -> str:
    """A question with its working ("careful", "hasty") or the answer at once ("direct")."""
    locks = draw_locks(rng, language, several)
    working, final = MARKS[language]
    lines = [lock_tasks.question(locks, language)]
    if style != "direct":
        lines.append(f"{working} {lock.trace(locks, language, style, rng)}")
    return "\n".join([*lines, f"{final} {lock.answer(locks, language)}"])


# part: (how a document is made, domain label)
PARTS: dict[str, tuple[Make, str]] = {
    "story": (story, "story"),
    "facts": (facts, "fact"),
    "wheel": (wheel, "fact"),
    "recall": (recall, "recall"),
    "ledger": (ledger, "ledger"),
    "hay": (partial(haystack, characters=100, lookups=4, entries=4), "ledger"),
    "worked": (partial(problem, style="careful"), "problem"),
    "hasty": (partial(problem, style="hasty"), "problem"),
    "direct": (partial(problem, style="direct"), "problem"),
    "several": (partial(problem, style="careful", several=1.0), "problem"),
    "several_direct": (partial(problem, style="direct", several=1.0), "problem"),
}


def documents(
    part: str, count: int, seed: int, *, chinese: float = 0.2, held: bool = False
) -> list[dict[str, str]]:
    """`count` documents of a part as {"text", "language", "domain"}.

    chinese: share of documents. held: another draw, for validation loss.
    """
    make, domain = PARTS[part]
    return [_row(make, domain, Random(f"{part}/{seed}/{held}/{i}"), chinese) for i in range(count)]


def long_documents(
    count: int, seed: int, characters: int, *, chinese: float = 0.2, held: bool = False
) -> list[dict[str, str]]:
    """Haystacks of about `characters` characters, as `documents` has them."""
    make = partial(haystack, characters=characters, lookups=10, entries=10)
    return [_row(make, "ledger", Random(f"long/{seed}/{held}/{i}"), chinese) for i in range(count)]


def _row(make: Make, domain: str, rng: Random, chinese: float) -> dict[str, str]:
    language = "zh" if rng.random() < chinese else "en"
    return {"text": make(rng, language), "language": language, "domain": domain}
