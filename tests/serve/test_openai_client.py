"""The official client against a server with the tiny model: calls of every kind."""

import json

import jsonschema
import openai
import pytest

QUESTION = [{"role": "user", "content": "the cat?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
AGE = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["age", "ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "age", "schema": AGE}}


def ask(client, messages=QUESTION, **options):
    settings = {"model": "tiny", "max_tokens": 24, "seed": 1}
    return client.chat.completions.create(messages=messages, **settings | options)


def joined(chunks):
    """(content, reasoning, [(name, arguments)], finish reason) of the first choice of a stream."""
    content, reasoning, calls, finish = "", "", [], None
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or ():
                assert call.index == len(calls) and call.id and call.type == "function"
                calls.append((call.function.name, json.loads(call.function.arguments)))
            finish = choice.finish_reason or finish
    return content, reasoning, calls, finish


def parts(answer):
    """The same of an unstreamed response."""
    choice = answer.choices[0]
    message = choice.message
    calls = [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()]
    reasoning = getattr(message, "reasoning_content", None) or ""
    return message.content or "", reasoning, calls, choice.finish_reason


# Options of chat calls that a random model answers; each is called streamed and not.
CALLS = {
    "plain": {},
    "greedy": {"temperature": 0},
    "top_p": {"top_p": 0.5, "temperature": 1.5},
    "penalties": {"presence_penalty": 1, "frequency_penalty": -1},
    "max_completion_tokens": {"max_completion_tokens": 5, "max_tokens": openai.NOT_GIVEN},
    "one token": {"max_tokens": 1},
    "stop text": {"stop": "e"},
    "stop texts": {"stop": ["the", "a", "\n"]},
    "ignored fields": {"user": "u", "metadata": {"a": "b"}, "store": False},
    "no thinking": {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
    "thinking": {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
    "budget": {"extra_body": {"thinking_budget": 3}},
    "sampling beyond OpenAI's": {
        "extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    },
    "tools, none chosen": {"tools": [WEATHER], "tool_choice": "none"},
    "tools, auto": {"tools": [WEATHER, CLOCK], "tool_choice": "auto"},
    "tool by name": {"tools": [WEATHER, CLOCK], "tool_choice": NAMED, "max_tokens": 150},
    "JSON schema": {"response_format": FORMAT, "max_tokens": 150},
    "plain text": {"response_format": {"type": "text"}},
    "logprobs": {"logprobs": True},
    "top logprobs": {"logprobs": True, "top_logprobs": 3},
}


@pytest.mark.parametrize("name", CALLS)
def test_streamed_pieces_join_to_the_unstreamed_answer(client, name):
    said = ask(client, **CALLS[name])
    assert joined(ask(client, **CALLS[name], stream=True)) == parts(said)
    assert said.usage.completion_tokens <= 150 and said.object == "chat.completion"
    assert said.choices[0].finish_reason in ("stop", "length", "tool_calls")


CONVERSATIONS = {
    "system": [{"role": "system", "content": "the hat"}, *QUESTION],
    "developer": [{"role": "developer", "content": "the hat"}, *QUESTION],
    "parts of text": [{"role": "user", "content": [{"type": "text", "text": "the cat?"}]}],
    "turns": [*QUESTION, {"role": "assistant", "content": "a bat"}, *QUESTION],
    "tools' results": [
        *QUESTION,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ],
    "control tokens as text": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system"}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_are_rendered_as_chat_renders_them(client, model, name):
    shown = {"return_token_ids": True}
    said = ask(client, CONVERSATIONS[name], extra_body=shown)
    ours = model.chat(
        [
            m | {"role": m["role"].replace("developer", "system"), "content": _text(m)}
            for m in CONVERSATIONS[name]
        ],
        seed=1,
        max_tokens=24,
    )
    choice = said.choices[0]
    assert choice.prompt_token_ids == list(ours.completion.request.prompt)
    assert choice.token_ids == ours.completion.tokens


def _text(message):
    content = message.get("content") or ""
    return content if isinstance(content, str) else content[0]["text"]


def test_identical_prompts_give_the_ids_of_generate(client, model):
    prompts = ["the cat", [1, 2, 3], "one two three"]
    for prompt in prompts:
        said = client.completions.create(
            model="tiny",
            prompt=prompt,
            n=2,
            seed=5,
            max_tokens=20,
            logprobs=2,
            extra_body={"return_token_ids": True},
        )
        ours = model.generate([prompt], samples=2, seed=5, max_tokens=20)
        assert [c.token_ids for c in said.choices] == [a.completion.tokens for a in ours]
        for choice, answer in zip(said.choices, ours, strict=True):
            assert choice.logprobs.token_logprobs == pytest.approx(answer.completion.log_probs)


def test_n_answers_differ_and_a_seed_repeats_them(client):
    texts = [[c.message.content for c in ask(client, n=3).choices] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
    chunks = list(ask(client, n=3, stream=True))
    by_index = ["", "", ""]
    for chunk in chunks:
        by_index[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert by_index == texts[0]
    unseeded = {ask(client, seed=openai.NOT_GIVEN).choices[0].message.content for _ in range(3)}
    assert len(unseeded) == 3


# What the model is made to say, and (content, reasoning, calls, finish reason) of it.
SAID = {
    "thought": ("<think>\nhm\n\n</think>\n\nYes.", ("Yes.", "hm", [], "stop")),
    "no thought": ("Yes.\n", ("Yes.\n", "", [], "stop")),
    "empty thought": ("<think>\n\n</think>\n\nYes.", ("Yes.", "", [], "stop")),
    "many bytes": (
        "<think>\n\u6c34\n</think>\n\n\U0001f525\u00e9",
        ("\U0001f525\u00e9", "\u6c34", [], "stop"),
    ),
    "call": (f"Well.\n{CALL}", ("Well.", "", [("weather", {"city": "Rome"})], "tool_calls")),
    "thought and two calls": (
        f"<think>\nhm\n</think>\n\n{CALL}\n{SECOND}",
        ("", "hm", [("weather", {"city": "Rome"}), ("clock", {})], "tool_calls"),
    ),
    "no call": (
        "<tool_call>\nweather\n</tool_call>",
        ("<tool_call>\nweather\n</tool_call>", "", [], "stop"),
    ),
    "call that quotes": (
        '<tool_call>\n{"name": "f", "arguments": {"x": "</tool_call>"}}\n</tool_call>',
        ("", "", [("f", {"x": "</tool_call>"})], "tool_calls"),
    ),
    "call cut": ('<tool_call>\n{"name": "we', ('<tool_call>\n{"name": "we', "", [], "stop")),
}


@pytest.mark.parametrize("name", SAID)
def test_answers_have_their_parts(client, say, name):
    text, expected = SAID[name]
    say(text)
    options = {"tools": [WEATHER, CLOCK], "max_tokens": 150}
    assert parts(ask(client, **options)) == expected
    assert joined(ask(client, **options, stream=True)) == expected


def test_without_parallel_calls_one_is_left(client, say):
    say(f"{CALL}\n{SECOND}")
    options = {"tools": [WEATHER, CLOCK], "max_tokens": 150, "parallel_tool_calls": False}
    assert len(parts(ask(client, **options))[2]) == 1
    assert len(joined(ask(client, **options, stream=True))[2]) == 1


STOPPED = {
    "within a token": ("the cat and the hat", "d t", "the cat an"),
    "across tokens": ("one two three", "o thr", "one tw"),
    "at the start": ("one two", "one", ""),
    "within a character": ("a\U0001f525b", "\U0001f525", "a"),
    "never": ("one two", "four", "one two"),
    "begun": ("one two", "twox", "one two"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_stop_string_and_what_follows_are_left_out(client, say, name):
    text, stop, expected = STOPPED[name]
    say(text)
    assert parts(ask(client, stop=stop, max_tokens=60)) == (expected, "", [], "stop")
    assert joined(ask(client, stop=stop, max_tokens=60, stream=True))[0] == expected
    completion = client.completions.create(model="tiny", prompt="a", stop=stop, max_tokens=60)
    assert completion.choices[0].text == expected


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_required_call_is_made(client, choice):
    said = ask(client, tools=[WEATHER, CLOCK], tool_choice=choice, max_tokens=200, seed=3)
    _, _, calls, finish = parts(said)
    assert finish in ("tool_calls", "length")
    if choice == NAMED:
        assert finish == "tool_calls" and {name for name, _ in calls} == {"weather"}
        assert calls[0][1]["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("seed", range(4))
def test_json_of_a_schema_is_valid_where_the_model_stops(client, seed):
    at_once = {"chat_template_kwargs": {"enable_thinking": False}}
    said = ask(client, response_format=FORMAT, max_tokens=200, seed=seed, extra_body=at_once)
    content, _, _, finish = parts(said)
    assert finish == "stop"
    jsonschema.validate(json.loads(content), AGE)


def test_a_schema_holds_behind_a_thought(client):
    said = ask(
        client,
        response_format=FORMAT,
        max_tokens=220,
        extra_body={"thinking_budget": 4, "chat_template_kwargs": {"enable_thinking": True}},
    )
    jsonschema.validate(json.loads(parts(said)[0]), AGE)


def test_logprobs_go_with_their_tokens(client):
    for stream in (False, True):
        said = ask(client, logprobs=True, top_logprobs=4, stream=stream, max_tokens=10)
        choices = [c for chunk in said for c in chunk.choices] if stream else said.choices
        entries = [e for c in choices if c.logprobs for e in c.logprobs.content]
        assert len(entries) == 10
        for entry in entries:
            assert len(entry.top_logprobs) == 4
            assert entry.top_logprobs[0].logprob >= max(entry.logprob, -6.3)
            assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token


def test_usage_counts_the_tokens_of_thinking(client, say):
    say("<think>\nhm hm\n</think>\n\nYes.")
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, max_tokens=80))
    usage = ask(client, max_tokens=80).usage
    assert chunks[-1].choices == [] and chunks[-1].usage == usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert 3 <= usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_completions_of_several_prompts_stand_in_their_order(client):
    asked = {"model": "tiny", "prompt": ["the cat", "the hat"], "n": 2, "seed": 1, "max_tokens": 9}
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = [""] * 4
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert whole.usage.completion_tokens == 36


def test_models_are_listed_by_name(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").max_model_len == 512
    assert client.models.retrieve("tiny").automatic_budget is False
    with pytest.raises(openai.NotFoundError, match="does not exist; there is 'tiny'"):
        client.models.retrieve("other/model")


# Options of a chat call, the client's exception, the field it names, a part of its message.
BAD = 400
REFUSED = {
    "model": ({"model": "gpt-4"}, 404, "model", "does not exist"),
    "role": ({"messages": [{"role": "robot", "content": "a"}]}, BAD, "messages", "role 'robot'"),
    "no messages": ({"messages": []}, BAD, "messages", "non-empty list"),
    "system last": (
        {"messages": [*QUESTION, {"role": "system", "content": "a"}]},
        BAD,
        "messages",
        "not the first",
    ),
    "content": ({"messages": [{"role": "user", "content": 3}]}, BAD, "messages", "content 3"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        BAD,
        "messages[0].content",
        "text only",
    ),
    "tool result": (
        {"messages": [{"role": "tool", "content": "a"}]},
        BAD,
        "messages",
        "without an unanswered",
    ),
    "surrogate": ({"messages": [{"role": "user", "content": "a\\ud800"}]}, None, None, None),
    "unknown field": (
        {"extra_body": {"thinking_bugdet": 3}},
        BAD,
        "thinking_bugdet",
        "unknown field",
    ),
    "unsupported": ({"logit_bias": {"5": 1}}, BAD, "logit_bias", "not supported"),
    "temperature": ({"temperature": 3}, BAD, "temperature", "wanted a number from 0 to 2"),
    "n": ({"n": 0}, BAD, "n", "wanted a whole number from 1"),
    "many": ({"n": 128}, BAD, None, "at most 68"),
    "budget": ({"extra_body": {"thinking_budget": -1}}, BAD, "thinking_budget", "from 0"),
    "template": ({"extra_body": {"chat_template_kwargs": {"a": 1}}}, BAD, "a", "enable_thinking"),
    "top_logprobs": ({"top_logprobs": 3}, BAD, "top_logprobs", "without logprobs"),
    "stop": ({"stop": ["a"] * 17}, BAD, "stop", "up to 16"),
    "context": (
        {"messages": [{"role": "user", "content": "the cat " * 999}]},
        BAD,
        "messages",
        "context of 512",
    ),
    "tool": ({"tools": [{"type": "function"}]}, BAD, "tools", "no function with a name"),
    "choice": (
        {"tools": [CLOCK], "tool_choice": NAMED},
        BAD,
        "tool_choice",
        "one function of clock",
    ),
    "choice alone": ({"tool_choice": "required"}, BAD, "tool_choice", "without tools"),
    "format": ({"response_format": {"type": "xml"}}, BAD, "response_format", "json_schema"),
    "no schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "int"}},
            }
        },
        BAD,
        "response_format",
        "no JSON schema",
    ),
    "impossible schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "a",
                    "schema": {"type": "integer", "minimum": 3, "maximum": 1},
                },
            }
        },
        BAD,
        "response_format",
        "greater than maximum",
    ),
    "stream options": (
        {"stream_options": {"include_usage": True}},
        BAD,
        "stream_options",
        "without stream",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(client, name):
    options, status, param, message = REFUSED[name]
    if status is None:  # an escape in JSON, which the client's own encoder would not write
        assert ask(client, **options).choices
        return
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, **options)
    error = caught.value
    assert (error.status_code, error.param) == (status, param)
    assert message in error.body["message"] and error.type.endswith("_error")
