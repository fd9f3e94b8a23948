"""Weights of an engine in int8: near the float ones, a quarter of their bytes, rounded once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import BUCKETS, LENGTH, PAGES, fresh

from qwen3.infer.engine import Engine
from qwen3.model.execution import Execution
from qwen3.ops import int8
from qwen3.ops.linear import linear

RUN = Execution.for_mesh(scan=False, weights="int8")


def size(x):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(x))


@pytest.mark.parametrize("outputs_first", [False, True])
@pytest.mark.parametrize("inputs", [1, 2])
def test_a_product_with_int8_is_off_by_half_of_each_outputs_scale(outputs_first, inputs):
    rng = np.random.default_rng(0)
    ins, outs = (96,) if inputs == 1 else (6, 16), (4, 8)
    x, w = rng.normal(size=(5, 96)), rng.normal(size=(96, 32)) * 4.0 ** (np.arange(32) % 5)
    shape, axes = ((*outs, *ins), range(-inputs, 0)) if outputs_first else ((*ins, *outs), None)
    matrix = jnp.asarray(w.T if outputs_first else w, jnp.float32).reshape(shape)
    stored = int8.quantise(matrix, axes or range(inputs))
    assert stored.scales.size == 32

    def product(w):
        rows = jnp.asarray(x, jnp.float32).reshape(5, *ins)
        y = linear(rows, w, inputs=inputs, outputs_first=outputs_first)
        return np.asarray(y).reshape(5, 32)

    scales = np.abs(w).max(axis=0) / 127
    want = x @ (np.round(w / scales) * scales)
    np.testing.assert_allclose(product(stored), want, atol=1e-4 * np.abs(want).max())
    assert (np.abs(product(stored) - x @ w) <= np.abs(x).sum(1)[:, None] * scales * 0.501).all()
    assert np.abs(product(stored._replace(scales=stored.scales * 0 + 1)) - want).max() > 10


def test_an_engine_of_int8_weights_answers_nearly_as_one_of_floats(make, params, requests):
    engine, full = make(execution=RUN), make()
    layer = engine.params["layers"][0]
    matrices = [*layer["mlp"].values(), *(layer["attention"][n] for n in ("query", "key", "out"))]
    for w in matrices:
        assert w.numbers.dtype == jnp.int8 and w.scales.nbytes < w.numbers.nbytes
    floats = [engine.params["embed"], layer["mlp_norm"], layer["attention"]["key_norm"]]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    mlp, scales = full.params["layers"][0]["mlp"], 4 * (2 * 64 + 32)
    assert size(layer["mlp"]) == size(mlp) / 4 + scales
    for one, other in zip(full.generate(requests), engine.generate(requests), strict=True):
        same = min(len(one.tokens), len(other.tokens))
        first = next((i for i in range(same) if one.tokens[i] != other.tokens[i]), same)
        gap = np.abs(np.subtract(one.log_probs[:first], other.log_probs[:first]))
        assert 0 < gap.max(initial=1e-9) < 0.02  # of log-probabilities near -5.7


def test_new_weights_are_rounded_too(make, config):
    engine, other = make(execution=RUN), fresh(config, 1)
    engine.update(other, 1)
    new = Engine(config, other, slots=4, max_length=LENGTH, buckets=BUCKETS, execution=RUN)
    jax.tree.map(np.testing.assert_array_equal, engine.params, new.params)


@pytest.mark.slow
@pytest.mark.parametrize("options", [PAGES, {"execution": RUN.replace(scan=True)}])
def test_other_forms_give_the_same_ids(make, requests, options):
    want = make(execution=RUN).generate(requests)
    got = make(**{"execution": RUN, **options}).generate(requests)
    assert [answer.tokens for answer in got] == [answer.tokens for answer in want]


def test_what_is_not_stored_in_int8_is_refused(config):
    with pytest.raises(ValueError, match="weights 'int4': wanted one of '', 'int8'"):
        Execution(weights="int4")
    with pytest.raises(ValueError, match="weights 'int8' with products 'float8'"):
        Execution(weights="int8", products="float8")
    model = config.replace(name="mixture", experts=8, active_experts=2, expert_ffn=16)
    with pytest.raises(ValueError, match="weights 'int8': mixture has experts"):
        Engine(model, fresh(model, 0), slots=2, max_length=LENGTH, execution=RUN)
