"""Cells of documents, laws of their mixture, and proposals, where the truth is known."""

import numpy as np
import pytest

pytest.importorskip("xxhash")
import text_run

from qwen3.cli import main
from qwen3.data.batches import Batches
from qwen3.data.mixture import Stage, label_filter
from qwen3.data.sharded_corpus import open_corpus
from qwen3.data.tokenizer import Tokenizer
from qwen3.pipeline import mixture_search as search
from qwen3.pipeline.token_shards import tokenize

TRUTH = np.array([0.2, -0.9, 0.4, -1.5, 0.0, -0.3])  # w of a made-up law: cell 3 is the best


def made_cells(tokens=(4e6, 1e6, 3e6, 2e5, 2e6, 1e6)):
    return [search.LabelCell(f"c{i}", "c", {}, int(count)) for i, count in enumerate(tokens)]


def true_loss(mixtures):
    return 2.5 + np.exp(0.3 + mixtures @ TRUTH)


def swarm(count, seed=0, noise=0.003):
    mixtures = search.draw_mixtures(search.natural_shares(made_cells()), count, seed)
    return mixtures, true_loss(mixtures) + np.random.default_rng(seed).normal(0, noise, count)


def ranks(values):
    return np.argsort(np.argsort(values))


def test_a_law_ranks_mixtures_that_it_has_not_seen():
    mixtures, losses = swarm(32)
    law = search.fit_mixture_law(mixtures, {"all": losses})
    unseen, truth = swarm(200, seed=1, noise=0)
    predicted = law.predict(unseen)
    assert np.corrcoef(ranks(predicted), ranks(truth))[0, 1] > 0.99
    assert np.abs(predicted - truth).mean() < 0.01


def test_a_member_that_diverged_is_left_out_and_three_are_too_few():
    mixtures, losses = swarm(32)
    law = search.fit_mixture_law(mixtures, {"all": np.where(np.arange(32) == 5, np.nan, losses)})
    assert np.isfinite(law.predict(mixtures)).all()
    with pytest.raises(ValueError, match="3 members with a loss: a law needs at least 4"):
        search.fit_mixture_law(mixtures[:3], {"all": losses[:3]})


def test_the_proposal_is_better_and_repeats_no_cell_too_often():
    cells, (mixtures, losses) = made_cells(), swarm(32)
    law = search.fit_mixture_law(mixtures, {"all": losses})
    natural = search.natural_shares(cells)
    free = search.propose(law, cells, tokens=1e5)
    capped = search.propose(law, cells, tokens=4e6, repetitions=4)
    assert free.sum() == pytest.approx(1) and capped.sum() == pytest.approx(1)
    assert (free <= mixtures.max(0) + 1e-9).all() and free[3] > 0.9 * mixtures[:, 3].max()
    assert capped[3] <= 4 * 2e5 / 4e6 + 1e-9
    before, after, best = (float(true_loss(x[None])[0]) for x in (natural, capped, free))
    assert best < after < before - 0.1
    with pytest.raises(ValueError, match="the cells hold 0.560 of the tokens that the run reads"):
        search.propose(law, cells, tokens=8e7, repetitions=4)


def test_members_that_are_left_out_tell_what_a_swarm_is_good_for():
    mixtures = search.draw_mixtures(np.full(4, 0.25), 30, 1)
    exact = {"a": 2 + np.exp(mixtures @ [1, -1, 0, 0]), "b": 3 + np.exp(mixtures @ [0, -1, 1, 0])}
    assert search.left_out_ranks(mixtures, exact) > 0.98
    noise = np.random.default_rng(0).normal(size=30)
    assert abs(search.left_out_ranks(mixtures, {"a": noise})) < 0.6
    # Every law was fitted without the member it ranks: one that is far off all others says so.
    spoiled = {name: np.where(np.arange(30) == 0, 40, values) for name, values in exact.items()}
    broken = {name: np.where(np.arange(30) == 0, np.nan, values) for name, values in exact.items()}
    assert search.left_out_ranks(mixtures, spoiled) < search.left_out_ranks(mixtures, broken)
    assert search.rank_correlation(np.array([1, 2, 3]), np.array([9, 8, 1])) == pytest.approx(-1)
    assert search.left_out_ranks(mixtures[:4], {"a": exact["a"][:4]}) is None


