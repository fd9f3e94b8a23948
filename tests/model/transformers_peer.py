"""What transformers and PEFT write and read: run by a Python that has them, beside the suite's own.

python transformers_peer.py write FOLDER               models, adapters and their logits
python transformers_peer.py read FOLDER                logits.npy of every model in FOLDER
python transformers_peer.py write_classifiers FOLDER   models of one label and their scores
python transformers_peer.py score FOLDER               scores.npy of every classifier in FOLDER
python transformers_peer.py tokenizer FOLDER OUT       a tokenizer as this version saves it
python transformers_peer.py render FOLDER CASES OUT    prompts by the folder's chat template

It imports nothing of this repository. `test_transformers_versions.py` starts it, and
`tests/golden/transformers*` is what `write` gave.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

NEW = int(transformers.__version__.split(".")[0]) >= 5
SIZE = dict(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, norm_topk_prob=True)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
EVERYTHING = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = np.random.default_rng(0).integers(0, 32, (2, 24))


def rope(base, **scaling):
    """RoPE in the words of this version."""
    if NEW:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": base, **scaling}}
    return {"rope_theta": base, "rope_scaling": scaling or None}


def new_model(seed, base=1e4, scaling=None, **changes):
    """A random model with gains that differ from 1 and logits of a few units."""
    moe = "num_experts" in changes
    config = getattr(transformers, "Qwen3MoeConfig" if moe else "Qwen3Config")(
        **{**SIZE, **rope(base, **(scaling or {})), **changes}
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale, mean = (0.3, 1.0) if "norm" in name else (0.4, 0.0)
            parameter.copy_(torch.randn_like(parameter) * scale + mean)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def load(folder):
    """(the model in fp32, names of tensors that were missing or not used)."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    lost = sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"]]))
    return model.eval(), lost


# --- write ----------------------------------------------------------------------------------------
def write_model(folder, model, dtype=torch.float32, **options):
    """A folder, and what the model that is read from it computes."""
    model.to(dtype).save_pretrained(folder, **options)
    note_logits(folder, load(folder)[0])


def note_logits(folder, model):
    np.savez_compressed(folder / "expected.npz", tokens=TOKENS, logits=logits(model))


def write_models(root):
    write_model(root / "dense_tied", new_model(1, tie_word_embeddings=True))
    write_model(root / "dense_untied", new_model(2, base=5e3), torch.bfloat16, max_shard_size=3_000)
    write_model(root / "dense_yarn", new_model(3, scaling=YARN), torch.bfloat16)
    write_model(root / "moe", new_model(4, **EXPERTS), torch.bfloat16)
    if NEW:
        write_model(
            root / "moe_fused", new_model(5, **EXPERTS), torch.bfloat16, save_original_format=False
        )


def write_training_litter(root):
    """A checkpoint as a trainer leaves it: optimizer and random states beside the model."""
    folder = root / "trainer_checkpoint"
    model = new_model(6)
    optimizer = torch.optim.AdamW(model.model.norm.parameters())
    logits_of = model(torch.tensor(TOKENS)).logits
    logits_of.sum().backward()
    optimizer.step()
    write_model(folder, model)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.get_rng_state(), folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1, "epoch": 0.1}))
    (folder / "global_step1").mkdir()
    torch.save({"module": 1}, folder / "global_step1" / "mp_rank_00_model_states.pt")


def write_adapter(root, name, base, targets, rank=2, **options):
    import peft

    model, _ = load(root / base)
    settings = peft.LoraConfig(r=rank, lora_alpha=5, target_modules=targets, **options)
    torch.manual_seed(7)
    adapted = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for label, parameter in adapted.named_parameters():
            if "lora_" in label:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    adapted.eval().save_pretrained(root / name)
    note_logits(root / name, adapted)
    path = root / name / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base}
    path.write_text(json.dumps(config, indent=2))
    (root / name / "README.md").unlink(missing_ok=True)


