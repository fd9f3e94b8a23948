import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import post
import pytest

from qwen3.curate import stored_logits
from qwen3.data import rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.distill import Distill
from qwen3.model import hf, transformer
from qwen3.stages import conversations, sft, teacher_logits
from qwen3.stages.modes import ModeWeights, Weighting
from qwen3.train.loop import Stopped
from qwen3.train.writing import WorkdirError


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    samples = [post.conversation(post.lock(seed), thinks=seed % 2 == 0) for seed in range(12)]
    return post.write(tmp_path_factory.mktemp("data"), samples)


def config(data, **changes):
    values = dict(
        model=post.model(),
        tokenizer=post.tokenizer_folder(),
        data=(data,),
        steps=40,
        optim=post.CONSTANT,
        batch=4,
        length=128,
        save_every=100,
        mesh=post.ONE,
        log=post.QUIET,
    )
    return sft.Config(**{**values, **changes})


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    post.one_device(monkeypatch, sft, teacher_logits)


def losses(work):
    return [json.loads(line)["ce"] for line in (work / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls_on_a_memorisable_set(data, tmp_path):
    sft.run(config(data), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert found[0] > 5 and found[-1] < 0.5 * found[0]


@pytest.mark.slow
@pytest.mark.parametrize("products", ["int8", "float8"])
def test_the_loss_falls_as_far_with_products_of_quantised_operands(data, tmp_path, products):
    pytest.importorskip("qwix")
    ends = {}
    for name in ("float", products):
        run = config(data, steps=40, execution={"products": name})
        sft.run(run, tmp_path / name)
        ends[name] = losses(tmp_path / name)
    assert ends[products][0] != ends["float"][0]
    assert ends[products][0] == pytest.approx(ends["float"][0], rel=0.01)
    assert ends[products][-1] < 0.5 * ends[products][0]
    assert ends[products][-1] == pytest.approx(ends["float"][-1], rel=0.1)


def test_a_run_that_was_stopped_goes_on_bitwise_also_with_adapting_weights(data, tmp_path):
    adapting = config(data, modes=ModeWeights(think=2.0, adapt=1.0, horizon=2.0))
    whole = sft.run(adapting, tmp_path / "whole")
    with post.stopping_at(3), pytest.raises(Stopped):
        sft.run(adapting, tmp_path / "again")
    again = sft.run(adapting, tmp_path / "again")
    post.assert_same_trees(whole, again)
    assert losses(tmp_path / "whole") == losses(tmp_path / "again")


def test_sequences_of_a_dialogue_train_each_answer_once_as_it_is_written(tokenizer):
    problem = post.lock(1)
    dialogue = {
        "messages": [
            *post.conversation(problem)["messages"],
            {"role": "user", "content": "again? /no_think"},
            {"role": "assistant", "content": "The lock ends at 123."},
        ]
    }
    found = conversations.sequences(dialogue, tokenizer)
    trained = [tokenizer.decode(each.tokens[each.weights > 0]) for each in found]
    answer = post.conversation(problem)["messages"][1]
    assert trained == [
        f"<think>\n{answer['reasoning_content']}\n</think>\n\n{answer['content']}<|im_end|>",
        "<think>\n\n</think>\n\nThe lock ends at 123.<|im_end|>",
    ]
    assert [each.mode for each in found] == [1, 0]
    hard = conversations.sequences(dialogue, tokenizer, empty_think="prompt")[1]
    assert tokenizer.decode(hard.tokens[hard.weights > 0]) == "The lock ends at 123.<|im_end|>"


def test_tools_that_are_a_json_text_are_read_as_the_list_and_others_refused(tmp_path, tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    plain, text = (
        conversations.sequences({"messages": messages, "tools": each}, tokenizer)[0].tokens
        for each in (tools, json.dumps(tools))
    )
    np.testing.assert_array_equal(plain, text)
    path = post.write(tmp_path, [{"messages": messages, "tools": tools[0]}])
    with pytest.raises(ValueError, match="data.jsonl, line 1: tools are a list"):
        conversations.read(path, tokenizer)


def test_control_tokens_that_a_user_typed_are_text(tokenizer):
    sample = {
        "messages": [
            {"role": "user", "content": "x<|im_end|>"},
            {"role": "assistant", "content": "y"},
        ]
    }
    [found] = conversations.sequences(sample, tokenizer)
    assert (found.tokens == tokenizer.im_end).sum() == 2


@pytest.mark.parametrize(
    "sample, message",
    [
        ({"messages": [{"role": "robot", "content": "a"}]}, "line 1: message 0: role 'robot'"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant message"),
        ({"text": "a"}, "a sample has messages"),
        ({"ids": [1, 2, 3], "mask": [0, 1]}, "3 ids and a mask of 2"),
        ({"ids": [1, 2**20], "mask": [0, 1]}, "ids run from 1 to 1048576"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "<|im_end|>"},
                ]
            },
            "control token",
        ),
    ],
)
def test_malformed_samples_are_named_with_file_and_line(tmp_path, tokenizer, sample, message):
    path = post.write(tmp_path, [sample])
    with pytest.raises(ValueError, match=message) as error:
        conversations.read(path, tokenizer)
    assert "data.jsonl, line 1" in str(error.value)


def test_ids_made_elsewhere_are_trained_as_they_are(tokenizer):
    [found] = conversations.sequences(
        {"ids": [5, 6, 7], "mask": [0, 1, 1], "think": False}, tokenizer
    )
    assert found.tokens.tolist() == [5, 6, 7] and found.weights.tolist() == [0, 1, 1]
    assert found.mode == 0


def test_sequences_that_are_too_long_stop_the_run_or_are_dropped(data, tokenizer):
    found = conversations.read(data, tokenizer)
    longest = max(map(len, found))
    with pytest.raises(ValueError, match=f"takes {longest} slots"):
        conversations.fitting(found, longest - 1, "error")
    assert len(conversations.fitting(found, longest - 1, "drop")) < len(found)
    with pytest.raises(ValueError, match="no sequence"):
        conversations.fitting(found, 3, "drop")
    with pytest.raises(ValueError, match="'cut' is none of error, drop"):
        conversations.fitting(found, 3, "cut")


def test_every_epoch_has_every_sequence_once_in_its_own_order(data, tokenizer):
    found = conversations.read(data, tokenizer)
    packed = conversations.Packed(found, batch=1, length=128, seed=3, pad=tokenizer.pad)
    assert packed.rows < len(found)
    epochs = []
    for epoch in range(2):
        batches = [packed[epoch * packed.rows + i] for i in range(packed.rows)]
        epochs.append([b["tokens"].tobytes() for b in batches])
        answers = sorted(
            tuple(b["targets"][0][b["segment_ids"][0] == s])
            for b in batches
            for s in range(1, 1 + b["segment_ids"].max())
        )
        assert answers == sorted(tuple(each.tokens[1:]) for each in found)
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])
    other = conversations.Packed(found, batch=1, length=128, seed=4, pad=tokenizer.pad)
    assert other[0]["tokens"].tobytes() != packed[0]["tokens"].tobytes()


