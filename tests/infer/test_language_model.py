"""The façade: load, create, logits and save, end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qwen3
from qwen3.config import MeshConfig
from qwen3.data.chat_template import CHAT_TEMPLATE
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.model.sizes import SIZES

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = ("dense_tied", "dense_untied", "moe", "dense_yarn")


@pytest.fixture(scope="module")
def tiny():
    return qwen3.create("tiny", seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["one two three two one " * 9], size=290)


def test_importing_qwen3_imports_no_jax():
    code = "import sys, qwen3; assert 'load' in dir(qwen3); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        qwen3.nothing  # noqa: B018


@pytest.mark.parametrize("name", FOLDERS)
def test_loaded_logits_are_the_golden_ones_for_any_padding(name):
    model = qwen3.load(GOLDEN / name, dtype=jnp.float32)
    reference = np.load(GOLDEN / name / "reference.npz")
    found = model.logits(reference["nopad.input_ids"])
    np.testing.assert_allclose(found, reference["nopad.logits"], atol=2e-4)
    for side in ("left", "right"):
        mask = reference[f"{side}.attention_mask"]
        found = model.logits(
            reference[f"{side}.input_ids"], reference[f"{side}.position_ids"], segment_ids=mask
        )
        want = reference[f"{side}.logits"]
        np.testing.assert_allclose(found * mask[..., None], want, atol=2e-4)


def test_positions_default_to_counting_the_real_tokens():
    model = qwen3.load(GOLDEN / "dense_tied")
    reference = np.load(GOLDEN / "dense_tied" / "reference.npz")
    mask = reference["left.attention_mask"]
    found = model.logits(reference["left.input_ids"], segment_ids=mask) * mask[..., None]
    np.testing.assert_allclose(found, reference["left.logits"], atol=2e-4)


def test_given_positions_are_used():
    model = qwen3.load(GOLDEN / "dense_yarn", dtype=jnp.float32)
    reference = np.load(GOLDEN / "dense_yarn" / "reference.npz")
    ids = reference["long.input_ids"]
    at = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    picked = reference["long.positions"]
    want = reference["long.logits"].reshape(len(picked), -1)
    np.testing.assert_allclose(model.logits(ids, at)[0, picked], want, atol=2e-4)
    moved = model.logits(ids, at * 2)[0, picked]
    assert np.abs(moved - want).max() > 0.1


def test_any_number_of_rows_runs_on_a_mesh():
    mesh = make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
    reference = np.load(GOLDEN / "dense_tied" / "reference.npz")
    model = qwen3.load(GOLDEN / "dense_tied", mesh=mesh, dtype=jnp.float32)
    one, want = reference["nopad.input_ids"][:1, :9], reference["nopad.logits"][:1, :9]
    found = model.logits(one)
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, atol=2e-4)


def test_create_is_a_function_of_the_seed_not_of_the_mesh(tiny):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    same, other = qwen3.create("tiny", seed=0, mesh=mesh), qwen3.create("tiny", seed=1)
    for a, b in zip(jax.tree.leaves(tiny.params), jax.tree.leaves(same.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert len(same.params["embed"].sharding.device_set) == 8
    assert not np.array_equal(tiny.params["embed"], other.params["embed"])


def test_a_saved_model_loads_with_the_same_logits(tiny, tmp_path):
    tiny.save(tmp_path / "out")
    again = qwen3.load(str(tmp_path / "out"))
    assert again.config == tiny.config.replace(name="out", source="config.json")
    assert again.tokenizer is None
    tokens = [[1, 2, 3, 500]]
    np.testing.assert_array_equal(again.logits(tokens), tiny.logits(tokens))


def test_replaced_parameters_are_used_and_saved(tmp_path):
    model = qwen3.load(GOLDEN / "dense_untied")
    before = model.logits([[1, 2, 3]])
    model.params = {**model.params, "head": model.params["head"] * 2}
    np.testing.assert_allclose(model.logits([[1, 2, 3]]), before * 2, rtol=1e-5)
    model.save(tmp_path / "out", dtype="bfloat16", shard_bytes=10**5)
    again = qwen3.load(tmp_path / "out", dtype=jnp.float32)
    np.testing.assert_allclose(again.params["head"], model.params["head"], rtol=5e-3)
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_the_tokenizer_goes_along(tiny, tokenizer, tmp_path):
    model = qwen3.create(SIZES["tiny"], tokenizer=tokenizer)
    model.save(tmp_path / "first")
    loaded = qwen3.load(tmp_path / "first")
    assert loaded.tokenizer.encode("two three") == tokenizer.encode("two three")
    generation = json.loads((tmp_path / "first" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [tokenizer.im_end, tokenizer.endoftext]
    assert json.loads((tmp_path / "first" / "config.json").read_text())["eos_token_id"] == (
        tokenizer.im_end
    )
    generation["top_k"] = 5
    (tmp_path / "first" / "generation_config.json").write_text(json.dumps(generation))
    loaded.save(tmp_path / "second")
    loaded.save(tmp_path / "first")  # onto where its own files come from
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, second = (tmp_path / part / name for part in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    stored = json.loads((tmp_path / "second" / "generation_config.json").read_text())
    assert stored["top_k"] == 5


OTHER = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"


def template_of(folder):
    """The chat template that transformers takes from a folder."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    return json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")