def write_adapter_beside_weights(root):
    name = "adapter_beside_weights"
    write_adapter(root, name, "dense_tied", ["k_proj"])
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(root / "trainer_checkpoint" / file, root / name / file)
    note_logits(root / name, load(root / name)[0])


def write(root):
    root = Path(root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    write_models(root)
    write_training_litter(root)
    write_adapter(root, "adapter_all", "dense_tied", EVERYTHING)
    write_adapter(
        root, "adapter_root_scaled", "dense_untied", ["q_proj", "v_proj"], 3, use_rslora=True
    )
    write_adapter(root, "adapter_some_layers", "dense_yarn", ["up_proj"], layers_to_transform=[1])
    write_adapter(root, "adapter_moe", "moe", EVERYTHING[:4])
    if not NEW:  # whose experts are linear layers, each with its own adapter
        write_adapter(root, "adapter_experts", "moe", EVERYTHING)
    else:  # adds an adapter to the weights beside it, where version 4 asks for its base
        write_adapter_beside_weights(root)


# --- read -----------------------------------------------------------------------------------------
def read(root):
    """logits.npy and lost.json beside every model and adapter below `root`."""
    for path in sorted(Path(root).glob("*/*config.json")):
        folder = path.parent
        if path.name == "adapter_config.json":
            import peft

            base = json.loads(path.read_text())["base_model_name_or_path"]
            model, lost = load(base)
            model = peft.PeftModel.from_pretrained(model, folder).eval()
        elif path.name == "config.json":
            model, lost = load(folder)
        else:
            continue
        np.save(folder / "logits.npy", logits(model))
        (folder / "lost.json").write_text(json.dumps(lost))


# --- reward models --------------------------------------------------------------------------------
def padded_tokens():
    """TOKENS with 0, the pad id, nowhere but behind the first 24 and 15 tokens of the rows."""
    tokens = np.maximum(TOKENS, 1)
    tokens[1, 15:] = 0
    return tokens


def scores(model):
    with torch.no_grad():
        return model(torch.tensor(padded_tokens())).logits.float().numpy()[:, 0]


def load_classifier(folder):
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    lost = sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"]]))
    return model.eval(), lost


def write_classifiers(root):
    """A dense and a mixture model of one label, with the scores of two padded rows."""
    for name, changes in (("dense", {"tie_word_embeddings": True}), ("moe", EXPERTS)):
        kind = "Qwen3MoeConfig" if changes is EXPERTS else "Qwen3Config"
        config = getattr(transformers, kind)(
            **{**SIZE, **rope(1e4), **changes, "num_labels": 1, "pad_token_id": 0}
        )
        torch.manual_seed(8)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for label, parameter in model.named_parameters():
                scale, mean = (0.3, 1.0) if "norm" in label else (0.4, 0.0)
                parameter.copy_(torch.randn_like(parameter) * scale + mean)
        folder = Path(root).resolve() / name
        model.save_pretrained(folder)
        np.savez_compressed(
            folder / "expected.npz",
            tokens=padded_tokens(),
            scores=scores(load_classifier(folder)[0]),
        )


def score(root):
    """scores.npy and lost.json beside every classifier below `root`."""
    for path in sorted(Path(root).glob("*/config.json")):
        model, lost = load_classifier(path.parent)
        np.save(path.parent / "scores.npy", scores(model))
        (path.parent / "lost.json").write_text(json.dumps(lost))


# --- tokenizers and templates ---------------------------------------------------------------------
def save_tokenizer(folder, out):
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def render(folder, cases, out):
    """[text, ids] of the prompt of every case [messages, tools, variables]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = []
    for messages, tools, variables in json.loads(Path(cases).read_text()):
        text = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True, **variables
        )
        prompts.append([text, tokenizer(text, add_special_tokens=False)["input_ids"]])
    Path(out).write_text(json.dumps(prompts))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands = {
        "write": write,
        "read": read,
        "write_classifiers": write_classifiers,
        "score": score,
        "tokenizer": save_tokenizer,
        "render": render,
    }
    commands[command](*arguments)
