"""Candidates of a (random) teacher through the engine, and its stored logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3 import rewards
from qwen3.curate import candidates, stored_logits
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.requests import sampling
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import Problem

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
        candidates.Candidate(problem, "<think>\nnever closed").conversation()


def test_stored_logits_are_the_teachers_own_and_survive_a_file(params, tmp_path):
    def apply(params, tokens, positions, segments):
        return transformer.forward(params, MODEL, tokens, positions, segments)

    ids, mask = [5, 9, 3, 77], [0, 0, 1, 1]
    top = stored_logits.top_logits(apply, 4, temperature=2.0)
    [found] = stored_logits.score(top, params, [(ids, mask, 1)], length=8)
    whole = transformer.logits(transformer.forward(params, MODEL, jnp.array([ids]))) / 2.0
    logp = jax.nn.log_softmax(whole[0], axis=-1)
    fields = found.fields
    for t in (1, 2, 3):
        mine = fields["teacher_logits"][t] - fields["teacher_normaliser"][t]
        np.testing.assert_allclose(mine, logp[t - 1][fields["teacher_ids"][t]], atol=1e-5)
        np.testing.assert_allclose(mine, np.sort(logp[t - 1])[::-1][:4], atol=1e-5)
    stored_logits.write(tmp_path / "logits.npz", [found, found])
    for back in stored_logits.read(tmp_path / "logits.npz"):
        assert back.mode == 1 and back.mask.tolist() == mask
        for name in stored_logits.FIELDS:
            np.testing.assert_array_equal(back.fields[name], fields[name])
    np.savez(tmp_path / "other.npz", tokens=np.zeros(3))
    with pytest.raises(ValueError, match="lacks .*'teacher_logits'"):
        stored_logits.read(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="4 tokens, more than length 3"):
        stored_logits.score(top, params, [(ids, mask, 1)], length=3)
