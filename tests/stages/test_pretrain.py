import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import toy_pretraining as toy

from qwen3.config import override
from qwen3.data import corpora
from qwen3.stages import pretrain
from qwen3.train.checkpoint import load_params


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(workdir, config, last state) of a whole run on eight devices."""
    folder = tmp_path_factory.mktemp("pretrain")
    config = toy.config(folder / "corpora")
    return folder / "run", config, pretrain.run(config, str(folder / "run"))


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def evaluations(workdir):
    found = json.loads((workdir / "evaluation.json").read_text())
    return {(each["stage"], each["step"]): each for each in found}


def test_three_stages_run_one_after_the_other_with_their_own_rates(done):
    workdir, config, state = done
    lines = records(workdir)
    assert [line["step"] for line in lines] == list(range(1, 37))
    assert [line["stage"] for line in lines] == ["s1"] * 12 + ["s2"] * 12 + ["s3"] * 12
    assert int(state.step) == 36
    # Warm-up anew at each border: half the peak, then the peak.
    assert [lines[i]["learning_rate"] for i in (0, 12, 24)] == [pytest.approx(1e-2)] * 3
    assert json.loads((workdir / "config.json").read_text())["stages"][2]["rope_theta"] == 1e6


def test_the_forward_pass_of_s3_and_it_alone_has_the_large_rope_base(tmp_path, monkeypatch):
    """In training and evaluation: what reaches the model, not what is stored."""
    config = toy.config(tmp_path / "corpora")
    short = [dataclasses.replace(stage, steps=2) for stage in config.stages]
    seen, bind = [], pretrain.transformer.bind

    def spied(model, execution):
        def apply(*inputs, **options):
            seen.append((inputs[1].shape[1], model.rope_theta))
            return apply_(*inputs, **options)

        apply_ = bind(model, execution)
        return apply

    monkeypatch.setattr(pretrain.transformer, "bind", spied)
    pretrain.run(dataclasses.replace(config, stages=tuple(short)), str(tmp_path / "run"))
    assert set(seen) == {(16, 10_000.0), (32, 1_000_000.0)}
    assert [theta for _, theta in seen] == sorted(theta for _, theta in seen)


def test_each_stage_is_measured_on_its_own_sets_before_and_after(done):
    found = evaluations(done[0])
    assert list(found) == [("s1", 0), ("s1", 12), ("s2", 12), ("s2", 24), ("s3", 24), ("s3", 36)]
    assert set(found["s1", 12]["sets"]) == {"general"}
    assert set(found["s2", 12]["sets"]) == {"general", "reasoning"}
    # Counting in ones is learnt in S1, counting in sevens not before S2.
    before, after = (found[key]["sets"] for key in (("s1", 0), ("s1", 12)))
    assert after["general"]["loss"] < before["general"]["loss"] - 0.5
    before, after = (found[key]["sets"] for key in (("s2", 12), ("s2", 24)))
    assert after["reasoning"]["loss"] < before["reasoning"]["loss"] - 0.2
    assert set(found["s3", 36]["sets"]["general"]["by_position"]) == {"0-16", "16-32"}
    # The same parameters, read with another base: other losses.
    assert found["s3", 24]["sets"]["general"]["loss"] != found["s2", 24]["sets"]["general"]["loss"]


def test_what_a_killed_run_measured_is_measured_again_in_its_old_place(tmp_path, monkeypatch):
    """Killed after the measurement of step 1 and before its checkpoint, a run begins again."""
    monkeypatch.setattr(pretrain, "HeldOut", lambda *plan, **settings: lambda params: params)
    stage, work = toy.config(tmp_path / "corpora").stages[0], SimpleNamespace(path=tmp_path)
    stage = dataclasses.replace(stage, evaluation=dataclasses.replace(stage.evaluation, sets=()))
    measure = pretrain.HeldOutMeasure(work, stage, None, {}, None, 290)
    for step, loss in ((0, 6.0), (1, 5.0), (0, 6.5), (1, 5.5)):
        assert measure(step, SimpleNamespace(params={"general": {"loss": loss}})) == loss
    found = evaluations(tmp_path)
    assert [step for _, step in found] == [0, 1]
    assert [record["sets"]["general"]["loss"] for record in found.values()] == [6.5, 5.5]


def test_a_finished_run_started_again_changes_nothing(done):
    workdir, config, state = done
    before = (workdir / "metrics.jsonl").read_text()
    again = pretrain.run(config, str(workdir))
    assert jax.tree.all(jax.tree.map(np.array_equal, state.params, again.params))
    assert (workdir / "metrics.jsonl").read_text() == before


def test_moments_of_the_optimizer_cross_the_borders(done, tmp_path):
    """S1 alone and then S2 from its parameters is another run than S1 and S2 in one."""
    workdir, config, _ = done
    first = tmp_path / "s1"
    pretrain.run(toy.config(workdir.parent / "corpora", stages=config.stages[:1]), str(first))
    lone = toy.config(workdir.parent / "corpora", stages=config.stages[1:2], init_from=str(first))
    pretrain.run(lone, str(tmp_path / "s2"))
    losses = [line["loss"] for line in records(tmp_path / "s2")]
    carried = [line["loss"] for line in records(workdir)][12:24]
    # The first batch meets the same parameters; the second those that other moments made.
    assert losses[0] == pytest.approx(carried[0], rel=1e-6) and losses[1] != carried[1]


@pytest.mark.slow
def test_a_stage_on_another_mesh_goes_the_same_way(done, tmp_path):
    """S3 over four rows and two halves of each row instead of eight rows."""
    workdir, config, _ = done
    config = override(config, ['stages.s3.mesh={"fsdp": 4, "context": 2}'])
    pretrain.run(config, str(tmp_path / "other"))
    losses = [
        [line["loss"] for line in records(folder)] for folder in (workdir, tmp_path / "other")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_experts_balance_over_the_whole_batch_in_any_number_of_microbatches(tmp_path):
    runs = {}
    for balance, parts in (("global", 1), ("global", 2), ("buffered", 2), ("previous", 2)):
        config = toy.config(tmp_path / "corpora", toy.MOE, balance=balance)
        config = dataclasses.replace(config, stages=config.stages[:1])
        config = override(
            config,
            ["stages.s1.steps=3", "stages.s1.data.batch=16", f"stages.s1.microbatches={parts}"],
        )
        workdir = tmp_path / f"{balance}{parts}"
        pretrain.run(config, str(workdir))
        runs[balance, parts] = records(workdir)
    whole, two, buffered, previous = runs.values()
    for name in ("balance", "loss", "max_load"):
        assert [r[name] for r in whole] == pytest.approx([r[name] for r in two], rel=1e-4)
    assert all(record["max_load"] >= 1 and record["dropped"] == 0 for record in whole)
    # Counts of only the microbatches so far: another first balance, from the same parameters.
    assert abs(buffered[0]["balance"] - two[0]["balance"]) > 1e-6
    # Nothing is counted at the first step; from the second on, the step before was.
    assert previous[0]["balance"] == 0 and previous[0]["ce"] == pytest.approx(two[0]["ce"])
    assert previous[1]["balance"] == pytest.approx(two[1]["balance"], rel=0.05)


def test_a_corpus_prepared_anew_is_refused_on_resume(done, tmp_path):
    workdir, config, _ = done
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    folder = Path(config.corpora["reasoning"])
    aside = folder.rename(tmp_path / "aside")
    try:
        tokenizer = toy.tokenizer()
        corpora.prepare(toy.Counting(9), tokenizer, folder)
        with pytest.raises(ValueError, match="corpora: .* whose content differs"):
            pretrain.run(config, str(copy))
    finally:
        shutil.rmtree(folder)
        aside.rename(folder)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"stages": ()}, "at least one is needed"),
        ({"held_out": {}}, "'general', which is none of held_out"),
    ],
)
def test_a_config_that_cannot_run_is_refused_with_its_reason(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        toy.config(tmp_path, **changes)


def test_an_optimizer_that_cannot_be_carried_over_is_refused(done):
    with pytest.raises(ValueError, match="optim.optimizer differs between stages"):
        override(done[1], ["stages.s2.optim.optimizer=muon"])


def test_init_from_of_nothing_is_refused(done, tmp_path):
    with pytest.raises(ValueError, match="no workdir with checkpoints"):
        pretrain.run(override(done[1], [f"init_from={tmp_path}"]), str(tmp_path / "run"))
    assert load_params(done[0])["embed"].shape == (toy.VOCAB, 16)
