"""Every loss trains exactly the tokens with weight, by a literal single position at a time."""

from functools import partial

import jax
import numpy as np
import pytest
from loss_toy import (
    apply,
    assert_same,
    log_probs,
    packed,
    padded,
    params,
    sequences,
    update,
    with_old,
)
from test_distill import WIDE, stored, teacher_params, with_stored

from qwen3.losses import distill, lm
from qwen3.losses.distill import Distill
from qwen3.losses.grpo import policy_gradient
from qwen3.losses.grpo_config import preset
from qwen3.ops import chunked, chunked_divergence


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


LAYOUTS = {"padded": padded, "packed": packed}


def made():
    return with_old(sequences(), params())


def next_token(policy, batch, **options):
    return lm.next_token(apply, policy, batch, z_loss=0.1, **options)


def reinforce(policy, batch, **options):
    return policy_gradient(apply, policy, batch, (), config=preset("reinforce"), **options)


def on_policy(policy, batch, **options):
    options = {"teacher_apply": apply, "config": Distill("forward_kl"), **options}
    return distill.divergence(apply, policy, batch, {"teacher": teacher_params()}, **options)


def of_next_token(one, t):
    hidden = params()["embed"][one["tokens"][t]] + 0.1 * t * params()["turn"]
    normaliser = np.log(np.sum(np.exp(params()["head"] @ hidden)))
    return -log_probs(params(), one)[t, one["targets"][t]] + 0.1 * normaliser**2


def of_reinforce(one, t):
    logp = log_probs(params(), one)[t, one["targets"][t]]
    return -np.exp(logp - one["old_logp"][t]) * one["advantages"][t]


def of_divergence(one, t):
    s, t = (log_probs(policy, one)[t] for policy in (params(), teacher_params()))
    return np.sum(np.exp(t) * (t - s))


def all_stored(policy, batch, **options):
    return distill.stored(apply, policy, batch, config=Distill("forward_kl"), **options)


LOSSES = {
    "next_token": (next_token, of_next_token),
    "reinforce": (reinforce, of_reinforce),
    "on_policy": (on_policy, of_divergence),
}


def places(batch, sequences):
    """(row, column, sequence, t) of every token of the batch: sequences lie in rows in order."""
    index = 0
    for row, segments in enumerate(batch["segment_ids"]):
        for segment in range(1, segments.max() + 1):
            columns = np.flatnonzero(segments == segment)
            yield from ((row, int(c), sequences[index], t) for t, c in enumerate(columns))
            index += 1


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("loss, expected", LOSSES.values(), ids=LOSSES)
def test_a_single_weighted_token_is_all_that_counts(loss, expected, layout):
    batch, policy, checked = layout(made()), params(), 0
    run = jax.jit(loss)
    for row, column, one, t in places(batch, made()):
        weights = np.zeros_like(batch["weights"])
        weights[row, column] = 1
        total, sums = run(policy, {**batch, "weights": weights})
        np.testing.assert_allclose(total, expected(one, t), rtol=1e-9)
        assert sums["weight"] == 1
        mode = ("no_think", "think")[one["mode"][t]]
        counted = {name: float(v) for name, v in sums.items() if name.startswith("tokens/")}
        assert counted[f"tokens/{mode}"] == 1 and counted.get("tokens/think", 0) in (0, 1)
        assert sum(v for n, v in counted.items() if n.split("/")[1] in ("think", "no_think")) == 1
        checked += 1
    assert checked == sum(len(one["tokens"]) for one in made()) > 12


@pytest.mark.parametrize("loss", [next_token, on_policy])
def test_a_weight_of_three_counts_three_times_in_sum_and_divisor(loss):
    batch, policy = packed(made()), params()
    one, three = ({**batch, "weights": np.zeros_like(batch["weights"])} for _ in range(2))
    one["weights"][0, 2], three["weights"][0, 2] = 1, 3
    (total, sums), (tripled, tripled_sums) = loss(policy, one), loss(policy, three)
    np.testing.assert_allclose(tripled, 3 * total)
    assert (sums["weight"], tripled_sums["weight"]) == (1, 3)


@pytest.mark.parametrize("loss", [next_token, reinforce, on_policy])
def test_targets_and_advantages_without_weight_change_nothing(loss):
    batch, policy = packed(made()), params()
    off = batch["weights"] == 0
    other = {
        "targets": np.where(off, (batch["targets"] + 1) % 6, batch["targets"]),
        "advantages": np.where(off, 7.0, batch["advantages"]),
        "old_logp": np.where(off, -3.0, batch["old_logp"]),
    }
    assert off.sum() > 4
    assert_same(update(loss, policy, [batch]), update(loss, policy, [{**batch, **other}]))


