import json
from dataclasses import replace

import jax
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.losses.distill import Distill
from qwen3.model import hf
from qwen3.stages import distill, sft, teacher
from qwen3.train.loop import Stopped


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    post.one_device(monkeypatch, distill)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """A teacher that has learnt something: a workdir."""
    folder = tmp_path_factory.mktemp("teacher")
    samples = [post.conversation(post.lock(seed), thinks=seed % 2 == 0) for seed in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        post.one_device(patch, sft)
        sft.run(
            sft.Config(
                post.model(),
                post.tokenizer_folder(),
                (post.write(folder, samples),),
                25,
                post.CONSTANT,
                batch=4,
                length=128,
                mesh=post.ONE,
                log=post.QUIET,
            ),
            folder / "run",
        )
    return str(folder / "run")


@pytest.fixture(scope="module")
def whole(master, tmp_path_factory):
    """(config, workdir, last state) of a run that the tests below share with its programs."""
    chosen = post.distill_config(master, steps=16, minibatches=2)
    work = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        post.one_device(patch, distill)
        return chosen, work, distill.run(chosen, work)


def test_the_student_comes_near_its_teacher_in_both_modes(whole):
    lines = post.records(whole[1])
    first, last = lines[0], lines[-1]
    for part in ("divergence", "divergence/think", "divergence/no_think"):
        assert last[part] < 0.6 * first[part], part
    assert last["agree"] > first["agree"] and "score" in first and "entropy/think" in first


def test_a_teacher_that_is_the_student_leaves_it_where_it_is(whole, master, tmp_path):
    with post.stopping_at(1), pytest.raises(Stopped):
        distill.run(replace(whole[0], init_from=master), tmp_path / "run")
    [line] = post.records(tmp_path / "run")
    assert abs(line["divergence"]) < 1e-6 and line["grad_norm"] < 1e-5


def test_the_control_reads_what_the_teacher_wrote(whole, master, tmp_path):
    """The same text as of a student with the teacher's weights, but there is something to learn."""
    for name, changes in (("copy", {"init_from": master}), ("control", {"sampled_by": "teacher"})):
        with post.stopping_at(1), pytest.raises(Stopped):
            distill.run(replace(whole[0], **changes), tmp_path / name)
    files = (tmp_path / name / "samples/000000.jsonl" for name in ("copy", "control"))
    copy, control = (file.read_text() for file in files)
    assert copy == control
    assert post.records(tmp_path / "control")[0]["divergence"] > 0.01
    with pytest.raises(ValueError, match="sampled_by 'nobody' is none of"):
        replace(whole[0], sampled_by="nobody")


def test_the_divergence_of_the_settings_reaches_the_loss(master, tmp_path, monkeypatch):
    seen = []

    class Reached(Exception):
        pass

    def loss(apply, params, batch, frozen, *, teacher_apply, config):
        seen.append((config, set(frozen)))
        raise Reached

    monkeypatch.setattr("qwen3.stages.builders.distill.divergence", loss)
    mix = Distill("mix", forward_weight=0.25, temperature=2.0)
    with pytest.raises(Reached):
        distill.run(post.distill_config(master, divergence=mix), tmp_path / "run")
    assert seen == [(mix, {"teacher"})]


@pytest.mark.parametrize("sampled_by", distill.SAMPLERS)
def test_answers_are_sampled_from_the_weights_of_the_one_that_is_named(
    master, tmp_path, monkeypatch, sampled_by
):
    """A teacher with a layer more than the student tells them apart."""
    seen = []
    init = Engine.__init__

    def spied(self, model, params, **options):
        seen.append((model.layers, len(params["layers"]["attention_norm"])))
        init(self, model, params, **options)

    monkeypatch.setattr(Engine, "__init__", spied)
    student = post.model(layers=1)
    chosen = post.distill_config(master, model=student, sampled_by=sampled_by, steps=1)
    distill.run(chosen, tmp_path / "run")
    assert seen == [(1, 1)] if sampled_by == "student" else [(2, 2)]


def test_each_minibatch_has_its_part_of_the_prompts_in_both_modes(whole):
    """Eight prompts of two answers, four a step, and every step trains all of its tokens."""
    lines = post.records(whole[1])
    for number, file in enumerate(sorted((whole[1] / "samples").iterdir())):
        *answers, last = map(json.loads, file.read_text().splitlines())
        prompts = range(8 * number, 8 * number + 8)
        assert last == {"trained": list(prompts)}
        assert [a["prompt_id"] for a in answers] == [p for p in prompts for _ in range(2)]
        for part in range(2):
            tokens = sum(a["tokens"] for a in answers if a["prompt_id"] % 2 == part)
            assert lines[2 * number + part]["trained_tokens"] == tokens
        assert "reward" not in answers[0] and answers[0]["score"] in (0.0, 1.0)
        assert {a["mode"] for a in answers} == {"think", "no_think"}


def test_a_run_stopped_within_a_phase_goes_on_bitwise(whole, tmp_path):
    chosen, work, last = whole
    with post.stopping_at(3), pytest.raises(Stopped):
        distill.run(chosen, tmp_path / "again")
    again = distill.run(chosen, tmp_path / "again")
    post.assert_same_trees(last, again)
    assert post.records(work) == post.records(tmp_path / "again")


@pytest.mark.slow
def test_a_teacher_from_a_folder_with_more_rows_is_cut_to_the_shared_ids(tmp_path):
    wide = post.model(vocab=640, layers=1)
    folder = tmp_path / "folder"
    post.save_hf(folder, wide)
    model, tokenizer = teacher.described(str(folder))
    assert model.vocab == 640 and tokenizer.vocab_size == 400
    chosen = post.distill_config(
        str(folder), steps=1, divergence=Distill(kind="jsd", beta=0.5), score=False
    )
    distill.run(chosen, tmp_path / "run")
    [line] = post.records(tmp_path / "run")
    assert np.isfinite(line["divergence"]) and "score" not in line


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path):
    other = tmp_path / "other"
    post.save_hf(other, post.model())
    Tokenizer.train(["quite other words stand here " * 20] * 5, size=300).save(other)
    with pytest.raises(ValueError, match="another vocabulary: 300 tokens against.*400; id"):
        distill.run(post.distill_config(str(other)), tmp_path / "run")
    hf.save(tmp_path / "wide", post.model(vocab=640), post.parameters(post.model(vocab=640)))
    with pytest.raises(ValueError, match="640 vocabulary rows, the student 512, and no tokenizer"):
        distill.run(post.distill_config(str(tmp_path / "wide")), tmp_path / "run")
    with pytest.raises(ValueError, match="is no workdir, no checkpoint and no folder"):
        distill.run(post.distill_config(str(tmp_path / "nowhere")), tmp_path / "run")


def test_frozen_teacher_is_no_part_of_the_state(whole):
    state = whole[2]
    one = sum(x.size for x in jax.tree.leaves(post.parameters(post.model())))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == one
