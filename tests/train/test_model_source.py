"""Models by name: Hub repositories at a commit, adapters on what they were trained on, runs."""

import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import qwen3
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.model import hf_lora, lora
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig
from qwen3.train import model_source

NANO = ModelConfig("nano", 2, 32, 64, 4, 2, head_dim=8, vocab=384, tied=True, max_length=128)
FIRST, SECOND = "a" * 40, "b" * 40  # commits
TOKENS = [[5, 6, 7, 8]]
QUIET = ("log.display=False", "mesh.data=1", "mesh.fsdp=-1")
ROWS = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "here"}]}]


def logits(name):
    return np.asarray(qwen3.load(name).logits(TOKENS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models with a tokenizer, as folders."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.train(["write the letter e in the tree here now " * 20], 300)
    for seed, name in enumerate(("first", "second")):
        qwen3.create(NANO, seed=seed, tokenizer=tokenizer).save(root / name)
    return root


@pytest.fixture
def hub(folders, tmp_path, monkeypatch):
    """A cache of the Hub as `huggingface_hub` leaves it, without a network: org/nano, whose branch
    main is the first model; hub(commit) moves main to the second."""
    cache = tmp_path / "cache"
    repository = cache / "models--org--nano"
    for name, commit in (("first", FIRST), ("second", SECOND)):
        shutil.copytree(folders / name, repository / "snapshots" / commit)
    (repository / "refs").mkdir()

    def move(commit):
        (repository / "refs" / "main").write_text(commit)

    move(FIRST)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return move


@pytest.fixture
def one_device(monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr("qwen3.stages.sft.make_mesh", lambda config: make_mesh(config, one))


def tuned(model, workdir):
    """A run of one step that trains adapters."""
    sizes = dict(steps=1, batch=1, length=32, lora=2, learning_rate=1e-2)
    return qwen3.sft(model, ROWS, workdir=workdir, settings=QUIET, **sizes)


def adapter(folder, base, seed=3):
    """A folder with a random adapter in PEFT's layout on `base`."""
    settings = LoraConfig(rank=2, alpha=4.0)
    leaves, tree = jax.tree.flatten(lora.init(settings, NANO, jax.random.key(seed)))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    factors = [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    hf_lora.write(folder, tree.unflatten(factors), settings, NANO, base=str(base))
    return folder


# --- the Hub --------------------------------------------------------------------------------------


def test_a_hub_name_stands_for_the_commit_that_it_was_found_at(hub, folders):
    source = model_source.find("org/nano")
    assert source.name == f"org/nano@{FIRST}" and source.config.name == "org/nano"
    hub(SECOND)
    assert model_source.find("org/nano").name == f"org/nano@{SECOND}"
    assert model_source.find(source.name).path == source.path
    assert model_source.find("org/nano", revision=FIRST).path == source.path
    np.testing.assert_array_equal(logits(source.name), logits(folders / "first"))
    with pytest.raises(ValueError, match="names a revision, and revision is 'main'"):
        model_source.find(source.name, revision="main")
    with pytest.raises(FileNotFoundError, match="hf download org/nano --revision v9"):
        model_source.find("org/nano@v9")


def test_a_revision_of_a_local_folder_is_refused(folders):
    with pytest.raises(ValueError, match="revision 'main' is of a Hub repository"):
        model_source.find(folders / "first", revision="main")


def test_a_run_holds_the_commit_and_finds_it_in_another_cache(
    hub, folders, tmp_path, monkeypatch, one_device, caplog
):
    caplog.set_level("INFO", "qwen3")
    run = tuned("org/nano", tmp_path / "run")
    # 2,048 of 30,912 parameters, 4 bytes each; Adam keeps two moments of every trained one.
    assert (
        "LoRA of rank 2: 6.63% of the model's 0.03 M parameters are trained, 0.01 MB, with 0.02 MB "
        "of optimizer state instead of 0.25 MB"
    ) in caplog.messages
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert FIRST in stored["init_from"] and FIRST in stored["tokenizer"]
    before = logits(run.workdir)
    hub(SECOND)
    moved = shutil.move(tmp_path / "cache", tmp_path / "other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(moved))
    np.testing.assert_array_equal(logits(run.workdir), before)
    # The adapters alone name the repository and the commit, not a path of this machine.
    model_source.find(run.workdir).save_adapter(tmp_path / "adapter", make_mesh(MeshConfig()))
    record = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (record["base_model_name_or_path"], record["revision"]) == ("org/nano", FIRST)
    np.testing.assert_array_equal(logits(tmp_path / "adapter"), before)
    assert model_source.find(tmp_path / "adapter").tokenizer_folder == str(tmp_path / "adapter")


# --- adapters -------------------------------------------------------------------------------------


def test_an_adapter_is_found_again_by_its_path(folders, tmp_path):
    source = model_source.find(adapter(tmp_path / "adapter", folders / "first"))
    assert source.adapter == source.path == tmp_path / "adapter"
    assert source.folder == folders / "first"
    assert source.tokenizer_folder == str(folders / "first")
    np.testing.assert_array_equal(logits(source.path), logits(tmp_path / "adapter"))
    assert not np.array_equal(logits(source.path), logits(folders / "first"))


def test_an_adapter_on_an_adapter_adds_both(folders, tmp_path):
    adapter(tmp_path / "one", folders / "first")
    adapter(tmp_path / "both", tmp_path / "one", seed=4)
    base, one, both = (
        qwen3.load(path).params["layers"]["mlp"]["up"]
        for path in (folders / "first", tmp_path / "one", tmp_path / "both")
    )
    other = qwen3.load(adapter(tmp_path / "other", folders / "first", seed=4))
    np.testing.assert_allclose(both - one, other.params["layers"]["mlp"]["up"] - base, atol=1e-6)
    assert not np.array_equal(one, base)


def test_an_adapter_is_added_to_the_weights_beside_it_with_a_warning(folders, tmp_path):
    """As transformers 5 reads it; a merged model saved over its adapter would get it twice."""
    folder = shutil.copytree(folders / "second", tmp_path / "both")
    adapter(tmp_path / "alone", folders / "second")
    want = logits(tmp_path / "alone")
    for path in adapter(tmp_path / "other", folders / "first").iterdir():
        shutil.copyfile(path, folder / path.name)
    with pytest.warns(UserWarning, match="weights beside it.*not to '.*first', its base; if they"):
        np.testing.assert_array_equal(logits(folder), want)
    record = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(record | {"base_model_name_or_path": str(folder)})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(logits(folder), want)
    # A config alone, as some trainers leave it beside an adapter, is no model.
    shutil.copyfile(folders / "second" / "config.json", tmp_path / "alone" / "config.json")
    np.testing.assert_array_equal(logits(tmp_path / "alone"), want)
    gone = adapter(tmp_path / "gone", "gone/for/good")
    with pytest.raises(FileNotFoundError, match="holds an adapter on a model: 'gone/for"):
        model_source.find(gone)


def test_adapters_that_peft_could_not_place_are_not_written(folders, tmp_path, one_device):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with pytest.raises(ValueError, match="trains no adapters; export the whole model"):
        model_source.find(folders / "first").save_adapter(tmp_path / "out", mesh)
    adapter(tmp_path / "one", folders / "first")
    run = tuned(tmp_path / "one", tmp_path / "run")
    with pytest.raises(ValueError, match="itself an adapter, so that PEFT would not find"):
        model_source.find(run.workdir).save_adapter(tmp_path / "out", mesh)
    assert not Path(tmp_path / "out").exists()
    # An adapter on a run is not dropped.
    adapter(tmp_path / "on_run", run.workdir)
    assert not np.array_equal(logits(tmp_path / "on_run"), logits(run.workdir))
