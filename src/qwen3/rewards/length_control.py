"""Length control: a text on a topic of at most, or about, n words, sentences or characters.

The text must hold the topic's words, be no echo and no stutter, and fill at least half of an upper
bound. "about n" pays 1 - |d| / tolerance (a quarter of n, at least 2), and nothing below one half.
"""

from collections.abc import Callable
from random import Random

from qwen3.rewards import prose_templates, text_statistics
from qwen3.rewards.task import Problem, Task, ask, levels

UNITS: dict[str, Callable[[str], int]] = {
    "words": lambda answer: len(text_statistics.words(answer)),
    "sentences": text_statistics.sentences,
    "characters": len,
}
RANGES = {"words": (20, 160), "sentences": (3, 14), "characters": (120, 900)}
WORDINGS = {
    "train": {
        "at most": "Write about {topic} in at most {n} {unit}, but use at least half of them.",
        "about": "Write a text on {topic} of about {n} {unit}.",
        "keywords": "Use the words {keywords}.",
    },
    "heldout": {
        "at most": "Your subject is {topic}. Do not go beyond {n} {unit}, nor below half of that.",
        "about": "Your subject is {topic}. Aim for {n} {unit}, as closely as you can.",
        "keywords": "These words must occur: {keywords}.",
    },
}


def make(rng: Random, difficulty: float, split: str) -> Problem:
    unit, kind = rng.choice(list(UNITS)), rng.choice(("at most", "about"))
    low, high = RANGES[unit]
    top = levels(difficulty, low + (high - low) // 8, high)
    n = rng.randint(low, top)
    topic = rng.choice(list(prose_templates.TOPICS[split]))
    keywords = list(prose_templates.TOPICS[split][topic])
    wording = WORDINGS[split]
    content = wording[kind].format(topic=topic, n=n, unit=unit)
    content += " " + wording["keywords"].format(keywords=", ".join(keywords))
    record = {"unit": unit, "kind": kind, "n": n, "keywords": keywords}
    return Problem("length_control", ask(content), record, difficulty)


def grade(problem: Problem, answer: str) -> float:
    record = problem.answer
    answer_words = {word.lower() for word in text_statistics.words(answer)}
    if not answer_words.issuperset(record["keywords"]):
        return 0.0
    prompt = problem.messages[-1]["content"]
    if text_statistics.echoes(answer, prompt) or text_statistics.stutters(answer):
        return 0.0
    count, n = UNITS[record["unit"]](answer), record["n"]
    if record["kind"] == "at most":
        return n / 2 <= count <= n
    value = max(0.0, 1 - abs(count - n) / max(2, n / 4))
    return value if value >= 0.5 else 0.0


def solve(problem: Problem) -> tuple[str, str]:
    """Plain sentences, cut or filled up to exactly n."""
    record, rng = problem.answer, Random(repr(problem.answer))
    unit, n = record["unit"], record["n"]
    opening = "Here come {} with {} near {}".format(*record["keywords"])
    if unit == "words":
        missing = n - len(opening.split())
        body = f"{opening} {' '.join(prose_templates.plain_words(rng, missing))}."
    elif unit == "sentences":
        body = " ".join([opening + ".", *(prose_templates.sentence(rng) for _ in range(n - 1))])
    else:
        body = f"{opening} {' '.join(prose_templates.plain_words(rng, n))}"[: n - 1].rstrip()
        body += "." * (n - len(body))
    return f"{n} {unit}, counted as I go.", body


def guess(problem: Problem, rng: Random) -> str:
    """Random words, a random number of them."""
    pool = prose_templates.vocabulary() + problem.answer["keywords"]
    return " ".join(rng.choices(pool, k=rng.randint(1, 200))) + "."


_TEN = Problem(
    "length_control",
    ask("Write about rain in at most 10 words, half of them used."),
    {"unit": "words", "kind": "at most", "n": 10, "keywords": ["cloud", "river"]},
)
_ABOUT = Problem(
    "length_control",
    ask("Write a text on rain of about 3 sentences."),
    {"unit": "sentences", "kind": "about", "n": 3, "keywords": ["cloud"]},
)

bounded = Task(
    "length_control",
    make,
    grade,
    solve,
    guess,
    group="instruction",
    examples=(
        (_TEN, "A grey cloud feeds the slow river below.", 1.0),
        (_TEN, "Cloud, river.", 0.0),
        (_TEN, "cloud river cloud river cloud river cloud river", 0.0),
        (_TEN, "A grey cloud feeds the slow river below while people run for cover.", 0.0),
        (_ABOUT, "A cloud. It comes. It goes!", 1.0),
        (_ABOUT, "A cloud. It comes.", 0.5),
        (_ABOUT, "A cloud comes", 0.0),
        (_ABOUT, "Write a text on rain of about 3 sentences. Cloud. Cloud.", 0.0),
    ),
)
