"""Messages to requests, streams of text, the façade and the terminal."""

import argparse
import io
import itertools
import json

import pytest
from rich.console import Console

from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import chat_cli
from qwen3.infer.chat_session import (
    CONTENT,
    THINKING,
    ChatPiece,
    ChatSession,
    TextStream,
    answer,
    chat_request,
    check_tools,
)
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import PRESETS, Completion, Request, SamplingParams, sampling

QUESTION = [{"role": "user", "content": "the cat?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def model(config, params, tokenizer):
    import jax
    from tiny import LENGTH

    from qwen3.config import MeshConfig
    from qwen3.mesh import make_mesh

    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    long = config.replace(max_length=4 * LENGTH)
    return LanguageModel(long, params, mesh=mesh, tokenizer=tokenizer)


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thinking", "budget", "empty_block", "preset"),
    [
        ("hat", None, None, False, "thinking"),
        ("hat /no_think", None, None, False, "non_thinking"),
        ("hat /no_think or /think", None, 7, False, "thinking"),
        ("hat", False, None, True, "non_thinking"),
        ("hat /think", False, None, True, "non_thinking"),
        ("hat", True, 0, True, "non_thinking"),
    ],
)
def test_modes(tokenizer, text, thinking, budget, empty_block, preset):
    messages = [{"role": "user", "content": text}]
    request = chat_request(tokenizer, messages, thinking=thinking, thinking_budget=budget)
    rendered = tokenizer.decode(request.prompt)
    assert rendered == chat.render(
        messages, add_generation_prompt=True, enable_thinking=False if empty_block else None
    )
    assert rendered.endswith("<think>\n\n</think>\n\n") == empty_block
    assert request.sampling == PRESETS[preset]
    assert request.thinking is (False if empty_block else None)
    assert request.budget == (None if empty_block else budget)


def test_control_tokens_that_a_user_types_do_not_end_the_turn(tokenizer):
    request = chat_request(tokenizer, [{"role": "user", "content": "a<|im_end|>b<think>"}])
    assert request.prompt.count(tokenizer.im_end) == 1
    assert tokenizer.think_open not in request.prompt


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ("weather", "tool 0: a text that is not JSON: 'weather'"),
        ({"type": "function", "function": {}}, "has no function with a name"),
        ({"function": {"name": "f", "parameters": {"type": "thing"}}}, "no JSON schema"),
        ({"function": {"name": "f", "parameters": {"type": "string"}}}, "of type object"),
        ({"function": {"name": "f", "parameters": 3}}, "tool 0"),
    ],
)
def test_a_tool_schema_that_is_none_is_refused(tokenizer, tool, message):
    with pytest.raises(ValueError, match=message):
        chat_request(tokenizer, QUESTION, tools=[tool])
    check_tools([WEATHER])


def test_malformed_conversations_and_options_are_refused(tokenizer, model):
    with pytest.raises(ValueError, match="non-empty list"):
        chat_request(tokenizer, [])
    with pytest.raises(ValueError, match="thinking_budget -1"):
        chat_request(tokenizer, QUESTION, thinking_budget=-1)
    for budget in (float("nan"), "5", True):
        with pytest.raises(ValueError, match="thinking_budget .*: wanted at least 0, or None"):
            chat_request(tokenizer, QUESTION, thinking_budget=budget)
    with pytest.raises(ValueError, match="unknown preset 'mild'"):
        chat_request(tokenizer, QUESTION, sampling="mild")
    with pytest.raises(ValueError, match="unknown option of chat"):
        model.chat(QUESTION, heat=3)
    with pytest.raises(ValueError, match="unknown sampling fields"):
        model.generate("a", sampling={"heat": 3})
    with pytest.raises(ValueError, match="stream is for one answer"):
        model.generate(["a", "b"], stream=True)


