"""The automatic thinking budget: the dial, the head's file, and every place that takes "auto"."""

import argparse
import dataclasses
import io
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny import LENGTH

import qwen3
from qwen3 import cli
from qwen3.config import MeshConfig
from qwen3.eval import eval_cli
from qwen3.eval.suite_records import EvalSettings, arms
from qwen3.eval.suites import SUITES
from qwen3.infer import auto_budget, chat_cli, thinking_head
from qwen3.infer.chat_session import chat_request
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.thinking_head import BudgetHead, LengthPrediction
from qwen3.mesh import make_mesh
from qwen3.serve.api_errors import ApiError
from qwen3.serve.chat_body import chat_plan
from qwen3.serve.served_model import ServedModel
from qwen3.stages.budget_head import (
    EMPTY_BLOCK,
    BudgetHeadConfig,
    read_outcomes,
    thought_tokens,
    train,
)

LENGTHS = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
HAT = [{"role": "user", "content": "the hat?"}]
QUESTIONS = ["the cat?", "the hat?", "one two?", "the bat; 1234", "three", "two and one and three"]


def head_of(lengths=LENGTHS, right=0.9, at_once=0.1, features=64, model="", scale=30.0):
    """A head that says the same of every prompt."""
    log = np.log1p(lengths)
    steps = np.log(np.expm1(np.diff(log)))
    odds = [np.log(p / (1 - p)) for p in (right, at_once)]
    weights = {
        "mean": np.zeros(features),
        "std": np.ones(features),
        "w1": np.zeros((features, 4)),
        "b1": np.zeros(4),
        "w2": np.zeros((4, 8)),
        "b2": np.array([log[0], *steps, *odds]),
        "shift": np.zeros(6),
    }
    return BudgetHead(weights, scale, model)


