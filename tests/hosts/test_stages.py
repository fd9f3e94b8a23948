"""Every stage trains on several hosts as on one with as many devices."""

import json

import jax
import numpy as np
import post
import pytest
import toy_pretraining
from processes import Hosts

from qwen3.curate import stored_logits
from qwen3.curate.files import write_problems
from qwen3.train.checkpoint import load_params

STAGES = ("pretrain", "sft", "grpo", "logits", "off_policy", "on_policy")
SAMPLE = ("grpo", "on_policy")
TEACHERS = ("teacher_apart", "teacher_samples")
APART = ("samplers_apart", "asynchronous", "one_sampler", "adapters_apart", *TEACHERS)
STEPS = {"pretrain": 6}


def prepared(folder):
    """A folder with the inputs of all stages; its file of conversations."""
    folder.mkdir()
    toy_pretraining.prepare(folder / "corpora")
    post.save_hf(folder / "teacher", post.model())
    write_problems(folder / "problems.jsonl", [post.letters.generate(n) for n in range(3)])
    samples = [post.conversation(post.lock(seed), thinks=seed % 2 == 0) for seed in range(12)]
    return post.write(folder, samples)


def start(folder, stages, count, devices):
    words = [str(folder), prepared(folder), *stages]
    environment = {"POST_TOKENIZER": post.tokenizer_folder()}
    options = {"count": count, "devices": devices, "environment": environment}
    return Hosts(folder / "hosts", "stage_run.py", *words, **options)


def assert_close(one, other, name):
    """Numbers to 1e-5, all else exactly."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_close(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), name
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{name}[{number}]")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-5, nan_ok=True), name
    else:
        assert one == other, name


def assert_same_stage(stage, one, other):
    """Parameters and metrics, what was sampled and measured."""
    if stage == "logits":
        rows = [
            stored_logits.read(work / "logits-00000.npz", temperature=1.0, vocab=512)
            for work in (one, other)
        ]
        assert len(rows[0]) == len(rows[1]) == 12
        for a, b in zip(*rows, strict=True):
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a.fields, b.fields
            )
        return
    ours, theirs = (jax.tree.leaves(load_params(work)) for work in (one, other))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(post.records(one)) >= STEPS.get(stage, 2)
    assert_close(post.records(one), post.records(other), stage)
    for pattern in ("evaluation.json*", "samples/*.jsonl"):
        names = [sorted(file.name for file in work.glob(pattern)) for work in (one, other)]
        assert names[0] == names[1]
    for file in [*one.glob("samples/*.jsonl"), *one.glob("evaluation.jsonl")]:
        lines = [(work / file.relative_to(one)).read_text().splitlines() for work in (one, other)]
        assert_close(*([json.loads(line) for line in part] for part in lines), file.name)
    if stage in (*SAMPLE, *APART):
        assert list(one.glob("samples/*.jsonl"))
    if stage in ("pretrain", "experts"):
        records = [json.loads((work / "evaluation.json").read_text()) for work in (one, other)]
        assert_close(*records, "evaluation")


def finish(hosts):
    codes = hosts.codes()
    assert set(codes) == {0}, "\n".join(map(hosts.text, range(len(codes))))


def assert_as_one(folder, stages, count, devices):
    """`count` hosts of `devices` each, and one host of as many, run all the stages in turn."""
    alone = start(folder / "one", stages, 1, count * devices)
    together = start(folder / "several", stages, count, devices)
    try:
        finish(alone)
        finish(together)
    finally:
        alone.kill()
        together.kill()
    for stage in {name.partition("/")[0] for name in stages}:
        assert_same_stage(stage, folder / "one" / stage, folder / "several" / stage)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """All stages on one host of four devices."""
    folder = tmp_path_factory.mktemp("hosts") / "one"
    finish(start(folder, STAGES, 1, 4))
    return folder


@pytest.mark.parametrize("count", [2, 4])
def test_every_stage_on_several_hosts_is_as_on_one(alone, count, tmp_path):
    finish(start(tmp_path / "several", STAGES, count, 4 // count))
    for stage in STAGES:
        assert_same_stage(stage, alone / stage, tmp_path / "several" / stage)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_experts_on_several_hosts_are_as_on_one(count, tmp_path):
    assert_as_one(tmp_path, ["experts"], count, 2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", APART)  # of one_sampler the second host has both meshes' devices
def test_meshes_of_other_hosts_are_as_on_one_that_has_all(stage, tmp_path):
    """The last devices of four, which are the second host's where there are two, sample or hold the
    teacher. Each run is stopped and gone on with.
    """
    assert_as_one(tmp_path, [f"{stage}/2", stage], 2, 2)
    lines = [json.loads(x) for x in (tmp_path / f"several/{stage}/metrics.jsonl").open()]
    if stage == "asynchronous":
        ages = [line["staleness_most"] for line in lines if "staleness_most" in line]
        assert ages == [0, 1, 0]  # what was on its way is sampled again by the newest weights
    if stage not in TEACHERS:
        assert all(line["sync_max"] < 1e-4 for line in lines if "sync_max" in line)