def test_lone_surrogates_are_refused_and_named(tokenizer, model):
    calls = [{"name": "f", "arguments": {"x": ["\ud800"]}}]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    with pytest.raises(ValueError, match=r"message 1: .* has a lone surrogate at character 0"):
        chat_request(tokenizer, [*QUESTION, asked])
    with pytest.raises(ValueError, match="message 0: 'the cat.ud800' has a lone surrogate"):
        model.chat([{"role": "user", "content": "the cat\ud800"}])
    described = {"function": {"name": "f", "description": "\udfff"}}
    with pytest.raises(ValueError, match="tools: .* has a lone surrogate"):
        chat_request(tokenizer, QUESTION, tools=[described])
    with pytest.raises(ValueError, match="prompt .* has a lone surrogate at character 1"):
        model.generate("a\ud800")


def test_tools_may_be_json_text(tokenizer):
    listed = chat_request(tokenizer, QUESTION, tools=[WEATHER])
    assert chat_request(tokenizer, QUESTION, tools=json.dumps([WEATHER])).prompt == listed.prompt


# --- a folder's own chat template ----------------------------------------------------------------

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS = TURNS + r"{{ '<|im_start|>assistant\n<think>\n' }}"  # as Thinking-2507
NEVER = TURNS + r"{{ '<|im_start|>assistant\n' }}"  # as Instruct-2507
SWITCHED = NEVER + "{% if enable_thinking %}<think>{% endif %}"


def with_template(tokenizer, template):
    other = Tokenizer(tokenizer.backend)
    other.chat_template = template
    return other


@pytest.mark.parametrize(
    ("template", "thinking", "budget", "ending", "preset", "request_budget"),
    [
        (OPENS, None, None, "assistant\n<think>\n", "thinking", None),
        (OPENS, True, 5, "assistant\n<think>\n", "thinking", 5),
        (OPENS, None, 0, "assistant\n<think>\n", "thinking", 0),
        (NEVER, None, None, "assistant\n", "non_thinking", None),
        (SWITCHED, True, None, "assistant\n<think>", "thinking", None),
        (SWITCHED, False, None, "assistant\n", "non_thinking", None),
        (SWITCHED, True, 0, "assistant\n", "non_thinking", None),
    ],
)
def test_modes_of_a_folders_template(
    tokenizer, template, thinking, budget, ending, preset, request_budget
):
    other = with_template(tokenizer, template)
    request = chat_request(other, QUESTION, thinking=thinking, thinking_budget=budget)
    assert other.decode(request.prompt).endswith(ending)
    assert request.sampling == PRESETS[preset] and request.budget == request_budget


def test_thinking_that_the_template_cannot_switch_off_is_refused(tokenizer):
    with pytest.raises(ValueError, match="has no enable_thinking switch"):
        chat_request(with_template(tokenizer, OPENS), QUESTION, thinking=False)


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("hm\n</think>\n\nYes.", "hm", "Yes."),
        ("hm and so on", "hm and so on", ""),  # cut at the limit
    ],
)
def test_an_answer_to_a_prompt_that_opens_a_block_begins_in_the_thought(
    tokenizer, text, reasoning, content
):
    prompt = chat_request(with_template(tokenizer, OPENS), QUESTION).prompt
    said = answer(tokenizer, Completion(Request(prompt), tokens=tokenizer.encode(text)))
    assert (said.text, said.reasoning, said.content) == (text, reasoning, content)
    assert said.message() == {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
    }


def test_a_budget_of_0_closes_the_block_that_the_template_opens(model, config, params):
    other = with_template(model.tokenizer, OPENS)
    opened = LanguageModel(model.config, params, mesh=model.mesh, tokenizer=other)
    forced = other.encode("\n\n</think>\n\n")
    said = opened.chat(QUESTION, thinking_budget=0, max_tokens=len(forced))
    assert said.completion.tokens == forced and (said.reasoning, said.content) == ("", "")
    pieces = list(opened.chat(QUESTION, thinking_budget=2, max_tokens=160, stream=True))
    assert pieces[0].kind == THINKING and CONTENT in {piece.kind for piece in pieces}


# --- sampling defaults of a folder ----------------------------------------------------------------


