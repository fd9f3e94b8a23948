"""Problems and evaluation items as public reports show them: checked when a run begins.

Every row names the report by repository and number; the inputs are written anew here.
"""

import dataclasses
import json
from dataclasses import dataclass

import pytest

from qwen3 import rewards
from qwen3.config import OptimConfig
from qwen3.curate.files import read_problems
from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import coding, maths
from qwen3.rewards.task import Task
from qwen3.stages import grpo, sft
from qwen3.stages.problem_evaluation import ProblemEvaluation
from qwen3.stages.prompts import FILE, Share
from qwen3.stages.rollouts import Sampling
from qwen3.workflows import own_problems

ASK, REPLY = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class File:
    """A row of a problem file and the reference that is read from it, or the words of a refusal."""

    source: str
    row: dict
    reference: str = ""
    refusal: str = ""


FILES = [
    File("google-deepmind/proeval#19", {"question": "2 - 5?", "answer": "so\n#### -3"}, "-3"),
    File("THUDM/slime#336", {"prompt": "?", "answer": 204}, "204"),
    File("areal-project/AReaL#1430", {"prompt": "?", "answer": 0}, "0"),
    File(
        "verl-project/verl#758",
        {"prompt": "?", "reward_model": {"style": "rule", "ground_truth": 12}},
        "12",
    ),
    File(
        "verl-project/verl#758",
        {"question": "?", "gold_answer": "12"},
        refusal="line 1: no reference answer.*the row has gold_answer, question.*columns=",
    ),
    File("allenai/open-instruct#596", {"prompt": "?", "answer": ["1", "2"]}, refusal="line 1: "),
    File("huggingface/open-r1#86", {"prompt": "?", "answer": ""}, refusal="line 1: .*empty"),
]


@pytest.mark.parametrize("row", FILES, ids=lambda row: f"{row.source} {row.row}")
def test_the_reference_of_a_problem_file(row, tmp_path):
    write_rows(tmp_path / "problems.jsonl", [row.row])
    if row.refusal:
        with pytest.raises(ValueError, match=row.refusal):
            own_problems.read(tmp_path / "problems.jsonl", "maths")
    else:
        (problem,) = own_problems.read(tmp_path / "problems.jsonl", "maths")
        assert problem.answer["gold"] == row.reference


@dataclass(frozen=True)
class Asked:
    """A row of a problem file, and the messages and tools that are asked, or a refusal."""

    source: str
    row: dict
    messages: list | None = None
    tools: list | None = None
    columns: dict | None = None
    refusal: str = ""


ASKED = [
    Asked("verl-project/verl#758", {"prompt": [ASK], "data_source": "gsm8k"}, [ASK]),
    Asked(
        "verl-project/verl#758",
        {"extra_info": {"question": "1 + 1?"}},
        [ASK],
        columns={"prompt": "extra_info.question"},
    ),
    Asked(
        "verl-project/verl#758",
        {"question": "1 + 1?"},
        columns={"prompt": "extra_info.question"},
        refusal="no column 'extra_info.question' .for prompt.; it has .'question'",
    ),
    Asked(
        "lm-sys/FastChat#3017",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}]},
        [ASK],
    ),
    Asked(
        "hiyouga/LlamaFactory#7982",
        {"conversations": [{"from": "human", "value": "1 + 1?"}], "system": "Add."},
        [{"role": "system", "content": "Add."}, ASK],
    ),
    Asked(
        "huggingface/trl#5311",
        {"prompt": [ASK], "tools": json.dumps([TOOL])},
        [ASK],
        tools=[TOOL],
    ),
    Asked("huggingface/trl#2131", {"prompt": [ASK, REPLY]}, refusal="the last message is the assi"),
    Asked(
        "unslothai/unsloth#112", {"chosen": "2", "rejected": "3"}, refusal="no prompt; understoo"
    ),
    Asked("unslothai/unsloth#112", {"prompt": "", "chosen": "2"}, refusal="the prompt is empty"),
    Asked(
        "hiyouga/LlamaFactory#2529",
        {"prompt": [{"role": "User", "content": "1 + 1?"}]},
        refusal="message 0: role 'User' is not one of",
    ),
]


@pytest.fixture
def own_task(monkeypatch):
    """The name of a user's own reward."""
    task = Task("own", None, lambda problem, answer: 1.0, None, None, ())
    monkeypatch.setitem(rewards.TASKS, "own", task)
    return "own"


@pytest.mark.parametrize("row", ASKED, ids=lambda row: f"{row.source} {row.refusal}")
def test_what_is_asked_of_a_row_with_mapped_columns(row, own_task, tmp_path):
    path = tmp_path / "problems.jsonl"
    write_rows(path, [row.row])
    if row.refusal:
        with pytest.raises(ValueError, match=f"problems.jsonl, line 1: {row.refusal}"):
            own_problems.read(path, own_task, columns=row.columns)
        return
    (problem,) = own_problems.read(path, own_task, columns=row.columns)
    assert (problem.messages, problem.tools) == (row.messages, row.tools)


