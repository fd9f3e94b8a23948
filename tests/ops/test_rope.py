"""RoPE, ABF and YaRN against stored values (tests/golden/rope_reference.json)."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.ops import rope

STORED = json.loads((Path(__file__).parents[1] / "golden" / "rope_reference.json").read_text())


@pytest.mark.parametrize("name", ["pretrain_stage1_2_base_1e4", "after_abf_base_1e6"])
def test_the_base_sets_the_frequencies(name):
    want = STORED[name]
    found = rope.inverse_frequencies(want["head_dim"], want["theta"])
    np.testing.assert_allclose(found, want["inv_freq"], rtol=1e-6)


@pytest.mark.parametrize("name", ["qwen3_yarn_factor2", "qwen3_yarn_factor4"])
def test_yarn_is_the_shipped_form(name):
    want = STORED[name]
    found, scale = rope.yarn_frequencies(
        want["head_dim"],
        want["theta"],
        factor=want["factor"],
        original_length=want["original_max_position_embeddings"],
    )
    np.testing.assert_allclose(found, want["inv_freq"], rtol=1e-6)
    assert scale == pytest.approx(want["attention_factor"], rel=1e-6)


def test_yarn_at_factor_one_is_plain_rope():
    found, scale = rope.yarn_frequencies(128, 1e6, factor=1.0, original_length=32_768)
    np.testing.assert_array_equal(found, rope.inverse_frequencies(128, 1e6))
    assert scale == 1.0


def test_rotation_turns_channel_pairs_half_a_head_apart():
    x = jnp.arange(1.0, 9.0).reshape(1, 1, 1, 8)
    turns = rope.inverse_frequencies(8, 10_000.0)
    found = rope.rotate(x, *rope.cos_sin(jnp.array([[3]]), turns))
    want = np.zeros(8)
    for i in range(4):
        angle, a, b = 3 * turns[i], i + 1.0, i + 5.0
        want[i] = a * np.cos(angle) - b * np.sin(angle)
        want[i + 4] = b * np.cos(angle) + a * np.sin(angle)
    np.testing.assert_allclose(found[0, 0, 0], want, atol=1e-5)


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match="0.5"):
        rope.yarn_frequencies(128, 1e6, factor=0.5, original_length=4096)
