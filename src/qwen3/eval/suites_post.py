"""The suites of the post-trained models (report, 4.6), in thinking and in non-thinking mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from qwen3.eval import bfcl, evalplus, ifeval_official, verdicts
from qwen3.eval import item_readers as readers
from qwen3.eval import suite_prompts as prompts
from qwen3.eval.items import Item
from qwen3.eval.suite import OUTPUT, Suite
from qwen3.eval.suites_base import EVALPLUS, REDUX, digit
from qwen3.rewards import ifeval


def letter_index(value: Any) -> int:
    return readers.LETTERS.index(str(value).strip().upper())


def named(*names: str) -> Any:
    """Options that stand in columns of their own."""
    return lambda row: [str(row[name]) for name in names]


def chat_choice(name: str, title: str, source: str, total: int, read: Any, **more: Any) -> Suite:
    """A multiple-choice suite of one turn."""
    return Suite(
        name=name,
        group=more.pop("group", "post"),
        kind="chat",
        title=title,
        source=source,
        total=total,
        read=read,
        ask=more.pop("ask", prompts.chat_choice),
        score=verdicts.choice,
        **more,
    )


def read_gpqa(files: Sequence[Path]) -> list[Item]:
    """GPQA: one right and three wrong answers, shuffled by a hash of the question, so that the
    order is the same in every run and on every machine."""
    wrong = [f"Incorrect Answer {number}" for number in (1, 2, 3)]
    items = []
    for file in files:
        for number, row in readers.read_rows(file, fields=("Question", "Correct Answer", *wrong)):
            texts = [
                str(row["Correct Answer"]).strip(),
                *(str(row[name]).strip() for name in wrong),
            ]
            order = list(range(4))
            Random(sha256(row["Question"].encode()).hexdigest()).shuffle(order)
            fields = {
                "question": row["Question"],
                "passage": "",
                "options": [texts[i] for i in order],
                "gold": readers.LETTERS[order.index(0)],
                "subject": "gpqa",
            }
            items.append(Item(str(row.get("Record ID", number)), fields))
    return items


AIME = Suite(
    name="aime24",
    group="post",
    kind="chat",
    title="AIME'24",
    source="QwenLM/QwQ eval/data, Apache-2.0; the problems are the MAA's",
    total=30,
    files=("aime/aime24.jsonl",),
    read=readers.rows("prompt", "answer"),
    ask=prompts.chat("{prompt}"),
    score=verdicts.maths("answer"),
    samples=64,
    max_tokens=38_912,
    published="AIME'24",
)

IFEVAL = Suite(
    name="ifeval",
    group="post",
    kind="chat",
    title="IFEval (strict prompt)",
    source="google-research instruction_following_eval, Apache-2.0",
    total=541,
    files=("ifeval/input_data.jsonl",),
    read=readers.rows("key", "prompt", "instruction_id_list", "kwargs", id="key"),
    ask=prompts.chat("{prompt}"),
    score=ifeval_official.strict_prompt,
    needs="the extra [eval]",
    published="IFEval",
)

BFCL = tuple(
    Suite(
        name=f"bfcl_{category}",
        group="post",
        kind="chat",
        title=f"BFCL v3 {category.replace('_', ' ')}",
        source="gorilla berkeley-function-call-leaderboard (BFCL v3), Apache-2.0",
        total=total,
        files=(f"bfcl_v3/BFCL_v3_{category}.json",),
        read=bfcl.reader(category),
        ask=lambda item: item["messages"],
        score=bfcl.score,
        departs="calls in the model's own format; single turns in Python alone",
    )
    for category, total in (
        ("simple", 400),
        ("multiple", 200),
        ("parallel", 200),
        ("parallel_multiple", 200),
        ("irrelevance", 240),
        ("live_simple", 258),
        ("live_multiple", 1053),
        ("live_parallel", 16),
        ("live_parallel_multiple", 24),
        ("live_irrelevance", 882),
        ("live_relevance", 18),
    )
)

CHAT_EVALPLUS = tuple(
    replace(
        suite,
        name=suite.name.removesuffix("_base"),
        group="post",
        kind="chat",
        text=None,
        ask=evalplus.chat_messages,
        score=evalplus.block,
        max_tokens=OUTPUT,
        stop=(),
        departs="not among the report's suites of post-trained models",
    )
    for suite in EVALPLUS
    if suite.title.endswith("+")
)

POST = (
    *BFCL,
    replace(
        REDUX,
        name="mmlu_redux",
        group="post",
        kind="chat",
        ask=prompts.chat_choice,
        score=verdicts.choice,
        text=None,
        options=None,
        departs="",
    ),
    chat_choice(
        "gpqa_diamond",
        "GPQA-Diamond",
        "Idavidrein/gpqa (gpqa_diamond), CC BY 4.0, gated",
        198,
        read_gpqa,
        files=("gpqa/gpqa_diamond*.jsonl", "gpqa/gpqa_diamond*.parquet"),
        samples=10,
        published="GPQA-Diamond",
    ),
    chat_choice(
        "c_eval",
        "C-Eval",
        "ceval/ceval-exam (val), CC BY-NC-SA 4.0",
        1346,
        readers.choices(
            "question", named("A", "B", "C", "D"), lambda row: letter_index(row["answer"])
        ),
        files=("c_eval/*.jsonl", "c_eval/*.parquet"),
        departs="the validation questions, whose answers are public",
        published="C-Eval",
    ),
    IFEVAL,
    replace(
        IFEVAL,
        name="ifeval_loose",
        title="IFEval (loose prompt)",
        score=ifeval_official.loose_prompt,
        published="",
    ),
    Suite(
        name="ifeval_checks",
        group="extra",
        kind="chat",
        title="IFEval by our checks",
        source=IFEVAL.source,
        total=541,
        files=IFEVAL.files,
        read=readers.problems(ifeval.read_ifeval),
        ask=prompts.chat_problem,
        score=verdicts.problem,
        departs="checks of our own, stricter and without verdict on languages in Latin script",
    ),
    Suite(
        name="math_500",
        group="post",
        kind="chat",
        title="MATH-500",
        source="openai/prm800k math_splits, MIT",
        total=500,
        files=("math500/test.jsonl",),
        read=readers.rows("problem", "answer", id="unique_id"),
        ask=prompts.chat("{problem}\n\n" + prompts.BOXED.replace("{}", "{{}}")),
        score=verdicts.maths("answer"),
        published="MATH-500",
    ),
    AIME,
    replace(
        AIME, name="aime25", title="AIME'25", files=("aime/aime25.jsonl",), published="AIME'25"
    ),
    *CHAT_EVALPLUS,
    Suite(
        name="mt_aime2024",
        group="post",
        kind="chat",
        title="MT-AIME2024",
        source="amphora/MCLM (MT-AIME2024), MIT",
        total=1650,
        files=("mt_aime2024/*.jsonl", "mt_aime2024/*.parquet"),
        read=readers.rows("question", "answer", "language"),
        ask=prompts.chat("{question}\n\n" + prompts.BOXED.replace("{}", "{{}}")),
        score=verdicts.maths("answer"),
        max_tokens=38_912,
        published="MT-AIME2024",
    ),
    Suite(
        name="polymath",
        group="post",
        kind="chat",
        title="PolyMath",
        source="Qwen/PolyMath, Apache-2.0",
        total=9000,
        files=("polymath/*/*.jsonl", "polymath/*/*.parquet", "polymath/*.jsonl"),
        read=readers.rows("id", "question", "answer", id="id"),
        ask=prompts.chat("{question}\n\n" + prompts.BOXED.replace("{}", "{{}}")),
        score=verdicts.maths("answer"),
        departs="a plain mean, not weighted by level; the prompt is English in all languages",
        published="PolyMath",
    ),
    chat_choice(
        "mmmlu",
        "MMMLU",
        "openai/MMMLU, MIT",
        196_588,
        readers.choices(
            "Question", named("A", "B", "C", "D"), lambda row: letter_index(row["Answer"])
        ),
        files=("mmmlu/*.jsonl", "mmmlu/*.parquet"),
        departs="the report's sample of one tenth is unpublished: use --limit",
        published="MMMLU",
    ),
    chat_choice(
        "include",
        "INCLUDE",
        "CohereForAI/include-base-44, Apache-2.0",
        22_637,
        readers.choices(
            "question",
            named("option_a", "option_b", "option_c", "option_d"),
            lambda row: digit(row["answer"]),
        ),
        files=("include/*.jsonl", "include/*.parquet"),
        departs="the report's sample of one tenth is unpublished: use --limit",
        published="INCLUDE",
    ),
    chat_choice(
        "mlogiqa",
        "MLogiQA",
        "Qwen/P-MMEval (mlogiqa), Apache-2.0",
        800,
        readers.choices(
            "question",
            lambda row: readers.literal_list(row["options"]),
            lambda row: digit(row["answer"]),
        ),
        files=("mlogiqa/*.jsonl", "mlogiqa/*.parquet"),
        published="MLogiQA",
    ),
    chat_choice(
        "belebele",
        "Belebele",
        "facebook/belebele, CC BY-SA 4.0",
        109_800,
        readers.choices(
            "question",
            named("mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4"),
            lambda row: digit(row["correct_answer_num"]) - 1,
        ),
        files=("belebele/*.jsonl", "belebele/*.parquet"),
        published="Belebele",
    ),
    chat_choice(
        "super_gpqa",
        "SuperGPQA",
        "m-a-p/SuperGPQA, ODC-BY",
        26_529,
        readers.choices(
            "question",
            lambda row: readers.literal_list(row["options"]),
            lambda row: letter_index(row["answer_letter"]),
            id="uuid",
        ),
        files=("super_gpqa/*.jsonl", "super_gpqa/*.parquet"),
        group="base",
        departs="asked of the chat model; the report asks the base model with five exemplars",
        published="SuperGPQA",
    ),
)