@pytest.fixture(scope="module")
def model(config, params, tokenizer, tmp_path_factory):
    """The tiny model, loaded from a folder that a head stands in."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    folder = tmp_path_factory.mktemp("model")
    LanguageModel(
        config.replace(max_length=4 * LENGTH), params, mesh=mesh, tokenizer=tokenizer
    ).save(folder)
    model = qwen3.load(folder)
    head_of(LENGTHS / 10, model=auto_budget.fingerprint(model.params)).save(folder)
    return model


# --- the dial


def test_the_dial_goes_from_no_thinking_to_the_longest_that_helps():
    # Half of the right thoughts are short, and a few are very long.
    lengths = np.array([10.0, 12.0, 15.0, 20.0, 60.0, 300.0])
    prediction = LengthPrediction(lengths, right=0.9, right_at_once=0.1)
    chosen = [
        thinking_head.budget(head_of(), prediction, q) for q in (0.0, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)
    ]
    assert chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] == 300
    assert len(set(chosen)) >= 3


def test_a_budget_is_the_candidate_of_most_gain_by_hand():
    # worth = 30 * .75 / .25 = 90. At 0: .1 * 90 = 9. At 30 (q .5): .9 * .5 * 90 = 40.5 less
    # .1 * 5 + .15 * 15 + .25 * 25 + .5 * 30 = 24: 16.5. At 60 (q .98): 79.38 less 30.1: 49.3.
    prediction = LengthPrediction(LENGTHS, right=0.9, right_at_once=0.1)
    assert thinking_head.budget(head_of(), prediction, 0.75) == 60
    # A prompt that is answered without thinking, and one that is never answered, get none.
    assert thinking_head.budget(head_of(), prediction._replace(right_at_once=0.9), 0.75) == 0
    assert thinking_head.budget(head_of(), prediction._replace(right=0.01), 0.75) == 0
    assert thinking_head.budget(head_of(), prediction._replace(right=0.05), 1.0) == 0
    # What is short is thought through before what is long.
    assert thinking_head.budget(head_of(), prediction._replace(lengths_Q=LENGTHS * 9), 0.75) == 0


def test_the_head_predicts_what_its_weights_say_in_ascending_order():
    prediction = head_of().predict(np.zeros(64))
    np.testing.assert_allclose(prediction.lengths_Q, LENGTHS, rtol=1e-4)
    assert prediction.right == pytest.approx(0.9) and prediction.right_at_once == pytest.approx(0.1)
    weights = dict(head_of().weights)
    weights["w2"] = np.random.default_rng(0).normal(size=(4, 8)) * 5
    weights["w1"] = np.random.default_rng(1).normal(size=(64, 4))
    for row in np.random.default_rng(2).normal(size=(20, 64)):
        lengths = BudgetHead(weights, 1.0, "").predict(row).lengths_Q
        assert (np.diff(lengths) >= 0).all() and (lengths >= 0).all()


@pytest.mark.parametrize(
    ("text", "quality"), [("auto", 0.9), ("auto:0.5", 0.5), ("auto:0", 0.0), ("auto:1", 1.0)]
)
def test_the_dial_is_read(text, quality):
    assert thinking_head.quality_of(text) == quality
    assert thinking_head.quality_of(7) is None and thinking_head.quality_of(None) is None
    assert thinking_head.parse(text) == text and thinking_head.parse("12") == 12


@pytest.mark.parametrize("text", ["", "automatic", "auto:", "auto:2", "auto:-1", "auto:x", "-3"])
def test_another_text_is_refused_with_the_ways_to_say_it(text):
    with pytest.raises(
        ValueError, match='thinking_budget .*wanted at least 0, .*"auto", or "auto:Q"'
    ):
        thinking_head.parse(text)


# --- the places that take it


def test_chat_and_generate_think_as_long_as_the_head_says(model):
    answer = model.chat(HAT, thinking_budget="auto:1", max_tokens=30, seed=1)
    assert answer.completion.request.budget == 6  # the largest of LENGTHS / 10
    fixed = model.chat(HAT, thinking_budget=6, max_tokens=30, seed=1)
    assert answer.completion.tokens == fixed.completion.tokens
    none = model.chat(HAT, thinking_budget="auto:0", max_tokens=30, seed=1)
    assert (
        none.completion.tokens
        == model.chat(HAT, thinking_budget=0, max_tokens=30, seed=1).completion.tokens
    )
    (free,) = model.generate("the cat", budget="auto:1", max_tokens=9)
    assert free.completion.request.budget == 6


def test_it_changes_nothing_where_the_model_does_not_think(model):
    def asked(text, **more):
        messages = [{"role": "user", "content": text}]
        return chat_request(
            model.tokenizer,
            messages,
            thinking_budget="auto",
            choose_budget=model.auto_budget,
            **more,
        )

    assert asked("the hat? /no_think").budget is None
    assert asked("the hat?", thinking=False).budget is None
    assert asked("the hat? /no_think or /think").budget > 0


def test_the_terminal_takes_it(model):
    parser = argparse.ArgumentParser()
    chat_cli.add_parser(parser.add_subparsers())
    options = parser.parse_args(["chat", "x", "--budget", "auto:1", "--max-tokens", "12"])
    session = chat_cli.open_session(model, options)
    list(session.say("the hat?"))
    console = Console(file=io.StringIO())
    assert chat_cli.run_command(session, console, "/budget auto:0.5")
    assert session.budget == "auto:0.5"
    with pytest.raises(ValueError, match="/budget 'many': wanted a number"):
        chat_cli.run_command(session, console, "/budget many")


def test_the_server_takes_it_and_names_the_field_of_what_it_does_not(model):
    engine = SimpleNamespace(max_length=4 * LENGTH)
    served = ServedModel.of("tiny", model, engine)
    (request,) = chat_plan({"messages": HAT, "thinking_budget": "auto:1"}, served).requests
    assert request.budget == 6
    for value in ("automatic", "auto:7", -1, 0.5):
        with pytest.raises(ApiError, match="wanted a whole number .*auto:Q") as error:
            chat_plan({"messages": HAT, "thinking_budget": value}, served)
        assert error.value.status == 400 and error.value.param == "thinking_budget"
    headless = dataclasses.replace(served, choose_budget=None)
    with pytest.raises(ApiError, match="no model here that chooses") as error:
        chat_plan({"messages": HAT, "thinking_budget": "auto"}, headless)
    assert error.value.param == "thinking_budget"


def test_evaluation_has_an_arm_of_it():
    budgets = eval_cli._budgets("8, auto,auto:0.5")
    assert budgets == (8, "auto", "auto:0.5")
    settings = EvalSettings("toy", modes=("think",), budgets=budgets)
    names = [arm.name for arm in arms(SUITES["gsm8k"], settings)]
    assert names == ["think@8", "think@auto", "think@auto:0.5"]
    with pytest.raises(ValueError, match="--budget '8,all'"):
        eval_cli._budgets("8,all")


def test_a_folder_without_a_head_or_with_that_of_other_weights_says_so(model, tmp_path):
    model.save(tmp_path / "copy")
    copy = qwen3.load(tmp_path / "copy")
    with pytest.raises(ValueError, match="needs budget_head.npz in .*copy: `qwen3 budget` trains"):
        copy.chat(HAT, thinking_budget="auto")
    head_of(model="another").save(tmp_path / "copy")
    with pytest.raises(ValueError, match="trained for other weights"):
        qwen3.load(tmp_path / "copy").chat(HAT, thinking_budget="auto")
    with pytest.raises(ValueError, match="no model here that chooses"):
        chat_request(model.tokenizer, HAT, thinking_budget="auto")
    with pytest.raises(ValueError, match="needs an exported folder"):
        LanguageModel(model.config, model.params, mesh=model.mesh, tokenizer=model.tokenizer).chat(
            HAT, thinking_budget="auto"
        )


@pytest.mark.parametrize("damage", [b"", b"no archive", "cut", "fields"])
def test_a_damaged_head_is_named(tmp_path, damage):
    path = head_of().save(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "fields":
        with path.open("wb") as file:
            np.savez(file, about=np.array("{}"))
    else:
        path.write_bytes(damage)
    with pytest.raises(ValueError, match="budget_head.npz is no budget head"):
        thinking_head.load(tmp_path)


# --- training


def rollouts(tokenizer, folder):
    """Answers whose thought is as long as the prompt's word says; every prompt also at once."""
    rows = []
    rng = np.random.default_rng(0)
    for number, question in enumerate(QUESTIONS):
        prompt = tokenizer.decode(
            chat_request(tokenizer, [{"role": "user", "content": question}]).prompt
        )
        for sample in range(12):
            thought = " the" * int(5 * (number + 1) + rng.integers(0, 3))
            answer = f"<think>{thought}</think>\n\nbat"
            score = float(sample % 3 > 0)
            row = {"prompt": prompt, "answer": answer, "score": score, "finish": "stop"}
            rows.append(row)
        rows.append({"prompt": prompt + EMPTY_BLOCK, "answer": "cat", "score": number % 2})
        rows.append(row | {"finish": "budget-then-stop", "score": 1.0})
        rows.append(row | {"score": None})
    path = folder / "000001.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rollouts_are_read_by_prompt_and_way_of_asking(tokenizer, tmp_path):
    outcomes = read_outcomes([rollouts(tokenizer, tmp_path)], tokenizer)
    assert [len(o.thought) for o in outcomes] == [12] * len(QUESTIONS)
    assert [sum(o.thought) for o in outcomes] == [len(o.lengths) for o in outcomes]
    assert [o.at_once for o in outcomes] == [[bool(i % 2)] for i in range(len(QUESTIONS))]
    assert thought_tokens(tokenizer, "<think>\n\n</think>\n\n1") == len(tokenizer.encode("\n\n"))
    assert thought_tokens(tokenizer, "no thought") is None
    (tmp_path / "bad.jsonl").write_text('{"prompt": 3, "answer": "x"}\n')
    with pytest.raises(ValueError, match="bad.jsonl, line 1: the field 'prompt'"):
        read_outcomes([tmp_path / "bad.jsonl"], tokenizer)


