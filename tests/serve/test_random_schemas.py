"""Answers in the form of random JSON schemas: valid wherever the model stops by itself."""

import json
from random import Random

import jsonschema
import pytest
import random_schemas
from tiny_server import fresh_engine

from qwen3.data import chat
from qwen3.infer.answer_grammar import GrammarTokens, turn_grammar
from qwen3.infer.requests import Request
from qwen3.rewards import Problem
from qwen3.stages.prompts import prompt_ids


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_answers_in_random_schemas_are_valid(model, count):
    rng = Random(count)
    schemas = [random_schemas.whole(rng) for _ in range(count)]
    tokens = GrammarTokens(model.tokenizer, model.config.vocab)
    question = [{"role": "user", "content": "the cat?"}]
    prompt = prompt_ids(Problem("", question, {}), model.tokenizer)
    requests = [
        Request(
            prompt,
            max_tokens=300,
            prompt_id=number,
            grammar=turn_grammar(tokens, schema=schema, may_think=False),
        )
        for number, schema in enumerate(schemas)
    ]
    stopped = 0
    for schema, completion in zip(schemas, fresh_engine(model).generate(requests), strict=True):
        if completion.finish != "stop":
            continue
        stopped += 1
        answer = chat.parse(model.tokenizer.decode(completion.tokens)).content
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
        errors = [error.message for error in validator.iter_errors(json.loads(answer))]
        assert not errors, (schema, answer, errors)
    print(f"{stopped} of {count} answers stopped by themselves")
    assert stopped > 0.7 * count
