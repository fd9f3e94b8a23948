"""Translation into a made-up language: its dictionary and word order stand in the prompt."""

from random import Random

from qwen3.rewards.exact_answer import Drawn, ExactAnswer
from qwen3.rewards.task import Problem

NOUNS = {
    "en": ("the cat", "the farmer", "the child", "the owl", "the king", "the baker", "the fox"),
    "zh": ("猫", "农夫", "孩子", "猫头鹰", "国王", "面包师", "狐狸"),
}
VERBS = {"en": ("sees", "likes", "calls", "helps"), "zh": ("看见", "喜欢", "呼唤", "帮助")}
# order of subject, verb and object: its name in English and Chinese
ORDERS = {
    "SOV": ("subject, object, verb", "主语、宾语、动词"),
    "VSO": ("verb, subject, object", "动词、主语、宾语"),
    "OVS": ("object, verb, subject", "宾语、动词、主语"),
}
SYLLABLES = tuple(consonant + vowel for consonant in "bdgklmnprstvz" for vowel in "aeiou")


def _draw(rng: Random, size: int, language: str) -> Drawn:
    """`size` sentences, with the dictionary of their words and of four others."""
    nouns, verbs = NOUNS[language], VERBS[language]
    invented = rng.sample(SYLLABLES, 2 * (len(nouns) + len(verbs)))
    pairs = zip(invented[::2], invented[1::2], strict=True)
    lexicon = dict(zip((*nouns, *verbs), map("".join, pairs), strict=True))
    order, sentences, gold, used = rng.choice(list(ORDERS)), [], [], set[str]()
    for _ in range(size):
        subject, object_ = rng.sample(nouns, 2)
        parts = {"S": subject, "V": rng.choice(verbs), "O": object_}
        used |= set(parts.values())
        sentences.append((" " if language == "en" else "").join(parts[k] for k in "SVO"))
        gold.append(" ".join(lexicon[parts[k]] for k in order))
    others = rng.sample([word for word in lexicon if word not in used], min(4, 11 - len(used)))
    shown = rng.sample(sorted(used) + others, len(used) + len(others))
    values = {
        "lexicon": ", ".join(f"{word} = {lexicon[word]}" for word in shown),
        "order": ORDERS[order][language == "zh"],
        "text": (". " if language == "en" else "。").join(sentences),
    }
    return values, "; ".join(gold)


def _guess(problem: Problem, rng: Random) -> str:
    """Words of the dictionary at random, three a sentence."""
    pairs = problem.answer["values"]["lexicon"].split(", ")
    pool = [pair.split(" = ")[1] for pair in pairs]
    sentences = problem.answer["gold"].split("; ")
    return "; ".join(" ".join(rng.choices(pool, k=3)) for _ in sentences)


lexicon = ExactAnswer(
    "lexicon",
    _draw,
    {
        "en": (
            "Words of a strange language: {lexicon}. Its sentences go: {order}. Translate into it, "
            "with a semicolon between sentences: {text}",
            "Translate `{text}`. The language puts {order}; dictionary: {lexicon}. Separate "
            "sentences by semicolons.",
        ),
        "zh": (
            "一种陌生语言的词：{lexicon}。它的语序是：{order}。把下面的话译成这种语言，"
            "句子之间用分号隔开：{text}",
            "请翻译“{text}”。这种语言的语序是{order}，词典：{lexicon}。句子之间用分号。",
        ),
    },
    _guess,
    (1, 4),
    ("<words>", "<译文>"),
    group="instruction",
    hacks=("The cat sees the owl", "raba lope miku raba lope", "lope miku"),
).task(
    (
        {
            "lexicon": "the cat = raba, the owl = lope, sees = miku",
            "order": ORDERS["SOV"][0],
            "text": "the cat sees the owl",
        },
        "raba lope miku",
    ),
    "raba miku lope",
)
