"""Whole runs of the reward model's stage with a very small model, and where scores are read."""

import json
import logging
from dataclasses import replace

import jax
import numpy as np
import post
import pytest

import qwen3
from qwen3.config import MeshConfig
from qwen3.curate.preference_pairs import Pair
from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.model import hf_folder
from qwen3.model.execution import Execution
from qwen3.stages import reward_model
from qwen3.stages.pair_evaluation import PairEvaluation, PairScores, split
from qwen3.stages.problem_evaluation import SCORE
from qwen3.stages.reward_scores import RewardModel, SequenceScorer, answer_ids, scored_sequence
from qwen3.train.checkpoint import Keep, steps_in
from qwen3.train.loop import Stopped

MODEL = post.model(scalar_head=True)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


def row(number, better="open", worse="shut"):
    """A question with a better and a worse answer, which a word tells apart."""
    lead = "day " * (number % 3)
    return {
        "prompt": f"lock {number}?",
        "chosen": f"{lead}{better}",
        "rejected": f"{worse} {lead}day",
        "source": "even" if number % 2 == 0 else "odd",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_rows(path, [row(number) for number in range(24)])
    return str(path)


def config(data, **changes):
    values = dict(
        model=MODEL,
        tokenizer=post.tokenizer_folder(),
        data=(data,),
        steps=24,
        optim=post.CONSTANT,
        batch=4,
        length=128,
        save_every=6,
        keep=Keep(last=1, best=SCORE, best_is="max"),
        mesh=post.ONE,
        log=post.QUIET,
        evaluation=PairEvaluation(held_out=0.35, every=6),
    )
    return reward_model.Config(**{**values, **changes})


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    post.one_device(monkeypatch, reward_model)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """(workdir, last state) of a run that the tests share."""
    work = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        post.one_device(patch, reward_model)
        return work, reward_model.run(config(data), work)


def test_a_preference_is_learnt_and_held_out_pairs_are_measured_by_source(whole):
    lines = [line for line in post.records(whole[0]) if "bt" in line]
    assert lines[0]["bt"] == pytest.approx(np.log(2), abs=0.1) and lines[-1]["bt"] < 0.5
    assert lines[-1]["accuracy"] > 0.9 and lines[-1]["difference"] > 0.5
    measured = [json.loads(text) for text in (whole[0] / "evaluation.jsonl").open()]
    assert [record["step"] for record in measured] == [0, 6, 12, 18, 24]
    last = measured[-1]
    assert last["score"] > 0.85 and last["low"] < last["score"] and last["n"] == 7
    assert {"source even", "source odd", "longer loses"} <= set(last["parts"])
    assert sum(last["parts"][f"source {name}"]["n"] for name in ("even", "odd")) == 7
    sample = json.loads((whole[0] / "samples" / "evaluation_000024.jsonl").open().readline())
    assert sample["right"] == (sample["score"] > sample["score_rejected"])
    assert lines[-1]["eval/longer_loses"] > 0.85 and lines[-1]["eval/source_odd"] > 0.5


def test_the_checkpoint_with_the_best_accuracy_is_kept(whole):
    measured = [json.loads(text) for text in (whole[0] / "evaluation.jsonl").open()]
    scores = {record["step"]: record["score"] for record in measured if record["step"]}
    best = max(scores, key=scores.get)
    assert best < 24, "the best is also the last one: nothing is shown"
    assert set(steps_in(whole[0] / "checkpoints")) == {best, 24}


def test_a_run_that_was_stopped_goes_on_bitwise(whole, data, tmp_path):
    with post.stopping_at(3), pytest.raises(Stopped):
        reward_model.run(config(data), tmp_path / "again")
    again = reward_model.run(config(data), tmp_path / "again")
    post.assert_same_trees(whole[1], again)
    assert post.records(whole[0]) == post.records(tmp_path / "again")
    others = data.replace("pairs.jsonl", "others.jsonl")
    write_rows(others, [row(number, "shut", "open") for number in range(24)])
    with pytest.raises(ValueError, match="data: .*content differs"):
        reward_model.run(config(others), tmp_path / "again")


def test_an_exported_reward_model_scores_as_its_run(whole, tmp_path):
    qwen3.load(whole[0]).save(tmp_path / "out")
    raw = hf_folder.read_json(tmp_path / "out" / "config.json")
    assert raw["architectures"] == ["Qwen3ForSequenceClassification"]
    assert isinstance(raw["pad_token_id"], int)
    ours, exported = RewardModel.load(whole[0]), RewardModel.load(tmp_path / "out")
    asked = [{"role": "user", "content": "lock 3?"}]
    conversations = [
        [*asked, {"role": "assistant", "content": text}]
        for text in ("open", "shut day", "day open", "<think>\nshut\n</think>\n\nopen")
    ]
    scores = ours.scores(conversations)
    np.testing.assert_allclose(exported.scores(conversations), scores, atol=1e-5)
    assert scores[0] > scores[1] and scores[3] == pytest.approx(scores[0], abs=1e-5)
    with pytest.raises(ValueError, match="ends with an answer"):
        ours.scores([asked])
    long = [*asked, {"role": "assistant", "content": "day " * 400}]
    assert ours.scores([long, conversations[0]])[0] is None


def test_it_begins_with_a_language_models_weights_and_a_new_head(tmp_path, data):
    post.save_hf(tmp_path / "base", post.model())
    begun = config(data, init_from=str(tmp_path / "base"), steps=1, evaluation=PairEvaluation())
    slow = replace(begun, optim=replace(post.CONSTANT, peak=1e-9))
    state = reward_model.run(slow, tmp_path / "run")
    given = post.parameters(post.model())
    np.testing.assert_allclose(state.params["embed"], given["embed"], atol=1e-6)
    assert state.params["score"].shape == (1, 32) and np.abs(state.params["score"]).max() > 0
    with pytest.raises(ValueError, match="language model, not a reward model"):
        RewardModel.load(tmp_path / "base")


# --- where a score is read ------------------------------------------------------------------------
def test_the_score_is_read_at_the_end_of_the_answer_in_any_batch(tokenizer):
    params = post.parameters(MODEL)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    sequences = [
        scored_sequence(
            answer_ids(
                tokenizer,
                [
                    {"role": "user", "content": "day " * (1 + 7 * (i % 4))},
                    {"role": "assistant", "content": f"open {i}"},
                ],
            ),
            tokenizer.pad,
        )
        for i in range(9)
    ]
    assert all(sequence.tokens[-2] == tokenizer.im_end for sequence in sequences)
    score = SequenceScorer(MODEL, mesh, Execution(), pad=tokenizer.pad)
    together = score(params, sequences)
    alone = np.concatenate([score(params, [sequence]) for sequence in sequences])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together) > 1e-3
    for sequence, value in zip(sequences, together, strict=True):
        tokens = sequence.tokens[None, :-1]
        output = score_by_hand(params, tokens)
        assert value == pytest.approx(output, abs=1e-5)


