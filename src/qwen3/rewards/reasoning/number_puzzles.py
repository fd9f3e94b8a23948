"""Puzzles about numbers: sorting, other bases, Roman numerals, sequences, dates, times."""

from datetime import date, timedelta
from random import Random

from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.task import Problem

DIGITS = "0123456789abcdef"
ROMAN = (
    *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L")),
    *((40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)
ORDERS = {
    "en": ("increasing", "decreasing"),
    "zh": ("从小到大", "从大到小"),
}
MOVES = {"en": ("{n} days later", "{n} days earlier"), "zh": ("往后{n}天", "往前{n}天")}


def same_list(_: Problem, final: str, gold: str) -> bool:
    """The same items between commas, whatever space is around them."""
    return [x.strip() for x in final.split(",")] == gold.split(", ")


def _unsorted(rng: Random, size: int, language: str) -> Drawn:
    numbers = rng.sample(range(-999, 1000), size)
    down = rng.random() < 0.5
    gold = ", ".join(map(str, sorted(numbers, reverse=down)))
    return {"numbers": ", ".join(map(str, numbers)), "order": ORDERS[language][down]}, gold


def _shuffled(problem: Problem, rng: Random) -> str:
    numbers = problem.answer["gold"].split(", ")
    return ", ".join(rng.sample(numbers, len(numbers)))


def in_base(number: int, base: int) -> str:
    """A whole number above 0 in a base of 2..16, in lower case."""
    text = ""
    while number:
        number, digit = divmod(number, base)
        text = DIGITS[digit] + text
    return text


def _bases(rng: Random, size: int, _language: str) -> Drawn:
    low, high = rng.sample((2, 3, 5, 8, 10, 16), 2)
    number = rng.randint(4**size, 4 ** (size + 1))
    return {"number": in_base(number, low), "base": low, "other": high}, in_base(number, high)


def _digits(problem: Problem, rng: Random) -> str:
    digits = DIGITS[: problem.answer["values"]["other"]]
    return "".join(rng.choices(digits, k=len(problem.answer["gold"])))


def roman(number: int) -> str:
    """1..3999 as a Roman numeral."""
    text = ""
    for value, mark in ROMAN:
        count, number = divmod(number, value)
        text += mark * count
    return text


def _numerals(rng: Random, size: int, _language: str) -> Drawn:
    numbers = [rng.randint(30, 3999) for _ in range(size)]
    return {"numbers": ", ".join(map(str, numbers))}, ", ".join(map(roman, numbers))


def _romans(problem: Problem, rng: Random) -> str:
    return ", ".join(roman(rng.randint(30, 3999)) for _ in problem.answer["gold"].split(", "))


def _sequence(rng: Random, size: int, _language: str) -> Drawn:
    """Four terms of x -> m x + c, and the next `size`."""
    m, c, terms = rng.choice((1, 2, 3, -2)), rng.randint(1, 9), [rng.randint(2, 9)]
    for _ in range(3 + size):
        terms.append(m * terms[-1] + c)
    shown, rest = terms[:4], terms[4:]
    values = {"shown": ", ".join(map(str, shown)), "count": size}
    return values, ", ".join(map(str, rest))


def _terms(problem: Problem, rng: Random) -> str:
    return ", ".join(str(rng.randint(-200, 200)) for _ in problem.answer["gold"].split(", "))


def _dates(rng: Random, size: int, language: str) -> Drawn:
    start = day = date(2020, 1, 1) + timedelta(rng.randrange(3650))
    steps = []
    for _ in range(size):
        n, back = rng.randint(5, 99), rng.random() < 0.3
        day += timedelta(-n if back else n)
        steps.append(MOVES[language][back].format(n=n))
    return {"start": start.isoformat(), "steps": ", ".join(steps)}, day.isoformat()


def _some_date(problem: Problem, rng: Random) -> str:
    start = date.fromisoformat(problem.answer["values"]["start"])
    return (start + timedelta(rng.randint(-90, 200))).isoformat()


def _intervals(rng: Random, size: int, _language: str) -> Drawn:
    """Overlapping opening hours, and how long at least one of them lasts."""
    spans, minutes = [], set[int]()
    for _ in range(size):
        start = rng.randrange(6 * 60, 20 * 60, 5)
        end = start + rng.randrange(10, 235, 5)
        minutes.update(range(start, end))
        spans.append(f"{_clock(start)}-{_clock(end)}")
    return {"spans": ", ".join(spans)}, _clock(len(minutes))


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


number_sorting = ExactAnswer(
    "number_sorting",
    _unsorted,
    {
        "en": (
            "Sort in {order} order: {numbers}",
            "Write these numbers in {order} order: {numbers}",
        ),
        "zh": ("{order}排列：{numbers}", "请{order}写出这些数：{numbers}"),
    },
    _shuffled,
    (4, 14),
    ("<number>, <number>, ...", "<数>, <数>, ..."),
    same=same_list,
    key=lambda drawn: repr(sorted(drawn[0]["numbers"].split(", "))),
).task(({"numbers": "5, -3, 12", "order": "increasing"}, "-3, 5, 12"), "12, 5, -3")

base_conversion = ExactAnswer(
    "base_conversion",
    _bases,
    {
        "en": (
            "Write the number {number} (base {base}) in base {other}.",
            "In base {base} a number is {number}. What is it in base {other}?",
        ),
        "zh": (
            "把{base}进制数{number}写成{other}进制。",
            "{base}进制的{number}，用{other}进制怎么写？",
        ),
    },
    _digits,
    (2, 10),
    ("<digits, lower case>", "<数字，小写>"),
).task(({"number": "1010", "base": 2, "other": 16}, "a"), "10")

roman_numerals = ExactAnswer(
    "roman_numerals",
    _numerals,
    {
        "en": ("Write as Roman numerals: {numbers}", "What are {numbers} in Roman numerals?"),
        "zh": ("写成罗马数字：{numbers}", "{numbers}用罗马数字怎么写？"),
    },
    _romans,
    (1, 6),
    ("<numeral>, ...", "<罗马数字>, ..."),
    same=same_list,
).task(({"numbers": "14, 90"}, "XIV, XC"), "XIIII, LXXXX")

number_sequence = ExactAnswer(
    "number_sequence",
    _sequence,
    {
        "en": (
            "Every number is the one before it times a fixed number plus a fixed number: {shown}. "
            "Which are the next {count}?",
            "Multiply by the same, then add the same: {shown}, ... Go on with {count} more.",
        ),
        "zh": (
            "每个数都是前一个数乘以一个定数再加一个定数：{shown}。接下来的{count}个数是什么？",
            "总是乘同一个数再加同一个数：{shown}，……请再写{count}个。",
        ),
    },
    _terms,
    (1, 8),
    ("<number>, ...", "<数>, ..."),
    same=same_list,
).task(({"shown": "2, 5, 11, 23", "count": 2}, "47, 95"), "46, 92")

calendar = ExactAnswer(
    "calendar",
    _dates,
    {
        "en": (
            "Begin at {start}. Go {steps}. Which date is it?",
            "It is {start}. Then we move: {steps}. What date do we arrive at?",
        ),
        "zh": ("从{start}开始，{steps}，是哪一天？", "现在是{start}。依次{steps}，到了哪一天？"),
    },
    _some_date,
    (1, 7),
    ("<YYYY-MM-DD>", "<YYYY-MM-DD>"),
).task(({"start": "2024-02-27", "steps": "3 days later"}, "2024-03-01"), "2024-03-02")

time_intervals = ExactAnswer(
    "time_intervals",
    _intervals,
    {
        "en": (
            "Shops are open at these hours: {spans}. For how long is at least one of them open?",
            "Lamps burn at {spans}. How long is it light, counting no minute twice?",
        ),
        "zh": (
            "几家商店的营业时间是：{spans}。至少有一家营业的时间共有多长？",
            "几盏灯亮的时间是{spans}。总共亮了多久？重叠的时间只算一次。",
        ),
    },
    lambda problem, rng: _clock(rng.randrange(10, 600, 5)),
    (1, 7),
    ("<HH:MM>", "<HH:MM>"),
).task(({"spans": "09:00-10:30, 10:00-11:15"}, "02:15"), "02:45")
