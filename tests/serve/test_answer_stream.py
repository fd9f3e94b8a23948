"""Tokens to deltas: however the tokens come in pieces, the text is the same."""

import random

import pytest

from qwen3.data import chat
from qwen3.serve.answer_stream import CONTENT, REASONING, TOOL_CALL, ChatDeltas, TextDeltas

PIECES = [
    *("the cat", "\n", "\n\n", " ", "<think>", "</think>", "\U0001f525", "\u00e9", "{", '"', "hat"),
    *("<tool_call>", "</tool_call>", "<tool_", "call>", '"</tool_call>"', "<|im_end|>"),
    '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
    '<tool_call>\n{"name": "f", "arguments": {"x": "</tool_call>"}}\n</tool_call>',
]
STOPS = [(), ("hat",), ("\n\n", "zzz"), ("\u00e9", "cat\n"), ("call>",), ("\U0001f525",)]


def random_answer(rng, tokenizer):
    """Ids of tags, calls, characters and single bytes in any order."""
    ids = []
    for _ in range(rng.randint(1, 14)):
        if rng.random() < 0.3:
            ids.append(rng.randrange(256))  # a byte, mostly a part of no character
        else:
            ids += tokenizer.encode(rng.choice(PIECES))
    return ids


def joined(deltas):
    """(reasoning, content, calls), each concatenated."""
    texts = ["".join(d.text for d in deltas if d.kind == kind) for kind in (REASONING, CONTENT)]
    return *texts, [d.call for d in deltas if d.kind == TOOL_CALL]


def test_pieces_of_500_random_answers_join_to_the_whole(tokenizer):
    rng = random.Random(0)
    cuts = 0
    for _ in range(500):
        ids = random_answer(rng, tokenizer)
        options = {"stop": rng.choice(STOPS), "tools": rng.random() < 0.7}
        options["thinking"] = rng.random() < 0.3
        whole, pieces = ChatDeltas(tokenizer, **options), ChatDeltas(tokenizer, **options)
        expected = joined(whole.feed(ids) + whole.close())
        deltas, at = [], 0
        while at < len(ids):
            step = rng.randint(1, 5)
            deltas += pieces.feed(ids[at : at + step])
            at += step
        assert joined(deltas + pieces.close()) == expected
        assert whole.reasoning_tokens == pieces.reasoning_tokens
        for text in expected[:2]:
            assert not any(stop in text for stop in options["stop"])
        cuts += whole.cut.stopped
    assert cuts > 50


@pytest.mark.parametrize("stop", STOPS)
def test_plain_text_is_that_of_the_bytes_before_the_stop(tokenizer, stop):
    rng = random.Random(1)
    for _ in range(60):
        ids = [i for i in random_answer(rng, tokenizer) if i not in tokenizer.stop_ids]
        data = b"".join(tokenizer.token_bytes[i] for i in ids)
        ends = [data.find(s.encode()) for s in stop if s.encode() in data]
        # The first token at which a stop string is complete decides, then the earliest beginning.
        deltas = TextDeltas(tokenizer, stop=stop, stop_ids=tokenizer.stop_ids)
        text = "".join(d.text for i in ids for d in deltas.feed([i]))
        text += "".join(d.text for d in deltas.close())
        if len(ends) < 2:
            assert text == data[: ends[0] if ends else None].decode("utf-8", "replace")


def test_well_formed_answers_are_parsed_as_the_chat_format_parses_them(tokenizer):
    call = PIECES[-2]
    for text in (
        "Yes.",
        "<think>\nhm\n</think>\n\nYes.\n",
        "<think>\n\n</think>\n\nYes.",
        f"<think>\nhm\n</think>\n\nWell.\n{call}\n{call}",
        f"{PIECES[-1]}",
        "<think>\nhm hm",
        "a <tool_call> b",
    ):
        deltas = ChatDeltas(tokenizer, tools=True)
        parts = joined(deltas.feed(tokenizer.encode(text)) + deltas.close())
        parsed = chat.parse(text)
        assert parts == (parsed.reasoning, parsed.content, list(parsed.tool_calls))


def test_a_text_full_of_tags_takes_linear_time(tokenizer):
    # A quadratic reading would take minutes: 20,000 closing tags within one string.
    text = '<tool_call>\n{"name": "f", "arguments": {"x": "' + "</tool_call>" * 20_000
    deltas = ChatDeltas(tokenizer, tools=True)
    parts = joined(deltas.feed(tokenizer.encode(text)) + deltas.close())
    assert parts == ("", text, [])
