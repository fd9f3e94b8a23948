"""lm-eval on our engine: its requests get the engine's likelihoods and greedy texts."""

import json
from pathlib import Path

import jax
import lm_eval_tasks
import numpy as np
import pytest

import qwen3
from qwen3 import cli
from qwen3.data.tokenizer import Tokenizer
from qwen3.eval import harness, ifeval_official
from qwen3.eval.items import Item
from qwen3.model.sizes import ModelConfig

pytest.importorskip("lm_eval", reason="the extra [eval] is not installed")

MODEL = ModelConfig("toy", 1, 32, 64, 2, 1, head_dim=16, vocab=512, tied=True, max_length=256)


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.train(["Question Answer yes no one two three user assistant " * 9], 320)
    return qwen3.create(MODEL, seed=3, tokenizer=tokenizer)


class Asked:
    """A request as lm-eval makes it."""

    def __init__(self, *args):
        self.args = args


def test_likelihoods_are_those_of_the_model(model):
    lm = harness.EngineLM(model, slots=4)
    pairs = [("Question: one\nAnswer:", " yes"), ("Question: two ", "three no"), ("", "yes one")]
    results = lm.loglikelihood([Asked(*pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (log_prob, greedy) in zip(pairs, results, strict=True):
        head = model.tokenizer.encode(context.rstrip()) or [model.tokenizer.endoftext]
        ids = head + model.tokenizer.encode(context + continuation)[len(head) if context else 0 :]
        logits = np.asarray(model.logits([ids]), np.float64)[0]
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = range(len(head) - 1, len(ids) - 1)
        assert log_prob == pytest.approx(sum(logp[t, ids[t + 1]] for t in places), abs=1e-4)
        assert greedy == all(logits[t].argmax() == ids[t + 1] for t in places)


def test_rolling_likelihood_counts_every_token_once(model):
    lm = harness.EngineLM(model)
    text = " ".join(["one two three yes no"] * 60)
    ids = model.tokenizer.encode(text)
    assert len(ids) > MODEL.max_length
    [whole] = lm.loglikelihood_rolling([Asked(text)])
    assert -20 * len(ids) < whole < 0
    short = "one two"
    [(first, _)] = lm._loglikelihood_tokens([(("", ""), [lm.eot_token_id], lm.tok_encode(short))])
    assert lm.loglikelihood_rolling([Asked(short)]) == [pytest.approx(first, abs=1e-5)]


def test_generation_is_greedy_and_ends_at_stop_strings(model):
    lm = harness.EngineLM(model, slots=2)
    settings = {"until": ["\n\n"], "do_sample": False, "temperature": 0.7, "max_gen_toks": 9}
    [text] = lm.generate_until([Asked("Question: one\nAnswer:", settings)])
    ids = model.tokenizer.encode("Question: one\nAnswer:")
    [answer] = model.generate([ids], sampling="greedy", max_tokens=9)
    assert answer.text.startswith(text.split("\n\n")[0])
    stop = text[2:4]
    [cut] = lm.generate_until([Asked("Question: one\nAnswer:", {**settings, "until": stop})])
    assert stop not in cut and text.startswith(cut)
    with pytest.raises(ValueError, match="wants answers of 256 tokens; the context holds 256"):
        lm.generate_until([Asked("x", {"max_gen_toks": 256})])


def test_the_thought_is_no_part_of_the_answer(model, monkeypatch):
    lm = harness.EngineLM(model, thinking=True)
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: "a\n\n</think>\n\nyes\n\nno")
    [text] = lm.generate_until([Asked("x", {"until": ["\n\n"], "max_gen_toks": 3})])
    assert text == "yes"
    prompt = harness.EngineLM(model, thinking=True)
    monkeypatch.undo()
    rendered = prompt.apply_chat_template([{"role": "user", "content": "one"}])
    assert rendered.endswith("<|im_start|>assistant\n")
    closed = harness.EngineLM(model, thinking=False)
    rendered = closed.apply_chat_template([{"role": "user", "content": "one"}])
    assert rendered.endswith("<think>\n\n</think>\n\n")


def test_a_task_of_lm_eval_runs_in_process(model, tmp_path):
    path = tmp_path / "docs.jsonl"
    rows = [{"q": f"Question {i}", "choices": ["yes", "no"], "gold": i % 2} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "own_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}],
    }
    results = harness.evaluate(harness.EngineLM(model), [task], bootstrap_iters=0)
    assert 0 <= results["results"]["own_choice"]["acc,none"] <= 1
    assert results["n-samples"]["own_choice"]["effective"] == 6


def full_vocabulary():
    """A seeded model of 151,936 rows, and how it becomes the folder of the golden run."""
    text = "Question what is Count on from Answer: yes no one two three four five six seven "
    tokenizer = Tokenizer.train([(text + "eight nine ten more than follows number ") * 9], 360)
    model = qwen3.create(FULL, seed=5, tokenizer=tokenizer)
    # Rows without a token are 0: they count in the softmax, but a greedy answer has tokens only.
    is_token = np.arange(FULL.vocab)[:, None] < tokenizer.vocab_size
    model.params = jax.tree.map(
        lambda x: x * is_token * 4 if x.shape[0] == FULL.vocab else x, model.params
    )
    return model


FULL = ModelConfig("full", 1, 32, 64, 2, 1, head_dim=16, vocab=151_936, tied=True, max_length=128)


def test_tasks_equal_lm_evals_own_backend(tmp_path):
    """Log-likelihoods within 1e-4, the same greedy flags and the same greedy texts as stored from
    lm-eval's Hugging Face backend (tests/eval/lm_eval_tasks.py)."""
    lm = harness.EngineLM(full_vocabulary(), slots=8)
    configs = lm_eval_tasks.tasks(tmp_path)
    results = harness.evaluate(lm, configs, log_samples=True, bootstrap_iters=0)
    golden = json.loads(GOLDEN.read_text())
    answers = lm_eval_tasks.answers(results)
    assert set(answers) == set(golden) == {*lm_eval_tasks.CHOICES, *lm_eval_tasks.TEXTS}
    for name in lm_eval_tasks.CHOICES:
        ours, theirs = np.array(answers[name], float), np.array(golden[name], float)
        np.testing.assert_allclose(ours[..., 0], theirs[..., 0], atol=1e-4)
        np.testing.assert_array_equal(ours[..., 1], theirs[..., 1])
    for name in lm_eval_tasks.TEXTS:
        assert answers[name] == golden[name]


GOLDEN = Path(__file__).parents[1] / "golden" / "lm_eval_hf.json"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--budget", "1,2"], "--budget 1,2: lm-eval's tasks run with one at a time"),
        (["--samples", "2"], "--samples is of suites"),
        (["--max-tokens", "2"], "--max-tokens is of suites"),
    ],
)
def test_options_that_would_do_nothing_are_refused(flags, words, capsys):
    assert cli.main(["eval", "nowhere", "--lm-eval", "gsm8k", *flags]) == 2
    assert words in capsys.readouterr().err


PROMPT = Item(
    "1",
    {
        "key": 1,
        "prompt": "Write in lower case, without commas.",
        "instruction_id_list": ["change_case:english_lowercase", "punctuation:no_comma"],
        "kwargs": [{}, {}],
    },
)


@pytest.mark.parametrize(
    "answer, strict, loose",
    [
        ("all is well", [True, True], [True, True]),
        ("all is well, friend", [True, False], [True, False]),
        ("Here You Are:\nall is well", [False, True], [True, True]),
        ("", [False, False], [False, False]),
    ],
)
def test_ifeval_by_its_authors_checkers(answer, strict, loose):
    assert ifeval_official.follows(PROMPT, answer) == strict
    assert ifeval_official.follows(PROMPT, answer, loose=True) == loose
    assert ifeval_official.strict_prompt(PROMPT, answer).score == float(all(strict))
    assert ifeval_official.loose_prompt(PROMPT, answer).score == float(all(loose))
