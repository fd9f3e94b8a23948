"""The clients of data work on our engine, in process and behind our server: JSON of a schema."""

import json

from tiny_server import fresh_engine

from qwen3.infer.model_client import ChatServer, EngineModel, Question, after_thought, replies

COLOURS = ["red", "green"]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": COLOURS}},
    "required": ["colour"],
    "additionalProperties": False,
}


def asked(count):
    return [
        Question([{"role": "user", "content": f"the cat {i}?"}], 60, seed=i, schema=SCHEMA)
        for i in range(count)
    ]


def test_the_engine_follows_the_schema_and_a_seeded_answer_depends_on_its_question_alone(model):
    sampled = [
        Question([{"role": "user", "content": f"the hat {i}?"}], 12, temperature=1.0, seed=i)
        for i in range(3)
    ]
    ask = EngineModel(fresh_engine(model), vocab=model.config.vocab)
    results = replies(ask, [*asked(3), *sampled])
    for reply in results[:3]:
        assert reply.fault is None and json.loads(reply.text)["colour"] in COLOURS
    assert [r.text for r in replies(ask, sampled[::-1])] == [r.text for r in results[:2:-1]]


def test_our_server_follows_the_schema_of_a_question(server):
    [reply] = replies(ChatServer(f"{server.url}/v1", timeout=600), asked(1))
    assert reply.fault is None and json.loads(after_thought(reply.text))["colour"] in COLOURS
