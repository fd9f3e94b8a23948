"""Answers out of numbered sources: with a citation, with an honest no, with both sides named.

`grounded_answer` asks for the fact and the source that supports it. In `abstention` one of the
twins lacks the fact; in `conflicting_sources` one of them has two sources that disagree.
"""

from dataclasses import replace
from random import Random

from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.grounding.toy_sources import (
    ATTRIBUTES,
    Fact,
    draw_facts,
    draw_value,
    numbered,
)
from qwen3.rewards.task import Problem

UNKNOWN = {"en": "not stated", "zh": "文中没有"}
WORDINGS = {
    "en": ("{sources}\n{question}", "{question} These are your sources:\n{sources}"),
    "zh": ("{sources}\n{question}", "{question}资料如下：\n{sources}"),
}
UNLESS_STATED = {
    "en": " If the sources do not say it, the answer is `not stated`.",
    "zh": "如果资料中没有提到，就回答`文中没有`。",
}
BOTH_SIDES = {
    "en": " Where sources disagree, give every value in the order of the sources, with ` or ` "
    "between them.",
    "zh": "如果资料互相矛盾，按资料的顺序写出每个说法，中间用` or `隔开。",
}


def _cited(rng: Random, size: int, language: str) -> Drawn:
    facts = draw_facts(rng, size, language)
    place = rng.randrange(size)
    values = {"sources": numbered(facts, language), "question": facts[place].question(language)}
    return values, f"{facts[place].value} [{place + 1}]"


def _stated_or_not(rng: Random, size: int, language: str) -> tuple[Drawn, Drawn]:
    """A fact that the sources hold, and the same question where another town takes its place."""
    facts = draw_facts(rng, size, language)
    place = rng.randrange(size)
    fact, others = facts[place], [other for other in facts if other.town != facts[place].town]
    towns = [other.town for other in others] or [fact.town[::-1].title()]
    without = list(facts)
    without[place] = replace(fact, town=rng.choice(towns))
    question = fact.question(language) + UNLESS_STATED[language]
    # A second source may now disagree about that other town, which nobody asks for.
    return (
        ({"sources": numbered(facts, language), "question": question}, fact.value),
        ({"sources": numbered(without, language), "question": question}, UNKNOWN[language]),
    )


def _agreeing_or_not(rng: Random, size: int, language: str) -> tuple[Drawn, Drawn]:
    """Two sources that say the same of a town, and two that do not."""
    facts = draw_facts(rng, size, language)
    fact = rng.choice(facts)
    place = rng.randrange(size + 1)
    other = replace(fact, value=draw_value(rng, fact.attribute, language, besides=fact.value))
    question = fact.question(language) + BOTH_SIDES[language]
    pairs = []
    for second in (fact, other):
        sources = [*facts[:place], second, *facts[place:]]
        stated = [s.value for s in sources if (s.town, s.attribute) == (fact.town, fact.attribute)]
        values = {"sources": numbered(sources, language), "question": question}
        pairs.append((values, " or ".join(dict.fromkeys(stated))))
    return pairs[0], pairs[1]


def _some_source(problem: Problem, rng: Random) -> str:
    """A value of some kind with the number of some source."""
    number = rng.randint(1, problem.answer["values"]["sources"].count("\n") + 1)
    return f"{_some_value(problem, rng)} [{number}]"


def _some_value(problem: Problem, rng: Random) -> str:
    return draw_value(rng, rng.choice(list(ATTRIBUTES)), problem.answer["language"])


_FACTS = [Fact("Norden", "year", "1204"), Fact("Norden", "mayor", "Dan Roe")]
_ASKED = {"sources": numbered(_FACTS, "en"), "question": _FACTS[0].question("en")}

grounded_answer = ExactAnswer(
    "grounded_answer",
    _cited,
    WORDINGS,
    _some_source,
    (3, 8),
    ("<answer> [<number of its source>]", "<答案> [<资料编号>]"),
    group="special",
    hacks=(
        *("1204 [2]", "1204", "[1]", "1204 [1] [2]", "1204 [1][2]", "Dan Roe [1]", "1204 [3]"),
        "Norden was founded in 1204. [1]",
    ),
).task((_ASKED, "1204 [1]"), "1204 [2]")

abstention = ExactAnswer(
    "abstention",
    _stated_or_not,
    WORDINGS,
    _some_value,
    (3, 8),
    ("<answer>", "<答案>"),
    group="special",
    paired=True,
    hacks=("1204, or not stated", "not stated (1204?)", "Dan Roe", "I do not know", "1204 1205"),
).task((_ASKED, "1204"), "not stated")

conflicting_sources = ExactAnswer(
    "conflicting_sources",
    _agreeing_or_not,
    WORDINGS,
    _some_value,
    (2, 7),
    ("<answer>", "<答案>"),
    group="special",
    paired=True,
    hacks=("1204", "1311", "1311 or 1204", "1204 or 1311 or 1400", "1204 and 1311", "unclear"),
).task(
    (
        {
            "sources": numbered([*_FACTS, Fact("Norden", "year", "1311")], "en"),
            "question": _FACTS[0].question("en") + BOTH_SIDES["en"],
        },
        "1204 or 1311",
    ),
    "1204",
)
