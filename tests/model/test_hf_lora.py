"""Adapters that PEFT wrote are merged into the model that they were trained on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qwen3
from qwen3.model import hf_lora, lora
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig

MODEL = ModelConfig("nano", 2, 32, 64, 4, 2, head_dim=8, vocab=96, tied=True)
MOE = MODEL.replace(experts=4, active_experts=2, expert_ffn=16)
RANK, ALPHA = 3, 6.0
SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.o_proj": (32, 32), "mlp.down_proj": (32, 64)}


def write(folder, tensors, **changes):
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.05} | changes
    (folder / hf_lora.CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / hf_lora.WEIGHTS)


def factors(layers=(0, 1)):
    """PEFT's tensors, [r, in] and [out, r], random."""
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in layers:
        for name, (outputs, inputs) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = rng.normal(size=(RANK, inputs)).astype("float32")
            tensors[f"{prefix}.lora_B.weight"] = rng.normal(size=(outputs, RANK)).astype("float32")
    return tensors


def merged(model, folder):
    adapters, settings = hf_lora.read(folder, model.config)
    return lora.merge(model.params, adapters, settings)


def test_the_weight_in_use_is_w_plus_scaled_b_a(tmp_path):
    model = qwen3.create(MODEL, seed=1)
    tensors = factors()
    write(tmp_path / "adapter", tensors)
    params = merged(model, tmp_path / "adapter")
    for layer in range(2):
        for name, path in (
            ("self_attn.q_proj", ("attention", "query")),
            ("self_attn.o_proj", ("attention", "out")),
            ("mlp.down_proj", ("mlp", "down")),
        ):
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            a, b = (np.float64(tensors[f"{prefix}.lora_{k}.weight"]) for k in "AB")
            before = np.float64(model.params["layers"][path[0]][path[1]][layer])
            inputs = 2 if path[1] == "out" else 1
            weight = before.reshape(np.prod(before.shape[:inputs]), -1).T + ALPHA / RANK * b @ a
            after = np.asarray(params["layers"][path[0]][path[1]][layer])
            np.testing.assert_allclose(after, weight.T.reshape(before.shape), atol=1e-5)


def test_layers_without_an_adapter_stay_as_they_are(tmp_path):
    model = qwen3.create(MODEL, seed=1)
    write(tmp_path / "adapter", factors(layers=(1,)))
    after = merged(model, tmp_path / "adapter")["layers"]["attention"]["query"]
    before = model.params["layers"]["attention"]["query"]
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.array_equal(after[1], before[1])


def test_rank_stabilised_scaling_is_alpha_over_the_root_of_the_rank(tmp_path):
    write(tmp_path / "adapter", factors(), use_rslora=True)
    _, settings = hf_lora.read(tmp_path / "adapter", MODEL)
    assert settings.scale == pytest.approx(ALPHA / RANK**0.5)


@pytest.mark.parametrize("targets", [tuple(lora.MATRICES), ("down", "value")], ids=len)
@pytest.mark.parametrize("model", [MODEL, MOE], ids=["dense", "moe"])
def test_what_is_written_is_read_bitwise_and_named_as_peft_names_it(model, targets, tmp_path):
    settings = LoraConfig(rank=2, alpha=5.5, targets=targets)
    new = lora.init(settings, model, jax.random.key(0))
    new = jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape) / 7, new)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    hf_lora.write(
        *(tmp_path / "out", new, settings, model),
        base="org/base",
        files=(tmp_path / "chat_template.jinja",),
    )
    again, found = hf_lora.read(tmp_path / "out", model)
    assert found == LoraConfig(2, 5.5, tuple(name for name in lora.MATRICES if name in targets))
    assert jax.tree.structure(again) == jax.tree.structure(new)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(a, b)
    stored = load_file(tmp_path / "out" / hf_lora.WEIGHTS)
    experts = "experts.3." if model.moe else ""
    prefix = f"base_model.model.model.layers.1.mlp.{experts}down_proj"
    assert stored[f"{prefix}.lora_A.weight"].shape == (2, 16 if model.moe else 64)
    assert stored[f"{prefix}.lora_B.weight"].shape == (32, 2)
    config = json.loads((tmp_path / "out" / hf_lora.CONFIG).read_text())
    assert {"v_proj", "down_proj"} <= set(config["target_modules"])
    assert hf_lora.base_name(tmp_path / "out") == ("org/base", None)
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "r = 0 is not supported"),
        ({"r": None}, "r = None is not supported"),
        ({"lora_alpha": "16"}, "lora_alpha = '16' is not supported"),
        ({"use_dora": True}, "use_dora True is not supported"),
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ],
)
def test_other_forms_of_adapters_are_refused_by_name(tmp_path, changes, words):
    write(tmp_path / "adapter", factors(), **changes)
    with pytest.raises(ValueError, match=words):
        hf_lora.read(tmp_path / "adapter", MODEL)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", (4, 32), "no rank-3"),
        (
            "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
            (3, 32),
            "no adapter of",
        ),
        ("base_model.model.lm_head.lora_A.weight", (3, 32), "no adapter of"),
        ("model.layers.0.self_attn.q_norm.lora_A.weight", (3, 8), "no adapter of"),
    ],
)
def test_tensors_of_another_model_are_named(tmp_path, name, shape, words):
    write(tmp_path / "adapter", {name: np.zeros(shape, np.float32)})
    with pytest.raises(ValueError, match=words):
        hf_lora.read(tmp_path / "adapter", MODEL)