# Faults of a row in the project's own form, and the words that name field, value and choices.
OWN = dataclasses.asdict(maths.problem("1 + 1?", "2"))
FAULTS = {
    "a misspelt field": (
        {**OWN, "difficulity": 0.5},
        r"no field \['difficulity'\]; it may have task",
    ),
    "a task": ({**OWN, "task": "math"}, "task 'math' .*maths"),
    "a mode": ({**OWN, "mode": "thinking"}, "mode 'thinking' is none of any, think, no_think"),
    "an answer": ({**OWN, "answer": "2"}, "answer '2' is no object, the record of a task"),
    "no reference": (
        {**OWN, "answer": {}},
        "a problem of 'maths' has gold; this one lacks",
    ),
    "a reference of another type": ({**OWN, "answer": {"gold": 2}}, "answer: gold 2 is no str"),
    "an empty reference": ({**OWN, "answer": {"gold": ""}}, "answer: gold is empty"),
    # allenai/olmo-eval#354: with no tests every program passes.
    "no tests": (
        dataclasses.asdict(coding.problem("Double.", "double", [], "")),
        "answer: tests is empty",
    ),
    "a difficulty": ({**OWN, "difficulty": "hard"}, "difficulty 'hard' is no number"),
    "an open end": ({**OWN, "messages": [ASK, REPLY]}, "the last message is the assistant's"),
    "an empty question": ({**OWN, "messages": [{**ASK, "content": " "}]}, "the prompt is empty"),
    "a picture": (
        {**OWN, "messages": [{**ASK, "content": [{"type": "image_url", "image_url": "a"}]}]},
        "message 0: content part .*known are text",
    ),
    "a preference pair": (
        {"messages": [ASK], "chosen": "2", "rejected": "3"},
        r"a problem has no field \['chosen', 'rejected'\]; it may have task, messages",
    ),
}


@pytest.mark.parametrize("row, words", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_a_problem_is_named_with_file_and_line(row, words, tmp_path):
    write_rows(tmp_path / "p.jsonl", [OWN, row])
    with pytest.raises(ValueError, match=f"p.jsonl, line 2: .*{words}"):
        read_problems(tmp_path / "p.jsonl")


NANO = ModelConfig("nano", 1, 32, 64, 2, 1, head_dim=16, vocab=384, tied=True, max_length=64)
BAD = {**OWN, "mode": "thinking"}
CHAT = {"messages": [ASK, REPLY]}


def sft_config(folder, data, problems=""):
    return sft.Config(
        NANO,
        str(folder / "tok"),
        (str(folder / data),),
        1,
        OptimConfig(warmup=0),
        batch=1,
        length=64,
        evaluation=ProblemEvaluation(problems),
    )


def grpo_config(folder, problems, held_out=""):
    return grpo.Config(
        NANO,
        str(folder / "tok"),
        (Share(FILE),),
        1,
        OptimConfig(warmup=0),
        problems=str(folder / problems),
        sampling=Sampling(2, 4, 4),
        prompts=1,
        length=64,
        evaluation=ProblemEvaluation(held_out),
    )


STARTS = {
    "conversations": (lambda f: (sft, sft_config(f, "bad_chat.jsonl")), "bad_chat.jsonl, line 2"),
    "items of an evaluation": (
        lambda f: (sft, sft_config(f, "chat.jsonl", str(f / "bad.jsonl"))),
        "bad.jsonl, line 2",
    ),
    "problems": (lambda f: (grpo, grpo_config(f, "bad.jsonl")), "bad.jsonl, line 2"),
    "items beside problems": (
        lambda f: (grpo, grpo_config(f, "good.jsonl", str(f / "bad.jsonl"))),
        "bad.jsonl, line 2",
    ),
}


@pytest.mark.parametrize("make, words", STARTS.values(), ids=STARTS)
def test_a_fault_ends_a_run_before_its_first_step(make, words, tmp_path):
    """PrimeIntellect-ai/prime-rl#885: one row of another shape ended a run when it was drawn."""
    Tokenizer.train(["plain text"], 282).save(tmp_path / "tok")
    write_rows(tmp_path / "chat.jsonl", [CHAT] * 2)
    write_rows(tmp_path / "bad_chat.jsonl", [CHAT, {**CHAT, "mask": [1]}])
    write_rows(tmp_path / "good.jsonl", [OWN] * 2)
    write_rows(tmp_path / "bad.jsonl", [OWN, BAD])
    stage, config = make(tmp_path)
    with pytest.raises(ValueError, match=words):
        stage.run(config, str(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/*"))
