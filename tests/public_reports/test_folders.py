"""Folders of models as public reports show them: what they say of their use, what lies beside.

Every row names the report by repository and number; the folders are made anew here.
"""

import json
import math
import shutil
import warnings
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qwen3
from qwen3.data.chat_prompt import chat_prompt_ids
from qwen3.data.tokenizer import Tokenizer
from qwen3.model import hf, hf_config, hf_folder, hf_generation, hf_lora
from qwen3.model.sizes import ModelConfig

NANO = ModelConfig("nano", 2, 32, 64, 2, 1, head_dim=16, vocab=384, tied=True, max_length=64)
MOE = NANO.replace(name="nano-moe", experts=4, active_experts=2, expert_ffn=16)
UNTIED = NANO.replace(name="nano-untied", tied=False)
CONFIGS = {config.name: config for config in (NANO, MOE, UNTIED)}
TOKEN = "<|medicine|>"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of every config, with a tokenizer."""
    root = tmp_path_factory.mktemp("saved")
    tokenizer = Tokenizer.train(["plain text"], 282)
    for name, config in CONFIGS.items():
        qwen3.create(config, seed=1, tokenizer=tokenizer).save(root / name)
    return root


@pytest.fixture
def folder(saved, tmp_path, request):
    shutil.copytree(saved / getattr(request, "param", "nano"), tmp_path / "model")
    return tmp_path / "model"


def params_of(folder):
    return hf.load_params(folder, hf_config.from_hf(hf_folder.read_json(folder / "config.json")))


def rewrite(folder, change):
    """The tensors of the one file, changed."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit(path, **changes):
    """Set fields of a JSON file; those set to None are left out of it."""
    raw = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def shard(folder, *, index=True, count=2, twice=False):
    """The model in two files; `count` is the number that their names claim."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = (names[:7], names[7:])
    files = [f"model-{i:05}-of-{count:05}.safetensors" for i in (1, 2)]
    for file, part in zip(files, parts, strict=True):
        extra = {names[0]: tensors[names[0]] + 1} if twice and file == files[1] else {}
        save_file({name: tensors[name] for name in part} | extra, folder / file)
    (folder / "model.safetensors").unlink()
    if index:
        weight_map = {n: f for f, part in zip(files, parts, strict=True) for n in part}
        (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return files


def prefixed(prefix):
    return lambda folder: rewrite(folder, lambda ts: {prefix + n: t for n, t in ts.items()})


def in_every_layer(wrapper):
    def change(tensors):
        return {
            n.replace("model.layers.", f"model.{wrapper}.layers."): t for n, t in tensors.items()
        }

    return lambda folder: rewrite(folder, change)


def second_set_of_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    shard(folder, count=4)
    for i in (1, 2):
        wrong = {name: tensor[..., :1].copy() for name, tensor in tensors.items()}
        save_file(wrong, folder / f"model-{i:05}-of-00002.safetensors")


def consolidated_copy(folder):
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    shard(folder)


def fused(folder):
    def change(tensors):
        out = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
        for layer in range(2):
            at = f"model.layers.{layer}.mlp.experts."
            parts = [
                [tensors[f"{at}{e}.{kind}_proj.weight"] for kind in ("gate", "up")]
                for e in range(4)
            ]
            out[f"{at}gate_up_proj"] = np.stack([np.concatenate(pair) for pair in parts])
            out[f"{at}down_proj"] = np.stack(
                [tensors[f"{at}{e}.down_proj.weight"] for e in range(4)]
            )
        return out

    rewrite(folder, change)


def head_beside_the_embedding(folder):
    rewrite(folder, lambda ts: {**ts, "lm_head.weight": ts["model.embed_tokens.weight"].copy()})


def head_instead_of_the_embedding(folder):
    rewrite(
        folder,
        lambda ts: {
            name.replace("model.embed_tokens.weight", "lm_head.weight"): tensor
            for name, tensor in ts.items()
        },
    )


SAME = {
    "FareedKhan-dev/train-llm-from-scratch#37": ("nano", prefixed("_orig_mod.")),
    "Chiaraplizz/ST-TR#17": ("nano", prefixed("module.")),
    "ray-project/ray#43594": ("nano", prefixed("_forward_module.")),
    "huggingface/transformers#40207": ("nano", in_every_layer("_fsdp_wrapped_module")),
    "InternRobotics/AnySplat#69": ("nano", prefixed("model.")),
    "1CatAI/1Cat-vLLM#21": ("nano-moe", fused),
    "vllm-project/vllm#42577": ("nano-moe", lambda folder: (fused(folder), shard(folder))),
    "vllm-project/vllm#3344": ("nano", head_beside_the_embedding),
    "hpcaitech/ColossalAI#6160": (
        "nano",
        lambda folder: (head_beside_the_embedding(folder), shard(folder)),
    ),
    "huggingface/transformers#38870": ("nano", head_instead_of_the_embedding),
    "unslothai/unsloth-zoo#808": ("nano", second_set_of_shards),
    "unslothai/unsloth#2355": ("nano", lambda folder: shard(folder, index=False)),
    "eugr/spark-vllm-docker#134": ("nano", lambda folder: shard(folder, twice=True)),
    "vllm-project/vllm#40765": ("nano", consolidated_copy),
}


@pytest.mark.parametrize("source", SAME)
def test_a_folder_with_more_than_the_model_loads_as_the_model(source, saved, tmp_path):
    name, change = SAME[source]
    shutil.copytree(saved / name, tmp_path / "model")
    change(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, wanted = params_of(tmp_path / "model"), params_of(saved / name)
    assert jax.tree.structure(loaded) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def without_a_shard(folder):
    (folder / shard(folder)[1]).unlink()


def without_a_head(folder):
    rewrite(folder, lambda ts: {n: t for n, t in ts.items() if n != "lm_head.weight"})


def renamed_shards(folder):
    for file in shard(folder, count=3):
        (folder / file).rename(folder / file.replace("of-00003", "of-00002"))


REFUSED = {
    "sgl-project/sglang#32279": (
        "nano",
        without_a_shard,
        "index.json names model-00002-of-00002.safetensors, not there",
    ),
    "Neph0s/CoSER#3": ("nano", renamed_shards, "names model-00001-of-00003.safetensors, .*not the"),
    "QwenLM/Qwen3-VL-Embedding#89": ("nano-untied", without_a_head, "1 missing: lm_head.weight"),
}


@pytest.mark.parametrize("source", REFUSED)
def test_a_folder_that_is_not_whole_is_refused_by_name(source, saved, tmp_path):
    name, change, words = REFUSED[source]
    shutil.copytree(saved / name, tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        params_of(tmp_path / "model")


# Adapters: their names of tensors, and forms that would be merged wrongly.

QUERY = "model.layers.0.self_attn.q_proj"
ADAPTERS = {
    "huggingface/peft#309": (f"base_model.model.{QUERY}.lora_@.weight", {}, ""),
    "MakazhanAlpamys/Soup#351": (f"base_model.model._orig_mod.{QUERY}.lora_@.weight", {}, ""),
    "MakazhanAlpamys/Soup#351 in front": (
        f"_orig_mod.base_model.model.{QUERY}.lora_@.weight",
        {},
        "",
    ),
    "huggingface/peft#2681": (
        f"_fsdp_wrapped_module.base_model.model.{QUERY}.lora_@.weight",
        {},
        "",
    ),
    "thinking-machines-lab/tinker-cookbook#75": (
        f"base_model.model.{QUERY}.lora_@.default.weight",
        {},
        "",
    ),
    "axolotl-ai-cloud/axolotl#3673": (
        f"base_model.model.{QUERY}.lora_@.weight",
        {"alpha_pattern": {"q_proj": 64}},
        "alpha_pattern .* is not supported",
    ),
    "hiyouga/LlamaFactory#7665": (
        f"base_model.model.{QUERY}.lora_@.weight",
        {"modules_to_save": ["embed_tokens"]},
        "modules_to_save .* is not supported",
    ),
    "huggingface/peft#436": (
        "base_model.model.model.embed_tokens.lora_@.weight",
        {},
        "embed_tokens.lora_A.weight is no adapter of a matrix",
    ),
}


@pytest.mark.parametrize("name, changes, words", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_is_read_under_any_name_or_refused_by_name(name, changes, words, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        name.replace("@", "A"): rng.normal(size=(2, 32)).astype(np.float32),
        name.replace("@", "B"): rng.normal(size=(32, 2)).astype(np.float32),
    }
    save_file(tensors, tmp_path / hf_lora.WEIGHTS)
    edit(tmp_path / hf_lora.CONFIG, r=2, lora_alpha=4, **changes)
    if words:
        with pytest.raises(ValueError, match=words):
            hf_lora.read(tmp_path, NANO)
        return
    adapters, settings = hf_lora.read(tmp_path, NANO)
    first, second = tensors.values()
    query = {key: np.asarray(value) for key, value in adapters["attention"]["query"].items()}
    np.testing.assert_array_equal(query["a"][0].reshape(32, 2), first.T)
    np.testing.assert_array_equal(query["b"][0].reshape(2, 32), second.T)
    assert settings.targets == ("query",) and not query["a"][1].any()


# What config.json says of positions.


@dataclass(frozen=True)
class Rope:
    """Changes to config.json, and the context, base and factor that they stand for."""

    source: str
    changes: dict
    context: int = 64
    theta: float = 1e6
    factor: float | None = None
    refusal: str = ""


PLAIN = {"rope_parameters": None, "rope_scaling": None, "rope_theta": 1e6}
SCALED = {"factor": 4.0, "original_max_position_embeddings": 64}
ROPES = [
    Rope(
        "vllm-project/vllm#4930",
        {**PLAIN, "rope_scaling": {**SCALED, "type": "yarn"}},
        256,
        factor=4.0,
    ),
    Rope(
        "vllm-project/vllm#10293",
        {**PLAIN, "rope_scaling": {**SCALED, "rope_type": "yarn"}},
        256,
        factor=4.0,
    ),
    Rope(
        "hiyouga/LlamaFactory#8101",
        {**PLAIN, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        128,
        factor=2.0,
    ),
    Rope(
        "vllm-project/recipes#856",
        {
            **PLAIN,
            "rope_theta": None,
            "rope_parameters": {**SCALED, "rope_type": "yarn", "rope_theta": 1e6},
        },
        256,
        factor=4.0,
    ),
    Rope(
        "kvcache-ai/sglang#90",
        {
            **PLAIN,
            "rope_theta": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        },
        theta=5e6,
    ),
    Rope(
        "vllm-project/vllm-ascend#5201",
        {**PLAIN, "rope_parameters": {**SCALED, "rope_type": "yarn", "rope_theta": 1e3}},
        refusal="rope_theta = 1000000.0 and .* disagree",
    ),
    Rope(
        "vllm-project/vllm#30369",
        {**PLAIN, "rope_theta": None},
        refusal="neither rope_theta nor rope_parameters.rope_theta",
    ),
    Rope(
        "vllm-project/vllm#10537",
        {**PLAIN, "rope_scaling": {"type": "dynamic", "factor": 8.0}},
        refusal="rope_type 'dynamic' is not supported; known: default, yarn",
    ),
]


@pytest.mark.parametrize("row", ROPES, ids=lambda row: row.source)
def test_positions_and_context_are_those_of_the_folder(row, folder):
    edit(folder / "config.json", **row.changes)
    raw = hf_folder.read_json(folder / "config.json")
    if row.refusal:
        with pytest.raises(ValueError, match=row.refusal):
            hf_config.from_hf(raw)
        return
    config = hf_config.from_hf(raw)
    factor = config.rope_scaling.factor if config.rope_scaling else None
    assert (config.max_length, config.rope_theta, factor) == (row.context, row.theta, row.factor)


# Sampling and end tokens.

SAMPLINGS = {
    "QwenLM/Qwen3#513": (
        {"do_sample": True, "repetition_penalty": 1.15, "temperature": 0.7, "top_k": 20},
        {"repetition_penalty": 1.15, "temperature": 0.7, "top_k": 20},
    ),
    "EleutherAI/lm-evaluation-harness#3154": (
        {"repetition_penalty": 1.1},
        {"repetition_penalty": 1.1},
    ),
    "vllm-project/vllm#50767": (
        {"presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"presence_penalty": 1.5, "frequency_penalty": 0.5},
    ),
    "QwenLM/Qwen3-VL#1825": (
        {"top_p": 0.8, "top_k": 20, "temperature": 0.7, "repetition_penalty": 1.0},
        {"top_p": 0.8, "top_k": 20, "temperature": 0.7, "repetition_penalty": 1.0},
    ),
    "vllm-project/vllm#15281 greedy": ({"do_sample": False, "top_k": 1}, {"temperature": 0.0}),
}


@pytest.mark.parametrize("stored, wanted", SAMPLINGS.values(), ids=SAMPLINGS)
def test_sampling_is_what_the_folder_says(stored, wanted, folder):
    (folder / hf_generation.FILE).write_text(json.dumps(stored))
    sampling = qwen3.load(folder).sampling
    assert {name: getattr(sampling, name) for name in wanted} == wanted


def test_a_setting_that_is_not_followed_is_named(folder):
    """NVIDIA-NeMo/RL#3497: what a file changes silently is noticed by nobody."""
    (folder / hf_generation.FILE).write_text(json.dumps({"num_beams": 4, "temperature": 0.7}))
    model = qwen3.load(folder)
    with pytest.warns(UserWarning, match="not followed: num_beams = 4"):
        assert model.sampling.temperature == 0.7


