"""The suites of the base models (report, 3.3), by the report's shots.

The report gives shots, not prompts: those here are the ones of the papers that brought the suites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3.eval import evalplus, verdicts
from qwen3.eval import item_readers as readers
from qwen3.eval import suite_prompts as prompts
from qwen3.eval.items import Item
from qwen3.eval.suite import Suite, from_file
from qwen3.rewards import coding_files

PROGRAM_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\n```", "\nassert ")
HUMANEVAL_FILES = ("humaneval_plus/HumanEvalPlus.jsonl", "humaneval_plus/HumanEvalPlus-v*.jsonl")
MBPP_FILES = ("mbpp_plus/MbppPlus*.jsonl",)


def letters(item: Item) -> list[str]:
    """The continuations " A", " B", ...: with the space, which is part of the token."""
    return [f" {letter}" for letter in readers.LETTERS[: len(item["options"])]]


def digit(value: Any) -> int:
    return int(str(value).strip())


CRUX_SHOT = Item(
    "exemplar",
    {
        "code": "def f(words):\n    return [w[::-1] for w in words if len(w) > 2]",
        "input": '["ab", "cde", "fghi"]',
        "output": "['edc', 'ihgf']",
        "thought": (
            " The list keeps the words of more than two letters, 'cde' and 'fghi', each written "
            "backwards. The answer is ['edc', 'ihgf']."
        ),
    },
)

REDUX = Suite(
    name="mmlu_redux_base",
    group="base",
    kind="choice",
    title="MMLU-Redux",
    source="edinburgh-dawg/mmlu-redux-2.0, CC BY 4.0",
    total=5330,
    files=("mmlu_redux/*.jsonl",),
    read=readers.choices(
        "question",
        lambda row: readers.literal_list(row["choices"]),
        lambda row: digit(row["answer"]),
        keep=lambda row: str(row.get("error_type", "ok")).lower() == "ok",
        subject="subject",
    ),
    text=prompts.text_choice,
    options=letters,
    departs="0-shot: the development questions of MMLU are not among the files",
    published="MMLU-Redux",
)

# EvalPlus is the mean of these four (report, 3.3).
EVALPLUS = tuple(
    Suite(
        name=name,
        group="base",
        kind="text",
        title=title,
        source=source,
        total=total,
        files=files,
        read=evalplus.reader(plus=title.endswith("+")),
        text=prompts.text_program,
        score=evalplus.continuation,
        max_tokens=768,
        stop=PROGRAM_STOPS,
        needs="sandbox",
        departs="one of the four parts of the report's EvalPlus",
    )
    for source, total, files, titles in (
        (
            "evalplus/humanevalplus_release, Apache-2.0",
            164,
            HUMANEVAL_FILES,
            {"humaneval_base": "HumanEval", "humaneval_plus_base": "HumanEval+"},
        ),
        (
            "evalplus/mbppplus_release (v0.2.0), Apache-2.0",
            378,
            MBPP_FILES,
            {"mbpp_evalplus_base": "MBPP (EvalPlus)", "mbpp_plus_base": "MBPP+"},
        ),
    )
    for name, title in titles.items()
)

BASE = (
    REDUX,
    replace(
        REDUX,
        name="mmlu_base",
        title="MMLU",
        source="cais/mmlu (all, test), MIT",
        total=14042,
        files=("mmlu/test*.jsonl", "mmlu/test*.parquet"),
        read=readers.choices(
            "question",
            lambda row: readers.literal_list(row["choices"]),
            lambda row: digit(row["answer"]),
            subject="subject",
        ),
        published="MMLU",
    ),
    Suite(
        name="mmlu_pro_base",
        group="base",
        kind="text",
        title="MMLU-Pro",
        source="TIGER-Lab/MMLU-Pro, MIT",
        total=12032,
        files=("mmlu_pro/test*.jsonl", "mmlu_pro/test*.parquet"),
        read=readers.choices(
            "question",
            lambda row: readers.literal_list(row["options"]),
            lambda row: digit(row["answer_index"]),
            id="question_id",
            subject="category",
        ),
        text=lambda item, shots: (
            prompts.text_choice(item, shots).removesuffix("Answer:")
            + "Answer: Let's think step by step."
        ),
        score=verdicts.choice,
        max_tokens=1024,
        stop=("\n\n\n", "Question:"),
        departs="0-shot: the exemplars with chains of thought are not among the files",
        published="MMLU-Pro",
    ),
    Suite(
        name="bbh_base",
        group="base",
        kind="text",
        title="BBH",
        source="suzgunmirac/BIG-Bench-Hard, MIT",
        total=6511,
        files=("bbh/*.json",),
        read=readers.read_bbh,  # each item brings the three exemplars of its task
        text=prompts.text_bbh,
        score=verdicts.after_the_answer_is,
        max_tokens=1024,
        stop=("\n\n", "Q:"),
        published="BBH",
    ),
    Suite(
        name="gsm8k_base",
        group="base",
        kind="text",
        title="GSM8K",
        source="openai/gsm8k (main, test), MIT",
        total=1319,
        files=("gsm8k/test.jsonl",),
        read=readers.rows("question", "answer"),
        text=prompts.text_gsm8k,
        score=verdicts.number("answer", stop="Question:"),
        exemplars=from_file("gsm8k/train.jsonl", readers.rows("question", "answer")),
        shots=4,
        max_tokens=512,
        stop=("Question:", "\n\n\n"),
        departs="the report's four exemplars are unpublished: the first four of the training file",
        published="GSM8K",
    ),
    Suite(
        name="math_base",
        group="base",
        kind="text",
        title="MATH",
        source="EleutherAI/hendrycks_math, MIT (here: MATH-500)",
        total=500,
        files=("math500/test.jsonl",),
        read=readers.rows("problem", "answer", id="unique_id"),
        text=prompts.text_math,
        score=verdicts.minerva,
        exemplars=from_file("math_pool/train_pool.jsonl", readers.rows("problem", "solution")),
        shots=4,
        max_tokens=1024,
        stop=("Problem:", "\n\n\n"),
        departs="MATH-500 instead of all 5,000; exemplars from problems outside of MATH-500",
        published="MATH",
    ),
    *EVALPLUS,
    Suite(
        name="mbpp_base",
        group="base",
        kind="text",
        title="MBPP",
        source="google-research-datasets/mbpp, CC BY 4.0",
        total=974,
        files=("mbpp/mbpp.jsonl",),
        read=lambda files: [
            item
            for item in readers.read_programs(coding_files.read_mbpp)(files)
            if 11 <= int(item.id) <= 510
        ],
        text=prompts.text_mbpp,
        score=verdicts.marked_program,
        exemplars=from_file("mbpp/mbpp.jsonl", lambda files: _mbpp_shots(files)),
        shots=3,
        max_tokens=512,
        stop=("[DONE]",),
        needs="sandbox",
        departs="tests that compare plain values: they are compared outside of the program",
        published="MBPP",
    ),
    Suite(
        name="crux_o_base",
        group="base",
        kind="text",
        title="CRUX-O",
        source="facebookresearch/cruxeval, MIT",
        total=800,
        files=("cruxeval/cruxeval.jsonl",),
        read=readers.rows("code", "input", "output", id="id"),
        text=prompts.text_crux,
        score=verdicts.literal,
        exemplars=lambda data, items: [CRUX_SHOT],
        shots=1,
        max_tokens=1024,
        stop=("\n\n", "Function:"),
        departs="an exemplar of our own",
        published="CRUX-O",
    ),
    Suite(
        name="mgsm_base",
        group="base",
        kind="text",
        title="MGSM",
        source="google-research/url-nlp, CC BY 4.0",
        total=2750,
        files=("mgsm/mgsm_*.tsv",),
        read=readers.read_mgsm,
        text=lambda item, shots: f"Question: {item['question']}\nAnswer:",
        score=verdicts.number("gold", stop="Question:"),
        max_tokens=512,
        stop=("Question:", "\n\n\n"),
        departs="0-shot: the eight exemplars of each language are not among the files",
        published="MGSM",
    ),
)


def _mbpp_shots(files: Sequence[Path]) -> list[Item]:
    """The tasks 2, 3 and 4, which the authors set aside for prompts; the next ones where one of
    these is not in the file."""

    items = readers.rows("text", "code", "test_list", id="task_id")(files)
    return sorted((i for i in items if 2 <= int(i.id) <= 10), key=lambda item: int(item.id))