@pytest.mark.parametrize("mode", [0, 1])
def test_a_mode_is_told_token_by_token(mode):
    """One trained token is in the other mode than all others, and so are some without weight."""
    batch, policy = packed(made()), params()
    batch["mode"] = np.full_like(batch["mode"], 1 - mode)
    batch["mode"][batch["weights"] == 0] = mode
    batch["mode"][1, 3] = mode
    assert batch["weights"][1, 3] == 1
    name = ("no_think", "think")[mode]
    target = batch["targets"][1, 3]
    row = log_probs(policy, sequence_at(batch, 1, 3))[-1]
    ce = next_token(policy, batch)[1]
    assert float(ce[f"tokens/{name}"]) == 1
    np.testing.assert_allclose(ce[f"ce/{name}"], -row[target])
    entropy = -np.sum(np.exp(row) * row)
    np.testing.assert_allclose(reinforce(policy, batch)[1][f"entropy/{name}"], entropy)
    np.testing.assert_allclose(on_policy(policy, batch)[1][f"entropy/{name}"], entropy)


def sequence_at(batch, row, column):
    """The part of a row from the start of the token's sequence up to the token."""
    first = column - batch["positions"][row, column]
    return {"tokens": batch["tokens"][row, first : column + 1]}


@pytest.mark.parametrize("loss", [next_token, reinforce, on_policy, all_stored])
@pytest.mark.parametrize("chunk", [1, 3, 5, 1000])
def test_the_chunk_size_changes_neither_value_nor_gradient(loss, chunk, monkeypatch):
    batch = with_stored(made(), 3)
    want = update(loss, params(), [batch])

    def nobody(*_, **__):
        raise AssertionError("the default chunk, though one was given")

    for module in (chunked, chunked_divergence):
        monkeypatch.setattr(module, "default_chunk", nobody)
    assert_same(want, update(partial(loss, chunk=chunk), params(), [batch]))
    with pytest.raises(AssertionError, match="the default chunk"):
        update(loss, params(), [batch])


# The switches of distillation, each against a loop over tokens


def divergence_loop(measure, *, temperature=1.0, vocab=None):
    """Mean over trained tokens of measure(log s, log t, target), softmaxes cut and tempered."""
    total = weight = 0.0
    for one in made():
        logs = []
        for policy in (params(), teacher_params()):
            logits = log_probs(policy, one)[:, :vocab] / temperature
            logs.append(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
        for t, target in enumerate(one["targets"]):
            total += one["weights"][t] * measure(logs[0][t], logs[1][t], target)
            weight += one["weights"][t]
    return total / weight


def reverse(s, t, _):
    return np.sum(np.exp(s) * (s - t))


def reverse_of_the_best_two(s, t, _):
    best = np.argsort(-s)[:2]
    s, t = (np.append(np.exp(x[best]), 1 - np.exp(x[best]).sum()) for x in (s, t))
    return np.sum(s * np.log(s / t))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Distill(temperature=2.0), partial(divergence_loop, reverse, temperature=2.0)),
        (Distill(vocab=5), partial(divergence_loop, reverse, vocab=5)),
        (Distill(top=2), partial(divergence_loop, reverse_of_the_best_two)),
        (Distill(sampled=True), partial(divergence_loop, lambda s, t, y: s[y] - t[y])),
        (
            Distill("forward_kl", temperature=0.5, vocab=4),
            partial(
                divergence_loop,
                lambda s, t, _: np.sum(np.exp(t) * (t - s)),
                temperature=0.5,
                vocab=4,
            ),
        ),
    ],
    ids=["temperature", "vocab", "top", "sampled", "temperature and vocab"],
)
def test_each_switch_of_distillation_is_what_a_loop_says(config, expected):
    batch = padded(made())
    batch["targets"] = batch["targets"] % 6
    value, _ = update(partial(on_policy, config=config), params(), [batch])
    np.testing.assert_allclose(value, expected(), rtol=1e-9)


def test_stored_logits_are_compared_within_the_cut_vocabulary():
    """The student has two ids more than the teacher whose logits were stored."""
    batch, teacher = with_stored(made(), 6), teacher_params()
    assert batch["teacher_ids"].max() == 5 and teacher["head"].shape == (6, WIDE)
    rng = np.random.default_rng(3)
    student = params()
    longer = {**student, "head": np.concatenate([student["head"], rng.normal(size=(2, 3))])}
    want, _ = update(stored(Distill("forward_kl")), student, [batch])
    found, _ = update(stored(Distill("forward_kl", vocab=6)), longer, [batch])
    uncut, _ = update(stored(Distill("forward_kl")), longer, [batch])
    np.testing.assert_allclose(found, want, rtol=1e-9)
    assert uncut > want + 0.01
