"""A small made-up encyclopedia: towns, their facts and the numbered sources that tell them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

SYLLABLES = ("bar", "den", "fol", "gar", "hun", "kel", "lor", "mir", "nor", "pel", "sel", "tor")
ENDINGS = ("a", "en", "ia", "o", "um", "wick")
PEOPLE = ("Ada Moss", "Ben Frey", "Cleo Hart", "Dan Roe", "Eli Stone", "Fay Lund", "Gil Marsh")
PLANTS = {
    "en": ("barley", "tea", "hops", "cotton", "rice", "olives", "saffron"),
    "zh": ("大麦", "茶叶", "啤酒花", "棉花", "水稻", "橄榄", "藏红花"),
}

# attribute: (statement, question) in English and in Chinese, draw of a value in a language
Attribute = tuple[tuple[str, str], tuple[str, str], Callable[[Random, str], str]]
ATTRIBUTES: Mapping[str, Attribute] = {
    "year": (
        ("{town} was founded in {value}.", "In which year was {town} founded?"),
        ("{town}建于{value}年。", "{town}建于哪一年？"),
        lambda rng, language: str(rng.randint(1100, 1950)),
    ),
    "mayor": (
        ("The mayor of {town} is {value}.", "Who is the mayor of {town}?"),
        ("{town}的市长是{value}。", "{town}的市长是谁？"),
        lambda rng, language: rng.choice(PEOPLE),
    ),
    "plant": (
        ("The fields around {town} grow {value}.", "What do the fields around {town} grow?"),
        ("{town}周围的田里种着{value}。", "{town}周围的田里种着什么？"),
        lambda rng, language: rng.choice(PLANTS[language]),
    ),
    "height": (
        ("{town} lies {value} metres above the sea.", "How many metres high does {town} lie?"),
        ("{town}海拔{value}米。", "{town}海拔多少米？"),
        lambda rng, language: str(rng.randint(20, 990)),
    ),
}


@dataclass(frozen=True)
class Fact:
    """One thing that a source says of a town."""

    town: str
    attribute: str  # of ATTRIBUTES
    value: str

    def statement(self, language: str) -> str:
        return self._wording(language)[0].format(town=self.town, value=self.value)

    def question(self, language: str) -> str:
        return self._wording(language)[1].format(town=self.town)

    def _wording(self, language: str) -> tuple[str, str]:
        english, chinese, _ = ATTRIBUTES[self.attribute]
        return chinese if language == "zh" else english


def draw_facts(rng: Random, count: int, language: str) -> list[Fact]:
    """`count` facts, of which no two are about the same attribute of the same town."""
    towns = draw_towns(rng, max(2, count // 2))
    keys = [(town, attribute) for town in towns for attribute in ATTRIBUTES]
    return [
        Fact(town, attribute, draw_value(rng, attribute, language))
        for town, attribute in rng.sample(keys, count)
    ]


def draw_towns(rng: Random, count: int) -> list[str]:
    """`count` different names of towns."""
    names: set[str] = set()
    while len(names) < count:
        names.add((rng.choice(SYLLABLES) + rng.choice(SYLLABLES) + rng.choice(ENDINGS)).title())
    return sorted(names)


def draw_value(rng: Random, attribute: str, language: str, besides: str = "") -> str:
    """A value of the attribute that is not `besides`."""
    while (value := ATTRIBUTES[attribute][2](rng, language)) == besides:
        pass
    return value


def numbered(facts: Sequence[Fact], language: str) -> str:
    """The facts as sources [1], [2], ..., a line for each."""
    return "\n".join(f"[{i}] {fact.statement(language)}" for i, fact in enumerate(facts, 1))