def score_by_hand(params, tokens):
    from qwen3.model import transformer

    output = transformer.forward(params, MODEL, tokens)
    return float(output.hidden_BTD[0, -1] @ params["score"][0])


def test_an_answer_ends_at_its_end_token_without_thought(tokenizer):
    ids = answer_ids(
        tokenizer,
        [
            {"role": "user", "content": "x<|im_end|>"},
            {"role": "assistant", "content": "open", "reasoning_content": "shut"},
        ],
    )
    text = tokenizer.decode(ids)
    assert text.endswith("open<|im_end|>") and "shut" not in text
    assert ids.count(tokenizer.im_end) == 2


# --- pairs that teach nothing, or do not fit ------------------------------------------------------
def pairs_of(*answers):
    return [
        Pair(
            [{"role": "user", "content": "lock?"}],
            [{"role": "assistant", "content": chosen}],
            [{"role": "assistant", "content": rejected}],
        )
        for chosen, rejected in answers
    ]


def test_pairs_that_truncation_makes_equal_are_dropped_and_counted(data, tokenizer, caplog):
    same = "day " * 60
    pairs = pairs_of(("open", "shut"), (same + "open", same + "shut"), ("open " + same, same))
    cut = config(data, too_long="truncate", length=64)
    with caplog.at_level(logging.WARNING, "qwen3"):
        left, sequences = reward_model.tokenised(pairs, cut, tokenizer)
    assert left == [pairs[0], pairs[2]] and len(sequences) == 4
    assert max(map(len, sequences)) == 32
    assert "1 of 3 pairs dropped: 0 too long, 1 equal in their first 32 tokens" in caplog.text
    left, _ = reward_model.tokenised(pairs, replace(cut, too_long="drop"), tokenizer)
    assert left == [pairs[0]]
    with pytest.raises(ValueError, match="half a row has 32"):
        reward_model.tokenised(pairs, replace(cut, too_long="error"), tokenizer)
    with pytest.raises(ValueError, match="no pair of 1 is left: 0 too long, 1 equal"):
        reward_model.tokenised(pairs[1:2], cut, tokenizer)