def test_rows_give_back_what_was_put_in():
    found = [
        rows.TokenSequence(np.arange(n), np.ones(n), fields={"x": np.arange(n) * 2.0})
        for n in (3, 5, 4)
    ]
    where = rows.layout([len(each) for each in found], 6)
    batch = rows.fill(found, where, 6, pad=9, rows=4)
    assert where.rows == 2 and batch["x"].shape == (4, 6)
    for each, back in zip(found, rows.read_back(batch["x"], found, where), strict=True):
        np.testing.assert_array_equal(back, each.fields["x"] * (np.arange(len(back)) > 0))
    assert (batch["tokens"][2:] == 9).all() and batch["weights"][2:].sum() == 0
    with pytest.raises(ValueError, match="sequence 0 needs 7 slots"):
        rows.layout([7], 6)
    assert {rows.round_up(n, 2, 64) for n in range(1, 65)} == set(range(16, 65, 16))


def test_a_packed_row_keeps_each_weight_at_the_token_it_is_for():
    """Two sequences in one row, of which one token is trained on."""
    first = rows.TokenSequence(np.array([7, 8, 9]), np.array([0, 0, 1.0]), mode=0)
    second = rows.TokenSequence(np.array([4, 5, 6, 3]), np.zeros(4), mode=1)
    packed = conversations.Packed([first, second], batch=1, length=6, seed=0, pad=1)
    batch = {name: value.tolist() for name, value in packed[0].items()}
    assert packed.rows == 1 and sorted(batch) == sorted(rows.POST_TRAINING_FIELDS)
    assert batch["weights"][0].count(1.0) == 1 and sum(batch["weights"][0]) == 1
    slot = batch["weights"][0].index(1.0)
    assert (batch["tokens"][0][slot], batch["targets"][0][slot]) == (8, 9)
    start = slot - 1  # of the first sequence; the other one stands before or behind it
    assert batch["tokens"][0][start : start + 2] == [7, 8]
    assert batch["positions"][0][start : start + 2] == [0, 1]
    assert batch["mode"][0][slot] == 0
    tokens, segments = np.array(batch["tokens"][0]), np.array(batch["segment_ids"][0])
    assert sorted(tokens[segments == k].tolist() for k in (0, 1, 2)) == [[1], [4, 5, 6], [7, 8]]


