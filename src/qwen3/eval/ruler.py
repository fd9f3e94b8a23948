"""RULER (arXiv 2404.06654): thirteen synthetic tasks of retrieval, tracking, counting and questions
in long contexts, generated at any length from open text.

The tasks and their numbers (needles, hops, repetitions) are the paper's; the wordings, names and
haystacks are ours: books and SQuAD-form questions from the data folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval.item_readers import found, read_squad, text_of
from qwen3.eval.items import UNPARSED, Item, Verdict

ADJECTIVES = (
    "amber brisk calm dapper eager faint gentle hollow icy jolly keen lively mellow noble oblong "
    "plain quiet rustic silent tidy upbeat vivid wary young zesty bold crisp dusty early fluffy"
).split()
NOUNS = (
    "anchor basket candle drum ember falcon garden harbor island jacket kettle lantern meadow "
    "needle orchard pebble quilt ribbon saddle tunnel umbrella violin window yarn zipper bridge "
    "cabin desert engine feather"
).split()
FILLER = "The river runs on. The road goes by the mill. Nothing happens here. We walk back again."
BOOKS = ("corpus/en_*.txt", "ruler/*.txt")  # patterns of haystacks below the data folder
QUESTIONS = {"qa_1": ("xquad/xquad.en.json",), "qa_2": ("cmrc2018/cmrc2018_dev.json",)}
RESERVE = 128  # tokens of the context kept for the chat template and the answer


class Built(NamedTuple):
    """A prompt at some size of its haystack."""

    prompt: str
    gold: list[str]


@dataclass(frozen=True)
class Material:
    """What haystacks are made of."""

    sentences: list[str]  # of books, in order
    questions: dict[str, list[Item]]  # of SQuAD-form files, by task


# build(random, size, material): a prompt whose haystack has `size` units
Build = Callable[[Random, int, Material], Built]


def _key(random: Random) -> str:
    return f"{random.choice(ADJECTIVES)}-{random.choice(NOUNS)}-{random.randint(10, 99)}"


def _number(random: Random) -> str:
    return str(random.randint(1_000_000, 9_999_999))


def _uuid(random: Random) -> str:
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def _needle(key: str, value: str) -> str:
    return f"The secret code of {key} is {value}."


def needles(
    *,
    haystack: str,
    keys: int = 1,
    values: int = 1,
    asked: int = 1,
    name: Callable[[Random], str] = _key,
    value: Callable[[Random], str] = _number,
) -> Build:
    """Codes hidden in a haystack ("filler", "book", or "needles": other codes) and asked for.

    keys: hidden names; values: codes of each; asked: how many names the question has.
    """

    def build(random: Random, size: int, material: Material) -> Built:
        names = list(dict.fromkeys(name(random) for _ in range(4 * keys)))[:keys]
        codes = {key: [value(random) for _ in range(values)] for key in names}
        hidden = [_needle(key, code) for key in names for code in codes[key]]
        lines = _hay(random, haystack, size, material, name, value)
        for text in hidden:
            lines.insert(random.randint(0, len(lines)), text)
        wanted = random.sample(names, asked)
        question = (
            "Some secret codes stand in the following text. Remember them.\n\n"
            + " ".join(lines)
            + f"\n\nWhat are all the secret codes of {', '.join(wanted)} in the text above?"
        )
        return Built(question, [code for key in wanted for code in codes[key]])

    return build


def _hay(
    random: Random,
    kind: str,
    size: int,
    material: Material,
    name: Callable[[Random], str],
    value: Callable[[Random], str],
) -> list[str]:
    if kind == "filler":
        return [FILLER] * size
    if kind == "needles":
        return [_needle(name(random), value(random)) for _ in range(size)]
    first = random.randrange(len(material.sentences))
    return [material.sentences[(first + i) % len(material.sentences)] for i in range(size)]


def variable_tracking(random: Random, size: int, material: Material, hops: int = 4) -> Built:
    """Assignments X2 = X1 in a chain of `hops`; all names of the value are asked for."""
    names = random.sample([a + b + c for a in "BCDFG" for b in "HJKLM" for c in "NPQRT"], hops + 1)
    first = str(random.randint(10_000, 99_999))
    chain = [f"Let {names[0]} = {first}."]
    chain += [f"Let {new} = {old}." for old, new in zip(names, names[1:], strict=False)]
    lines = [FILLER] * size
    places = sorted(random.sample(range(len(lines) + 1), min(len(chain), len(lines) + 1)))
    places += [len(lines)] * (len(chain) - len(places))
    for place, text in zip(reversed(places), reversed(chain), strict=True):
        lines.insert(place, text)
    question = (
        "Follow the variables in the text.\n\n"
        + " ".join(lines)
        + f"\n\nList all the variables that have the value {first}."
    )
    return Built(question, names)


def common_words(random: Random, size: int, material: Material) -> Built:
    """Ten words stand 30 times each, `size` others three times: which are the ten?"""
    pairs = len(ADJECTIVES) * len(NOUNS)
    vocabulary = [
        f"{adjective}{noun}{series or ''}"
        for series in range(1 + (size + 10) // pairs)
        for adjective in ADJECTIVES
        for noun in NOUNS
    ]
    random.shuffle(vocabulary)
    common, others = vocabulary[:10], vocabulary[10 : 10 + size]
    words = [word for word in common for _ in range(30)] + [w for w in others for _ in range(3)]
    random.shuffle(words)
    listed = " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))
    question = f"Below is a numbered list of words.\n\n{listed}\n\n"
    return Built(question + "Which are the ten most common words of the list?", common)


def frequent_words(random: Random, size: int, material: Material) -> Built:
    """`size` coded words by a zeta distribution (exponent 2): which three are the most frequent?"""
    vocabulary = [
        "".join(random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6)) for _ in range(500)
    ]
    weights = [rank**-2.0 for rank in range(1, len(vocabulary) + 1)]
    words = random.choices(vocabulary, weights, k=size)
    order = sorted(set(words), key=lambda word: (-words.count(word), word))
    question = (
        "Read the coded text.\n\n"
        + " ".join(words)
        + "\n\nWhich are the three most frequent words of the coded text?"
    )
    return Built(question, order[:3])


def questions(task: str) -> Build:
    """A question about one of `size` documents."""

    def build(random: Random, size: int, material: Material) -> Built:
        item = random.choice(material.questions[task])
        contexts = sorted({other["context"] for other in material.questions[task]})
        contexts.remove(item["context"])
        documents = random.sample(contexts, min(max(size - 1, 0), len(contexts)))
        documents.insert(random.randint(0, len(documents)), item["context"])
        listed = "\n\n".join(f"Document {i}: {text}" for i, text in enumerate(documents, 1))
        question = (
            f"Answer from the documents, with words from them alone.\n\n{listed}\n\n"
            f"Question: {item['question']}"
        )
        return Built(question, list(item["gold"]))

    return build


TASKS: dict[str, Build] = {
    "niah_single_1": needles(haystack="filler"),
    "niah_single_2": needles(haystack="book"),
    "niah_single_3": needles(haystack="book", value=_uuid),
    "niah_multikey_1": needles(haystack="book", keys=4),
    "niah_multikey_2": needles(haystack="needles"),
    "niah_multikey_3": needles(haystack="needles", name=_uuid, value=_uuid),
    "niah_multivalue": needles(haystack="book", values=4),
    "niah_multiquery": needles(haystack="book", keys=4, asked=4),
    "vt": variable_tracking,
    "cwe": common_words,
    "fwe": frequent_words,
    "qa_1": questions("qa_1"),
    "qa_2": questions("qa_2"),
}


def items(length: int, count: int, data: Path | None, tokenizer: Tokenizer) -> list[Item]:
    """`count` items, the tasks in turn, of prompts of at most `length` tokens and close to it.

    Raises ValueError for a length that holds no task, and where the haystacks' files are missing.
    """
    material = _material(data)
    made = []
    for number in range(count):
        task = list(TASKS)[number % len(TASKS)]
        seed = f"ruler/{task}/{length}/{number}"
        built = _fitted(TASKS[task], seed, length - RESERVE, material, tokenizer)
        if built is None:
            raise ValueError(f"RULER's {task} does not fit into {length} tokens")
        fields = {"question": built.prompt, "gold": built.gold, "task": task}
        made.append(Item(f"{task}/{number // len(TASKS)}", fields))
    return made


def _fitted(
    build: Build, seed: str, length: int, material: Material, tokenizer: Tokenizer
) -> Built | None:
    """The prompt of the largest haystack that fits: doubled, then bisected."""

    def at(size: int) -> Built | None:
        built = build(Random(seed), size, material)
        return built if len(tokenizer.encode(built.prompt)) <= length else None

    low, high, best = 1, 2, at(1)
    if best is None:
        return None
    while high < length and (larger := at(high)) is not None:
        low, high, best = high, 2 * high, larger
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        if (fit := at(middle)) is not None:
            low, best = middle, fit
        else:
            high = middle
    return best


def _material(data: Path | None) -> Material:
    books = found(data, BOOKS) if data else []
    files = {task: found(data, patterns) for task, patterns in QUESTIONS.items()} if data else {}
    wanted = {BOOKS[0]: books, **{QUESTIONS[task][0]: files.get(task) for task in QUESTIONS}}
    missing = [pattern for pattern, paths in wanted.items() if not paths]
    if missing:
        raise ValueError(f"RULER makes its contexts of files below --data: {', '.join(missing)}")
    text = " ".join(text_of(books[0]).split())
    sentences = [sentence.strip() + "." for sentence in text.split(". ") if sentence.strip()]
    return Material(sentences, {task: read_squad(paths) for task, paths in files.items()})


def score(item: Item, answer: str) -> Verdict:
    """The share of the references that stand in the answer; for questions whether one does."""
    if not answer.strip():
        return UNPARSED
    plain = answer.lower()
    hits = [str(gold).lower() in plain for gold in item["gold"]]
    if item["task"] in QUESTIONS:
        return Verdict(float(any(hits)), answer)
    return Verdict(sum(hits) / len(hits), answer)
