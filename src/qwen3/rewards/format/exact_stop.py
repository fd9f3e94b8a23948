"""Answers that stop exactly: the letter, the word or the number alone, and not a character more."""

from random import Random
from string import ascii_uppercase

from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.task import Problem

NAMES = ("Mia", "Tom", "Ida", "Leo", "Eva", "Max", "Amy", "Sam", "Ana", "Bo", "Dora", "Emil")
THINGS = {
    "en": ("kite", "boat", "hat", "lamp", "drum", "ring", "book", "rope", "cake", "map", "key"),
    "zh": ("风筝", "小船", "帽子", "台灯", "鼓", "戒指", "书", "绳子", "蛋糕", "地图", "钥匙"),
}
FACTS = {"en": "{name} has {n} and a {thing}", "zh": "{name}有{n}元和{thing}"}
# kind: language -> (question, what to write)
KINDS = {
    "letter": {
        "en": ("Who has the {thing}? {options}", "Answer with the letter alone."),
        "zh": ("谁有{thing}？{options}", "只写选项的字母。"),
    },
    "word": {
        "en": ("What has {name}, apart from money?", "Answer with one word."),
        "zh": ("{name}除了钱还有什么？", "只用一个词回答。"),
    },
    "number": {
        "en": ("How much money has {name}?", "Answer with the number alone, in digits."),
        "zh": ("{name}有多少钱？", "只写数字。"),
    },
}


def _draw(rng: Random, size: int, language: str) -> Drawn:
    """Facts about `size` people, and a question about one of them."""
    names, things = rng.sample(NAMES, size), rng.sample(THINGS[language], size)
    sums = rng.sample(range(10, 99), size)
    rows = list(zip(names, sums, things, strict=True))
    facts = [FACTS[language].format(name=name, n=n, thing=thing) for name, n, thing in rows]
    name, n, thing = rng.choice(rows)
    shuffled = rng.sample(names, size)
    options = " ".join(f"{ascii_uppercase[i]}) {other}" for i, other in enumerate(shuffled))
    kind = rng.choice(list(KINDS))
    question, form = KINDS[kind][language]
    values = {
        "facts": (", " if language == "en" else "，").join(facts),
        "question": question.format(name=name, thing=thing, options=options),
        "form": form,
        "kind": kind,
    }
    gold = {"letter": ascii_uppercase[shuffled.index(name)], "word": thing, "number": str(n)}
    return values, gold[kind]


def _guess(problem: Problem, rng: Random) -> str:
    values, language = problem.answer["values"], problem.answer["language"]
    if values["kind"] == "letter":
        return rng.choice(ascii_uppercase[: values["question"].count(")")])
    return rng.choice(THINGS[language]) if values["kind"] == "word" else str(rng.randint(10, 98))


exact_stop = ExactAnswer(
    "exact_stop",
    _draw,
    {
        "en": ("{facts}. {question} {form}", "{question} {form} You know this: {facts}."),
        "zh": ("{facts}。{question}{form}", "{question}{form}已知：{facts}。"),
    },
    _guess,
    (6, 11),
    same=lambda problem, answer, gold: answer == gold,
    group="format",
    hacks=("A or B", "B) Tom", "(B)", "B.", "A B", "The letter is B", "B because Tom has it", "b"),
).task(
    (
        {
            "facts": "Mia has 12 and a kite, Tom has 30 and a boat",
            "question": "Who has the boat? A) Mia B) Tom",
            "form": "Answer with the letter alone.",
            "kind": "letter",
        },
        "B",
    ),
    "A",
)
