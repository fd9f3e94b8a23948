"""Rows of training files as public reports show them: read as they are meant, or refused by name.

Every row of a table names the report by repository and number; the inputs are written anew here.
"""

import gzip
import json
from dataclasses import dataclass, field

import pytest

from qwen3.data import chat
from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.stages import conversations

ASK, REPLY = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}
THOUGHT = {**REPLY, "reasoning_content": "Hm."}
SYSTEM = {"role": "system", "content": "Be brief."}
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}
CALL = {"name": "find", "arguments": {"word": "quoll"}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"legs": 4}'}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["plain text"], 282)


@dataclass(frozen=True)
class Row:
    """A row of a file, and the same row in the plain form, or the words of its refusal."""

    source: str  # owner/repository#number of the report
    row: dict
    plain: dict = field(default_factory=dict)
    refusal: str = ""


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


FORMS = [
    # Other names of messages, roles, texts and thoughts.
    Row(
        "hiyouga/LlamaFactory#7982",
        {
            "conversations": [
                {"from": "human", "value": "Which?"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": '{"legs": 4}'},
                {"from": "gpt", "value": "This."},
            ],
            "system": "Be brief.",
            "tools": json.dumps([TOOL]),
        },
        {"messages": [SYSTEM, ASK, CALLING, RESULT, REPLY], "tools": [TOOL]},
    ),
    Row(
        "hiyouga/LlamaFactory#2381",
        {"conversations": [{"from": "hummany", "value": "?"}, {"from": "gpt", "value": "!"}]},
        refusal="message 0: role 'hummany' is not one of",
    ),
    Row(
        "hiyouga/LlamaFactory#2529",
        {"messages": [{"role": "User", "content": "?"}, REPLY]},
        refusal="message 0: role 'User' is not one of",
    ),
    Row(
        "allenai/open-instruct#1333",
        {"messages": [ASK, CALLING, {"role": "environment", "content": '{"legs": 4}'}, REPLY]},
        {"messages": [ASK, CALLING, RESULT, REPLY]},
    ),
    Row(
        "axolotl-ai-cloud/axolotl#1660",
        {"conversation": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "This."}]},
        {"messages": [ASK, REPLY]},
    ),
    Row("THUDM/slime#330", {"messages": [ASK, THOUGHT]}, {"messages": [ASK, THOUGHT]}),
    Row(
        "vllm-project/vllm#51679",
        {"messages": [ASK, {**REPLY, "reasoning": "Hm."}]},
        {"messages": [ASK, THOUGHT]},
    ),
    Row(
        "vllm-project/vllm#51679",
        {"messages": [ASK, {**REPLY, "reasoning": "Hm.", "reasoning_content": "Ha."}]},
        refusal="message 1: reasoning_content and reasoning say different things",
    ),
    Row(
        "gepromptet/promptolution#71",
        {"messages": [{"role": "user", "prompt": "Which?"}, REPLY]},
        refusal=r"message 0: a message has no field \['prompt'\]; it may have role, content, ",
    ),
    # Texts in parts.
    Row(
        "lm-sys/FastChat#3017",
        {"messages": [{"role": "user", "content": parts("Whi", "ch?")}, REPLY]},
        {"messages": [ASK, REPLY]},
    ),
    Row(
        "UKGovernmentBEIS/inspect_ai#1801",
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [{"type": "reasoning", "reasoning": "Hm."}, *parts("This.")],
                },
            ]
        },
        {"messages": [ASK, THOUGHT]},
    ),
    Row(
        "hiyouga/LlamaFactory#7982",
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, REPLY]},
        refusal="message 0: content part .*a.png.* is no text; known are text, thinking",
    ),
    # Tools: as text, beside or in the system message, filled with nulls; calls and their results.
    Row(
        "PrimeIntellect-ai/prime-rl#885",
        {"messages": [ASK, REPLY], "tools": json.dumps([TOOL])},
        {"messages": [ASK, REPLY], "tools": [TOOL]},
    ),
    Row(
        "huggingface/trl#5311",
        {"messages": [ASK, REPLY], "tools": [json.dumps(TOOL)]},
        {"messages": [ASK, REPLY], "tools": [TOOL]},
    ),
    Row(
        "modelscope/ms-swift#10110",
        {
            "messages": [ASK, REPLY],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "find",
                        "description": None,
                        "parameters": {
                            "type": "object",
                            "properties": {"word": {"type": "string"}, "path": None},
                        },
                    },
                }
            ],
        },
        {"messages": [ASK, REPLY], "tools": [TOOL]},
    ),
    Row(
        "hiyouga/LlamaFactory#6521",
        {"messages": [{**SYSTEM, "tools": [TOOL]}, ASK, REPLY]},
        {"messages": [SYSTEM, ASK, REPLY], "tools": [TOOL]},
    ),
    Row(
        "huggingface/smolagents#1003",
        {
            "messages": [
                ASK,
                {**CALLING, "tool_calls": [{"name": "find", "arguments": '{"word": "quoll"}'}]},
                RESULT,
                REPLY,
            ]
        },
        {"messages": [ASK, CALLING, RESULT, REPLY]},
    ),
    Row(
        "kakao/diatool-dpo#2",
        {"messages": [ASK, {**CALLING, "tool_calls": json.dumps([CALL])}, RESULT, REPLY]},
        {"messages": [ASK, CALLING, RESULT, REPLY]},
    ),
    Row(
        "NVIDIA-NeMo/RL#1181",
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
                },
                {"role": "tool", "tool_call_id": "c1", "content": {"legs": 4}},
                REPLY,
            ]
        },
        {"messages": [ASK, CALLING, RESULT, REPLY]},
    ),
    Row(
        "modelcontextprotocol/typescript-sdk#2139",
        {
            "messages": [
                ASK,
                {**CALLING, "tool_calls": [{"name": "now", "arguments": None}]},
                RESULT,
                REPLY,
            ]
        },
        {
            "messages": [
                ASK,
                {**CALLING, "tool_calls": [{"name": "now", "arguments": {}}]},
                RESULT,
                REPLY,
            ]
        },
    ),
    # What is learned of a conversation.
    Row(
        "axolotl-ai-cloud/axolotl#1703",
        {"messages": [ASK, {**REPLY, "weight": 0}, ASK, {**REPLY, "weight": 1}]},
        {"messages": [ASK, REPLY, ASK, REPLY], "trained": [3]},
    ),
    Row(
        "axolotl-ai-cloud/axolotl#1756",
        {"messages": [{**ASK, "train": False}, {**REPLY, "train": True}, ASK, REPLY]},
        {"messages": [ASK, REPLY, ASK, REPLY], "trained": [1, 3]},
    ),
    Row(
        "axolotl-ai-cloud/axolotl#1756",
        {"messages": [{**ASK, "train": True}, REPLY]},
        refusal="message 0: weight True of a user message: only answers are trained on",
    ),
    Row(
        "MicrosoftDocs/azure-reference-other#157",
        {"messages": [ASK, {**REPLY, "weight": "high"}]},
        refusal="message 1: weight 'high': wanted true, false or a number",
    ),
    Row(
        "huggingface/trl#2131",
        {"prompt": [ASK, REPLY, ASK], "completion": [REPLY]},
        {"messages": [ASK, REPLY, ASK, REPLY], "trained": [3]},
    ),
    Row(
        "huggingface/trl#2131",
        {
            "prompt": [
                {"from": "human", "value": "Which?"},
                {"from": "gpt", "value": "This."},
                {"from": "human", "value": "Which?"},
            ],
            "completion": [{"from": "gpt", "value": "This."}],
            "system": "Be brief.",
        },
        {"messages": [SYSTEM, ASK, REPLY, ASK, REPLY], "trained": [4]},
    ),
    Row(
        "huggingface/trl#2131",
        {"prompt": 7, "completion": "This."},
        refusal="a conversation is a list of messages, not '7'",
    ),
    Row(
        "huggingface/trl#2020",
        {"prompt": "Which?", "completion": "This."},
        {"messages": [ASK, REPLY]},
    ),
    Row(
        "NVIDIA-NeMo/Megatron-Bridge#3359",
        {"messages": [ASK, {**REPLY, "weight": 0}]},
        refusal="no assistant message to train on",
    ),
    Row(
        "Kuaishou-OneRec/OpenOneRec#38",
        {"messages": [SYSTEM, ASK, REPLY]},
        {"messages": [SYSTEM, ASK, REPLY], "trained": [2]},
    ),
    # Settings of the template beside the messages.
    Row(
        "baidu-baige/LoongForge#88",
        {"messages": [ASK, REPLY], "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [ASK, REPLY], "empty_think": "prompt"},
    ),
    Row(
        "baidu-baige/LoongForge#88",
        {"messages": [ASK, REPLY], "chat_template_kwargs": {"add_vision_id": True}},
        refusal=r"no field \['add_vision_id'\]; it may have enable_thinking",
    ),
    Row(
        "NVIDIA-NeMo/Automodel#3738",
        {"messages": [ASK, THOUGHT], "enable_thinking": False},
        refusal="enable_thinking is false, but an answer has a thought",
    ),
    # Rows for another kind of training.
    Row(
        "NVIDIA-NeMo/RL#1027",
        {"chosen": [ASK, REPLY], "rejected": [ASK, {**REPLY, "content": "That."}]},
        refusal=r"a sample has messages .* or ids, this one has chosen, rejected",
    ),
    Row(
        "huggingface/open-r1#585",
        {"problem": "?", "solution": "!"},
        refusal=r"a sample has messages .* or ids, this one has problem, solution",
    ),
    Row(
        "kakao/diatool-dpo#2",
        {"messages": json.dumps([ASK, REPLY])},
        {"messages": [ASK, REPLY]},
    ),
    Row(
        "THUDM/slime#1315",
        {"messages": "<|im_start|>user\nWhich?<|im_end|>\n"},
        refusal="a conversation is a list of messages",
    ),
]


