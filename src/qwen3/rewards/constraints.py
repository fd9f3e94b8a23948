"""Instruction following: one to four stacked constraints on a short text, all to be satisfied.

Train and held-out problems use different wordings and different *combinations* of constraints (a
hash of the set of kinds), so held-out score measures composition, not memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from qwen3.rewards import constraint_checks as checks
from qwen3.rewards import prose_templates, text_statistics
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels


@dataclass(frozen=True)
class ConstraintKind:
    """One kind of constraint: how it is drawn, worded and checked."""

    slot: str  # a problem has at most one kind of each slot
    check: Callable[..., bool]  # check(answer, **parameters), of constraint_checks
    draw: Callable[[Random], dict[str, Any]]  # draws the parameters
    train: str  # wording of the training split, with {parameters}
    heldout: str  # wording of the held-out split


# No phrase of prose_templates holds them.
UNUSED_WORDS = {"zebra", "quantum", "pirate", "velvet", "tomato", "laser"}
PHRASES = ("That is all there is to say.", "Thank you and good night.", "Let us see what comes.")

KINDS = {
    "at_least_words": ConstraintKind(
        "length",
        checks.words,
        lambda r: {"compare": "at least", "n": r.randint(30, 90)},
        "Write at least {n} words.",
        "No fewer than {n} words, please.",
    ),
    "at_most_words": ConstraintKind(
        "length",
        checks.words,
        lambda r: {"compare": "at most", "n": r.randint(90, 150)},
        "Write at most {n} words.",
        "Stay within {n} words.",
    ),
    "lowercase": ConstraintKind(
        "case",
        checks.lowercase,
        lambda r: {},
        "Use lower case letters only.",
        "No capital letters anywhere.",
    ),
    "uppercase": ConstraintKind(
        "case",
        checks.uppercase,
        lambda r: {},
        "Use capital letters only.",
        "The entire text must be in capitals.",
    ),
    "no_comma": ConstraintKind(
        "comma", checks.no_comma, lambda r: {}, "Do not use any commas.", "Avoid commas altogether."
    ),
    "keywords": ConstraintKind(
        "keyword",
        checks.keywords,
        lambda r: {"words": r.sample(prose_templates.FILLERS, 2)},
        "Include the words {words}.",
        "Make sure that {words} occur.",
    ),
    "frequency": ConstraintKind(
        "keyword",
        checks.frequency,
        lambda r: {
            "word": r.choice(prose_templates.FILLERS),
            "compare": "exactly",
            "n": r.randint(2, 5),
        },
        "Use the word {word} exactly {n} times.",
        "{word} must occur {n} times, no more, no less.",
    ),
    "forbidden": ConstraintKind(
        "forbidden",
        checks.forbidden,
        lambda r: {"words": sorted(r.sample(sorted(UNUSED_WORDS), 2))},
        "Do not use the words {words}.",
        "Leave out the words {words}.",
    ),
    "letter": ConstraintKind(
        "letter",
        checks.letter,
        lambda r: {"letter": r.choice("!?#"), "compare": "exactly", "n": r.randint(2, 6)},
        "The character {letter} must appear exactly {n} times.",
        "Put in the character {letter} {n} times, no more, no less.",
    ),
    "bullets": ConstraintKind(
        "shape",
        checks.bullets,
        lambda r: {"n": r.randint(2, 7)},
        "Answer with exactly {n} bullet points (lines that start with '- ').",
        "Your text is a list of {n} bullets, each on a line that starts with '- '.",
    ),
    "paragraphs": ConstraintKind(
        "shape",
        checks.paragraphs,
        lambda r: {"n": r.randint(2, 5)},
        "Write exactly {n} paragraphs with an empty line in between.",
        "Divide the text by empty lines into {n} paragraphs.",
    ),
    "sections": ConstraintKind(
        "shape",
        checks.sections,
        lambda r: {"mark": r.choice(("Part", "Section")), "n": r.randint(2, 4)},
        "Divide it into {n} sections, each headed {mark} 1, {mark} 2 and so on.",
        "It needs {n} headings on lines of their own: {mark} 1, {mark} 2, ...",
    ),
    "highlights": ConstraintKind(
        "highlight",
        checks.highlights,
        lambda r: {"n": r.randint(1, 4)},
        "Highlight at least {n} passages with asterisks, *like this*.",
        "Set {n} or more passages between asterisks, *as here*.",
    ),
    "placeholders": ConstraintKind(
        "placeholder",
        checks.placeholders,
        lambda r: {"n": r.randint(1, 4)},
        "Use at least {n} placeholders in square brackets, such as [name].",
        "It should have {n} or more blanks to fill in, written like [place].",
    ),
    "title": ConstraintKind(
        "title",
        checks.title,
        lambda r: {},
        "Give it a title in double angle brackets, <<like this>>.",
        "Start with a title written <<so>>.",
    ),
    "end_phrase": ConstraintKind(
        "end",
        checks.end_phrase,
        lambda r: {"phrase": r.choice(PHRASES)},
        'End with the words "{phrase}"',
        'The very last words must be "{phrase}"',
    ),
    "postscript": ConstraintKind(
        "end",
        checks.postscript,
        lambda r: {"mark": "P.S."},
        "Add a postscript that starts with {mark}",
        "Close with a line that begins {mark}",
    ),
    "quotation": ConstraintKind(
        "wrap",
        checks.quotation,
        lambda r: {},
        "Put the whole answer in double quotation marks.",
        "Everything you write must stand between double quotation marks.",
    ),
}
OPENING = {
    "train": "Write a short text about {topic}.",
    "heldout": "I need a few lines whose subject is {topic}.",
}
SHORTEST = 8  # words of an answer


def make(rng: Random, difficulty: float, split: str) -> Problem:
    count = levels(difficulty, 1, 4)
    names = draw_in_split(lambda: _draw(rng, count), ",".join, split)
    kinds = {name: KINDS[name].draw(rng) for name in names}
    topic = rng.choice(list(prose_templates.TOPICS[split]))
    return problem(topic, kinds, split, difficulty)


def _draw(rng: Random, count: int) -> list[str]:
    """Sorted names of `count` kinds with different slots."""
    slots: dict[str, str] = {}
    for name in rng.sample(list(KINDS), len(KINDS)):
        slots.setdefault(KINDS[name].slot, name)
    return sorted(rng.sample(list(slots.values()), count))


def problem(
    topic: str, kinds: Mapping[str, dict], split: str = "train", difficulty: float = 0.0
) -> Problem:
    """The Problem on a topic with the constraints `kinds`: {name of KINDS: its parameters}.

    Raises ValueError for a name that is not in KINDS.
    """
    for name in kinds:
        if name not in KINDS:
            raise ValueError(f"constraint {name!r} is none of {list(KINDS)}")
    lines = [OPENING[split].format(topic=topic)]
    for name, parameters in kinds.items():
        shown = {k: ", ".join(v) if isinstance(v, list) else v for k, v in parameters.items()}
        lines.append(getattr(KINDS[name], split).format(**shown))
    record = {"topic": topic, "constraints": dict(kinds)}
    return Problem("constraints", ask(" ".join(lines)), record, difficulty)


def satisfied(problem: Problem, answer: str) -> dict[str, bool]:
    """Which constraints hold, by name: in logs their share is a smoother figure than the reward."""
    constraints = problem.answer["constraints"]
    return {name: KINDS[name].check(answer, **kw) for name, kw in constraints.items()}


def grade(problem: Problem, answer: str) -> float:
    """1 if the answer is prose on the topic and all constraints hold."""
    return on_topic(problem, answer) and all(satisfied(problem, answer).values())


def on_topic(problem: Problem, answer: str) -> bool:
    """Whether the answer names the topic, has eight words, and is neither an echo nor a stutter."""
    topic, prompt = problem.answer["topic"].split()[-1], problem.messages[-1]["content"]
    if len(text_statistics.words(answer)) < SHORTEST or not checks.count_word(answer, topic):
        return False
    return not (text_statistics.echoes(answer, prompt) or text_statistics.stutters(answer))


def solve(problem: Problem) -> tuple[str, str]:
    names = list(problem.answer["constraints"])
    return f"To do: {', '.join(names)}.", compose(problem, Random(repr(problem.answer)))


def compose(problem: Problem, rng: Random) -> str:
    """A text that satisfies all constraints: units of prose, then inserts, ends, case, quotes."""
    constraints = problem.answer["constraints"]
    shape = next((n for n in ("bullets", "paragraphs", "sections") if n in constraints), None)
    units = [prose_templates.sentence(rng) for _ in range(constraints[shape]["n"] if shape else 2)]
    for word in prose_templates.FILLERS:  # constraints count these words: none by accident
        units = [unit.replace(f" {word}", "") for unit in units]
    units[0] = f"This is about {problem.answer['topic']}. {units[0]}"
    units[-1] += "".join(f" {part}." for part in inserts(constraints))
    least = constraints.get("at_least_words", {"n": 0})["n"]
    while sum(len(text_statistics.words(unit)) for unit in units) < least:
        units[0] += " " + prose_templates.sentence(rng)
    return finish(_shape(units, shape, constraints), constraints)


def _shape(units: list[str], shape: str | None, constraints: Mapping[str, dict]) -> str:
    """The units as bullets, paragraphs, sections or running text (None)."""
    if shape == "bullets":
        return "\n".join(f"- {unit}" for unit in units)
    if shape == "sections":
        mark = constraints["sections"]["mark"]
        return "\n".join(f"{mark} {i}\n{unit}" for i, unit in enumerate(units, 1))
    return ("\n\n" if shape == "paragraphs" else " ").join(units)


def inserts(constraints: Mapping[str, dict]) -> list[str]:
    """Phrases that satisfy the constraints on content."""
    parts = [f"we say {word}" for word in constraints.get("keywords", {"words": []})["words"]]
    if "frequency" in constraints:
        word, n = constraints["frequency"]["word"], constraints["frequency"]["n"]
        parts += [f"once more we say {word} number {i}" for i in range(1, n + 1)]
    if "letter" in constraints:
        parts += [f"mark {constraints['letter']['letter'] * constraints['letter']['n']}"]
    parts += [f"look at *passage {i}*" for i in range(constraints.get("highlights", {"n": 0})["n"])]
    parts += [f"ask [name {i}]" for i in range(constraints.get("placeholders", {"n": 0})["n"])]
    return parts


def finish(body: str, constraints: Mapping[str, dict]) -> str:
    """The body with title, ending, letter case and quotation marks as the constraints ask."""
    if "title" in constraints:
        body = (
            f"<<Some lines>> {body}" if "paragraphs" in constraints else f"<<Some lines>>\n{body}"
        )
    if "end_phrase" in constraints:
        body += f" {constraints['end_phrase']['phrase']}"
    if "postscript" in constraints:
        body += "\nP.S. There is more to come."
    if "lowercase" in constraints:
        body = body.lower()
    if "uppercase" in constraints:
        body = body.upper()
    if "quotation" in constraints:
        body = f'"\n{body}\n"'  # the first bullet keeps its line
    return body


def guess(problem: Problem, rng: Random) -> str:
    """Prose that names the topic and heeds no constraint."""
    prose = " ".join(prose_templates.sentence(rng) for _ in range(rng.randint(1, 12)))
    first, rest = prose[: len(prose) // 2], prose[len(prose) // 2 :]
    topic, filler = problem.answer["topic"], rng.choice(prose_templates.FILLERS)
    return f"{first}, {filler}, zebra, {topic}, tomato {rest}"


_BULLETS = problem("rain", {"bullets": {"n": 2}, "lowercase": {}})
_END = problem("rain", {"end_phrase": {"phrase": PHRASES[1]}, "no_comma": {}})

stacked = Task(
    "constraints",
    make,
    grade,
    solve,
    guess,
    group="instruction",
    examples=(
        (_BULLETS, "- the rain falls on every roof\n- it fills the small river", 1.0),
        (_BULLETS, "- The rain falls on every roof\n- it fills the small river", 0.0),
        (_BULLETS, "- the rain falls on every roof\n- it fills the river\n- so it goes", 0.0),
        (_BULLETS, "- rain\n- rain", 0.0),
        (_END, "The rain falls on every roof today. Thank you and good night.", 1.0),
        (_END, "The rain, as ever, falls on the roof. Thank you and good night.", 0.0),
        (_END, "The rain falls on the roof. Thank you and good night. Bye.", 0.0),
        (_END, _END.messages[0]["content"], 0.0),
    ),
)
