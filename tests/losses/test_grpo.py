"""GRPO's switches against float64 loops, their exact expectations, and their invariances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite import gradient
from jax.sharding import NamedSharding, PartitionSpec
from loss_toy import (
    V,
    apply,
    assert_same,
    lay_out,
    log_probs,
    packed,
    padded,
    params,
    sequences,
    split,
    update,
    with_old,
)

from qwen3.config import MeshConfig
from qwen3.losses import grpo
from qwen3.losses.forward import token_log_probs
from qwen3.losses.grpo import policy_gradient
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.mesh import make_mesh

ENTROPY = 0.05


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def made():
    return with_old(sequences(seed=23), params())  # a draw in which every clip and mask acts


def loss_of(config, frozen=None):
    frozen = {"entropy_coef": ENTROPY} if frozen is None else frozen
    return lambda policy, batch: policy_gradient(apply, policy, batch, frozen, config=config)


# --- the loop reference ---------------------------------------------------------------------------
def loop_loss(policy, base, made, c):
    """The objective, one token at a time. What carries no gradient is computed from `base`."""
    total = 0.0
    trained = sum(float(one["weights"].sum()) for one in made)
    for one in made:
        used = [t for t in range(len(one["tokens"])) if one["weights"][t] > 0]
        length = len(used)
        now, fixed = log_probs(policy, one), log_probs(base, one)
        logp = {t: now[t, one["targets"][t]] for t in used}
        held = {t: fixed[t, one["targets"][t]] for t in used}
        old = one["rollout_logp"] if c.old == "rollout" else one["old_logp"]
        mean = sum(logp[t] - old[t] for t in used) / length
        held_mean = sum(held[t] - old[t] for t in used) / length
        apart = [one["old_logp"][t] - one["rollout_logp"][t] for t in used]
        for t in used:
            ratio = np.exp(logp[t] - old[t])
            if c.ratio == "sequence":
                ratio = np.exp(mean)
            if c.ratio == "sequence_token":
                ratio = np.exp(held_mean + logp[t] - held[t])
            advantage = one["advantages"][t]
            if c.kl == "reward_k1":
                advantage -= c.kl_coef * (old[t] - one["reference_logp"][t])
            if c.clip == "none":
                loss = -ratio * advantage
            elif c.clip == "cispo":
                loss = -min(np.exp(held[t] - old[t]), c.ratio_cap) * advantage * logp[t]
            else:
                inside = min(max(ratio, 1 - c.clip_low), 1 + c.clip_high)
                loss = -min(ratio * advantage, inside * advantage)
                if c.dual_clip is not None and advantage < 0:
                    loss = min(loss, c.dual_clip * abs(advantage))
            raw = np.exp(one["old_logp"][t] - one["rollout_logp"][t])
            if c.tis_cap is not None:
                loss *= min(raw, c.tis_cap)
            elif c.token_band is not None:
                loss *= raw
            if c.token_band is not None and not c.token_band[0] <= raw <= c.token_band[1]:
                loss *= 0
            if c.sequence_band is not None:
                together = np.exp(sum(apart) / length)
                loss *= c.sequence_band[0] <= together <= c.sequence_band[1]
            gap = one["reference_logp"][t] - logp[t]
            if c.kl == "k2":
                loss += c.kl_coef * gap**2 / 2
            if c.kl == "weighted_k3":
                loss += c.kl_coef * np.exp(logp[t] - old[t]) * (np.exp(gap) - 1 - gap)
            if c.entropy:
                loss += ENTROPY * sum(np.exp(x) * x for x in now[t])
            shares = {
                "tokens": trained,
                "sequences": length * len(made),
                "constant": (c.constant_length or 0) * len(made),
            }
            total += loss / shares[c.aggregation]
    return total


CONFIGS = {
    "grpo": preset("grpo"),
    "dapo": preset("dapo"),
    "dr_grpo": preset("dr_grpo", constant_length=7),
    "gspo": preset("gspo", clip_low=0.03, clip_high=0.04),
    "gspo token": preset("gspo", ratio="sequence_token", clip_low=0.03, clip_high=0.04),
    "cispo": preset("cispo", ratio_cap=1.1),
    "reinforce": preset("reinforce"),
    "dual clip": preset("dapo", dual_clip=1.3),
    "rollout": preset("dapo", old="rollout"),
    "tis": preset("dapo", tis_cap=1.05),
    "icepop": preset("dapo", token_band=(0.9, 1.1)),
    "both": preset("dapo", token_band=(0.8, 1.2), tis_cap=1.05),
    "rejection": preset("dapo", sequence_band=(0.98, 1.2)),  # both ends drop a sequence
    "k2": preset("dapo", kl="k2", kl_coef=0.3),
    "weighted k3": preset("dapo", kl="weighted_k3", kl_coef=0.3),
    "reward k1": preset("dapo", kl="reward_k1", kl_coef=0.3),
    "entropy": preset("dapo", entropy=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_value_and_gradients_equal_a_loop(config, made):
    policy = params()
    value, slopes = update(loss_of(config), policy, [padded(made)])
    np.testing.assert_allclose(value, loop_loss(policy, policy, made, config), rtol=1e-9)
    for name in policy:
        at = lambda x, name=name: loop_loss({**policy, name: x}, policy, made, config)  # noqa: E731
        np.testing.assert_allclose(slopes[name], gradient(at, policy[name]), atol=1e-7)


def test_every_configuration_above_is_a_different_update(made):
    """So no switch does nothing: each row differs from every other in its gradient."""
    policy, batch = params(), padded(made)
    # With one advantage per sequence, the two forms of GSPO are one and the same.
    batch["advantages"] = batch["advantages"] * (1 + 0.3 * batch["positions"])
    slopes = {n: update(loss_of(c), policy, [batch])[1] for n, c in CONFIGS.items()}
    flat = {n: np.concatenate([g.ravel() for g in s.values()]) for n, s in slopes.items()}
    names = list(flat)
    close = [
        (a, b)
        for i, a in enumerate(names)
        for b in names[:i]
        if np.allclose(flat[a], flat[b], atol=1e-6)
    ]
    assert close == []


# --- invariances ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["dapo", "gspo", "dr_grpo", "rejection", "weighted k3"])
def test_packing_microbatches_and_order_do_not_change_the_update(name, made):
    loss, policy = loss_of(CONFIGS[name]), params()
    want = update(loss, policy, [padded(made)])
    assert_same(want, update(loss, policy, [packed(made)]))
    assert_same(want, update(loss, policy, split(padded(made), 2)))
    assert_same(want, update(loss, policy, [padded(made, order=[2, 0, 3, 1])]))
    assert_same(want, update(loss, policy, [lay_out(made, [[1], [3, 0, 2]], length=20)]))


@pytest.mark.parametrize("name", ["dapo", "gspo"])
def test_eight_devices_give_the_update_of_one(name):
    made = with_old(sequences(8), params())
    run = jax.jit(jax.value_and_grad(loss_of(CONFIGS[name]), has_aux=True))
    alone = run(params(), padded(made))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2, expert=1, tensor=1))
    tokens = NamedSharding(mesh, PartitionSpec(("data", "fsdp", "expert"), "context"))
    with jax.set_mesh(mesh):
        spread = run(params(), jax.device_put(padded(made), tokens))
    assert_same(alone, spread)


def test_padding_may_hold_anything(made):
    batch = padded(made)
    empty = batch["weights"] == 0
    rubbish = {n: np.where(empty, np.nan, batch[n]) for n in ("old_logp", "advantages")}
    rubbish["rollout_logp"] = np.where(empty, -np.inf, batch["rollout_logp"])
    loss = loss_of(CONFIGS["both"])
    assert_same(update(loss, params(), [batch]), update(loss, params(), [{**batch, **rubbish}]))
    sums = loss(params(), {**batch, **rubbish})[1]
    assert all(np.isfinite(value) for value in sums.values())


# --- exact statements -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["grpo", "dapo", "dual clip", "cispo", "reinforce"])
def test_before_the_first_update_the_ratio_is_one_and_the_gradient_is_reinforce(name, made):
    config, policy, batch = CONFIGS[name], params(), padded(made)
    batch["old_logp"] = jax.jit(partial(token_log_probs, apply))(policy, batch)[0]
    _, sums = jax.jit(loss_of(config))(policy, batch)
    assert float(sums["ratio"]) == float(sums["tokens"]) == float(sums["ratio_squared"])

    def reinforce(policy, batch):
        logp, _ = token_log_probs(apply, policy, batch)
        share, weight, _ = grpo._aggregation(config, batch)
        return -jnp.sum(logp * batch["advantages"] * share), {"weight": weight}

    _, slopes = update(loss_of(config), policy, [batch])
    assert_same(slopes, update(reinforce, policy, [batch])[1])


def test_equal_rewards_give_a_gradient_of_exactly_zero(made):
    batch = padded(made)
    batch["advantages"] = np.zeros_like(batch["advantages"])
    for config in (preset("dapo"), preset("gspo"), preset("cispo")):
        for slope in jax.tree.leaves(update(loss_of(config), params(), [batch])[1]):
            np.testing.assert_array_equal(slope, 0)


def every_token(policy, reference):
    """One position, every next token once, weighted by the policy's probability of it."""
    one = {"tokens": np.array([3])}
    logp, other = log_probs(policy, one)[0], log_probs(reference, one)[0]
    column = lambda x: np.asarray(x, float)[:, None]  # noqa: E731
    return {
        "tokens": np.full((V, 1), 3),
        "targets": np.arange(V)[:, None],
        "weights": column(np.exp(logp)),
        "positions": np.zeros((V, 1), int),
        "segment_ids": np.ones((V, 1), int),
        "advantages": np.zeros((V, 1)),
        "old_logp": column(logp),
        "reference_logp": column(other),
    }


