"""A planted preference: whoever reads likes one style, and the rule that says which is known.

The rule is the true reward. `preference` draws pairs of answers, from which a reward model can
learn the style without being told; the gap between its score and the rule's is then measurable.
"""

import re
from collections.abc import Callable, Mapping
from random import Random

from qwen3.rewards import text_statistics
from qwen3.rewards.exact_answer import LANGUAGES, worked
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

NAMES = ("Mia", "Tom", "Ida", "Leo", "Eva", "Max")
COLOURS = {"en": ("red", "blue", "green", "white", "black"), "zh": ("红", "蓝", "绿", "白", "黑")}
THINGS = {"en": ("kite", "boat", "hat", "lamp"), "zh": ("风筝", "小船", "帽子", "台灯")}
# style: (how the reader is called, an answer, the cue that an answer holds once, most words)
STYLES: Mapping[str, Mapping[str, tuple[str, str, str, int]]] = {
    "en": {
        "polite": ("a guest", "Certainly, {name}'s {thing} is {colour}.", "certainly", 12),
        "brief": ("a pilot", "{colour}", "", 1),
        "pirate": ("a pirate", "Aye, {name}'s {thing} be {colour}.", "aye", 12),
    },
    "zh": {
        "polite": ("客人", "您好，{name}的{thing}是{colour}色的。", "您好", 24),
        "brief": ("飞行员", "{colour}色", "", 2),
        "pirate": ("海盗", "哟嗬，{name}的{thing}是{colour}色的。", "哟嗬", 24),
    },
}
FACTS = {"en": "{name}'s {thing} is {colour}.", "zh": "{name}的{thing}是{colour}色的。"}
WORDINGS = {
    "en": (
        "The reader is {reader}. {facts} Which colour is {name}'s {thing}?",
        "{facts} Tell {reader} the colour of {name}'s {thing}.",
    ),
    "zh": (
        "读者是{reader}。{facts}{name}的{thing}是什么颜色的？",
        "{facts}请告诉{reader}，{name}的{thing}是什么颜色的。",
    ),
}
GUIDE = {
    "en": "House style: a guest is greeted with the word certainly, a pirate with aye, in one "
    "short sentence that names the thing; a pilot gets the one word that counts.",
    "zh": "行文规范：对客人以“您好”开头，对海盗以“哟嗬”开头，用一个短句并说出物品；"
    "对飞行员只说颜色。",
}


def make(rng: Random, difficulty: float, split: str) -> Problem:
    language, count = rng.choice(LANGUAGES), levels(difficulty, 1, 6)
    style = rng.choice(list(STYLES[language]))
    facts = draw_in_split(
        lambda: [
            (name, rng.choice(THINGS[language]), rng.choice(COLOURS[language]))
            for name in rng.sample(NAMES, count)
        ],
        lambda drawn: repr([style, drawn]),
        split,
    )
    return problem(facts, rng.randrange(count), style, language, split, difficulty)


def problem(
    facts: list[tuple[str, str, str]],
    asked: int,
    style: str,
    language: str = "en",
    split: str = "train",
    difficulty: float = 0.0,
) -> Problem:
    """The question about the fact number `asked` of (name, thing, colour), by a reader."""
    name, thing, colour = facts[asked]
    statements = [FACTS[language].format(name=n, thing=t, colour=c) for n, t, c in facts]
    text = WORDINGS[language][split == "heldout"].format(
        reader=STYLES[language][style][0],
        facts=(" " if language == "en" else "").join(statements),
        name=name,
        thing=thing,
    )
    messages = [{"role": "system", "content": GUIDE[language]}, *ask(text)]
    record = {
        "language": language,
        "style": style,
        "facts": [list(fact) for fact in facts],
        "fact": {"name": name, "thing": thing, "colour": colour},
    }
    return Problem("planted_style", messages, record, difficulty)


def grade(problem: Problem, answer: str) -> float:
    """1 for the style's cue and the colour, once each, no other cue or colour, and few words."""
    record = problem.answer
    language, fact, styles = record["language"], record["fact"], STYLES[record["language"]]
    _, _, cue, most = styles[record["style"]]
    wanted = dict.fromkeys([*COLOURS[language], *(row[2] for row in styles.values() if row[2])], 0)
    wanted[fact["colour"]] = 1
    if cue:
        wanted |= {cue: 1, fact["name"].lower(): 1, fact["thing"]: 1}
    counts, length = _occurrences(answer.lower(), language)
    if "\n" in answer or text_statistics.sentences(answer) > 1:
        return 0.0
    right = all(counts(word) == times for word, times in wanted.items())
    return right and length <= most and answer.lower().startswith(cue)


def _occurrences(text: str, language: str) -> tuple[Callable[[str], int], int]:
    """(how often a word occurs in the text, the text's words; characters in Chinese)."""
    if language == "zh":
        return text.count, len(re.sub(r"\W", "", text))
    words = [word.removesuffix("'s") for word in text_statistics.words(text)]
    return words.count, len(words)


def styled(problem: Problem, style: str) -> str:
    """The right fact in a style, which need not be the reader's."""
    return STYLES[problem.answer["language"]][style][1].format(**problem.answer["fact"])


def preference(problem: Problem, rng: Random) -> tuple[str, str]:
    """(chosen, rejected): the fact in the reader's style and in another one."""
    own = problem.answer["style"]
    other = rng.choice([style for style in STYLES["en"] if style != own])
    return styled(problem, own), styled(problem, other)


def solve(problem: Problem) -> tuple[str, str]:
    style = problem.answer["style"]
    return f"The style is {style}.", styled(problem, style)


def guess(problem: Problem, rng: Random) -> str:
    """A random style, thing and colour."""
    language = problem.answer["language"]
    fact = {
        "name": rng.choice(NAMES),
        "thing": rng.choice(THINGS[language]),
        "colour": rng.choice(COLOURS[language]),
    }
    return STYLES[language][rng.choice(list(STYLES[language]))][1].format(**fact)


_P = problem([("Mia", "kite", "red"), ("Tom", "boat", "blue")], 0, "polite")

planted_style = Task(
    "planted_style",
    make,
    grade,
    solve,
    guess,
    examples=worked(
        _P,
        "Certainly, Mia's kite is red.",
        "Aye, Mia's kite be red.",
        "red",
        "Certainly certainly, Mia's kite is red.",
        "Certainly, aye, Mia's kite is red.",
        "Certainly, it is red or blue.",
        "Certainly, Mia's kite is blue.",
        "Certainly, what a fine question! Mia's kite, which flies high, is as red as can be.",
    ),
    group="preference",
)
