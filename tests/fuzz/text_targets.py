"""What a model writes and what callers ask: scorers, the chat format, requests to an engine."""

import dataclasses
import json
import random

import damage
import numpy as np
from bounds import Target

from qwen3.data import chat
from qwen3.data.chat_prompt import chat_prompt_ids
from qwen3.data.chat_tools import read_tools
from qwen3.infer.chat_session import TextStream, answer, chat_request
from qwen3.infer.requests import Completion, Request, SamplingParams, sampling
from qwen3.rewards import TASKS, maths, response

# --- scorers -------------------------------------------------------------------------------------


def scorer(task):
    """A target of one family: any text scores between 0 and 1, and there is a verdict."""

    def open_target(_folder):
        def make(rng):
            split = rng.choice(("train", "heldout"))
            problem = task.generate(rng.randrange(50), rng.randrange(11) / 10, split)
            text = task.oracle(problem) if rng.random() < 0.8 else ""
            head, gap, body = text.rpartition("\n\n")
            text = head + gap + damage.mangled(body, rng)
            return problem, damage.mangled(text, rng) if rng.random() < 0.1 else text

        return make, verdict(task)

    return open_target


def verdict(task):
    def call(case):
        problem, text = case
        score = task.score(problem, text)
        assert score is not None, "no verdict"
        assert 0.0 <= score <= 1.0

    return call


REFERENCES = ("3", "-\\frac{1}{2}", "2\\sqrt{3}", "x^2+1", "(1,2]", "\\{1,2\\}", "12\\%", "y=2x")
LATEX = (
    *("1", "2", "x", "+", "-", "=", ",", "(", ")", "[", "]", "{", "}", "^", "_", "\\\\", "&", "|"),
    *(
        "\\frac{",
        "\\dfrac",
        "\\sqrt{",
        "\\sqrt[",
        "\\left(",
        "\\right)",
        "\\cdot ",
        "\\times ",
        "!",
    ),
    *(
        "\\text{",
        "\\mathrm{",
        "\\{",
        "\\}",
        "\\pi",
        "\\infty",
        "\\log",
        "\\sin",
        "\\sum_{",
        "\\int",
    ),
    *("\\begin{pmatrix}", "\\end{pmatrix}", "^{\\circ}", "\\%", "\\$", "10^{", "e^", ".", "\\pm "),
    *(
        "9" * 50,
        "1e9",
        "1,000",
        "\\binom{9}{",
        "\\lim_{x\\to 0}",
        "\\cup",
        "\\le",
        " and ",
        "½",
        "²",
    ),
)


def in_a_box(_folder):
    """LaTeX of any form as the final answer to a question in mathematics."""

    def make(rng):
        gold = rng.choice(REFERENCES)
        parts = rng.choices(LATEX, k=rng.choice((1, 3, 6, 12, 60)))
        text = "".join(parts) if rng.random() < 0.7 else damage.mangled(gold, rng)
        for _ in range(rng.choice((0, 0, 1, 3, 30))):
            text = rng.choice(("{%s}", "\\frac{%s}{2}", "\\sqrt{%s}", "(%s)", "2^{%s}")) % (
                text.replace("%", "\\%")
            )
        closed = text + "}" * max(0, text.count("{") - text.count("}"))
        return maths.problem("How much?", gold), f"\\boxed{{{closed}}}"

    return make, verdict(TASKS["maths"])


# --- the chat format -----------------------------------------------------------------------------


def parsing(_folder):
    """Any text is a turn, which the next rendering takes again."""

    def make(rng):
        call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
        return damage.mangled(f"<think>\nHm.\n</think>\n\nYes.\n{call}", rng), rng.random() < 0.3

    def call(case):
        text, opened = case
        message = chat.parse(text, opened=opened).message()
        chat.render([{"role": "user", "content": "?"}, message])
        response.read(text)
        json.dumps(message)

    return make, call


CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief. /think"},
        {"role": "user", "content": "What is the weather in Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Look it up.",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": '{"sky": "blue"}'},
        {"role": "user", "content": "And tomorrow?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ],
    "thinking": True,
    "thinking_budget": 5,
    "sampling": {"temperature": 0.5, "top_k": 3},
    "max_tokens": 5,
    "stop_strings": ["a"],
}


def chat_requests(tokenizer):
    """A conversation of any JSON, with options of any JSON: a request, or a ValueError."""

    def open_target(_folder):
        def make(rng):
            for _ in range(9):
                tree = damage.bent(CONVERSATION, rng)
                if isinstance(tree, dict) and "messages" in tree:
                    return {key: tree[key] for key in CONVERSATION if key in tree}
            return {"messages": damage.value(rng)}

        def call(case):
            case = dict(case)
            request = chat_request(tokenizer, case.pop("messages"), **case)
            assert request.prompt

        return make, call

    return open_target


def tools_and_messages(tokenizer):
    """The template's own functions, with conversations of any JSON."""

    def open_target(_folder):
        def make(rng):
            return damage.bent(CONVERSATION["messages"], rng), damage.bent(
                CONVERSATION["tools"], rng
            )

        def call(case):
            messages, tools = case
            chat.validate(messages, allow_control=True)
            chat_prompt_ids(tokenizer, messages, tools=read_tools(tools))

        return make, call

    return open_target


def streams(tokenizer):
    """Any tokens are text, streamed piece by piece, and an answer."""

    def open_target(_folder):
        def make(rng):
            special = [tokenizer.think_open, tokenizer.think_close, tokenizer.tool_call_open]
            ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.choice((0, 1, 30, 300)))]
            return [rng.choice(special) if rng.random() < 0.1 else i for i in ids]

        def call(ids):
            stream = TextStream(tokenizer)
            for piece in stream.feed(ids):
                piece.text.encode()
            answer(tokenizer, Completion(Request([1]), tokens=list(ids), finish="stop"))

        return make, call

    return open_target


# --- requests ------------------------------------------------------------------------------------

ANY = (
    *(damage.deep(random.Random(seed)) for seed in range(5)),
    json.loads("[" * 900 + "]" * 900),
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        5,
        7.0,
        0.5,
        -0.0,
        float("nan"),
        float("inf"),
        1e308,
        10**400,
    ),
    *(2**31, 2**32, -(2**63), 2**64, 1j, "", "a", "5", "\ud800", "\0", b"a", (), [], {}, {"a": 1}),
    *(
        (1, 2),
        [1, [2]],
        [None],
        ["a"],
        [1.5],
        [float("nan")],
        [True],
        [-1],
        [2**70],
        ("a", "\ud800"),
    ),
    *(np.int64(3), np.float32("nan"), np.arange(3), np.zeros((2, 2), int), np.array(["a"]), object),
    *(range(3), "x" * 100_000, ("x" * 10_000,), (1,) * 9, list(range(100)), np.array([], int)),
    *(
        SamplingParams(),
        np.bool_(True),
        1e-30,
        frozenset([1]),
        "docs",
        "report",
        [10**30],
        bytearray(b"a"),
    ),
)
SAMPLING = [field.name for field in dataclasses.fields(SamplingParams)]
REQUEST = [field.name for field in dataclasses.fields(Request)]


def engine_requests(engine):
    """Requests with any values in any fields: served, or refused before they are queued."""

    def open_target(_folder):
        def make(rng):
            fields = {"prompt": [rng.randrange(200) for _ in range(rng.choice((1, 3, 20)))]}
            for name in rng.sample(REQUEST, rng.choice((0, 1, 1, 2, 3, 5))):
                fields[name] = rng.choice(ANY)
            if rng.random() < 0.3:
                fields["sampling"] = {name: rng.choice(ANY) for name in rng.sample(SAMPLING, 2)}
            return fields, rng.random() < 0.05

        def call(case):
            fields, worked_on = case
            if isinstance(fields.get("sampling"), dict):
                fields = {**fields, "sampling": sampling(**fields["sampling"])}
            try:
                states = engine.submit([Request(**fields)])
            finally:
                assert len(engine.waiting) <= 1
            if worked_on:
                engine.step()
                assert states[0].completion.error is None, states[0].completion.error
            engine.abort(states)
            assert (
                not engine.waiting and not engine.active and not engine.caches.prefix_cache.waiting
            )

        return make, call

    return open_target


def targets(tokenizer, engine):
    """name -> target of all that is text."""
    scorers = [
        Target(name, scorer(task), (), *((1_600, 8) if name == "coding" else (8_000, 60)))
        for name, task in TASKS.items()
    ]
    return [
        *scorers,
        Target("LaTeX in a box", in_a_box, (), 3_000, 60),
        Target("parsing", parsing, (), 20_000, 300),
        Target("chat requests", chat_requests(tokenizer), (ValueError,), 5_000, 150),
        Target("template", tools_and_messages(tokenizer), (ValueError,), 5_000, 150),
        Target("streams", streams(tokenizer), (), 2_000, 50),
        Target("requests", engine_requests(engine), (ValueError,), 20_000, 400),
    ]


NAMES = [target.name for target in targets(None, None)]