@pytest.mark.parametrize("kl", ["k2", "weighted_k3", "reward_k1"])
def test_each_permitted_kl_has_the_reverse_kl_gradient_in_expectation(kl):
    policy, reference = params(0), params(1)
    batch = every_token(policy, reference)
    config = preset("reinforce", kl=kl, kl_coef=0.7)
    _, slopes = update(loss_of(config), policy, [batch])

    def reverse(policy):
        logp = log_probs(policy, {"tokens": [3]})[0]
        return 0.7 * np.sum(np.exp(logp) * (logp - batch["reference_logp"][:, 0]))

    for name in policy:
        at = lambda x, name=name: reverse({**policy, name: x})  # noqa: E731
        np.testing.assert_allclose(slopes[name], gradient(at, policy[name]), atol=1e-7)


def test_the_refused_kls_have_the_wrong_gradient_in_expectation():
    """Why k1 and plain k3 are refused: mean gradient 0, and that of the forward KL."""
    policy, reference = params(0), params(1)
    batch = every_token(policy, reference)
    other = batch["reference_logp"]

    def term(estimate):
        def loss(policy, batch):
            logp = token_log_probs(apply, policy, batch)[0]
            return jnp.sum(batch["weights"] * estimate(other - logp)), {"weight": 1.0}

        return update(loss, policy, [batch])[1]

    for slope in jax.tree.leaves(term(lambda gap: -gap)):
        np.testing.assert_allclose(slope, 0, atol=1e-12)
    k3 = term(lambda gap: jnp.exp(gap) - 1 - gap)

    def forward(head):
        logp = log_probs({**policy, "head": head}, {"tokens": [3]})[0]
        return np.sum(np.exp(other[:, 0]) * (other[:, 0] - logp))

    np.testing.assert_allclose(k3["head"], gradient(forward, policy["head"]), atol=1e-7)
    _, sums = loss_of(preset("reinforce", kl="k2", kl_coef=1.0))(policy, batch)
    assert sums["reference_k1"] != 0 and sums["reference_k3"] > 0


