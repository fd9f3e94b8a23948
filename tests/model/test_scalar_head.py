"""The scalar head of reward models: folders of transformers' sequence classification both ways.

The slow test has other Pythons read what is written here: QWEN3_TRANSFORMERS, as in
test_transformers_versions.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from test_transformers_versions import run_peer, with_peers

import qwen3
from qwen3.infer.engine import Engine
from qwen3.losses.preference import token_scores
from qwen3.model import hf, hf_config, hf_folder, transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import count_parameters, size
from qwen3.stages import builders

GOLDEN = Path(__file__).parent.parent / "golden"
STORED = sorted(GOLDEN.glob("classifiers[45]/*/expected.npz"))
BOUND = 2e-5  # largest difference of scores, which reach 6
TINY = size("tiny").replace(layers=1, scalar_head=True)


def scores(folder):
    """Our scores of the stored tokens, read at the last token that is no pad."""
    tokens = np.load(STORED[0])["tokens"]
    model = qwen3.load(folder, dtype="float32")
    apply = transformer.bind(model.config, Execution())
    batch = {
        "tokens": tokens,
        "positions": np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape),
        "segment_ids": (tokens != 0).astype(np.int32),
    }
    scores_BT = np.asarray(token_scores(apply, model.params, batch))
    return scores_BT[np.arange(len(tokens)), (tokens != 0).sum(1) - 1]


@pytest.mark.parametrize("path", STORED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_stored_classifiers_of_both_versions_give_their_scores(path):
    stored = np.load(path)["scores"]
    assert np.abs(stored).max() > 0.5
    np.testing.assert_allclose(scores(path.parent), stored, atol=BOUND)


def test_both_versions_are_stored_dense_and_with_experts():
    assert [path.parent.parent.name + path.parent.name for path in STORED] == [
        f"classifiers{version}{kind}" for version in (4, 5) for kind in ("dense", "moe")
    ]


def save_again(root, version):
    for kind in ("dense", "moe"):
        model = qwen3.load(GOLDEN / f"classifiers{version}" / kind)
        ids = {"pad_token_id": 0, "eos_token_id": [2, 0]}
        hf.save(root / kind, model.config, model.params, generation=ids)


def test_a_saved_reward_model_is_a_classifier_of_one_label_and_comes_back(tmp_path):
    save_again(tmp_path, 5)
    for kind, name in (("dense", "Qwen3"), ("moe", "Qwen3Moe")):
        raw = json.loads((tmp_path / kind / "config.json").read_text())
        assert raw["architectures"] == [f"{name}ForSequenceClassification"]
        assert len(raw["id2label"]) == 1 and raw["pad_token_id"] == 0 and raw["eos_token_id"] == 2
        tensors = hf_folder.tensors(tmp_path / kind)
        assert tensors["score.weight"].shape == (1, 16) and "lm_head.weight" not in tensors
        np.testing.assert_array_equal(
            scores(tmp_path / kind), scores(GOLDEN / "classifiers5" / kind)
        )


@pytest.mark.slow
@with_peers
def test_transformers_versions_read_our_reward_models_with_equal_scores(python, tmp_path):
    save_again(tmp_path, 5)
    run_peer(python, "score", tmp_path)
    for kind in ("dense", "moe"):
        assert json.loads((tmp_path / kind / "lost.json").read_text()) == []
        difference = np.abs(np.load(tmp_path / kind / "scores.npy") - scores(tmp_path / kind)).max()
        print(f"{python}: {kind} reward model written here, read there: {difference:.1e}")
        assert difference < BOUND


def test_a_classifier_of_two_labels_is_refused_by_name(tmp_path):
    folder = shutil.copytree(GOLDEN / "classifiers5" / "dense", tmp_path / "two")
    raw = json.loads((folder / "config.json").read_text())
    for labels in (None, {"0": "bad", "1": "good"}):
        with pytest.raises(ValueError, match="id2label = .* only one label"):
            hf_config.from_hf({**raw, "id2label": labels})


def test_the_tree_has_the_counted_parameters_and_no_output_matrix():
    for config in (TINY, TINY.replace(tied=False), size("tiny-moe").replace(scalar_head=True)):
        params = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
        assert params["score"].shape == (1, 64) and "head" not in params
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert total == count_parameters(config).total


def test_a_reward_model_writes_nothing_and_is_trained_by_no_other_loss():
    model = qwen3.create(TINY)
    with pytest.raises(ValueError, match="has no logits"):
        model.logits([[1, 2]])
    with pytest.raises(ValueError, match="writes none"):
        Engine(TINY, model.params)
    for build in (
        builders.next_token,
        builders.log_probs,
        partial(builders.policy_gradient, config=None),
    ):
        with pytest.raises(ValueError, match="only stages.reward_model"):
            build(TINY, Execution())
