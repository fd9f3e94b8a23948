"""Cross-entropy and balance as one sum: loops, microbatches, packing, devices, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite import gradient
from jax.sharding import NamedSharding, PartitionSpec
from loss_toy import (
    D,
    E,
    L,
    apply,
    apply_moe,
    assert_same,
    log_probs,
    packed,
    padded,
    params,
    sequences,
    split,
    update,
)

from qwen3.config import MeshConfig
from qwen3.losses import lm
from qwen3.mesh import make_mesh


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def moe_params():
    router = np.random.default_rng(9).normal(size=(L, D, E))
    return params() | {"router": router}


def dense(**options):
    return lambda policy, batch: lm.next_token(apply, policy, batch, **options)


def moe(form, **options):
    def loss(policy, batch):
        return lm.next_token(apply_moe, policy, batch, balance=form, balance_coef=0.4, **options)

    return loss


def step_of(form, policy, batch, parts):
    """What the step does: prepass over all microbatches, then the sums of each.

    The step before, for the previous form, had the sequences BEFORE.
    """
    pieces = split(batch, parts)
    if parts > 1:
        prepass = lm.prepass(apply_moe, balance=form)
        every = [prepass(policy, piece, ()) for piece in pieces]
        totals = jax.tree.map(lambda *x: sum(x), *every)
        pieces = [piece | {"totals": totals} for piece in pieces]
    counted = selections(policy, BEFORE).sum(axis=0) if lm.CARRY.get(form) == "step" else None
    for piece in pieces:
        if counted is not None:
            piece["counted"] = counted
        if lm.CARRY.get(form) == "microbatch":
            own = moe(form)(policy, piece)[1]["expert_counts"]
            counted = own if counted is None else counted + own
    return update(moe(form), policy, pieces)


@pytest.mark.parametrize("z_loss", [0.0, 0.2])
def test_value_and_gradients_equal_a_loop(z_loss):
    made, policy = sequences(), params()
    for one in made:
        one["weights"] = one["weights"] * (1 + one["mode"])  # think counts double

    def loop(policy):
        total = weight = 0.0
        for one in made:
            table = log_probs(policy, one)
            for t, target in enumerate(one["targets"]):
                hidden = policy["embed"][one["tokens"][t]] + 0.1 * t * policy["turn"]
                normaliser = float(hidden @ policy["head"][target]) - table[t, target]
                row = -table[t, target] + z_loss * normaliser**2
                total += one["weights"][t] * row
                weight += one["weights"][t]
        return total / weight

    value, slopes = update(dense(z_loss=z_loss), policy, [padded(made)])
    np.testing.assert_allclose(value, loop(policy), rtol=1e-9)
    for name in policy:
        at = lambda x, name=name: loop({**policy, name: x})  # noqa: E731
        np.testing.assert_allclose(slopes[name], gradient(at, policy[name]), atol=1e-7)


def test_metrics_are_weighted_sums_and_per_mode_means():
    made, policy = sequences(), params()
    _, sums = dense(z_loss=0.1)(policy, packed(made))
    rows = [(one, t, log_probs(policy, one)[t]) for one in made for t in range(1, len(one["mode"]))]
    ce = np.array([-row[one["targets"][t]] for one, t, row in rows])
    think = np.array([one["mode"][t] == 1 for one, t, _ in rows])
    right = [np.argmax(row) == one["targets"][t] for one, t, row in rows]
    want = {
        "weight": len(rows),
        "ce": ce.sum(),
        "correct": sum(right),
        "ce/think": ce[think].sum(),
        "ce/no_think": ce[~think].sum(),
        "tokens/think": think.sum(),
        "tokens/no_think": (~think).sum(),
    }
    assert {name: float(sums[name]) for name in want} == pytest.approx(want)
    assert sums["z"] > 0


def test_packing_microbatches_and_order_do_not_change_the_update():
    made, policy = sequences(), params()
    want = update(dense(), policy, [padded(made)])
    assert_same(want, update(dense(), policy, [packed(made)]))
    assert_same(want, update(dense(), policy, split(padded(made), 4)))
    assert_same(want, update(dense(), policy, [padded(made, order=[3, 1, 0, 2])]))


BEFORE = sequences(seed=3)


def hidden_of(policy, token, t):
    return policy["embed"][token] + 0.1 * t * policy["turn"]


def selections(policy, made):
    """[sequences, L, E] in float64: how often each expert is the likeliest."""
    counts = np.zeros((len(made), L, E))
    for i, one in enumerate(made):
        for t, token in enumerate(one["tokens"]):
            for layer in range(L):
                counts[
                    i, layer, np.argmax(hidden_of(policy, token, t) @ policy["router"][layer])
                ] += 1
    return counts


def loop_balance(policy, made, counted_over):
    """coef-free balance: f from the sequences `counted_over(i)`, P from sequence i, token mean."""
    counts, probs, tokens = selections(policy, made), np.zeros((len(made), L, E)), 0
    for i, one in enumerate(made):
        for t, token in enumerate(one["tokens"]):
            tokens += 1
            for layer in range(L):
                scores = np.exp(hidden_of(policy, token, t) @ policy["router"][layer])
                probs[i, layer] += scores / scores.sum()
    total = 0.0
    for i in range(len(made)):
        over = counted_over(i)
        seen = selections(policy, BEFORE) if over is None else counts[over]
        seen = seen.sum(axis=0)
        total += np.sum(seen / seen.sum(axis=-1, keepdims=True) * probs[i])
    return E * total / (L * tokens)


FORMS = {  # with microbatches of sequences {0, 2} and {1, 3}
    "global": lambda i: [0, 1, 2, 3],
    "synchronised": lambda i: [i % 2, i % 2 + 2],
    "buffered": lambda i: [0, 2] if i % 2 == 0 else [0, 1, 2, 3],
    "micro": lambda i: [i % 2, i % 2 + 2],  # on one device a microbatch is one group
    "previous": lambda i: None,  # over BEFORE
}


@pytest.mark.parametrize("form", FORMS)
def test_a_balance_form_over_two_microbatches_equals_a_loop(form):
    made, policy = sequences(), moe_params()
    value, slopes = step_of(form, policy, padded(made), 2)
    plain, _ = update(dense(), {n: policy[n] for n in params()}, [padded(made)])
    want = loop_balance(policy, made, FORMS[form])
    np.testing.assert_allclose(value - plain, 0.4 * want, rtol=1e-9)
    at = lambda x: 0.4 * loop_balance({**policy, "router": x}, made, FORMS[form])  # noqa: E731
    np.testing.assert_allclose(slopes["router"], gradient(at, policy["router"]), atol=1e-7)


def test_two_balance_forms_do_not_depend_on_microbatches_or_packing_and_the_others_do():
    made, policy = sequences(), moe_params()
    wants = {form: step_of(form, policy, padded(made), 1) for form in ("global", "previous")}
    for form, want in wants.items():
        for parts in (2, 4):
            assert_same(want, step_of(form, policy, padded(made), parts))
        assert_same(want, step_of(form, policy, packed(made), 2))
    want = wants["global"]
    assert abs(wants["previous"][0] - want[0]) > 1e-4
    for form in ("synchronised", "buffered", "micro"):
        assert abs(step_of(form, policy, padded(made), 2)[0] - want[0]) > 1e-4


def test_balance_metrics_are_means_after_the_division():
    made, policy = sequences(), moe_params()
    total, sums = moe("global")(policy, padded(made))
    want = loop_balance(policy, made, FORMS["global"])
    np.testing.assert_allclose(sums["balance"] / sums["weight"], want)
    np.testing.assert_allclose(total, sums["ce"] + 0.4 * sums["balance"])
    assert sums["dropped"] == L * len(made)  # the toy claims one a row and layer
    assert 1 < sums["max_load"] / sums["weight"] <= E > sums["min_load"] / sums["weight"]


def test_eight_devices_give_the_update_of_one_and_micro_is_per_device():
    made, policy = sequences(8), moe_params()
    mesh = make_mesh(MeshConfig(data=4, fsdp=2, context=1, expert=1, tensor=1))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp", "expert")))
    for form, same in (("global", True), ("micro", False)):
        run = lambda f=form: jax.jit(jax.value_and_grad(moe(f), has_aux=True))  # noqa: E731
        alone = run()(policy, padded(made))
        with jax.set_mesh(mesh):
            spread = run()(policy, jax.device_put(padded(made), rows))
        if same:
            assert_same(alone, spread)
        each = 0.4 * loop_balance(policy, made, lambda i: [i])
        weight, ce = spread[0][1]["weight"], spread[0][1]["ce"]
        assert np.isclose((spread[0][0] - ce) / weight, each) != same


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(balance="batch", balance_coef=0.1), "'batch' is not None or one of"),
        (dict(balance="global"), "coefficient 0"),
        (dict(balance_coef=0.1), "None with coefficient 0.1"),
        (dict(balance="global", balance_coef=0.1), "no router"),
    ],
)
def test_a_balance_that_cannot_be_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        dense(**options)(params(), jax.tree.map(jnp.asarray, padded(sequences())))