def test_a_trained_head_tells_long_thoughts_from_short_ones(model, tmp_path):
    outcomes = read_outcomes([rollouts(model.tokenizer, tmp_path)], model.tokenizer)
    config = BudgetHeadConfig(width=8, steps=200, rate=1e-2, held_out=0.2, weight_decay=0.0)
    head, measures = train(model, [*outcomes, *outcomes, *outcomes], config)
    head.save(tmp_path)
    loaded = thinking_head.load(tmp_path)
    assert loaded.model == head.model and loaded.quantiles == head.quantiles
    read = auto_budget.PromptStates(model.config, model.mesh, model.execution)
    states = read(model.params, [model.tokenizer.encode(o.prompt) for o in outcomes])
    medians = [loaded.predict(row).lengths_Q[2] for row in states]
    for median, outcome in zip(medians, outcomes, strict=True):
        assert abs(median - np.median(outcome.lengths)) < 4
    assert measures["loss"] < 0.5 * measures["constant_loss"]
    assert set(measures["cover"]) == set(thinking_head.QUANTILES)
    with pytest.raises(ValueError, match="2 right thoughts in rollouts of 1 prompts"):
        train(model, [dataclasses.replace(outcomes[0], lengths=[3, 4])], config)


def test_the_command_writes_a_head_that_chat_then_uses(model, tmp_path, capsys):
    model.save(tmp_path / "model")
    (tmp_path / "samples").mkdir()
    rollouts(model.tokenizer, tmp_path / "samples")
    arguments = ["budget", str(tmp_path / "model"), str(tmp_path / "samples")]
    assert cli.main([*arguments, "--steps", "20", "--width", "8", "--held-out", "0.4"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("budget_head.npz")
    answer = qwen3.load(tmp_path / "model").chat(HAT, thinking_budget="auto:1", max_tokens=9)
    assert answer.completion.request.budget is None or answer.completion.request.budget > 0
    (tmp_path / "empty").mkdir()
    assert cli.main([*arguments[:2], str(tmp_path / "empty")]) == 2
    assert "0 right thoughts" in capsys.readouterr().err


def test_a_prompts_state_is_that_of_its_last_token_alone(model):
    read = auto_budget.PromptStates(model.config, model.mesh, model.execution)
    prompts = [[5, 6, 7], [9] * 40, [5, 6, 7, 8]]
    together = read(model.params, prompts)
    assert together.shape == (3, model.config.layers * model.config.hidden)
    for row, prompt in zip(together, prompts, strict=True):
        np.testing.assert_allclose(read(model.params, [prompt])[0], row, atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-3
    with pytest.raises(ValueError, match="beyond the context"):
        read(model.params, [[1] * (model.config.max_length + 1)])