@pytest.mark.parametrize("stored", [OTHER, CHAT_TEMPLATE, None], ids=["other", "built in", "none"])
def test_the_template_that_is_used_is_saved(tokenizer, tmp_path, stored):
    qwen3.create("tiny", tokenizer=tokenizer).save(tmp_path / "first")
    path = tmp_path / "first" / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": stored}
    path.write_text(json.dumps(config))
    model = qwen3.load(tmp_path / "first")
    model.save(tmp_path / "second")
    assert template_of(tmp_path / "second") == (stored or CHAT_TEMPLATE)
    assert model.tokenizer.chat_template == (OTHER if stored == OTHER else None)
    model.tokenizer.chat_template = OTHER + " "
    model.save(tmp_path / "third")
    assert template_of(tmp_path / "third") == OTHER + " "
    assert qwen3.load(tmp_path / "third").tokenizer.encode("two") == tokenizer.encode("two")


def test_end_tokens_and_sampling_of_the_folder_are_saved_again(tokenizer, tmp_path):
    qwen3.create("tiny", tokenizer=tokenizer).save(tmp_path / "first")
    path = tmp_path / "first" / "generation_config.json"
    stored = {"eos_token_id": [tokenizer.im_end, tokenizer.file_sep], "temperature": 0.7, "x": None}
    path.write_text(json.dumps(stored))
    model = qwen3.load(tmp_path / "first")
    assert model.tokenizer.stop_ids == (
        tokenizer.im_end,
        tokenizer.endoftext,
        tokenizer.file_sep,
    )
    model.save(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "generation_config.json").read_text()) == stored
    other = qwen3.load(tmp_path / "first", tokenizer=tokenizer)
    other.save(tmp_path / "third")
    written = json.loads((tmp_path / "third" / "generation_config.json").read_text())
    assert (written["temperature"], written["do_sample"]) == (0.7, True) and "top_k" not in written
    assert written["eos_token_id"] == [tokenizer.im_end, tokenizer.endoftext]


def test_vocab_and_merges_are_a_tokenizer_of_the_folder(tiny, tokenizer, tmp_path):
    tiny.save(tmp_path / "out")
    assert qwen3.load(tmp_path / "out").tokenizer is None
    (tmp_path / "out" / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match="merges.txt is missing beside vocab.json"):
        qwen3.load(tmp_path / "out").tokenizer  # noqa: B018


def test_bad_inputs_are_named(tiny, tokenizer):
    for tokens, message in (
        ([1, 2], r"shape \(2,\); wanted is \[batch, length\]"),
        ([[0, 512]], "from 0 to 512; the vocabulary is 0 to 511"),
        ([[-1, 5]], "from -1 to 5"),
        ([[0.5]], "float64; wanted are integers"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.logits(tokens)
    with pytest.raises(ValueError, match=r"segment_ids have shape \(1, 3\), tokens \(1, 2\)"):
        tiny.logits([[1, 2]], segment_ids=[[1, 1, 1]])
    with pytest.raises(ValueError, match="'0.7b'; there are 0.6b"):
        qwen3.create("0.7b")
    with pytest.raises(ValueError, match="290 ids, the model only 128"):
        small = SIZES["tiny"].replace(vocab=128)
        qwen3.LanguageModel(small, {}, mesh=tiny.mesh, tokenizer=tokenizer)


def test_a_name_that_is_nowhere_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder; give one.*Hub name"):
        qwen3.load("./nowhere")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        qwen3.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is no JSON"):
        qwen3.load(tmp_path)


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    code = "import qwen3; qwen3.load('Qwen/Qwen3-0.6B')"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("FileNotFoundError: 'Qwen/Qwen3-0.6B' is no folder here"), last
    assert "hf download Qwen/Qwen3-0.6B" in last


def test_a_downloaded_model_is_found_in_the_hub_cache(tmp_path, monkeypatch):
    """The cache's own layout, so that nothing is fetched."""
    repo = tmp_path / "models--someone--little"
    commit = "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    qwen3.load(GOLDEN / "dense_tied").save(repo / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert qwen3.load("someone/little").config.name == "someone/little"
