"""The client examples of docs/serving.md, as they stand there."""

import re
from pathlib import Path

import openai

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def example(marker):
    """The Python block of the page that holds the marker."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if marker in block]
    return block


def test_the_stream_prints_thought_and_answer(server, say, capsys):
    say("<think>\nhm\n</think>\n\nTen.")
    exec(example("primes").replace("http://127.0.0.1:8000", server.url), {})
    assert capsys.readouterr().out == "hmTen."


def test_the_agent_calls_its_tool_and_answers(server, client, say, capsys, monkeypatch):
    said = iter([f"<think>\nask\n</think>\n\n{CALL}", "No coat."])
    create = client.chat.completions.create
    asked = []

    def next_said(**options):
        say(next(said))
        asked.append(options["messages"][:])
        return create(**options)

    monkeypatch.setattr(client.chat.completions, "create", next_said)
    exec(example("functions ="), {"client": client, "model": "tiny"})
    assert capsys.readouterr().out == "No coat.\n"
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "tool"]
    assert asked[1][1]["reasoning_content"] == "ask" and '"sunny"' in asked[1][2]["content"]


def test_the_schema_is_taken(client, say):
    said = {}
    try:
        exec(example("Ada is 36"), {"client": client, "model": "tiny"}, said)
    except openai.OpenAIError as error:
        raise AssertionError(error) from None
    assert said["said"].choices
