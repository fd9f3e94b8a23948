"""config.json in its spellings, and what is refused."""

import json
from pathlib import Path

import pytest

from qwen3.model import hf_config
from qwen3.model.sizes import SIZES, DualChunkConfig, YarnConfig

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = ("dense_tied", "dense_untied", "moe", "dense_yarn")

# The public 8B file.
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
        max_length=65_536,
        rope_scaling=YarnConfig(factor=2.0, beta_fast=16.0),
        dual_chunk=DualChunkConfig(variant="paper"),
        source="config.json",
    )
    raw = json.loads(json.dumps(hf_config.to_hf(config, "bfloat16")))
    back = hf_config.from_hf(raw, name)
    if not config.moe:  # dense files have no balance coefficient
        config = config.replace(balance_coef=0.001)
    assert back == config


@pytest.mark.parametrize(
    ("max_length", "scaling", "context"),
    [
        (40_960, YARN, 131_072),  # as Qwen's own instructions leave the file
        (131_072, YARN, 131_072),
        (40_960, YARN | {"factor": 1.0}, 40_960),
        (32_768, {"rope_type": "yarn", "factor": 2.5}, 81_920),
        (262_144, YARN, 262_144),
        (40_960, None, 40_960),
    ],
)
def test_yarn_lengthens_the_context(max_length, scaling, context):
    raw = HUB_8B | {"max_position_embeddings": max_length, "rope_scaling": scaling}
    assert hf_config.from_hf(raw).max_length == context


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
        ({"architectures": ["Qwen3ForTokenClassification"]}, "TokenClass.*Qwen3ForCausalLM"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "id2label = None.*one label"),
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
        ({"num_local_experts": 4, "num_experts": 8}, "num_experts = 8 and num_local_experts = 4"),
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


# A config.json may come from anyone

NAN, INFINITY = float("nan"), float("inf")
HOSTILE = [
    ("num_hidden_layers", 10**7, "an integer from 1 to 1,000"),
    ("num_hidden_layers", 0, "an integer from 1 to 1,000"),
    ("num_hidden_layers", -1, "an integer from 1 to 1,000"),
    ("num_hidden_layers", "28", "an integer from 1 to 1,000"),
    ("num_hidden_layers", [28], "an integer from 1 to 1,000"),
    ("num_hidden_layers", 28.0, "an integer from 1 to 1,000"),
    ("num_hidden_layers", True, "an integer from 1 to 1,000"),
    ("num_hidden_layers", 10**400, "an integer from 1 to 1,000"),
    ("hidden_size", 2**40, "an integer from 1 to 1,048,576"),
    ("num_attention_heads", 0, "an integer from 1 to 65,536"),
    ("num_key_value_heads", 0, "an integer from 1 to 65,536"),
    ("num_key_value_heads", {}, "an integer from 1 to 65,536"),
    ("head_dim", -128, "an integer from 2 to 65,536"),
    ("vocab_size", 10**12, "an integer from 1 to 16,777,216"),
    ("rms_norm_eps", NAN, "a number from 1e-30 to 1.0"),
    ("rms_norm_eps", -1e-6, "a number from 1e-30 to 1.0"),
    ("rms_norm_eps", "1e-6", "a number from 1e-30 to 1.0"),
    ("rope_theta", NAN, "a number from 2.0 to"),
    ("rope_theta", 0, "a number from 2.0 to"),
    ("rope_theta", -1e6, "a number from 2.0 to"),
    ("rope_theta", INFINITY, "a number from 2.0 to"),
    ("rope_theta", [1e6], "a number from 2.0 to"),
    ("initializer_range", NAN, "a number from 0.0 to 100.0"),
    ("tie_word_embeddings", "false", "False or True"),
    ("tie_word_embeddings", 1, "False or True"),
    ("attention_bias", "false", "False"),
    ("use_sliding_window", 0, "False"),
    ("layer_types", 5, "only full_attention"),
    ("layer_types", [["full_attention"]], "only full_attention"),
]


@pytest.mark.parametrize(("key", "value", "supported"), HOSTILE, ids=lambda value: str(value)[:20])
def test_a_hostile_value_is_refused_by_key_value_and_what_is_supported(key, value, supported):
    with pytest.raises(ValueError, match="config.json") as error:
        hf_config.from_hf(HUB_8B | {key: value})
    message = str(error.value)
    assert key in message and supported in message and len(message) < 250
    if not isinstance(value, int) or abs(value) < 10**300:
        assert str(value) in message or repr(value) in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_experts", 10**7),
        ("num_experts", 0),
        ("num_experts", "8"),
        ("num_experts_per_tok", 0),
        ("moe_intermediate_size", -1),
        ("router_aux_loss_coef", NAN),
        ("router_aux_loss_coef", "0.001"),
    ],
)
def test_a_hostile_mixture_of_experts_is_refused(key, value):
    raw = golden("moe", "config_hub_style.json") | {key: value}
    with pytest.raises(ValueError, match=f"config.json: {key} = {value!r} is not supported"):
        hf_config.from_hf(raw)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ("yarn", "rope_scaling = 'yarn' is not an object"),
        ([1], r"rope_scaling = \[1\] is not an object"),
        ({"rope_type": ["yarn"]}, r"rope_type \['yarn'\] is not supported"),
        ({"rope_type": None}, "rope_type None is not supported"),
        (YARN | {"factor": NAN}, "factor = nan is not supported, only a number from 1.0"),
        (YARN | {"factor": 0.5}, "factor = 0.5 is not supported"),
        (YARN | {"factor": "4"}, "factor = '4' is not supported"),
        (YARN | {"original_max_position_embeddings": 0}, "original_max.* = 0 is not supported"),
        (YARN | {"original_max_position_embeddings": 3e4}, "original_max.* = 30000.0 is not"),
        (YARN | {"beta_fast": NAN}, "beta_fast = nan"),
        (YARN | {"beta_slow": 0}, "beta_slow = 0"),
        (YARN | {"attention_factor": NAN}, "attention_factor = nan"),
        (YARN | {"attention_factor": "1"}, "attention_factor = '1'"),
    ],
    ids=lambda value: str(value)[-24:],
)
def test_a_hostile_rope_is_refused(rope, message):
    with pytest.raises(ValueError, match=message):
        hf_config.from_hf(HUB_8B | {"rope_scaling": rope})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "chunk_size = None is not supported"),
        ([], r"dual_chunk_attention_config = \[\] is not an object"),
        ({"chunk_size": "8", "local_size": 2}, "chunk_size = '8'"),
        ({"chunk_size": 8, "local_size": 8}, "local_size = 8 must be below chunk_size = 8"),
        ({"chunk_size": 8, "local_size": 2, "variant": ["paper"]}, "variant = .*paper or code"),
        ({"chunk_size": 8, "local_size": 2, "sparse_attention_enabled": True}, "sparse attention"),
    ],
)
def test_a_hostile_dual_chunk_attention_is_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        hf_config.from_hf(HUB_8B | {"dual_chunk_attention_config": raw})


@pytest.mark.parametrize("key", [*HUB_8B, "rope_parameters", "layer_types", "dtype"])
def test_any_value_of_any_key_raises_nothing_but_a_value_error(key):
    values = (None, True, 0, -1, 10**30, NAN, INFINITY, "", "x", [], [[]], {}, {"x": {}}, [None])
    for value in values:
        try:
            config = hf_config.from_hf(HUB_8B | {key: value})
        except ValueError as error:
            assert len(str(error)) < 400, str(error)
        else:
            assert config.layers == 36 and config.norm_eps == 1e-6
