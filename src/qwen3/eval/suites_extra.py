"""Suites beside the report's: public sets of the same kinds, and families of `rewards`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen3 import rewards
from qwen3.eval import item_readers as readers
from qwen3.eval import ruler, verdicts
from qwen3.eval import suite_prompts as prompts
from qwen3.eval.items import Item
from qwen3.eval.suite import Generation, Suite
from qwen3.eval.suites_post import chat_choice, letter_index

BOXED = prompts.BOXED.replace("{}", "{{}}")
AGIEVAL = readers.choices(
    "question",
    lambda row: readers.lettered(readers.literal_list(row["options"])),
    lambda row: letter_index(row["label"]),
    # Questions with several right letters are left out.
    keep=lambda row: bool(row.get("options")) and len(row.get("label") or "") == 1,
)
CONNECTIVES = {"cause": "because", "effect": "so"}


def family(*names: str) -> Callable[[Generation], list[Item]]:
    """Held-out problems of families of `rewards` by turns, from their generators."""

    def generate(source: Generation) -> list[Item]:
        problems = []
        for number in range(source.count):
            seed, place = divmod(number, len(names))
            task = rewards.get(names[place])
            level = (seed // 2 if task.paired else seed) % 5  # twins are of one difficulty
            problems.append(task.generate(seed, difficulty=level / 4, split="heldout"))
        return [Item(str(number), {"problem": p}) for number, p in enumerate(problems)]

    return generate


def generated(name: str, title: str, *tasks: str, published: str = "") -> Suite:
    """A suite of 200 held-out problems of families of `rewards`."""
    return Suite(
        name=name,
        group="in-house",
        kind="chat",
        title=title,
        source="generated here",
        total=200,
        generate=family(*tasks),
        ask=prompts.chat_problem,
        score=verdicts.problem,
        published=published,
    )


# One turn of the report's ToolUse: to call, to call several, not to call.
CALLS = ("tool_call", "parallel_calls", "irrelevant_tool", "missing_argument")


def ruler_items(length: int) -> Callable[[Generation], list[Item]]:
    """Items of RULER of `length` tokens."""

    def generate(source: Generation) -> list[Item]:
        if source.tokenizer is None:
            raise ValueError("RULER's lengths are in tokens: it needs the model's tokenizer")
        return ruler.items(length, source.count, source.data, source.tokenizer)

    return generate


RULER = tuple(
    Suite(
        name=f"ruler_{name}",
        group="ruler",
        kind="chat",
        title=f"RULER {name}",
        source="generated here, from books and SQuAD-form questions (arXiv 2404.06654)",
        total=13 * 20,
        generate=ruler_items(length),
        ask=prompts.chat("{question}"),
        score=ruler.score,
        needs="corpus, xquad, cmrc2018",
        departs="wordings and haystacks of our own; 20 items a task where the paper has 500; no "
        "answer prefix; the report's thinking budget is 8,192: --budget 8192",
    )
    for name, length in (
        ("4k", 4096),
        ("8k", 8192),
        ("16k", 16_384),
        ("32k", 32_768),
        ("64k", 65_536),
        ("128k", 131_072),
    )
)

XCOPA = Suite(
    name="xcopa_base",
    group="extra",
    kind="choice",
    title="XCOPA",
    source="cambridgeltl/xcopa, CC BY 4.0",
    total=5500,
    files=("xcopa/test.*.jsonl",),
    read=readers.rows("premise", "choice1", "choice2", "question", "label"),
    # The English connective in all languages, as a base model meets it in mixed text.
    text=lambda item, shots: f"{item['premise'].rstrip('.。')} {CONNECTIVES[item['question']]}",
    options=lambda item: [f" {item['choice1']}", f" {item['choice2']}"],
)

GSM8K_CHAT = Suite(
    name="gsm8k",
    group="extra",
    kind="chat",
    title="GSM8K (chat)",
    source="openai/gsm8k (main, test), MIT",
    total=1319,
    files=("gsm8k/test.jsonl",),
    read=readers.rows("question", "answer"),
    ask=prompts.chat("{question}\n\n" + BOXED),
    score=verdicts.number("answer"),
)

EXTRA = (
    GSM8K_CHAT,
    replace(
        GSM8K_CHAT,
        name="svamp",
        title="SVAMP",
        source="arkilpatel/SVAMP, MIT",
        total=1000,
        files=("svamp/SVAMP.jsonl",),
        read=readers.rows("Body", "Question", "Answer", id="ID"),
        ask=prompts.chat("{Body}. {Question}\n\n" + BOXED),
        score=verdicts.number("Answer"),
    ),
    replace(
        GSM8K_CHAT,
        name="cmath",
        title="CMATH",
        source="XiaoMi/cmath, CC BY 4.0",
        total=600,
        files=("cmath/cmath_dev.jsonl",),
        read=readers.rows("input", "golden"),
        ask=prompts.chat("{input}\n\n" + BOXED),
        score=verdicts.number("golden"),
    ),
    replace(
        GSM8K_CHAT,
        name="mgsm",
        title="MGSM (chat)",
        source="google-research/url-nlp, CC BY 4.0",
        total=2750,
        files=("mgsm/mgsm_*.tsv",),
        read=readers.read_mgsm,
        ask=prompts.chat("{question}\n\n" + BOXED),
        score=verdicts.number("gold"),
    ),
    chat_choice(
        "mmlu_pro",
        "MMLU-Pro (chat)",
        "TIGER-Lab/MMLU-Pro, MIT",
        12032,
        readers.choices(
            "question",
            lambda row: readers.literal_list(row["options"]),
            lambda row: int(row["answer_index"]),
            id="question_id",
            subject="category",
        ),
        group="extra",
        files=("mmlu_pro/test*.jsonl", "mmlu_pro/test*.parquet"),
    ),
    *(
        chat_choice(
            f"agieval_{name.replace('-', '_')}",
            f"AGIEval {name}",
            "ruixiangcui/AGIEval, MIT",
            total,
            AGIEVAL,
            group="extra",
            files=(f"agieval/{name}.jsonl",),
        )
        for name, total in (
            ("gaokao-biology", 210),
            ("gaokao-chemistry", 207),
            ("gaokao-geography", 199),
            ("gaokao-history", 235),
            ("gaokao-physics", 200),
            ("gaokao-mathqa", 351),
            ("sat-math", 220),
            ("lsat-ar", 230),
        )
    ),
    replace(
        GSM8K_CHAT,
        name="agieval_gaokao_mathcloze",
        title="AGIEval gaokao-mathcloze",
        source="ruixiangcui/AGIEval, MIT",
        total=118,
        files=("agieval/gaokao-mathcloze.jsonl",),
        read=readers.rows("question", "answer"),
        score=verdicts.maths("answer"),
    ),
    XCOPA,
    Suite(
        name="xquad",
        group="extra",
        kind="chat",
        title="XQuAD (F1)",
        source="google-deepmind/xquad, CC BY-SA 4.0",
        total=14280,
        files=("xquad/xquad.*.json",),
        read=readers.read_squad,
        ask=prompts.chat(
            "{context}\n\nQuestion: {question}\nAnswer with words from the text alone, on one line."
        ),
        score=verdicts.quoted_answer,
    ),
    Suite(
        name="cmrc2018",
        group="extra",
        kind="chat",
        title="CMRC 2018 (F1)",
        source="ymcui/cmrc2018, CC BY-SA 4.0",
        total=3219,
        files=("cmrc2018/cmrc2018_dev.json",),
        read=readers.read_squad,
        ask=prompts.chat("{context}\n\n问题：{question}\n只用原文中的词语作答，写在一行内。"),
        score=verdicts.quoted_answer,
    ),
    *RULER,
    generated("locks", "Combination locks", "lock"),
    generated("length_control", "LengthCtrl", "length_control", published="LengthCtrl"),
    generated("tool_use", "ToolUse (single call)", "tool_call", published="ToolUse"),
    generated("tool_use_all", "ToolUse (one turn)", *CALLS, published="ToolUse"),
    generated("counterfact_qa", "CounterFactQA", "false_premise", published="CounterFactQA"),
    generated("abstention", "Answerable or not", "abstention"),
    generated("json_schema", "JSON by schema", "format"),
    generated("logic", "Logic puzzles", "logic"),
    generated("countdown", "Countdown", "countdown"),
)
