"""config.json in its spellings, and what is refused."""

import json
from pathlib import Path

import pytest

from qwen3.model import hf_config
from qwen3.model.sizes import SIZES, DualChunkConfig, YarnConfig

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = ("dense_tied", "dense_untied", "moe", "dense_yarn")

# The public 8B file, by RECIPE 1.
HUB_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def golden(name, file="config.json"):
    return json.loads((GOLDEN / name / file).read_text())


def test_the_public_8b_file_is_the_row_of_the_table():
    assert hf_config.from_hf(HUB_8B, "8b") == SIZES["8b"].replace(source="config.json")
    assert hf_config.stored_dtype(HUB_8B) == "bfloat16"


@pytest.mark.parametrize("name", FOLDERS)
def test_both_spellings_are_one_config(name):
    new, hub = golden(name), golden(name, "config_hub_style.json")
    assert hf_config.from_hf(new) == hf_config.from_hf(hub)
    assert hf_config.stored_dtype(new) == hf_config.stored_dtype(hub)


def test_yarn_is_read_from_either_spelling():
    want = YarnConfig(factor=4.0, original_length=32768)
    assert hf_config.from_hf(HUB_8B | {"rope_scaling": YARN}).rope_scaling == want
    old_key = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert hf_config.from_hf(HUB_8B | {"rope_scaling": old_key}).rope_scaling == want
    new = {k: v for k, v in HUB_8B.items() if not k.startswith("rope")}
    new["rope_parameters"] = YARN | {"rope_theta": 5e6}
    assert hf_config.from_hf(new).rope_scaling == want
    assert hf_config.from_hf(new).rope_theta == 5e6


@pytest.mark.parametrize("name", SIZES)
def test_every_size_survives_the_round_trip(name):
    config = SIZES[name].replace(
        rope_scaling=YarnConfig(factor=2.0, beta_fast=16.0),
        dual_chunk=DualChunkConfig(variant="paper"),
        source="config.json",
    )
    raw = json.loads(json.dumps(hf_config.to_hf(config, "bfloat16")))
    back = hf_config.from_hf(raw, name)
    if not config.moe:  # dense files have no balance coefficient
        config = config.replace(balance_coef=0.001)
    assert back == config


def test_an_export_has_every_key_that_readers_of_either_age_want():
    raw = hf_config.to_hf(SIZES["30b-a3b"].replace(rope_scaling=YarnConfig()), "bfloat16")
    assert raw["architectures"] == ["Qwen3MoeForCausalLM"] and raw["model_type"] == "qwen3_moe"
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 1e6
    assert raw["rope_scaling"]["rope_type"] == raw["rope_parameters"]["rope_type"] == "yarn"
    assert raw["torch_dtype"] == raw["dtype"] == "bfloat16"
    assert (raw["head_dim"], raw["num_experts"], raw["num_experts_per_tok"]) == (128, 128, 8)
    assert raw["norm_topk_prob"] is True and raw["decoder_sparse_step"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "'llama'.*qwen3_moe"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "SequenceClass.*Qwen3ForCausalLM"),
        ({"use_sliding_window": True}, "use_sliding_window = True .*only False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' .*only 'silu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config.*fp8"),
        ({"head_dim": None}, "no head_dim"),
        ({"rope_theta": None}, "neither rope_theta nor"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "disagree"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3.*default, yarn"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "no factor"),
        ({"rope_scaling": YARN | {"attention_factor": 2.0}}, "attention_factor = 2.0"),
        ({"rope_scaling": YARN | {"mscale": 1.0}}, "mscale"),
        ({"rope_scaling": YARN | {"truncate": False}}, "truncate"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_this_model_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        hf_config.from_hf(HUB_8B | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob = False .*only True"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step = 2"),
        ({"mlp_only_layers": [0]}, r"mlp_only_layers = \[0\]"),
        ({"shared_expert_intermediate_size": 512}, "shared_expert_intermediate_size = 512"),
        ({"num_experts_per_tok": None}, "no num_experts_per_tok"),
        ({"num_experts_per_tok": 9}, "9 of 8 experts"),
    ],
)
def test_other_mixtures_of_experts_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        hf_config.from_hf(golden("moe") | change)


def test_a_moe_file_without_norm_topk_prob_means_false_and_is_refused():
    raw = golden("moe")
    del raw["norm_topk_prob"]
    with pytest.raises(ValueError, match="norm_topk_prob = False"):
        hf_config.from_hf(raw)