@pytest.mark.parametrize("row", FORMS, ids=lambda row: f"{row.source} {row.refusal[:30]}")
def test_a_row_gives_the_tokens_of_its_plain_form_or_is_refused(row, tokenizer, tmp_path):
    path = tmp_path / "data.jsonl"
    write_rows(path, [{"messages": [ASK, REPLY]}, row.row])
    if row.refusal:
        with pytest.raises(ValueError, match=f"data.jsonl, line 2: .*{row.refusal}"):
            conversations.read(path, tokenizer)
        return
    sequences = conversations.read(path, tokenizer)[1:]
    views = chat.training_views(row.plain["messages"], tools=row.plain.get("tools"))
    answers = row.plain.get("trained", [i for _, part in views for i in part])
    for sequence, (count, part) in zip(sequences, views, strict=True):
        ids, mask = chat.render_tokens(
            tokenizer,
            row.plain["messages"][:count],
            tools=row.plain.get("tools"),
            train_on=[i for i in part if i in answers],
            empty_think=row.plain.get("empty_think", "target"),
        )
        assert sequence.tokens.tolist() == ids
        assert sequence.weights.tolist() == mask


def test_a_fractional_weight_stands_in_the_loss_mask(tokenizer):
    """axolotl-ai-cloud/axolotl#1702: answers of one dialogue count differently."""
    messages = [ASK, {**REPLY, "weight": 0.25}, ASK, REPLY]
    (light, whole) = conversations.sequences({"messages": messages}, tokenizer)
    assert set(light.weights.tolist()) == {0.0, 0.25}
    assert set(whole.weights.tolist()) == {0.0, 1.0}


