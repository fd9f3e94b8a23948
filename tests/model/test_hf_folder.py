"""Folders as other programs leave them: which files are read, and under which names."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qwen3.model import hf, hf_config, hf_folder, hf_layouts
from qwen3.model.sizes import SIZES

GOLDEN = Path(__file__).parent.parent / "golden"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write(path, tensors):
    save_file(tensors, path, metadata={"format": "pt"})


def params_of(folder):
    return hf.load_params(folder, hf_config.from_hf(hf_folder.read_json(folder / "config.json")))


def assert_same_as(folder, name):
    found, want = params_of(folder), params_of(GOLDEN / name)
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def dense(tmp_path):
    """A copy of a golden folder, and its tensors."""
    folder = tmp_path / "dense"
    shutil.copytree(GOLDEN / "dense_tied", folder)
    return folder, load_file(folder / "model.safetensors")


def shard(folder, tensors, *, index=True, twice=()):
    """The model in two files instead of one; tensors of `twice` stand, changed, in the second too.

    Returns the index.
    """
    names = sorted(tensors)
    parts = dict(zip(SHARDS, (names[:5], names[5:]), strict=True))
    weight_map = {name: file for file, part in parts.items() for name in part}
    for file, part in parts.items():
        extra = {name: tensors[name] + 1 for name in twice if file == SHARDS[1]}
        write(folder / file, {**{name: tensors[name] for name in part}, **extra})
    (folder / "model.safetensors").unlink()
    if index:
        (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


# Which files


def test_an_adapter_and_a_second_copy_beside_the_model_are_left_aside(dense, recwarn):
    folder, tensors = dense
    write(folder / "adapter_model.safetensors", {"lora_A.weight": np.ones((2, 2), np.float32)})
    write(folder / "consolidated.safetensors", {"tok_embeddings.weight": np.ones(3, np.float32)})
    (folder / "original").mkdir()
    write(folder / "original" / "model.safetensors", {"other": np.ones(3, np.float32)})
    assert_same_as(folder, "dense_tied")
    assert not recwarn.list


def test_a_model_of_another_file_name_is_found_beside_an_adapter(dense):
    folder, tensors = dense
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    write(folder / "adapter_model.safetensors", {"lora_A.weight": np.ones((2, 2), np.float32)})
    assert_same_as(folder, "dense_tied")


def test_the_single_file_counts_before_a_stale_index(dense, recwarn):
    folder, _ = dense
    stale = {"weight_map": {"model.norm.weight": SHARDS[0]}}
    (folder / hf_folder.INDEX).write_text(json.dumps(stale))
    assert_same_as(folder, "dense_tied")
    assert not recwarn.list


def test_a_single_file_beside_all_shards_of_an_index_is_read_with_a_warning(dense):
    folder, tensors = dense
    shard(folder, {name: tensor + 1 for name, tensor in tensors.items()})
    write(folder / "model.safetensors", tensors)
    with pytest.warns(UserWarning, match="model.safetensors is read, as transformers does"):
        assert_same_as(folder, "dense_tied")


def test_of_a_tensor_in_two_shards_the_one_the_index_names_counts(dense):
    folder, tensors = dense
    shard(folder, tensors, twice=sorted(tensors)[:2])
    assert_same_as(folder, "dense_tied")


def test_shards_without_an_index_are_read_if_they_are_complete(dense):
    folder, tensors = dense
    shard(folder, tensors, index=False)
    assert_same_as(folder, "dense_tied")
    (folder / SHARDS[1]).rename(folder / "model-00003-of-00003.safetensors")
    with pytest.raises(FileNotFoundError, match="nor one .safetensors file"):
        params_of(folder)


def test_a_tensor_in_two_shards_without_an_index_is_refused(dense):
    folder, tensors = dense
    shard(folder, tensors, index=False, twice=sorted(tensors)[:1])
    with pytest.raises(ValueError, match=f"{sorted(tensors)[0]} is also in {SHARDS[0]}"):
        params_of(folder)


@pytest.mark.parametrize("file", ["../outside.safetensors", "/tmp/outside.safetensors", 7, None])
def test_an_index_that_leaves_its_folder_is_refused(dense, file):
    folder, tensors = dense
    weight_map = shard(folder, tensors)
    write(folder.parent / "outside.safetensors", tensors)
    text = json.dumps({"weight_map": {**weight_map, "model.norm.weight": file}})
    (folder / hf_folder.INDEX).write_text(text)
    with pytest.raises(ValueError, match="is not the name of a file in this folder") as error:
        params_of(folder)
    assert repr(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ("[" * 100_000, "is no JSON"),
        ('"model.safetensors"', "holds a str"),
    ],
)
def test_a_damaged_index_is_named(dense, text, message):
    folder, tensors = dense
    shard(folder, tensors)
    (folder / hf_folder.INDEX).write_text(text)
    with pytest.raises(ValueError, match=f"{hf_folder.INDEX} {message}"):
        params_of(folder)


def test_a_tensor_that_only_the_index_knows_is_named(dense):
    folder, tensors = dense
    weight_map = shard(folder, tensors)
    text = json.dumps({"weight_map": {**weight_map, "model.ghost.weight": SHARDS[0]}})
    (folder / hf_folder.INDEX).write_text(text)
    with pytest.raises(ValueError, match="names model.ghost.weight, which no file holds"):
        params_of(folder)


def test_a_config_of_far_more_tensors_than_the_files_hold_is_refused_at_once(dense):
    folder, _ = dense
    config = SIZES["tiny-moe"].replace(layers=10**9, experts=10**6)
    with pytest.raises(
        ValueError, match=r"3,\d{3},\d{3},\d{3},\d{3},\d{3} tensors .*1,000,000 exp"
    ):
        hf.load_params(folder, config)


# Under which names


@pytest.mark.parametrize(
    ("stored", "standard"),
    [
        ("model.norm.weight", "model.norm.weight"),
        ("norm.weight", "model.norm.weight"),  # a base model, saved without its head
        ("module.model.norm.weight", "model.norm.weight"),  # DistributedDataParallel
        ("_orig_mod.model.norm.weight", "model.norm.weight"),  # torch.compile
        (
            "model._orig_mod.layers.3._orig_mod.mlp.up_proj.weight",
            "model.layers.3.mlp.up_proj.weight",
        ),
        ("module._orig_mod.lm_head.weight", "lm_head.weight"),
        ("model.model.layers.0.input_layernorm.weight", "model.layers.0.input_layernorm.weight"),
        ("model.lm_head.weight", "lm_head.weight"),
        ("visual.blocks.0.weight", "visual.blocks.0.weight"),
        ("model", "model"),
    ],
)
def test_names_of_wrapped_models_are_made_standard(stored, standard):
    assert hf_layouts.standard_name(stored) == standard


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
def test_a_wrapped_models_file_is_read(dense, prefix):
    folder, tensors = dense
    write(folder / "model.safetensors", {prefix + n: tensor for n, tensor in tensors.items()})
    assert_same_as(folder, "dense_tied")


def test_a_base_models_file_is_read(dense):
    folder, tensors = dense
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    write(folder / "model.safetensors", bare)
    assert_same_as(folder, "dense_tied")


def test_two_tensors_of_one_standard_name_are_refused(dense):
    folder, tensors = dense
    write(folder / "model.safetensors", {**tensors, "norm.weight": tensors["model.norm.weight"]})
    with pytest.raises(ValueError, match="model.norm.weight and norm.weight are both|both model"):
        params_of(folder)


def test_rotary_buffers_are_left_aside(dense):
    folder, tensors = dense
    buffers = {
        "model.rotary_emb.inv_freq": np.ones(8, np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
        "model.layers.1.self_attn.rotary_emb.cos_cached": np.ones((1, 4), np.float32),
    }
    write(folder / "model.safetensors", {**tensors, **buffers})
    assert_same_as(folder, "dense_tied")


def fused(tensors, experts):
    """The tensors with the experts of each layer as two, as transformers 5 keeps them."""
    result = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    layers = {name.split(".")[2] for name in tensors if ".experts." in name}
    for layer in layers:
        prefix = f"model.layers.{layer}.mlp.experts."

        def of(expert, kind, prefix=prefix):
            return tensors[f"{prefix}{expert}.{kind}_proj.weight"]

        gate_up = [np.concatenate([of(e, "gate"), of(e, "up")]) for e in range(experts)]
        result[f"{prefix}gate_up_proj"] = np.stack(gate_up)
        result[f"{prefix}down_proj"] = np.stack([of(e, "down") for e in range(experts)])
    return result


@pytest.fixture
def moe(tmp_path):
    folder = tmp_path / "moe"
    shutil.copytree(GOLDEN / "moe", folder)
    return folder, load_file(folder / "model.safetensors")


def test_fused_experts_are_read(moe):
    folder, tensors = moe
    write(folder / "model.safetensors", fused(tensors, 8))
    assert_same_as(folder, "moe")


def test_fused_experts_of_another_shape_are_named(moe):
    folder, tensors = moe
    name = "model.layers.1.mlp.experts.gate_up_proj"
    layers = fused(tensors, 8)
    write(folder / "model.safetensors", {**layers, name: layers[name].swapaxes(1, 2).copy()})
    with pytest.raises(ValueError, match=rf"{name} is \[8, 64, \d+\], config.json makes it"):
        params_of(folder)


def test_experts_both_fused_and_apart_are_refused(moe):
    folder, tensors = moe
    write(folder / "model.safetensors", {**tensors, **fused(tensors, 8)})
    with pytest.raises(ValueError, match="experts.0.*are both"):
        params_of(folder)