def test_the_reference_may_be_parameters_or_stored_log_probs(made):
    reference = params(5)
    batch = padded(made)
    del batch["reference_logp"]
    config = CONFIGS["k2"]
    stored = {**batch, "reference_logp": token_log_probs(apply, reference, batch)[0]}
    live = update(loss_of(config, {"reference": reference}), params(), [batch])
    assert_same(live, update(loss_of(config), params(), [stored]))
    with pytest.raises(ValueError, match="reference"):
        update(loss_of(config, {}), params(), [batch])


def test_the_entropy_coefficient_is_a_traced_scalar(made):
    run = jax.jit(lambda coef: loss_of(CONFIGS["entropy"], {"entropy_coef": coef})(params(), batch))
    batch = padded(made)
    (none, sums), (some, _) = run(0.0), run(0.5)
    np.testing.assert_allclose(none - some, 0.5 * sums["entropy"])
    assert run._cache_size() == 1
    with pytest.raises(ValueError, match="entropy_coef"):
        policy_gradient(apply, params(), batch, (), config=CONFIGS["entropy"])


# --- metrics --------------------------------------------------------------------------------------
def test_metrics_count_clips_mismatch_and_modes(made):
    config = preset("dapo", dual_clip=1.3, tis_cap=1.05, sequence_band=(0.95, 1.03))
    _, sums = loss_of(config)(params(), packed(made))
    got = grpo.report(sums)
    flat = []
    for one in made:
        table = log_probs(params(), one)
        mean = np.exp(np.mean((one["old_logp"] - one["rollout_logp"])[1:]))
        for t in range(1, len(one["tokens"])):
            logp = table[t, one["targets"][t]]
            ratio = np.exp(logp - one["old_logp"][t])
            raw = np.exp(one["old_logp"][t] - one["rollout_logp"][t])
            entropy = -np.sum(np.exp(table[t]) * table[t])
            row = (ratio, one["advantages"][t], raw, 0.95 <= mean <= 1.03, entropy, one["mode"][t])
            flat.append(row)
    ratio, advantage, raw, kept, entropy, mode = map(np.array, zip(*flat, strict=True))
    want = {
        "ratio": ratio.mean(),
        "ratio_ess": ratio.mean() ** 2 / (ratio**2).mean(),
        "clip_low": np.mean((ratio < 0.8) & (advantage < 0)),
        "clip_high": np.mean((ratio > 1.28) & (advantage > 0)),
        "dual_clip": np.mean((ratio > 1.3) & (advantage < 0)),
        "advantage": advantage.mean(),
        "advantage_abs": np.abs(advantage).mean(),
        "mismatch_abs": np.abs(np.log(raw)).mean(),
        "mismatch_exp": np.exp(np.abs(np.log(raw))).mean(),
        "mismatch_k3": np.mean(raw - 1 - np.log(raw)),
        "mismatch_ratio": raw.mean(),
        "kept": kept.mean(),
        "correction": np.mean(np.minimum(raw, 1.05) * kept),
        "entropy": entropy.mean(),
        "entropy/think": entropy[mode == 1].mean(),
        "entropy/no_think": entropy[mode == 0].mean(),
        "length": len(flat) / 4,
    }
    assert {name: got[name] for name in want} == pytest.approx(want)
    assert 0 < want["kept"] < 1 and want["dual_clip"] > 0