LINE = json.dumps({"messages": [ASK, REPLY]})
BYTES = {
    "hiyouga/LlamaFactory#8947 a list instead of lines": (
        "a.json",
        json.dumps([json.loads(LINE)], indent=2).encode(),
    ),
    "microsoft/promptflow#4202 a list, with a mark, packed": (
        "a.json.gz",
        gzip.compress(b"\xef\xbb\xbf" + f"[{LINE}]".encode()),
    ),
    "hiyouga/LlamaFactory#7982 lines in a file named .json": ("a.json", LINE.encode()),
    "huggingface/datasets#8241 a byte-order mark": ("a.jsonl", b"\xef\xbb\xbf" + LINE.encode()),
    "wbolster/jsonlines#68 a mark and blank lines": (
        "a.jsonl",
        b"\xef\xbb\xbf\r\n" + LINE.encode() + b"\r\n\r\n",
    ),
    "microsoft/promptflow#4172 packed, with a mark": (
        "a.jsonl.gz",
        gzip.compress(b"\xef\xbb\xbf" + LINE.encode()),
    ),
}


@pytest.mark.parametrize("name, data", BYTES.values(), ids=BYTES)
def test_a_file_is_read_however_it_was_saved(name, data, tokenizer, tmp_path):
    (tmp_path / name).write_bytes(data)
    (expected,) = conversations.sequences(json.loads(LINE), tokenizer)
    (sequence,) = conversations.read(tmp_path / name, tokenizer)
    assert sequence.tokens.tolist() == expected.tokens.tolist()


def test_a_fault_in_a_list_is_named_by_its_row(tokenizer, tmp_path):
    """hiyouga/LlamaFactory#8947."""
    path = tmp_path / "a.json"
    for row, words in (
        (7, "a.json, row 2: a JSON int, not an object"),
        ({}, "a.json, row 2: a sam"),
    ):
        path.write_text(json.dumps([json.loads(LINE), row]))
        with pytest.raises(ValueError, match=words):
            conversations.read(path, tokenizer)
    path.write_text(f"[{LINE},\n{LINE}")
    with pytest.raises(ValueError, match=r"a.json: not JSON \(Expecting ',' delimiter"):
        conversations.read(path, tokenizer)


def test_a_parquet_file_does_not_merge_the_arguments_of_calls(tokenizer, tmp_path):
    """axolotl-ai-cloud/axolotl#2909: one column type for all calls fills each with the others'
    arguments, as null."""
    pytest.importorskip("pyarrow")
    rows = [
        {"messages": [ASK, {**CALLING, "tool_calls": [{"name": n, "arguments": {n: n}}]}]}
        for n in ("message", "theta")
    ]
    for name in ("a.jsonl", "a.parquet"):
        write_rows(tmp_path / name, rows)
    texts = [
        [tokenizer.decode(s.tokens) for s in conversations.read(tmp_path / name, tokenizer)]
        for name in ("a.jsonl", "a.parquet")
    ]
    assert texts[0] == texts[1] and "null" not in texts[1][0]