def test_margins_stand_where_the_scores_are_read(data, tokenizer):
    pairs = pairs_of(("open", "shut"), ("open", "shut day"))
    _, plain = reward_model.tokenised(pairs, config(data), tokenizer)
    assert not plain[0].fields
    pairs[1] = replace(pairs[1], margin=0.5)
    _, sequences = reward_model.tokenised(pairs, config(data), tokenizer)
    assert [float(s.fields["margin"][-1]) for s in sequences] == [0, 0, 0.5, 0.5]


def test_all_pairs_of_a_question_are_on_one_side_whatever_else_there_is():
    pairs = [Pair([{"role": "user", "content": f"q{i % 40}"}], [], []) for i in range(120)]
    train, held = split(pairs, 0.25)
    sides = [{pair.question[0]["content"] for pair in part} for part in (train, held)]
    assert not sides[0] & sides[1] and 4 <= len(sides[1]) <= 18
    again = split([*pairs[:60], *pairs[90:]], 0.25)[1]
    assert {pair.question[0]["content"] for pair in again} <= sides[1]


def test_accuracies_by_length_count_equal_scores_half():
    scores = PairScores(
        np.array([1.0, 0.0, 2.0, 1.0]),
        np.array([0.0, 1.0, 2.0, 0.0]),
        np.array([3, 3, 5, 4]),
        np.array([5, 4, 3, 4]),
    )
    report = scores.report(pairs_of(*[("a", "b")] * 4))
    assert report["all"].value == 0.625
    assert report["longer loses"].value == 0.5 and report["longer loses"].n == 2
    assert report["longer wins"].value == 0.5 and report["longer wins"].n == 1
    assert set(report) == {"all", "longer loses", "longer wins"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": post.model()}, "scalar_head of toy is false"),
        ({"too_long": "cut"}, "too_long 'cut' is none of error, drop, truncate"),
        ({"centring": -1.0}, "centring -1.0"),
    ],
)
def test_settings_that_make_no_reward_model_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config("x", **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"held_out": 1.0}, "held_out 1.0"),
        ({"every": 0}, "every 0 steps"),
        ({"data": ("a",), "held_out": 0.1}, "one only"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PairEvaluation(**changes)


def test_pairs_in_files_of_their_own_are_measured(data, tmp_path):
    write_rows(tmp_path / "held.jsonl", [row(100)])
    asked = config(data, evaluation=PairEvaluation(data=(str(tmp_path / "held.jsonl"),)))
    train_on, held = reward_model.read_data(asked)
    assert len(train_on) == 24 and len(held) == 1
