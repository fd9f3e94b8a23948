"""IFEval verdicts, strict and loose, instruction by instruction against the authors' classes.

The oracle calls each instruction's class by itself; texts are real ones, and mutated so that they
follow more, or fewer, instructions.
"""

import importlib
import os
from collections import Counter
from pathlib import Path

import pytest

from qwen3.data.jsonl import read_rows
from qwen3.eval import ifeval_official
from qwen3.eval.suites import SUITES

TEXTS = [
    "The cat sat on the mat, and it was happy. Then it slept.",
    "Paris is a city.\n\nIt lies on the Seine.\n\n***\n\nMany people live there.",
    '{"name": "Ann", "age": 3}',
    "* first point\n* second point\n* third *marked* point\n\nP.S. That is all.",
    "Die Katze sitzt auf der Matte und ist sehr zufrieden damit.",
    "",
]
MUTATIONS = {
    "plain": lambda text: text,
    "lower": str.lower,
    "upper": str.upper,
    "no commas": lambda text: text.replace(",", ""),
    "quoted": lambda text: f'"{text}"',
    "title": lambda text: f"<<A title>>\n{text}",
    "postscript": lambda text: f"{text}\n\nP.S. One more thing\nP.P.S. And another",
    "preface": lambda text: f"Here is my answer:\n{text}\nI hope this helps!",
    "bullets": lambda text: "\n".join(f"* {line}" for line in text.splitlines()),
    "sections": lambda text: f"SECTION 1\n{text}\nSECTION 2\n{text}",
    "twice": lambda text: f"{text}\n******\n{text}",
    "json": lambda text: "```json\n{}\n```",
    "fenced": lambda text: f"***{text}***",
    "placeholders": lambda text: f"[name] {text} [address] [date]",
    "asterisks": lambda text: f"*marked one* {text} *marked two* *marked three*",
}
PROMPTS = [
    ("punctuation:no_comma", {}),
    ("change_case:english_lowercase", {}),
    ("change_case:english_capital", {}),
    ("detectable_format:title", {}),
    ("detectable_format:json_format", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:number_placeholders", {"num_placeholders": 3}),
    ("combination:two_responses", {}),
    ("startend:quotation", {}),
    ("startend:end_checker", {"end_phrase": "I hope this helps!"}),
    ("keywords:existence", {"keywords": ["cat", "mat"]}),
    ("keywords:letter_frequency", {"letter": "p", "let_frequency": 2, "let_relation": "at least"}),
    ("length_constraints:number_words", {"num_words": 12, "relation": "less than"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
    ),
    ("language:response_language", {"language": "de"}),
]


def follows(instruction, kwargs, prompt, text):
    """Whether the class of one instruction accepts a text."""
    registry = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry")
    rule = registry.INSTRUCTION_DICT[instruction](instruction)
    rule.build_description(**{name: value for name, value in kwargs.items() if value})
    if "prompt" in (rule.get_instruction_args() or {}):
        rule.build_description(prompt=prompt)
    return bool(text.strip()) and bool(rule.check_following(text))


def relaxed(text):
    """The texts of which one must follow a loose instruction."""
    lines = text.split("\n")
    parts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return parts + [part.replace("*", "") for part in parts]


def compare(items, texts):
    """Count verdicts, each the same as the classes'; {True, False: count}."""
    ifeval_official.checkers()  # seeds the language detector
    counts = Counter()
    for item in items:
        rules = list(zip(item["instruction_id_list"], item["kwargs"], strict=True))
        if not all(kwargs.get("letter", "a").isalpha() for _, kwargs in rules):
            continue  # one prompt: the class draws another letter at random
        for text in texts:
            strict = [follows(*rule, item["prompt"], text) for rule in rules]
            assert ifeval_official.follows(item, text) == strict
            loose = []
            for rule in rules:
                loose.append(any(follows(*rule, item["prompt"], one) for one in relaxed(text)))
            assert ifeval_official.follows(item, text, loose=True) == loose
            counts.update(strict)
    return counts


SENTENCES = {  # by nltk's table of English: no split after its abbreviations
    "Mr. Smith of the Widget Corp. left. He came back at 5 p.m. on Monday.": 2,
    "The U.S. economy grew by 3.5 percent. It did.": 2,
    "Dr. No met Prof. Moriarty in Conn. and Mass. They talked.": 2,
    "One. Two! Three? Four": 4,
    "no full stop": 1,
}


@pytest.mark.parametrize("text, sentences", SENTENCES.items())
def test_sentences_are_counted_by_the_table_of_nltk(text, sentences):
    for relation, wanted in (("at least", True), ("less than", False)):
        rule = {"num_sentences": sentences, "relation": relation}
        item = item_of(1, ("length_constraints:number_sentences", rule))
        assert ifeval_official.follows(item, text) == [wanted]
    rule = {"num_sentences": sentences + 1, "relation": "at least"}
    assert ifeval_official.follows(
        item_of(1, ("length_constraints:number_sentences", rule)), text
    ) == [False]


def item_of(number, rule):
    instruction, kwargs = rule
    fields = {"key": number, "prompt": "Write.", "instruction_id_list": [instruction]}
    return ifeval_official.Item(str(number), fields | {"kwargs": [kwargs]})


def test_verdicts_are_those_of_the_authors_classes():
    texts = {mutate(text) for text in TEXTS for mutate in MUTATIONS.values()}
    items = [item_of(number, rule) for number, rule in enumerate(PROMPTS)]
    counts = compare(items, sorted(texts)[::5])
    assert sum(counts.values()) > 250 and min(counts[True], counts[False]) > 30


def test_an_instruction_that_draws_at_random_gives_the_same_verdict_every_time():
    rule = ("keywords:letter_frequency", {"letter": "!", "let_frequency": 9})
    item = item_of(1129, (rule[0], rule[1] | {"let_relation": "at least"}))
    texts = [letter * 9 for letter in "abcdefghijklmnopqrstuvwxyz"]
    verdicts = [[ifeval_official.follows(item, text) for text in texts] for _ in range(3)]
    assert verdicts[0] == verdicts[1] == verdicts[2] and sum(map(sum, verdicts[0])) == 1


@pytest.mark.slow
def test_verdicts_on_17_000_texts_and_instructions():
    if "QWEN3_EVAL_DATA" not in os.environ:
        pytest.skip("QWEN3_EVAL_DATA names no folder")
    data = Path(os.environ["QWEN3_EVAL_DATA"])
    rows = read_rows(data / "gsm8k" / "example_model_solutions.jsonl.gz")
    real = [row["175b_verification"]["solution"] for _, row in rows][:20]
    mutated = [mutate(real[i]) for i, mutate in enumerate(MUTATIONS.values())]
    counts = compare(SUITES["ifeval"].items(data), [*TEXTS, *mutated, *real])
    assert counts[True] + counts[False] >= 17_000 and min(counts[True], counts[False]) > 2000
    print(counts)