def test_seed_length_and_empty_blocks_of_the_settings_reach_the_data(data, tokenizer):
    def batch(**changes):
        return sft.source(config(data, **changes), tokenizer)[0]

    one, other = (batch(seed=seed)["tokens"].tobytes() for seed in (1, 2))
    assert one != other and one == batch(seed=1)["tokens"].tobytes()
    # Six of twelve answers have the empty block; given in the prompt it is not trained on.
    sources = [
        sft.source(config(data, empty_think=use, batch=1), tokenizer)
        for use in ("target", "prompt")
    ]
    written, given = (sum(s[i]["weights"].sum() for i in range(s.rows)) for s in sources)
    block = len(tokenizer.encode("<think>\n\n</think>\n\n"))
    assert written - given == 6 * block
    with pytest.raises(ValueError, match="a sequence takes .* slots, a row has 40"):
        batch(length=40)
    with pytest.raises(ValueError, match="no sequence of 12"):
        batch(length=40, too_long="drop")


def test_weights_that_follow_the_losses_reach_the_next_batch(data, tmp_path, monkeypatch):
    seen = []
    place = sft.place_whole

    def placed(batch, mesh):
        weights, modes = (np.asarray(batch[name]) for name in ("weights", "mode"))
        seen.append([set(weights[(modes == mode) & (weights > 0)].tolist()) for mode in (0, 1)])
        return place(batch, mesh)

    monkeypatch.setattr(sft, "place_whole", placed)
    modes = ModeWeights(think=2.0, no_think=0.5, adapt=1.0, horizon=1.0)
    sft.run(config(data, steps=2, batch=12, modes=modes), tmp_path / "run")
    (plain, thinking), (later_plain, later_thinking) = seen
    assert plain == {0.5} and thinking == {2.0}
    [line, _] = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    losses = [line[f"ce/{mode}"] / line[f"tokens/{mode}"] for mode in ("no_think", "think")]
    wanted = np.array([0.5, 2.0]) * np.array(losses) / np.mean(losses)
    assert [*later_plain, *later_thinking] == pytest.approx(wanted.tolist(), rel=1e-4)


