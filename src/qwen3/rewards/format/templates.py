"""Filling a given template: a letter, a receipt, a page with headings, a sorted table, quoted CSV.

The whole answer must be the filled template, line by line: wrong order, a fence or a word too many
score 0.
"""

import csv
import io
from collections.abc import Callable, Mapping
from random import Random

from qwen3.rewards import structured_output
from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.task import Problem

ITEMS = {
    "en": ("lamp", "chair", "pen", "mug", "bag, small", "clock", "rug", 'frame "A4"'),
    "zh": ("台灯", "椅子", "钢笔", "杯子", "小包, 红", "时钟", "地毯", '相框"A4"'),
}
NAMES = ("Ana", "Bela", "Chen", "Dora", "Emil", "Faye", "Goran", "Hana")
Rows = list[tuple[str, int, int]]  # (item, how many, price in euros)


def _letter(name: str, rows: Rows) -> str:
    lines = [f"- {count} x {item}" for item, count, _ in rows]
    return "\n".join([f"To: {name}", "Items:", *lines, f"Total: {_total(rows)}"])


def _headings(name: str, rows: Rows) -> str:
    parts = [f"## {item}\nCount: {count}\nPrice: {price}" for item, count, price in rows]
    return "\n\n".join([f"# {name}", *parts])


def _tags(name: str, rows: Rows) -> str:
    lines = [
        f'  <item count="{count}" price="{price}">{item}</item>' for item, count, price in rows
    ]
    return "\n".join([f"<order for={name}>", *lines, "</order>"])


def _table(_: str, rows: Rows) -> str:
    ordered = sorted(rows, key=lambda row: row[2])
    lines = [f"| {item} | {count} | {price} |" for item, count, price in ordered]
    return "\n".join(["| item | count | price |", "|---|---|---|", *lines])


def _csv(_: str, rows: Rows) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([("item", "count", "price"), *rows])
    return stream.getvalue().strip()


def _total(rows: Rows) -> int:
    return sum(count * price for _, count, price in rows)


# form: (writer, how it is asked for in English and Chinese)
FORMS: Mapping[str, tuple[Callable[[str, Rows], str], str, str]] = {
    "letter": (
        _letter,
        "Fill in:\nTo: <name>\nItems:\n- <count> x <item>\n(a line for every item)\n"
        "Total: <sum of count times price>",
        "按此格式填写：\nTo: <姓名>\nItems:\n- <数量> x <物品>\n（每件物品一行）\n"
        "Total: <数量乘单价之和>",
    ),
    "headings": (
        _headings,
        "Fill in, with an empty line before every ##:\n# <name>\n\n## <item>\nCount: <count>\n"
        "Price: <price>",
        "按此格式填写，每个##前空一行：\n# <姓名>\n\n## <物品>\nCount: <数量>\nPrice: <单价>",
    ),
    "tags": (
        _tags,
        'Fill in, two spaces before every item:\n<order for=NAME>\n  <item count="N" price="P">'
        "ITEM</item>\n</order>",
        '按此格式填写，每个item前空两格：\n<order for=姓名>\n  <item count="数量" price="单价">'
        "物品</item>\n</order>",
    ),
    "table": (
        _table,
        "Write a Markdown table with the columns item, count, price, the cheapest price first.",
        "写成Markdown表格，列为item、count、price，按单价从低到高排列。",
    ),
    "csv": (
        _csv,
        "Write CSV with the header item,count,price, in the order given. Quote an item that holds "
        "a comma or a quotation mark, and double the marks in it.",
        "写成CSV，表头为item,count,price，顺序不变。物品名含逗号或引号时加引号，其中的引号写两遍。",
    ),
}
NOTES = {
    "en": "{count} of {item} at {price} euros each",
    "zh": "{item}{count}件，单价{price}欧元",
}


def _draw(rng: Random, size: int, language: str) -> Drawn:
    name, form = rng.choice(NAMES), rng.choice(list(FORMS))
    items = rng.sample(ITEMS[language], size)
    prices = rng.sample(range(2, 60), size)  # all different: a sorted table has one order
    rows = [(item, rng.randint(2, 9), price) for item, price in zip(items, prices, strict=True)]
    notes = [NOTES[language].format(item=i, count=count, price=p) for i, count, p in rows]
    write, *asked = FORMS[form]
    values = {
        "form": form,
        "notes": "; ".join([name, *notes]),
        "asked": asked[language == "zh"],
    }
    return values, write(name, rows)


def _same(problem: Problem, answer: str, gold: str) -> bool:
    """Cell by cell in tables and CSV, else line by line; space at the end of a line is free."""
    read = structured_output.READERS.get(problem.answer["values"]["form"])
    if problem.answer["values"]["form"] in ("table", "csv") and read is not None:
        try:
            return read(answer) == read(gold)
        except ValueError:
            return False
    return [line.rstrip() for line in answer.split("\n")] == gold.split("\n")


def _guess(problem: Problem, rng: Random) -> str:
    """The form with the items of the family, counts and prices at random."""
    language = problem.answer["language"]
    size = problem.answer["values"]["notes"].count(";")
    rows = [(i, rng.randint(2, 9), rng.randint(2, 60)) for i in rng.sample(ITEMS[language], size)]
    return FORMS[problem.answer["values"]["form"]][0](rng.choice(NAMES), rows)


_GOOD = "To: Ana\nItems:\n- 2 x lamp\n- 3 x pen\nTotal: 26"

filled = ExactAnswer(
    "template",
    _draw,
    {
        "en": (
            "Notes: {notes}.\n{asked}\nWrite nothing else.",
            "{asked}\nNo other text. The order: {notes}.",
        ),
        "zh": (
            "记录：{notes}。\n{asked}\n不要写别的。",
            "{asked}\n不要写其他内容。订单：{notes}。",
        ),
    },
    _guess,
    (1, 6),
    same=_same,
    group="format",
    hacks=(
        f"```\n{_GOOD}\n```",
        _GOOD.replace("- 2 x lamp\n- 3 x pen", "- 3 x pen\n- 2 x lamp"),
        _GOOD.replace("26", "<sum>"),
        f"Here it is:\n{_GOOD}",
        _GOOD.replace("Items:\n", ""),
        FORMS["letter"][1],
    ),
).task(
    (
        {
            "form": "letter",
            "notes": "Ana; 2 of lamp at 10 euros each; 3 of pen at 2 euros each",
            "asked": FORMS["letter"][1],
        },
        _GOOD,
    ),
    _GOOD.replace("26", "12"),
)
