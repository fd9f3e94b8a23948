"""Candidates of a (random) teacher through the engine, and its stored logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3 import rewards
from qwen3.curate import candidates, stored_logits
from qwen3.data import rows
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.requests import sampling
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer

MODEL = ModelConfig("toy", 1, 16, 32, 2, 1, head_dim=8, vocab=512, tied=True, max_length=256)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["user assistant one two three lock first middle last " * 9], size=320)


@pytest.fixture(scope="module")
def params():
    return transformer.init(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def engine(tokenizer, params):
    return Engine(MODEL, params, tokenizer=tokenizer, slots=8, max_length=256)


@pytest.mark.parametrize("mode, opening", [("think", "<think>\n"), ("no_think", "<think>\n\n</th")])
def test_a_teacher_gives_n_scored_answers_in_either_mode(engine, tokenizer, mode, opening):
    unscored = Problem("", [{"role": "user", "content": "one"}], {})
    problems = [rewards.get("lock").generate(1, 0.0), unscored]
    found, again = (
        candidates.generate(
            engine,
            tokenizer,
            problems,
            samples=3,
            mode=mode,
            max_tokens=8,
            sampling=sampling("model"),
            seed=4,
        )
        for _ in range(2)
    )
    assert [len(group) for group in found] == [3, 3]
    assert [[c.text for c in g] for g in found] == [[c.text for c in g] for g in again]
    assert all(each.text.startswith(opening) for group in found for each in group)
    assert len({each.text for each in found[1]}) == 3
    assert [each.score for each in found[0]] == [0.0] * 3
    assert [each.score for each in found[1]] == [None] * 3


def test_modes_that_do_not_exist_or_do_not_fit_are_refused(engine, tokenizer):
    problem = rewards.get("lock").generate(1, mode="think")
    with pytest.raises(ValueError, match="'maybe' is none of think, no_think"):
        candidates.generate(engine, tokenizer, [problem], samples=1, mode="maybe")
    with pytest.raises(ValueError, match="problem 0 asks for 'think', not 'no_think'"):
        candidates.generate(engine, tokenizer, [problem], samples=1, mode="no_think")
    with pytest.raises(ValueError, match="malformed turn"):
        ScoredAnswer.from_text(problem, "<think>\nnever closed").conversation()


def apply(params, tokens, positions, segments):
    return transformer.forward(params, MODEL, tokens, positions, segments)


def with_logits(top, params, sequence):
    """The sequence with the teacher's fields, in a batch of one row of 8 slots."""
    where = rows.layout([len(sequence)], 8)
    values = top(params, rows.fill([sequence], where, 8, pad=0, rows=1))
    fields = {
        name: rows.read_back(np.asarray(value), [sequence], where)[0]
        for name, value in values.items()
    }
    return dataclasses.replace(sequence, fields=fields)


@pytest.fixture
def stored(params, tmp_path):
    """(file of two equal sequences at temperature 2, the sequence)"""
    sequence = TokenSequence(np.array([5, 9, 3, 77], np.int32), np.array([0, 0, 1, 1.0]), mode=0)
    top = stored_logits.top_logits(apply, 4, temperature=2.0)
    found = with_logits(top, params, sequence)
    file = tmp_path / "logits.npz"
    stored_logits.write(file, [found, found], teacher="toy", temperature=2.0)
    return file, found


def test_stored_logits_are_the_teachers_own_and_survive_a_file(params, stored):
    file, found = stored
    logits = transformer.logits(transformer.forward(params, MODEL, found.tokens[None])) / 2.0
    logp, fields = jax.nn.log_softmax(logits[0], axis=-1), found.fields
    for t in (1, 2, 3):
        mine = fields["teacher_logits"][t] - fields["teacher_normaliser"][t]
        np.testing.assert_allclose(mine, logp[t - 1][fields["teacher_ids"][t]], atol=1e-5)
        np.testing.assert_allclose(mine, np.sort(logp[t - 1])[::-1][:4], atol=1e-5)
        at = logits[0][t - 1][fields["teacher_ids"][t]]
        np.testing.assert_allclose(fields["teacher_logits"][t], at, atol=1e-5)
    back = stored_logits.read(file, temperature=2.0, vocab=MODEL.vocab)
    assert len(back) == 2
    for each in back:
        assert each.mode == 0 and each.weights.tolist() == [0, 0, 1, 1]
        assert each.tokens.tolist() == [5, 9, 3, 77]
        for name in stored_logits.FIELDS:
            np.testing.assert_array_equal(each.fields[name], fields[name])


def test_the_teachers_logits_are_never_held_as_a_whole(params, monkeypatch):
    monkeypatch.setattr("qwen3.ops.row_chunks._CHUNK_ELEMENTS", 1)  # so 256 rows a chunk
    top = stored_logits.top_logits(apply, 4)
    zeros = jnp.zeros((1, 1024), jnp.int32)
    batch = {name: zeros for name in ("tokens", "positions", "segment_ids")}
    text = top.lower(params, batch).as_text()
    assert "x1024x512x" not in text and "1024x512xf32" not in text and "256x512xf32" in text


def test_files_that_the_loss_cannot_use_are_refused_where_they_are_read(stored, tmp_path):
    file, _ = stored

    def changed(**changes):
        with np.load(file) as arrays:
            values = {name: arrays[name] for name in arrays.files} | changes
        path = tmp_path / "changed.npz"
        np.savez(path, **{name: value for name, value in values.items() if value is not None})
        return path

    def refused(path, message, *, temperature=2.0, vocab=MODEL.vocab):
        with pytest.raises(ValueError, match=message):
            stored_logits.read(path, temperature=temperature, vocab=vocab)

    np.savez(tmp_path / "other.npz", tokens=np.zeros(3))
    refused(tmp_path / "other.npz", "lacks .*'teacher_logits'")
    refused(changed(teacher=None, temperature=None), r"lacks \['teacher', 'temperature'\]")
    refused(changed(teacher=np.array("")), "does not say whose logits")
    refused(file, "logits of toy at temperature 2.0; the loss takes them at 1.0", temperature=1.0)
    refused(file, "sequence 0: tokens has id 77, not 0 to 76", vocab=77)
    ids = np.zeros((8, 4), np.int32)
    ids[5, 2] = 512
    refused(changed(teacher_ids=ids), "sequence 1: teacher_ids has id 512, not 0 to 511")
    ids[5, 2] = -1
    refused(changed(teacher_ids=ids), "sequence 1: teacher_ids has id -1")
