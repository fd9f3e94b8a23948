"""The language of the answer: number words and weekdays in a language other than the question's."""

import unicodedata
from random import Random

from qwen3.rewards.exact_answer import LANGUAGES, Drawn, ExactAnswer, normal
from qwen3.rewards.task import Problem

# language: (its English and Chinese name, 0..12, Monday to Sunday)
WORDS = {
    "en": (
        ("English", "英语"),
        "zero one two three four five six seven eight nine ten eleven twelve",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    ),
    "zh": (
        ("Chinese", "中文"),
        "零 一 二 三 四 五 六 七 八 九 十 十一 十二",
        "星期一 星期二 星期三 星期四 星期五 星期六 星期日",
    ),
    "de": (
        ("German", "德语"),
        "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
        "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    ),
    "fr": (
        ("French", "法语"),
        "zéro un deux trois quatre cinq six sept huit neuf dix onze douze",
        "lundi mardi mercredi jeudi vendredi samedi dimanche",
    ),
    "es": (
        ("Spanish", "西班牙语"),
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce",
        "lunes martes miércoles jueves viernes sábado domingo",
    ),
    "it": (
        ("Italian", "意大利语"),
        "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici",
        "lunedì martedì mercoledì giovedì venerdì sabato domenica",
    ),
    "pt": (
        ("Portuguese", "葡萄牙语"),
        "zero um dois três quatro cinco seis sete oito nove dez onze doze",
        "segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado domingo",
    ),
    "id": (
        ("Indonesian", "印尼语"),
        "nol satu dua tiga empat lima enam tujuh delapan sembilan sepuluh sebelas dua_belas",
        "Senin Selasa Rabu Kamis Jumat Sabtu Minggu",
    ),
}
AFTER = {"en": "the day after {day}", "zh": "{day}的后一天"}


def words(language: str) -> tuple[list[str], list[str]]:
    """(the numbers 0 to 12, Monday to Sunday) in the language, by its ISO 639-1 code."""
    _, numbers, days = WORDS[language]
    return [word.replace("_", " ") for word in numbers.split()], days.split()


def _draw(rng: Random, size: int, language: str) -> Drawn:
    """`size` items asked in `language`, and their answers in another one."""
    target = rng.choice([code for code in WORDS if code != language])
    numbers, days = words(target)
    items, gold = [], []
    for _ in range(size):
        if rng.random() < 0.6:
            total = rng.randint(0, 12)
            part = rng.randint(0, total)
            items.append(f"{part} + {total - part}")
            gold.append(numbers[total])
        else:
            day = rng.randrange(7)
            items.append(AFTER[language].format(day=words(language)[1][day]))
            gold.append(days[(day + 1) % 7])
    name = WORDS[target][0][LANGUAGES.index(language)]
    return {"items": "; ".join(items), "language": name, "target": target}, ", ".join(gold)


def _same_words(_: Problem, answer: str, gold: str) -> bool:
    """The same words in any letter case, however their accents are encoded."""
    read = unicodedata.normalize("NFC", normal(answer)).casefold()
    return [part.strip() for part in read.replace("，", ",").split(",")] == [
        part.casefold() for part in gold.split(", ")
    ]


def _guess(problem: Problem, rng: Random) -> str:
    numbers, days = words(problem.answer["values"]["target"])
    return ", ".join(rng.choice(numbers + days) for _ in problem.answer["gold"].split(", "))


other_language = ExactAnswer(
    "answer_language",
    _draw,
    {
        "en": (
            "Answer in {language}, in words without digits, separated by commas, and write nothing "
            "else: {items}",
            "{items}\nWrite the results in {language} only: words, commas between them, no digits.",
        ),
        "zh": (
            "用{language}回答，只写词语，不用数字，用逗号隔开，不要写别的：{items}",
            "{items}\n请只用{language}写出结果：词语之间用逗号，不用数字。",
        ),
    },
    _guess,
    (1, 6),
    same=_same_words,
    group="instruction",
    hacks=("7", "seven, Tuesday", "sieben (seven), Dienstag", "sieben", "Dienstag, sieben", "七"),
).task(
    (
        {"items": "3 + 4; the day after Monday", "language": "German", "target": "de"},
        "sieben, Dienstag",
    ),
    "sieben, Mittwoch",
)