# --- construction ---------------------------------------------------------------------------------
ILLEGAL = [
    (dict(kl="k1", kl_coef=0.1), "mean gradient 0"),
    (dict(kl="k3", kl_coef=0.1), "forward KL"),
    (dict(ratio="group"), "'group' is not one of token, sequence, sequence_token"),
    (dict(clip="low"), "clip 'low' is not one of"),
    (dict(clip="symmetric"), "0.2 and 0.28"),
    (dict(clip="higher", clip_high=0.2), "above clip_low"),
    (dict(clip="higher", clip_low=1.5), "clip_low 1.5"),
    (dict(clip="cispo"), "ratio_cap None"),
    (dict(ratio_cap=5.0), "ratio_cap 5.0 with clip 'higher'"),
    (dict(clip="cispo", ratio_cap=0.2), "ratio_cap 0.2 is the largest ratio"),
    (dict(clip="cispo", ratio_cap=5.0, ratio="sequence", aggregation="sequences"), "no 'sequence'"),
    (dict(clip="none", dual_clip=3.0), "dual_clip 3.0"),
    (dict(dual_clip=1.1), "dual_clip 1.1"),
    (dict(aggregation="constant"), "constant_length None"),
    (dict(constant_length=5), "constant_length 5"),
    (dict(aggregation="constant", constant_length=0), "at least 1 token"),
    (dict(ratio="sequence", clip_low=3e-4, clip_high=4e-4), "aggregation is 'tokens'"),
    (dict(ratio="sequence", aggregation="sequences"), "geometric mean"),
    (preset("gspo").__dict__ | dict(tis_cap=2.0), "use sequence_band"),
    (preset("gspo").__dict__ | dict(kl="reward_k1", kl_coef=0.1), "sequence_token"),
    (dict(old="rollout", tis_cap=2.0), "tis_cap would do nothing"),
    (dict(tis_cap=0.5), "tis_cap 0.5"),
    (dict(token_band=(1.2, 2.0)), "token_band"),
    (dict(sequence_band=(0.9, 0.95)), "sequence_band"),
    (dict(kl="k2"), "needs a coefficient"),
    (dict(kl_coef=0.1), "kl 'none' with kl_coef 0.1"),
]


@pytest.mark.parametrize("switches, message", ILLEGAL, ids=[m for _, m in ILLEGAL])
def test_a_combination_that_is_no_objective_is_refused(switches, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Grpo(**switches)


def test_an_unknown_preset_and_a_missing_rollout_are_named(made):
    with pytest.raises(ValueError, match="'ppo' is not one of grpo, dapo"):
        preset("ppo")
    batch = padded(made)
    del batch["rollout_logp"]
    with pytest.raises(ValueError, match="rollout_logp"):
        loss_of(CONFIGS["tis"])(params(), batch)
