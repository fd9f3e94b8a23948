"""Files of conversations: the forms they come in, and faults named with file and line."""

import gzip
import json

import pytest

from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.stages import conversations

ASK, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SAMPLE = {"messages": [ASK, REPLY], "tools": [TOOL]}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["plain text"], 282)


def read(path, tokenizer):
    return [s.tokens.tolist() for s in conversations.read(path, tokenizer)]


@pytest.mark.parametrize(
    "name, data",
    [
        ("bom.jsonl", "\ufeff" + json.dumps(SAMPLE)),
        ("blank.jsonl", "\n" + json.dumps(SAMPLE) + "\r\n\r\n"),
        ("notes.jsonl", json.dumps({**SAMPLE, "id": "a1", "source": "here", "extra": None})),
        ("text.jsonl", json.dumps({**SAMPLE, "tools": json.dumps([TOOL])})),
        ("packed.jsonl.gz", json.dumps(SAMPLE)),
    ],
)
def test_every_form_of_a_file_gives_the_same_tokens(name, data, tokenizer, tmp_path):
    [expected] = [s.tokens.tolist() for s in conversations.sequences(SAMPLE, tokenizer)]
    data = data.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(tmp_path / name, tokenizer) == [expected]


def test_parquet_gives_the_same_tokens_as_json_lines(tokenizer, tmp_path):
    pytest.importorskip("pyarrow")
    calls = [{"name": name, "arguments": {name: 1}} for name in "fg"]
    turns = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in calls]
    samples = [{"messages": [ASK, turn]} for turn in turns] + [SAMPLE]
    for name in ("a.jsonl", "a.parquet"):
        write_rows(tmp_path / name, samples)
    assert read(tmp_path / "a.parquet", tokenizer) == read(tmp_path / "a.jsonl", tokenizer)


FAULTS = {
    "a misspelt field": (
        {"messages": [ASK, REPLY], "tool": [TOOL]},
        r"sample has no field \['tool'",
    ),
    "a misspelt field of a message": (
        {"messages": [ASK, {**REPLY, "reasonning": "r"}]},
        r"message 1: a message has no field \['reasonning'\]; it may have role, content, ",
    ),
    "a message not to be trained on": (
        {"messages": [ASK, {**REPLY, "weight": 0}]},
        "no assistant message to train on",
    ),
    "a mask of a conversation": ({**SAMPLE, "mask": [1]}, r"no field \['mask'\]; it may have mess"),
    "messages of ids": (
        {"ids": [1, 2], "mask": [0, 1], "messages": [ASK]},
        r"no field \['messages'",
    ),
    "no messages": ({"messages": None}, "a sample has messages"),
    "an empty conversation": ({"messages": []}, "non-empty list"),
    "tools that are no list": ({**SAMPLE, "tools": "f"}, "tools: a text that is not JSON"),
    "neither": ({"text": "x"}, "a sample has messages .* or ids, this one has text"),
}


@pytest.mark.parametrize("sample, message", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_file_and_line(sample, message, tokenizer, tmp_path):
    write_rows(tmp_path / "a.jsonl", [SAMPLE, sample])
    with pytest.raises(ValueError, match=f"a.jsonl, line 2: .*{message}"):
        conversations.read(tmp_path / "a.jsonl", tokenizer)