def test_caps_move_what_is_too_much_in_proportion():
    mixtures = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
    capped = search.within_caps(mixtures, np.array([0.4, 0.5, 0.9]))
    assert capped[0] == pytest.approx([0.4, 0.4, 0.2]) and capped[1] == pytest.approx(mixtures[1])
    assert np.allclose(capped.sum(1), 1) and (capped <= [0.4, 0.5, 0.9]).all()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290).save(
        folder / "tokenizer"
    )
    run = text_run.write_run(folder / "run", text_run.rows(200), 2)
    tokenize(run, str(folder / "tokenizer"), f"{folder}/out", say=lambda line: None)
    return f"{folder}/out"


def test_cells_hold_every_document_once_and_train_without_another_sampler(corpus, tmp_path):
    opened = open_corpus(corpus)
    table = opened.block(0, opened.blocks)
    cells = search.label_cells(table, "web", ["domain"], {"quality": 3})
    assert len(cells) == 9 and cells[0].name == "web: law, quality 0"
    members = np.stack([label_filter(table, cell.keep) for cell in cells])
    assert (members.sum(0) == 1).all()
    assert [cell.tokens for cell in cells] == (members @ table.lengths).tolist()
    bands = np.array([cell.tokens for cell in cells]).reshape(3, 3).sum(0)
    assert bands / bands.sum() == pytest.approx(1 / 3, abs=0.03)

    shares = np.where(np.arange(9) == 4, 0.75, np.where(np.arange(9) == 0, 0.25, 0))
    (tmp_path / "mixture.json").write_text(search.to_json(cells, shares))
    mixture = search.read_mixture(str(tmp_path / "mixture.json"))
    stage = Stage("s", mixture, 64, 8, repeat_small=True)
    report = Batches(stage, {"web": opened}, 0, vocab=290).report(100)
    assert report["rows"] == {cells[0].name: 200, cells[4].name: 600}


def test_the_commands_go_from_a_corpus_to_a_mixture(corpus, tmp_path, capsys):
    cells, table = str(tmp_path / "cells.json"), tmp_path / "swarm.csv"
    command = ["data", "mixture", "cells", f"web={corpus}", "--by", "domain", "--out", cells]
    assert main(command) in (0, None)
    read = search.read_cells(cells)
    mixtures = search.draw_mixtures(search.natural_shares(read), 12, 0)
    losses = {"a": 2 + np.exp(mixtures @ [1, -1, 0]), "b": 2 + np.exp(mixtures @ [0.5, -1, 0.1])}
    table.write_text(search.swarm_table(read, mixtures, losses))
    out = str(tmp_path / "mixture.json")
    command = ["data", "mixture", "propose", str(table), "--cells", cells, "--tokens", "2000"]
    assert main([*command, "--out", out]) in (0, None)
    said = capsys.readouterr().out
    assert "loss by the law" in said and "ranks a run at" in said and "says little" not in said
    shares = {name: part.weight for name, part in search.read_mixture(out).items()}
    assert max(shares, key=shares.get) == read[1].name
    with pytest.raises(ValueError, match="cells without shares"):
        search.read_mixture(cells)
    table.write_text("a,b\n1,2\n")
    assert main([*command, "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.startswith("qwen3 data mixture propose: ") and "no column ['share:web: law'" in said


@pytest.mark.parametrize(
    ("words", "bands", "message"),
    [
        (["quality"], {}, "the label 'quality' is a number: give it bands"),
        ([], {"domain": 2}, "the label 'domain' is a word: it has no bands"),
        (["topic"], {}, "no label 'topic'; choose from"),
    ],
)
def test_labels_of_the_wrong_kind_are_refused(corpus, words, bands, message):
    opened = open_corpus(corpus)
    with pytest.raises(ValueError, match=message):
        search.label_cells(opened.block(0, opened.blocks), "web", words, bands)