def ends(folder):
    tokenizer = Tokenizer.load(folder)
    return {tokenizer.decode([i]) for i in tokenizer.stop_ids}


def test_all_end_tokens_that_a_folder_names_end_an_answer(folder):
    """QwenLM/Qwen3#927, hiyouga/LlamaFactory#7454: config.json names one, the tokenizer another."""
    tokenizer = Tokenizer.load(folder)
    (folder / hf_generation.FILE).unlink(missing_ok=True)
    edit(folder / "config.json", eos_token_id=tokenizer.endoftext)
    edit(folder / "tokenizer_config.json", eos_token="<|im_end|>")
    assert ends(folder) == {"<|im_end|>", "<|endoftext|>"}


def test_an_end_token_of_ones_own_ends_an_answer(folder):
    """vllm-project/vllm#1136, NVIDIA/TensorRT-LLM#10389: ids of generation_config.json too."""
    tokenizer = Tokenizer.load(folder)
    own = tokenizer.encode("<|vision_pad|>")
    edit(folder / hf_generation.FILE, eos_token_id=[tokenizer.im_end, *own])
    assert ends(folder) == {"<|im_end|>", "<|endoftext|>", "<|vision_pad|>"}


# Chat templates and tokenizers.

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>\n{% endfor %}"
OTHER = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES = {
    "huggingface/text-generation-inference#3247": ({"chat_template.jinja": TEMPLATE}, None),
    "huggingface/transformers.js#1662": ({"chat_template.jinja": TEMPLATE}, None),
    "PaddlePaddle/PaddleNLP#8101": (
        {"chat_template.json": json.dumps({"chat_template": TEMPLATE})},
        None,
    ),
    "pytorch/torchtitan#2455": ({"chat_template.jinja": TEMPLATE}, OTHER),
}


