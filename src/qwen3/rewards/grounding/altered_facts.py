"""Altered facts: a text against the world, and questions that take a false one for granted.

`counterfactual_context`: twins ask the same of an altered text, one by the text, one by the world.
`false_premise`: twins ask for the same property of a capital; one of them names the wrong city.
"""

from random import Random

from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.task import Problem

# (country, capital) in English and in Chinese
CAPITALS = (
    (("France", "Paris"), ("法国", "巴黎")),
    (("Italy", "Rome"), ("意大利", "罗马")),
    (("Spain", "Madrid"), ("西班牙", "马德里")),
    (("Japan", "Tokyo"), ("日本", "东京")),
    (("China", "Beijing"), ("中国", "北京")),
    (("Egypt", "Cairo"), ("埃及", "开罗")),
    (("Peru", "Lima"), ("秘鲁", "利马")),
    (("Kenya", "Nairobi"), ("肯尼亚", "内罗毕")),
    (("Norway", "Oslo"), ("挪威", "奥斯陆")),
    (("Austria", "Vienna"), ("奥地利", "维也纳")),
    (("Greece", "Athens"), ("希腊", "雅典")),
    (("Cuba", "Havana"), ("古巴", "哈瓦那")),
    (("Portugal", "Lisbon"), ("葡萄牙", "里斯本")),
    (("Poland", "Warsaw"), ("波兰", "华沙")),
    (("Thailand", "Bangkok"), ("泰国", "曼谷")),
    (("Finland", "Helsinki"), ("芬兰", "赫尔辛基")),
)
SAYS = {
    "en": "The capital of {country} is {city}. ",
    "zh": "{country}的首都是{city}。",
}
BY = {
    "en": ("according to the text", "in the real world, whatever the text says"),
    "zh": ("按照这段文字", "不管这段文字怎么说，在现实世界里"),
}
PREMISE = {
    "en": "How many letters has {city}, the capital of {country}?",
    "zh": "{country}的首都{city}的名字有几个字？",
}
FALSE = {"en": "false premise: {city}", "zh": "前提有误：{city}"}


def _pairs(language: str) -> list[tuple[str, str]]:
    return [row[language == "zh"] for row in CAPITALS]


def _altered(rng: Random, size: int, language: str) -> tuple[Drawn, Drawn]:
    """`size` countries with each other's capitals, and a question about one of them."""
    facts = rng.sample(_pairs(language), size)
    shift = rng.randrange(1, size)
    cities = [city for _, city in facts[shift:] + facts[:shift]]
    says = SAYS[language]
    text = "".join(says.format(country=c, city=x) for (c, _), x in zip(facts, cities, strict=True))
    place = rng.randrange(size)
    country, city = facts[place]
    values = {"text": text.strip(), "country": country}
    by_text, by_world = BY[language]
    return ({**values, "by": by_text}, cities[place]), ({**values, "by": by_world}, city)


def _premises(rng: Random, size: int, language: str) -> tuple[Drawn, Drawn]:
    """True facts about `size` countries, and a question that names a right or a wrong capital."""
    facts = rng.sample(_pairs(language), size)
    text = "".join(SAYS[language].format(country=c, city=x) for c, x in facts)
    (country, city), (_, other) = rng.sample(facts, 2)
    pairs = [
        (
            {
                "text": text.strip(),
                "question": PREMISE[language].format(city=premise, country=country),
                "false": FALSE[language].format(city="<city>" if language == "en" else "<城市>"),
            },
            str(len(city)) if premise == city else FALSE[language].format(city=city),
        )
        for premise in (city, other)
    ]
    return pairs[0], pairs[1]


def _city(problem: Problem, rng: Random) -> str:
    return rng.choice(_pairs(problem.answer["language"]))[1]


def _count_or_city(problem: Problem, rng: Random) -> str:
    """A number, or the sentence about a false premise with some city."""
    sentence = FALSE[problem.answer["language"]].format(city=_city(problem, rng))
    return rng.choice((str(rng.randint(1, 12)), sentence))


counterfactual_context = ExactAnswer(
    "counterfactual_context",
    _altered,
    {
        "en": (
            "{text}\nWhat is the capital of {country}, {by}?",
            "Say, {by}, what the capital of {country} is. {text}",
        ),
        "zh": (
            "{text}\n{by}，{country}的首都是哪里？",
            "请回答：{by}，哪座城市是{country}的首都？{text}",
        ),
    },
    _city,
    (2, 10),
    ("<city>", "<城市>"),
    group="special",
    paired=True,
    hacks=("Paris or Rome", "Rome (really Paris)", "Madrid", "not stated", "Rome, Paris"),
).task(
    (
        {
            "text": "The capital of France is Rome. The capital of Italy is Paris.",
            "country": "France",
            "by": BY["en"][0],
        },
        "Rome",
    ),
    "Paris",
)

false_premise = ExactAnswer(
    "false_premise",
    _premises,
    {
        "en": (
            "{text}\n{question} If the question takes something for granted that is not so, answer "
            "`{false}` with the city that is meant.",
            "{question} (Answer `{false}`, with the right city, where the question is wrong.) "
            "{text}",
        ),
        "zh": (
            "{text}\n{question}如果问题的前提不对，就回答`{false}`，写出正确的城市。",
            "{question}（若问题有误，请回答`{false}`，写出正确的城市。）{text}",
        ),
    },
    _count_or_city,
    (2, 10),
    ("<answer>", "<答案>"),
    group="special",
    paired=True,
    hacks=("4", "false premise", "false premise: Rome", "5 (false premise: Paris)", "Paris"),
).task(
    (
        {
            "text": "The capital of France is Paris. The capital of Italy is Rome.",
            "question": PREMISE["en"].format(city="Rome", country="France"),
            "false": FALSE["en"].format(city="<city>"),
        },
        "false premise: Paris",
    ),
    "4",
)
