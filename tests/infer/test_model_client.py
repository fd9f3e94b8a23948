"""The client of models against a server that answers 429 and 500, cuts, hangs and repeats."""

import json
from collections import Counter

import fsspec
import pytest
from scripted_server import ScriptedServer

from qwen3.infer.model_client import ChatServer, Question, after_thought, replies
from qwen3.infer.reply_store import StoredModel

FAULTS = ("cut", "twice", "breaks", "nonsense", 429, 500, 503, 408)
SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


def ask(text, **fields):
    return Question([{"role": "user", "content": text}], 20, **fields)


def echo(body):
    return f"<think>hm</think>{body['messages'][-1]['content']}!"


def by_number(body):
    """Question i meets i % 4 different faults before its answer; "lost" ones meet nothing else."""
    word, _, number = body["messages"][-1]["content"].partition(" ")
    if word == "lost":
        return (500,) * 99
    return [FAULTS[(int(number) + k) % len(FAULTS)] for k in range(int(number) % 4)]


def stored(url, path, **options):
    settings = {"slots": 8, "timeout": 60, "retries": 4, "pause": 0.01} | options
    return StoredModel(lambda: ChatServer(url, "m", **settings), "m", path)


def test_no_reply_is_lost_or_asked_for_twice_whatever_the_server_does(tmp_path):
    script = ScriptedServer(echo, by_number)
    questions = [ask(f"q {i}") for i in range(40)] + [ask("lost 1"), ask("q 0")]
    with script.running() as url:
        model = stored(url, tmp_path / "replies.sqlite")
        results = model(questions)
        # A restart, in another process as it were, asks for nothing but what had no reply.
        again = stored(url, tmp_path / "replies.sqlite")(questions)
    assert [after_thought(r.text) for r in results[:40]] == [f"q {i}!" for i in range(40)]
    assert results[41] == results[0] and results[40].text is None
    assert isinstance(results[40].fault, ConnectionError)
    assert script.asked == Counter({f"q {i}": i % 4 + 1 for i in range(40)} | {"lost 1": 10})
    assert [r.text for r in again] == [r.text for r in results]
    letters = [json.loads(line) for line in model.store.dead_letters.read_text().splitlines()]
    assert [x["question"]["messages"][0]["content"] for x in letters] == ["lost 1"] * 2
    assert "500" in letters[0]["reason"]


def test_processes_that_share_no_disk_share_replies_under_a_url():
    script = ScriptedServer(echo, lambda body: (500,) * 99 if "lost" in str(body) else ())
    questions, place = [*(ask(f"q {i}") for i in range(5)), ask("lost")], "memory://shared/replies"
    with script.running() as url:
        results = stored(url, place, retries=1)(questions)
        again = stored(url, f"{place}/", retries=1)([ask("q 9"), *questions])
    assert [r.text for r in again[1:]] == [r.text for r in results]
    assert script.asked == Counter({f"q {i}": 1 for i in (0, 1, 2, 3, 4, 9)} | {"lost": 4})
    store = fsspec.filesystem("memory")
    [letter] = store.ls("/shared/replies/dead", detail=False)
    assert "500" in json.loads(store.cat(letter))["reason"]


def test_a_server_that_hangs_is_asked_again_and_a_late_answer_is_not_a_second_one(tmp_path):
    script = ScriptedServer(echo, lambda body: ("hang",) if "slow" in str(body) else ())
    with script.running() as url:
        model = stored(url, tmp_path / "replies.sqlite", timeout=2.0, retries=8)
        results = model([ask("slow 1"), ask("slow 2"), ask("fast")])
        script.released.set()
    assert [r.fault for r in results] == [None] * 3
    assert script.asked["slow 1"] > 1
    assert [r.text for r in results] == [
        f"<think>hm</think>{x}!" for x in ("slow 1", "slow 2", "fast")
    ]


def test_what_was_answered_before_the_end_of_the_process_is_not_paid_for_again(tmp_path):
    class Killed(BaseException):
        pass

    def killed(server):
        def model(questions):
            for count, pair in enumerate(server(questions)):
                if count == 5:
                    raise Killed
                yield pair

        return model

    script = ScriptedServer(echo)
    questions = [ask(f"q {i}") for i in range(8)]
    with script.running() as url:
        server = ChatServer(url, "m", slots=1)
        with pytest.raises(Killed):
            StoredModel(lambda: killed(server), "m", tmp_path / "r.sqlite")(questions)
        before = script.asked.copy()
        results = StoredModel(lambda: server, "m", tmp_path / "r.sqlite")(questions)
        again = [text for text, count in before.items() if script.asked[text] > count]
        # Another model is another answer, and so is another question.
        other = StoredModel(lambda: server, "other", tmp_path / "r.sqlite")
        other([ask("q 0"), ask("q 0", seed=1)])
    assert all(r.fault is None for r in results)
    assert len(again) <= 3 and script.asked["q 0"] >= 3


def test_a_server_that_is_not_there_or_fails_at_everything_stops_the_run(tmp_path):
    with pytest.raises(ConnectionRefusedError, match="no answer from http://127.0.0.1:9/v1"):
        stored("http://127.0.0.1:9/v1", tmp_path / "a.sqlite", retries=0)([ask("q")])
    with ScriptedServer(echo, lambda body: (401,) * 9).running() as url:
        with pytest.raises(ConnectionError, match="none of 8 questions got a reply: .*refused"):
            stored(url, tmp_path / "b.sqlite")([ask(f"q {i}") for i in range(8)])


def test_json_of_a_schema_is_asked_for_and_what_breaks_it_is_asked_again(tmp_path):
    wrong = iter(['{"n": "x"}', "[", "so be it"])
    script = ScriptedServer(lambda body: next(wrong, '<think>{</think> {"n": 4}'))
    with script.running() as url:
        server = ChatServer(url, retries=3, pause=0.01)
        [good] = replies(server, [ask("q", schema=SCHEMA, seed=5)])
        assert server.model == "first"
    assert json.loads(after_thought(good.text)) == {"n": 4} and good.tokens == 7
    assert [body["seed"] for body in script.bodies] == [5, 6, 7, 8]
    assert {body["response_format"]["json_schema"]["schema"]["type"] for body in script.bodies} == {
        "object"
    }
