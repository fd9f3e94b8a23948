"""Several small questions in one prompt: all answers, numbered, in order, and nothing else."""

from collections.abc import Callable, Mapping
from random import Random

from qwen3.rewards.exact_answer import Drawn, ExactAnswer, normal
from qwen3.rewards.reasoning.letter_puzzles import WORDS
from qwen3.rewards.task import Problem

# (English, Chinese, values of the wording, answer)
Kind = Callable[[Random], tuple[str, str, dict[str, object], str]]


def _sum(rng: Random) -> tuple[str, str, dict, str]:
    a, b = rng.randint(2, 60), rng.randint(2, 39)
    return "What is {a} + {b}?", "{a} + {b}等于多少？", {"a": a, "b": b}, str(a + b)


def _larger(rng: Random) -> tuple[str, str, dict, str]:
    a, b = rng.sample(range(10, 999), 2)
    return "Which is larger, {a} or {b}?", "{a}和{b}哪个大？", {"a": a, "b": b}, str(max(a, b))


def _first_letter(rng: Random) -> tuple[str, str, dict, str]:
    word = rng.choice(WORDS)
    return "What is the first letter of {w}?", "{w}的第一个字母是什么？", {"w": word}, word[0]


def _length(rng: Random) -> tuple[str, str, dict, str]:
    word = rng.choice(WORDS)
    return "How many letters has {w}?", "{w}有几个字母？", {"w": word}, str(len(word))


def _middle(rng: Random) -> tuple[str, str, dict, str]:
    words = rng.sample(WORDS, 3)
    en, zh = "Which word is in the middle: {w}?", "中间的词是哪个：{w}？"
    return en, zh, {"w": ", ".join(words)}, words[1]


KINDS: Mapping[str, Kind] = {
    "sum": _sum,
    "larger": _larger,
    "first letter": _first_letter,
    "length": _length,
    "middle": _middle,
}


def _draw(rng: Random, size: int, language: str) -> Drawn:
    questions, answers = [], []
    for number in range(1, size + 1):
        en, zh, values, answer = rng.choice(list(KINDS.values()))(rng)
        questions.append(f"{number}. {(zh if language == 'zh' else en).format(**values)}")
        answers.append(f"{number}. {answer}")
    return {"questions": "\n".join(questions)}, "\n".join(answers)


def _same_lines(_: Problem, answer: str, gold: str) -> bool:
    lines = [normal(line) for line in answer.split("\n")]
    return lines == gold.split("\n")


def _guess(problem: Problem, rng: Random) -> str:
    count = problem.answer["gold"].count("\n") + 1
    pick = (rng.choice(WORDS), str(rng.randint(1, 99)))
    return "\n".join(f"{number}. {rng.choice(pick)}" for number in range(1, count + 1))


numbered = ExactAnswer(
    "numbered_questions",
    _draw,
    {
        "en": (
            "{questions}\nAnswer every question on a line of its own, with its number, like "
            "`1. yes`, and write nothing else.",
            "Give the answers only, one numbered line each (`1. yes`).\n{questions}",
        ),
        "zh": (
            "{questions}\n每个问题用一行回答，带上编号，例如`1. 是`，不要写别的。",
            "只写答案，每行一个，带编号（`1. 是`）。\n{questions}",
        ),
    },
    _guess,
    (2, 8),
    same=_same_lines,
    group="instruction",
    hacks=("1. 30\n2. 7", "2. 30\n1. 7", "1. 7\n2. 30\n3. 7", "1. 7 or 8\n2. 30", "7\n30"),
).task(
    (
        {"questions": "1. What is 3 + 4?\n2. Which is larger, 12 or 30?"},
        "1. 7\n2. 30",
    ),
    "1. 7",
)