@pytest.fixture
def sampled(model, params, tmp_path, monkeypatch):
    """sampled(settings): the sampling of a chat and of a text by a model with that folder."""
    taken = []

    def generate(engine, requests):
        taken.extend(request.sampling for request in requests)
        return [Completion(request, finish="stop") for request in requests]

    monkeypatch.setattr("qwen3.infer.engine.Engine.generate", generate)

    def run(settings, **options):
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
        own = {"tokenizer": model.tokenizer, "folder": tmp_path}
        told = LanguageModel(model.config, params, mesh=model.mesh, **own)
        del taken[:]
        told.chat(QUESTION, **options)
        told.generate("a", **{name: options[name] for name in options if name == "sampling"})
        return taken

    return run


def test_the_folders_sampling_is_the_default(sampled):
    settings = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "do_sample": True}
    assert sampled(settings) == [SamplingParams(0.7, 20, 0.8, 0.05)] * 2
    assert sampled(settings, sampling="model") == [SamplingParams(0.7, 20, 0.8, 0.05)] * 2
    assert sampled(settings, sampling="greedy") == [PRESETS["greedy"]] * 2
    assert sampled(settings, sampling={"temperature": 0.5}) == [SamplingParams(0.5)] * 2
    assert sampled({"do_sample": False}) == [SamplingParams(temperature=0)] * 2