def test_weights_of_the_modes_follow_their_losses():
    weighting = Weighting(ModeWeights(think=1.0, no_think=0.5, adapt=1.0, horizon=1.0))
    np.testing.assert_allclose(weighting.weights(), [0.5, 1.0])
    metrics = {
        "ce": 1.4,
        "tokens/think": 0.8,
        "ce/think": 0.8,
        "tokens/no_think": 0.2,
        "ce/no_think": 0.6,
    }
    weighting.update(1, None, metrics)  # losses 1 and 3, mean 2
    np.testing.assert_allclose(weighting.weights(), [0.5 * 1.5, 0.5])
    batch = {"weights": np.ones((1, 2), np.float32), "mode": np.array([[0, 1]])}
    np.testing.assert_allclose(weighting.apply(batch)["weights"], [[0.75, 0.5]])
    again = Weighting(weighting.config, weighting.state())
    np.testing.assert_array_equal(again.weights(), weighting.weights())
    fixed = Weighting(dataclasses.replace(weighting.config, adapt=0.0), weighting.state())
    np.testing.assert_allclose(fixed.weights(), [0.5, 1.0])
    with pytest.raises(ValueError, match="not below 0"):
        ModeWeights(think=-1.0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a teacher with opinions: its logits are far from uniform."""
    folder, model = tmp_path_factory.mktemp("teacher"), post.model()
    params = jax.tree.map(lambda x: x * 2, transformer.init(model, jax.random.key(7)))
    hf.save(folder, model, params)
    Tokenizer.load(post.tokenizer_folder()).save(folder)
    return str(folder)


def logits_config(teacher, data, **changes):
    values = dict(teacher=teacher, data=(data,), length=128, top=8, batch=4, mesh=post.ONE)
    return teacher_logits.Config(**{**values, "part": 5, **changes})


def test_written_logits_do_not_depend_on_batches_and_a_missing_file_is_written_again(
    teacher, data, tokenizer, tmp_path
):
    files = teacher_logits.run(logits_config(teacher, data), tmp_path / "a")
    samples = conversations.read(data, tokenizer)
    read = [row for file in files for row in stored_logits.read(file, temperature=1.0, vocab=512)]
    assert len(files) == -(-len(samples) // 5) and len(read) == len(samples)
    for row, sample in zip(read, samples, strict=True):
        np.testing.assert_array_equal(row.tokens, sample.tokens)
        np.testing.assert_array_equal(row.weights, sample.weights)
        assert row.mode == sample.mode
    one = teacher_logits.run(logits_config(teacher, data, batch=1, part=99), tmp_path / "b")
    for row, alone in zip(
        read, stored_logits.read(one[0], temperature=1.0, vocab=512), strict=True
    ):
        np.testing.assert_array_equal(row.fields["teacher_ids"], alone.fields["teacher_ids"])
        for name in ("teacher_logits", "teacher_normaliser"):
            np.testing.assert_allclose(row.fields[name], alone.fields[name], atol=1e-5)
    before = [Path(file).read_bytes() for file in files]
    Path(files[1]).unlink()
    assert teacher_logits.run(logits_config(teacher, data), tmp_path / "a") == files
    assert [Path(file).read_bytes() for file in files] == before


def test_logits_of_other_settings_are_not_mixed(teacher, data, tmp_path):
    teacher_logits.run(logits_config(teacher, data), tmp_path)
    with pytest.raises(WorkdirError, match="other settings: top: 8 -> 4"):
        teacher_logits.run(logits_config(teacher, data, top=4), tmp_path)
    with pytest.raises(ValueError, match="top 513 of a vocabulary of 512"):
        teacher_logits.run(logits_config(teacher, data, top=513), tmp_path / "b")
    with pytest.raises(ValueError, match="temperature 0.0 is not above 0"):
        logits_config(teacher, data, temperature=0.0)


def test_training_on_stored_logits_brings_the_student_to_the_teacher(
    teacher, data, tokenizer, tmp_path
):
    path = tmp_path / "logits"
    teacher_logits.run(logits_config(teacher, data), path)
    chosen = config(str(path), stored=Distill(kind="forward_kl"))
    sft.run(chosen, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(lines[i])["divergence"] for i in (0, -1))
    assert last < 0.5 * first
    with pytest.raises(ValueError, match="holds stored logits; set `stored`"):
        sft.source(config(str(path)), tokenizer)
    with pytest.raises(ValueError, match="lacks the stored logits"):
        sft.source(config(data, stored=Distill(kind="forward_kl")), tokenizer)
    with pytest.raises(ValueError, match="at temperature 1.0; the loss takes them at 2.0"):
        sft.source(config(str(path), stored=Distill("forward_kl", temperature=2.0)), tokenizer)
    with pytest.raises(ValueError, match="not 0 to 299"):
        sft.source(config(str(path), stored=Distill("forward_kl", vocab=300)), tokenizer)


def test_other_data_than_the_checkpoints_are_refused(data, tmp_path):
    moved = tmp_path / "data.jsonl"
    moved.write_text(open(data).read())
    with post.stopping_at(1), pytest.raises(Stopped):
        sft.run(config(str(moved)), tmp_path / "run")
    moved.write_text("".join(open(data).readlines()[1:]))
    with pytest.raises(ValueError, match="data: .* whose content differs"):
        sft.run(config(str(moved)), tmp_path / "run")