@pytest.mark.parametrize("files, configured", TEMPLATES.values(), ids=TEMPLATES)
def test_the_chat_template_is_found_in_whichever_file(files, configured, folder):
    edit(folder / "tokenizer_config.json", chat_template=configured)
    for name, text in files.items():
        (folder / name).write_text(text)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tokenizer = Tokenizer.load(folder)
    prompt = tokenizer.decode(chat_prompt_ids(tokenizer, [{"role": "user", "content": "hi"}]))
    assert prompt == "[user] hi<|im_end|>\n"
    assert any("different chat templates" in str(w.message) for w in told) == bool(configured)


def test_a_folder_without_a_template_says_so(folder):
    """modelscope/ms-swift#2831."""
    edit(folder / "tokenizer_config.json", chat_template=None)
    with pytest.warns(UserWarning, match="has no chat template"):
        Tokenizer.load(folder)


LEFT_BEHIND = {
    "vllm-project/llm-compressor#2917": {
        "truncation": {
            "direction": "Right",
            "max_length": 8,
            "strategy": "LongestFirst",
            "stride": 0,
        }
    },
    "daulet/tokenizers#30": {
        "truncation": {
            "direction": "Left",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 16},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
    },
}


@pytest.mark.parametrize("settings", LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_settings_left_in_a_tokenizer_do_not_cut_texts(settings, folder):
    text = "a text of more than sixteen tokens"
    whole = Tokenizer.load(folder).encode(text)
    edit(folder / "tokenizer.json", **settings)
    with pytest.warns(UserWarning, match="is switched off: texts are encoded whole"):
        tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode(text) == whole == tokenizer.encode_batch([text])[0]


def with_token(folder, number):
    edit(folder / "added_tokens.json", **{TOKEN: number})


def test_a_token_of_the_user_is_read_from_the_other_files(folder):
    """QwenLM/Qwen3-VL#1402, lm-sys/FastChat#153: it stands in added_tokens.json only."""
    size = Tokenizer.load(folder).vocab_size
    with_token(folder, size)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode(f"a{TOKEN}b")[1] == size
    with_token(folder, 7)
    with pytest.raises(ValueError, match=f"added token '{TOKEN}' has id 7".replace("|", r"\|")):
        Tokenizer.load(folder)


def test_rows_behind_the_vocabulary_are_never_sampled(folder):
    """QwenLM/Qwen3#29, QwenLM/Qwen#553: a model has more rows than its tokenizer has tokens."""
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size < NANO.vocab
    assert tokenizer.never_sampled(NANO.vocab)[tokenizer.vocab_size :].all()


def test_a_model_with_too_few_rows_is_refused(folder):
    """unslothai/unsloth#1108: tokens were added, and the embedding was not resized."""
    size = Tokenizer.load(folder).vocab_size
    edit(folder / "added_tokens.json", **{f"<|own_{i}|>": i for i in range(size, NANO.vocab + 1)})
    with pytest.raises(ValueError, match=f"has {NANO.vocab + 1} ids, the model only {NANO.vocab}"):
        _ = qwen3.load(folder).tokenizer


def test_the_scale_of_yarn_is_that_of_the_paper(folder):
    """rasbt/LLMs-from-scratch#797: the temperature of YaRN follows from its factor."""
    usual = 0.1 * math.log(4.0) + 1
    for scale, is_right in ((usual, True), (1.0, False)):
        scaling = {**SCALED, "rope_type": "yarn", "attention_factor": scale}
        edit(folder / "config.json", **{**PLAIN, "rope_scaling": scaling})
        raw = hf_folder.read_json(folder / "config.json")
        if is_right:
            assert hf_config.from_hf(raw).rope_scaling.factor == 4.0
        else:
            with pytest.raises(ValueError, match="attention_factor = 1.0 is not supported"):
                hf_config.from_hf(raw)
