"""Folders that transformers 4 and 5 and PEFT wrote give their logits here, and ours there.

What both versions write is stored in golden/transformers4 and golden/transformers5. The slow tests
write and read everything anew; QWEN3_TRANSFORMERS names the Pythons that have torch, transformers
and peft, one of each version, separated by ":":

QWEN3_TRANSFORMERS=v4/bin/python:v5/bin/python pytest -m slow -s -k versions tests/model tests/data
"""

import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

import qwen3
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.model import hf_config, hf_folder, hf_lora, lora
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig
from qwen3.train import model_source

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
PEER = HERE / "transformers_peer.py"
STORED = sorted(GOLDEN.glob("transformers[45]/*/expected.npz"))
BOUND = 2e-5  # largest difference of logits, which reach 10
PYTHONS = [path for path in os.environ.get("QWEN3_TRANSFORMERS", "").split(os.pathsep) if path]
with_peers = pytest.mark.parametrize("python", PYTHONS or [""], ids=lambda path: path[-30:])


def run_peer(python, *arguments, cwd=None):
    """What the other Python's transformers does."""
    if not python:
        pytest.skip("QWEN3_TRANSFORMERS names no Python with transformers")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [os.path.abspath(python), str(PEER), *map(str, arguments)]
    subprocess.run(command, check=True, env=environment, cwd=cwd)


def check_folder(folder):
    """Largest difference of our logits of a folder from those that are stored in it."""
    stored = np.load(folder / "expected.npz")
    logits = np.asarray(qwen3.load(folder, dtype="float32").logits(stored["tokens"]))
    assert np.abs(stored["logits"]).max() > 1
    np.testing.assert_allclose(logits, stored["logits"], atol=BOUND)
    return float(np.abs(logits - stored["logits"]).max())


@pytest.mark.parametrize("path", STORED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_stored_folders_of_both_versions_give_their_logits(path, monkeypatch):
    monkeypatch.chdir(path.parent.parent)  # adapters name their base by its folder
    check_folder(path.parent)


def test_both_versions_are_stored_in_every_layout():
    kinds = {name: set(os.listdir(GOLDEN / name)) for name in ("transformers4", "transformers5")}
    assert kinds["transformers4"] - kinds["transformers5"] == {"adapter_experts"}
    newer = kinds["transformers5"] - kinds["transformers4"]
    assert newer == {"moe_fused", "adapter_beside_weights"}
    for version in kinds:
        folder = GOLDEN / version
        assert len(list((folder / "dense_untied").glob("model-*-of-*.safetensors"))) > 1
        old = "rope_theta" in json.loads((folder / "moe" / "config.json").read_text())
        assert old == (version == "transformers4")
        assert len(list((folder / "trainer_checkpoint").iterdir())) > 5
    fused = hf_folder.tensors(GOLDEN / "transformers5" / "moe_fused")
    assert any(name.endswith("gate_up_proj") for name in fused)


@pytest.mark.slow
@with_peers
def test_folders_written_anew_by_these_versions_give_their_logits(python, tmp_path, monkeypatch):
    run_peer(python, "write", tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in sorted(tmp_path.glob("*/expected.npz")):
        largest = check_folder(path.parent)
        print(f"{python}: {path.parent.name} written there, read here: {largest:.1e}")


# --- what is saved here, read there ---------------------------------------------------------------


def random_adapter(folder, base, targets):
    """A random adapter of rank 2 on a folder of `base`'s parent."""
    model = hf_config.from_hf(hf_folder.read_json(base / "config.json"))
    settings = LoraConfig(rank=2, alpha=3.0, targets=targets)
    leaves, tree = jax.tree.flatten(lora.init(settings, model, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    factors = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    hf_lora.write(folder, tree.unflatten(factors), settings, model, base=base.name)


def save_folders(root, stored):
    """Every kind of folder saved anew, from those of `stored`, and random adapters on them."""
    for kind in ("dense_tied", "dense_untied", "dense_yarn", "moe"):
        model = qwen3.load(stored / kind)
        model.save(root / kind)
        model.save(root / f"{kind}_sharded", shard_bytes=4_000)
        model.save(root / f"{kind}_fp32", dtype="float32")
    if (stored / "moe_fused").is_dir():
        qwen3.load(stored / "moe_fused").save(root / "moe_from_fused")
    every, attention = tuple(lora.MATRICES), ("query", "key", "value", "out")
    random_adapter(root / "adapter_dense", root / "dense_untied", every)
    random_adapter(root / "adapter_yarn", root / "dense_yarn", ("down", "value"))
    random_adapter(root / "adapter_moe", root / "moe", attention)
    if stored.name == "transformers4":
        random_adapter(root / "adapter_experts", root / "moe", every)


def save_runs(root, tmp_path, monkeypatch):
    """Exports of runs: whole, adapters merged, adapters alone."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr("qwen3.stages.sft.make_mesh", lambda config: mesh)
    dense = ModelConfig("nano", 2, 32, 64, 4, 2, head_dim=8, vocab=384, tied=True, max_length=128)
    tokenizer = Tokenizer.train(["write the letter e in the tree here now " * 20], 300)
    moe = dense.replace(experts=4, active_experts=2, expert_ffn=16, tied=False)
    for name, config in (("run", dense), ("run_moe", moe)):
        qwen3.create(config, tokenizer=tokenizer).save(root / f"{name}_base")
        run = tuned(f"{name}_base", tmp_path / name, rank=2)
        run.export(root / f"{name}_merged")
        model_source.find(run.workdir).save_adapter(root / f"{name}_adapter", mesh)
    tuned("run_base", tmp_path / "whole", rank=0).export(root / "run_whole")


def tuned(model, workdir, rank):
    """A run of one large step."""
    settings = ("log.display=False", "mesh.data=1", "mesh.fsdp=-1")
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "here"}]
    sizes = dict(steps=1, batch=1, length=32, lora=rank, learning_rate=3e-2)
    return qwen3.sft(model, [{"messages": talk}], workdir=workdir, settings=settings, **sizes)


@pytest.mark.slow
@with_peers
def test_folders_saved_here_give_our_logits_in_these_versions(python, tmp_path, monkeypatch):
    version = f"transformers{major(python)}"
    root = tmp_path / "saved"
    root.mkdir()
    monkeypatch.chdir(root)
    save_folders(root, GOLDEN / version)
    save_runs(root, tmp_path, monkeypatch)
    run_peer(python, "read", root, cwd=root)
    tokens = np.load(STORED[0])["tokens"]
    folders = sorted(path.parent for path in root.glob("*/logits.npy"))
    assert len(folders) >= 22 and {path.name for path in folders} == set(os.listdir(root))
    for folder in folders:
        ours = np.asarray(qwen3.load(folder, dtype="float32").logits(tokens))
        theirs = np.load(folder / "logits.npy")
        assert json.loads((folder / "lost.json").read_text()) == []
        np.testing.assert_allclose(theirs, ours, atol=BOUND, err_msg=folder.name)
        print(f"{python}: {folder.name} saved here, read there: {np.abs(ours - theirs).max():.1e}")


def major(python):
    """ "4" or "5"."""
    code = "import transformers; print(transformers.__version__[0])"
    if not python:
        pytest.skip("QWEN3_TRANSFORMERS names no Python with transformers")
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()
