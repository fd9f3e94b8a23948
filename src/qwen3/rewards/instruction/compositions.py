"""Constraints on the make-up of a text, in compositions that held-out problems do not share.

Where `constraints` holds out combinations, here every held-out problem has a kind of constraint
that no training problem has (as IFBench does to IFEval, arXiv 2507.02833).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from qwen3.rewards import prose_templates, text_statistics
from qwen3.rewards.exact_answer import LANGUAGES, worked
from qwen3.rewards.reasoning.letter_puzzles import WORDS
from qwen3.rewards.task import Problem, Task, ask, levels

TOPICS = {
    split: [topic for topic in topics if " " not in topic]
    for split, topics in prose_templates.TOPICS.items()
}
ACROSTICS = ("salt", "best", "coat", "boats", "stone", "first", "table")
EXTRA = ("alone", "even", "open", "inside", "often", "never", "over", "under", "into", "each")
POOL = tuple(dict.fromkeys((*WORDS, *EXTRA)))
Sentences = list[list[str]]


@dataclass(frozen=True)
class CompositionKind:
    """One kind of constraint on sentences and their words."""

    slots: str  # letters; a problem has at most one kind of each
    holds: Callable[..., bool]  # (answer, its sentences, **parameters)
    draw: Callable[[Random], dict[str, Any]]  # draws the parameters
    en: str  # wording, with {parameters}
    zh: str
    held: bool = False  # whether only held-out problems have it


KINDS: Mapping[str, CompositionKind] = {
    "count": CompositionKind(
        "s",
        lambda answer, sentences, n: len(sentences) == n,
        lambda rng: {"n": rng.randint(2, 6)},
        "Write exactly {n} sentences.",
        "正好写{n}个句子。",
    ),
    "acrostic": CompositionKind(
        "sf",
        lambda answer, sentences, word: "".join(row[0][0] for row in sentences) == word,
        lambda rng: {"word": rng.choice(ACROSTICS)},
        "The first letters of the sentences must spell {word}.",
        "各句的首字母必须拼成{word}。",
    ),
    "length": CompositionKind(
        "l",
        lambda answer, sentences, n: all(len(row) == n for row in sentences),
        lambda rng: {"n": rng.randint(4, 7)},
        "Every sentence has exactly {n} words.",
        "每个句子正好有{n}个单词。",
    ),
    "multiple": CompositionKind(
        "l",
        lambda answer, sentences, n: sum(map(len, sentences)) % n == 0,
        lambda rng: {"n": rng.choice((11, 12, 13, 14))},
        "The number of all words must be a multiple of {n}.",
        "单词总数必须是{n}的倍数。",
    ),
    "same_start": CompositionKind(
        "fr",
        lambda answer, sentences, word: all(row[0] == word for row in sentences),
        lambda rng: {"word": rng.choice(("today", "outside", "slowly"))},
        "Every sentence begins with the word {word}.",
        "每个句子都以单词{word}开头。",
    ),
    "no_repeat": CompositionKind(
        "r",
        lambda answer, sentences: _distinct([word for row in sentences for word in row]),
        lambda rng: {},
        "No word may occur twice.",
        "任何单词都不能出现两次。",
    ),
    "last_word": CompositionKind(
        "e",
        lambda answer, sentences, word: sentences[-1][-1] == word,
        lambda rng: {"word": rng.choice(("evening", "together", "again"))},
        "The very last word is {word}.",
        "最后一个单词是{word}。",
    ),
    "mark": CompositionKind(
        "m",
        lambda answer, sentences: set(re.findall(r"[.?!]", answer)) == {"!"},
        lambda rng: {},
        "Every sentence ends with an exclamation mark.",
        "每个句子都以感叹号（!）结尾。",
    ),
    "lines": CompositionKind(
        "p",
        lambda answer, sentences: len(answer.split("\n")) == len(sentences) > 1,
        lambda rng: {},
        "Put every sentence on a line of its own, two at least.",
        "每个句子单独占一行，至少两句。",
    ),
    "increasing": CompositionKind(
        "l",
        lambda answer, sentences: (
            len(sentences) > 1
            and all(len(b) == len(a) + 1 for a, b in zip(sentences, sentences[1:], strict=False))
        ),
        lambda rng: {},
        "Each sentence has one word more than the one before it; write two at least.",
        "每个句子都比前一句多一个单词，至少写两句。",
        held=True,
    ),
    "numbered_lines": CompositionKind(
        "p",
        lambda answer, sentences: (
            [line.split(" ")[0] for line in answer.split("\n")]
            == [f"({i})" for i in range(1, len(sentences) + 1)]
        ),
        lambda rng: {},
        "Put every sentence on a line of its own that starts with (1), (2) and so on.",
        "每个句子单独占一行，行首依次写(1)、(2)等。",
        held=True,
    ),
    "second_word": CompositionKind(
        "2r",
        lambda answer, sentences, word: all(row[1:2] == [word] for row in sentences),
        lambda rng: {"word": rng.choice(("always", "hardly", "rarely"))},
        "The second word of every sentence is {word}.",
        "每个句子的第二个单词是{word}。",
        held=True,
    ),
    "alternating": CompositionKind(
        "c",
        lambda answer, sentences: all(
            word == (word.upper() if i % 2 else word.lower())
            for i, word in enumerate(re.findall(r"[^\W\d]+", answer))
        ),
        lambda rng: {},
        "Write the words in lower case and CAPITALS by turns, lower case first.",
        "单词依次用小写和大写（CAPITALS）交替书写，第一个小写。",
        held=True,
    ),
}
OPENINGS = {
    "en": ("Write in English about {topic}.", "I want a text in English on {topic}."),
    "zh": ("用英语写写{topic}。", "我要一段关于{topic}的英语文字。"),
}


def _distinct(words: Sequence[str]) -> bool:
    return len(set(words)) == len(words)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    count, language = levels(difficulty, 1, 4), rng.choice(LANGUAGES)
    names, taken = list[str](), set[str]()
    held = [name for name, kind in KINDS.items() if kind.held]
    trained = [name for name, kind in KINDS.items() if not kind.held]
    # A held-out problem begins with a kind that is new, and goes on with any.
    order = rng.sample(trained, len(trained))
    if split == "heldout":
        first = rng.choice(held)
        order = [first, *rng.sample([n for n in KINDS if n != first], len(KINDS) - 1)]
    for name in order:
        if len(names) < count and not taken & set(KINDS[name].slots):
            names.append(name)
            taken |= set(KINDS[name].slots)
    kinds = {name: KINDS[name].draw(rng) for name in names}
    return problem(rng.choice(TOPICS[split]), kinds, language, split, difficulty)


def problem(
    topic: str,
    kinds: Mapping[str, dict],
    language: str = "en",
    split: str = "train",
    difficulty: float = 0.0,
) -> Problem:
    """The Problem on a topic with the constraints `kinds`: {name of KINDS: its parameters}."""
    lines = [getattr(KINDS[name], language).format(**kw) for name, kw in kinds.items()]
    opening = OPENINGS[language][split == "heldout"].format(topic=topic)
    record = {"topic": topic, "constraints": {name: dict(kw) for name, kw in kinds.items()}}
    text = (" " if language == "en" else "").join([opening, *lines])
    return Problem("compositions", ask(text), record, difficulty)


def sentences_of(answer: str) -> Sentences:
    """The lower-case words of each sentence, without the numbers of lines."""
    parts = re.split(r"[.?!]+", re.sub(r"(?m)^\(\d+\) ", "", answer))
    words = [[word.lower() for word in text_statistics.words(part)] for part in parts]
    return [row for row in words if row]


def grade(problem: Problem, answer: str) -> float:
    """1 if the text is on the topic, no echo and no stutter, and all constraints hold."""
    sentences, record = sentences_of(answer), problem.answer
    if not answer.isascii() or not answer.endswith((".", "!", "?")):
        return 0.0
    if sum(row.count(record["topic"]) for row in sentences) != 1 or sum(map(len, sentences)) < 6:
        return 0.0
    prompt = problem.messages[-1]["content"]
    if text_statistics.echoes(answer, prompt) or text_statistics.stutters(answer):
        return 0.0
    return all(KINDS[k].holds(answer, sentences, **kw) for k, kw in record["constraints"].items())


def solve(problem: Problem) -> tuple[str, str]:
    constraints, rng = problem.answer["constraints"], Random(repr(problem.answer))
    sentences = _fill(_lengths(constraints), problem.answer["topic"], constraints, rng)
    return f"To do: {', '.join(constraints)}.", _written(sentences, constraints)


def _lengths(constraints: Mapping[str, dict]) -> list[int]:
    """Words of each sentence."""
    count = constraints.get("count", {}).get("n", 3)
    count = len(constraints["acrostic"]["word"]) if "acrostic" in constraints else count
    if "increasing" in constraints:
        return list(range(4, 4 + count))
    lengths = [constraints.get("length", {}).get("n", 5)] * count
    if "multiple" in constraints:
        lengths[-1] += -sum(lengths) % constraints["multiple"]["n"]
    return lengths


def _fill(
    lengths: Sequence[int], topic: str, constraints: Mapping[str, dict], rng: Random
) -> Sentences:
    """Sentences of these lengths out of words that occur once, but for those that are asked for."""
    last = constraints.get("last_word", {}).get("word")
    start, second = (constraints.get(k, {}).get("word") for k in ("same_start", "second_word"))
    letters = constraints.get("acrostic", {}).get("word", "")
    unused = [w for w in rng.sample(POOL, len(POOL)) if w not in (topic, last, start, second)]

    def take(letter: str = "") -> str:
        return unused.pop(next(i for i, w in enumerate(unused) if w.startswith(letter)))

    firsts = [start or take(letters[i : i + 1]) for i in range(len(lengths))]
    rows = [
        [first, second or take(), *(take() for _ in range(length - 2))]
        for first, length in zip(firsts, lengths, strict=True)
    ]
    rows[0][2] = topic
    rows[-1][-1] = last or rows[-1][-1]
    return rows


def _written(sentences: Sentences, constraints: Mapping[str, dict]) -> str:
    mark = "!" if "mark" in constraints else "."
    texts, number = [], 0
    for row in sentences:
        words = [row[0].title(), *row[1:]]
        if "alternating" in constraints:
            words = [w.upper() if (number + i) % 2 else w.lower() for i, w in enumerate(row)]
        number += len(row)
        texts.append(" ".join(words) + mark)
    if "numbered_lines" in constraints:
        texts = [f"({i}) {text}" for i, text in enumerate(texts, 1)]
    return ("\n" if {"lines", "numbered_lines"} & set(constraints) else " ").join(texts)


def guess(problem: Problem, rng: Random) -> str:
    """Prose that names the topic once and heeds no constraint."""
    prose = " ".join(prose_templates.sentence(rng) for _ in range(rng.randint(1, 8)))
    return f"We think of {problem.answer['topic']}. {prose}"


_P = problem("rain", {"count": {"n": 2}, "mark": {}})

composed = Task(
    "compositions",
    make,
    grade,
    solve,
    guess,
    examples=worked(
        _P,
        "The rain falls on every roof! Later the small river is full!",
        "The rain falls on every roof. Later the small river is full.",
        "The rain falls on every roof! Later the small river is full! So it goes!",
        "The rain rain falls on every roof! Later the small river is full!",
        "Rain! Rain!",
        "It falls on every roof! Later the small river is full!",
    ),
    group="instruction",
)
