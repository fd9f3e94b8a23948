"""Puzzles about letters: spell backward, count, decode a shift, sort words, close brackets."""

from random import Random
from string import ascii_lowercase
from typing import Any

from qwen3.rewards import prose_templates
from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.task import Problem

WORDS = tuple(word for word in prose_templates.vocabulary() if len(word) > 3 and word.isalpha())
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def _letters(rng: Random, size: int, _language: str) -> Drawn:
    """A made-up word that reads differently from its end."""
    while True:
        word = "".join(rng.choices(ascii_lowercase, k=size))
        if word != word[::-1]:
            return {"word": word}, word[::-1]


def _shuffled(problem: Problem, rng: Random) -> str:
    letters = list(problem.answer["gold"])
    rng.shuffle(letters)
    return "".join(letters)


def _count(rng: Random, size: int, _language: str) -> Drawn:
    text = " ".join(rng.choice(WORDS) for _ in range(size))
    letter = rng.choice(sorted(set(text) - {" "}))
    return {"letter": letter, "text": text}, str(text.count(letter))


def _shift(rng: Random, size: int, _language: str) -> Drawn:
    plain, k = " ".join(rng.choice(WORDS) for _ in range(size)), rng.randint(1, 25)
    return {"k": k, "code": shifted(plain, k)}, plain


def shifted(text: str, k: int) -> str:
    """The text with every letter a-z replaced by the one k places later, z before a."""
    later = ascii_lowercase[k:] + ascii_lowercase[:k]
    return text.translate(str.maketrans(ascii_lowercase, later))


def _some_words(problem: Problem, rng: Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in problem.answer["gold"].split())


def _unsorted(rng: Random, size: int, _language: str) -> Drawn:
    words = rng.sample(WORDS, size)
    return {"words": ", ".join(words)}, ", ".join(sorted(words))


def _shuffled_list(problem: Problem, rng: Random) -> str:
    words = problem.answer["gold"].split(", ")
    return ", ".join(rng.sample(words, len(words)))


def _opened(rng: Random, size: int, _language: str) -> Drawn:
    """Brackets of which `size` are still open."""
    text, stack = "", list[str]()
    while len(stack) < size:
        if stack and rng.random() < 0.35:
            text += BRACKETS[stack.pop()]
        else:
            stack.append(rng.choice(list(BRACKETS)))
            text += stack[-1]
    return {"open": text}, "".join(BRACKETS[mark] for mark in reversed(stack))


def _brackets(problem: Problem, rng: Random) -> str:
    return "".join(rng.choices(list(BRACKETS.values()), k=len(problem.answer["gold"])))


def _listed(values: dict[str, Any]) -> str:
    """What the splits never share of a list of words, whatever their order."""
    return ", ".join(sorted(values["words"].split(", ")))


spell_backward = ExactAnswer(
    "spell_backward",
    _letters,
    {
        "en": ("Spell `{word}` backward.", "Which word is `{word}`, read from its end?"),
        "zh": ("把`{word}`倒过来拼写。", "从最后一个字母开始读，`{word}`是什么？"),
    },
    _shuffled,
    (5, 16),
    ("<letters>", "<字母>"),
).task(({"word": "lamp"}, "pmal"), "lamp")

letter_counting = ExactAnswer(
    "letter_counting",
    _count,
    {
        "en": (
            "How often does the letter {letter} occur in `{text}`?",
            "Count every {letter} in this text: `{text}`",
        ),
        "zh": (
            "`{text}`里字母{letter}出现几次？",
            "数一数字母{letter}在这段文字里的次数：`{text}`",
        ),
    },
    lambda problem, rng: str(rng.randint(0, 14)),
    (2, 16),
    ("<number>", "<数字>"),
    thought=lambda p: " ".join(f"{c}." for c in p.answer["values"]["text"].replace(" ", "")),
).task(({"letter": "e", "text": "green tree"}, "4"), "3")

caesar_cipher = ExactAnswer(
    "caesar_cipher",
    _shift,
    {
        "en": (
            "Every letter was moved {k} places on in the alphabet (a follows z): `{code}`. "
            "What was the text?",
            "Decode `{code}`: each letter stands {k} places after the right one, z before a.",
        ),
        "zh": (
            "每个字母都在字母表里后移了{k}位（z之后是a）：`{code}`。原文是什么？",
            "解码`{code}`：每个字母比原来的字母靠后{k}位，z之后回到a。",
        ),
    },
    _some_words,
    (1, 6),
    ("<text>", "<原文>"),
).task(({"k": 1, "code": "mbnq"}, "lamp"), "mbnq")

word_sorting = ExactAnswer(
    "word_sorting",
    _unsorted,
    {
        "en": (
            "Put these words in alphabetical order: {words}",
            "Sort as a dictionary does: {words}",
        ),
        "zh": ("把这些单词按字母顺序排列：{words}", "像词典那样给单词排序：{words}"),
    },
    _shuffled_list,
    (4, 12),
    ("<word>, <word>, ...", "<单词>, <单词>, ..."),
    key=lambda drawn: _listed(drawn[0]),
).task(({"words": "tree, lamp, boat"}, "boat, lamp, tree"), "tree, lamp, boat")

bracket_completion = ExactAnswer(
    "bracket_completion",
    _opened,
    {
        "en": (
            "Which brackets close all that is still open in `{open}`, in the right order?",
            "`{open}` breaks off. Write the brackets that are missing at its end.",
        ),
        "zh": (
            "按正确的顺序补上`{open}`末尾缺少的右括号。",
            "`{open}`没有写完，末尾还缺哪些括号？",
        ),
    },
    _brackets,
    (3, 14),
    ("<brackets>", "<括号>"),
).task(({"open": "([]{"}, "})"), ")}")