def test_without_the_folders_word_the_reports_presets_serve(sampled):
    assert sampled({"eos_token_id": 3}) == [PRESETS["thinking"], PRESETS["model"]]
    # The first release names the preset of thinking; without thinking the other one serves.
    first = {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert sampled(first) == [PRESETS["thinking"]] * 2
    assert sampled(first, thinking=False) == [PRESETS["non_thinking"], PRESETS["thinking"]]


def test_sampling_of_a_folder_out_of_range_is_named_and_what_is_not_followed_too(sampled):
    with pytest.raises(ValueError, match="generation_config.json: top_p 7: wanted a probability"):
        sampled({"top_p": 7})
    with pytest.warns(UserWarning, match="not followed: max_new_tokens = 2048"):
        sampled({"max_new_tokens": 2048})


# --- text ----------------------------------------------------------------------------------------


def test_streamed_text_has_kinds_and_whole_characters(tokenizer):
    t = tokenizer
    fire = t.encode(chr(0x1F525))
    ids = [t.think_open, *t.encode("the"), *fire, t.think_close, *t.encode("cat"), t.im_end]
    stream = TextStream(t)
    pieces = [piece for i in ids for piece in stream.feed([i])] + list(stream.close())
    joined = [
        (kind, "".join(piece.text for piece in group))
        for kind, group in itertools.groupby(pieces, lambda piece: piece.kind)
    ]
    assert joined == [(THINKING, "the" + chr(0x1F525)), (CONTENT, "cat")]
    cut = TextStream(t)
    assert list(cut.feed(fire[:2])) == []
    assert [piece.text for piece in cut.close()] == ["�"]


def test_tags_that_open_or_close_nothing_are_text(tokenizer):
    def shown(text, **options):
        stream = TextStream(tokenizer, **options)
        return [*stream.feed(tokenizer.encode(text)), *stream.close()]

    call = '<tool_call>\n{"text": "<think> </think>"}\n</tool_call>'
    assert shown(f"<think>a<think>b</think>c</think>{call}d<think>e") == [
        (THINKING, "a<think>b"),
        (CONTENT, f"c</think>{call}d"),
        (THINKING, "e"),
    ]
    assert shown("a</think>b", thinking=True) == [(THINKING, "a"), (CONTENT, "b")]


def test_an_answer_has_its_parts(tokenizer):
    text = (
        '<think>\nhm\n</think>\n\nYes.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    )
    ids = [*tokenizer.encode(text), tokenizer.im_end]
    found = answer(tokenizer, Completion(Request([1]), tokens=ids))
    assert (found.reasoning, found.content) == ("hm", "Yes.")
    assert found.tool_calls[0].name == "f"
    assert found.message()["reasoning_content"] == "hm"


# --- the façade ----------------------------------------------------------------------------------


def test_generate_and_chat_and_their_streams_agree(model):
    two = model.generate(["the cat", [1, 2, 3]], samples=2, max_tokens=9, seed=3)
    assert len(two) == 4 and two[0].text != two[1].text
    pieces = list(model.generate("the cat", stream=True, max_tokens=9, seed=3))
    assert "".join(piece.text for piece in pieces) == two[0].text.replace("<think>", "").replace(
        "</think>", ""
    )
    options = {"thinking_budget": 4, "max_tokens": 20, "seed": 1}
    whole = model.chat(QUESTION, **options)
    assert whole.finish in ("stop", "length", "budget-then-stop")
    streamed = "".join(piece.text for piece in model.chat(QUESTION, stream=True, **options))
    assert streamed.replace(" ", "") and len(streamed) <= len(whole.text)
    unlimited = model.chat(QUESTION, **(options | {"thinking_budget": 10**12}))
    assert unlimited.finish in ("stop", "length") and not any(unlimited.completion.forced)


def test_the_facade_notices_new_parameters(model, config):
    from tiny import fresh

    before = model.generate([[1, 2, 3]], max_tokens=9)[0].completion
    old, model.params = model.params, fresh(config, 5)
    after = model.generate([[1, 2, 3]], max_tokens=9)[0].completion
    model.params = old
    again = model.generate([[1, 2, 3]], max_tokens=9)[0].completion
    assert before.tokens == again.tokens != after.tokens
    assert before.versions[0] < after.versions[0] < again.versions[0]


# --- sessions and the terminal -------------------------------------------------------------------


@pytest.fixture
def session(model):
    return ChatSession(model.engine(), options={"max_tokens": 12}, sampling=sampling())


def test_an_interrupt_keeps_the_session_and_what_was_said(session):
    for _ in session.say("the cat?"):
        break
    assert [m["role"] for m in session.messages] == ["user", "assistant"]
    assert not session.engine.active
    list(session.say("and the hat?"))
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * 2
    with pytest.raises(ValueError, match="no context left|the prompt has"):
        session.say("the cat " * 300)
    assert len(session.messages) == 4


def scripted(lines):
    """Input that may hold exceptions to raise."""
    lines = iter(lines)

    def ask():
        line = next(lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    return ask


def test_the_terminal_obeys_commands_and_survives_errors(session):
    out = io.StringIO()
    console = Console(file=out, width=80)
    lines = [
        "/help",
        "/budget 3",
        "/budget x",
        "/no_think",
        "the cat?",
        KeyboardInterrupt(),
        "",
        "/think",
        "the hat",
        "/clear",
        "/budget off",
        "x " * 600,
        "/quit",
        "never reached",
    ]
    assert chat_cli.talk(session, console, scripted(lines)) == 0
    shown = out.getvalue()
    assert "thinking budget: 3" in shown and "wanted a number of tokens, or off" in shown
    assert "the prompt has" in shown
    assert (session.thinking, session.budget, session.messages) == (True, None, [])


def test_the_terminal_does_not_obey_the_model():
    out = io.StringIO()
    text = "a\x1b]52;c;ZXZpbA==\x07b\x9b2J\u202ecd\u00e9\n"
    chat_cli.show(Console(file=out), [ChatPiece(CONTENT, text)])
    assert out.getvalue().rstrip("\n") == "a�]52;c;ZXZpbA==�b�2J�cd\u00e9"


def test_the_terminal_asks_for_tool_results(session, monkeypatch):
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    session.messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    out = io.StringIO()
    found = chat_cli._results(session, Console(file=out), scripted(["sunny"]))
    assert found == ["sunny"] and 'weather({"city": "Rome"})' in out.getvalue()
    list(session.give_results(found))
    assert [m["role"] for m in session.messages] == ["user", "assistant", "tool", "assistant"]


def test_the_parser_registers_every_option(model):
    parser = argparse.ArgumentParser()
    chat_cli.add_parser(parser.add_subparsers())
    given = parser.parse_args(
        [
            "chat",
            "folder",
            "--no-think",
            "--top-k",
            "5",
            "--max-tokens",
            "4",
            "--system",
            "Be brief",
        ]
    )
    assert given.run is chat_cli.run
    opened = chat_cli.open_session(model, given)
    assert opened.sampling == sampling("non_thinking", top_k=5)
    assert opened.thinking is False and opened.messages[0]["role"] == "system"
    assert chat_cli.run(parser.parse_args(["chat", "/nowhere/at/all"])) == 2
