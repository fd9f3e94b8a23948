"""On-policy and stored distillation: loops, teacher = student, invariances, metrics, bad input."""

import jax
import numpy as np
import pytest
from finite import gradient
from jax.sharding import NamedSharding, PartitionSpec
from loss_toy import (
    D,
    V,
    apply,
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
from qwen3.losses import distill
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.ops.chunked import top_k_log_probs

WIDE = 5  # the teacher is another size


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def teacher_params():
    return params(seed=7, width=WIDE)


def on_policy(config=None, teacher=None, **options):
    frozen = {"teacher": teacher_params() if teacher is None else teacher}
    options = dict(teacher_apply=apply, config=config or Distill()) | options
    return lambda student, batch: distill.divergence(apply, student, batch, frozen, **options)


def kl(p, q):
    return sum(p[v] * (np.log(p[v]) - np.log(q[v])) for v in range(len(p)))


def loop(student, teacher, made, measure=kl):
    """Mean over all trained tokens of D(student, teacher), one token at a time."""
    total = weight = 0.0
    for one in made:
        s, t = np.exp(log_probs(student, one)), np.exp(log_probs(teacher, one))
        for at in range(len(one["tokens"])):
            total += one["weights"][at] * measure(s[at], t[at])
            weight += one["weights"][at]
    return total / weight


def jsd(s, t, beta=0.3):
    m = (1 - beta) * s + beta * t
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


MEASURES = {
    "reverse": (Distill(), kl),
    "forward": (Distill("forward_kl"), lambda s, t: kl(t, s)),
    "jsd": (Distill("jsd", beta=0.3), jsd),
    "mix": (Distill("mix", forward_weight=0.4), lambda s, t: 0.4 * kl(t, s) + 0.6 * kl(s, t)),
}


@pytest.mark.parametrize("config, measure", MEASURES.values(), ids=MEASURES)
def test_value_and_gradients_equal_a_loop(config, measure):
    made, student, teacher = sequences(), params(), teacher_params()
    value, slopes = update(on_policy(config), student, [padded(made)])
    np.testing.assert_allclose(value, loop(student, teacher, made, measure), rtol=1e-9)
    for name in student:
        at = lambda x, name=name: loop({**student, name: x}, teacher, made, measure)  # noqa: E731
        np.testing.assert_allclose(slopes[name], gradient(at, student[name]), atol=1e-7)


OTHERS = (
    *(config for config, _ in MEASURES.values()),
    *(Distill(sampled=True), Distill(temperature=2.0), Distill(vocab=5)),
)


@pytest.mark.parametrize(
    "config",
    [Distill(top=3), *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)],
)
def test_hidden_states_that_are_handed_over_give_what_a_resident_teacher_does(config):
    made, student, teacher = sequences(), params(), teacher_params()
    for one in made:
        one["targets"] = one["targets"] % 5
    batch = packed(made) if config.sampled else padded(made)
    hidden = apply(teacher, *(batch[n] for n in ("tokens", "positions", "segment_ids")))[0]
    batch |= {"teacher_hidden": np.asarray(hidden)}

    def loss(params, part):
        frozen = {"teacher_head": teacher["head"]}
        return distill.handed_over(apply, params, part, frozen, config=config)

    assert_same(update(on_policy(config), student, [batch]), update(loss, student, split(batch, 2)))


def test_packing_microbatches_and_order_do_not_change_the_update():
    made, student = sequences(), params()
    loss = on_policy()
    want = update(loss, student, [padded(made)])
    assert_same(want, update(loss, student, [packed(made)]))
    assert_same(want, update(loss, student, split(padded(made), 2)))
    assert_same(want, update(loss, student, [padded(made, order=[3, 1, 0, 2])]))


def test_eight_devices_give_the_update_of_one():
    student, teacher = params(vocab=8), params(seed=7, width=WIDE, vocab=8)
    run = jax.jit(jax.value_and_grad(on_policy(teacher=teacher), has_aux=True))
    batch = padded(sequences(8, vocab=8))
    alone = run(student, batch)
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, context=2, expert=1, tensor=2))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp", "expert"), "context"))
    by_id = {"embed": PartitionSpec(), "turn": PartitionSpec(), "head": PartitionSpec("tensor")}
    with jax.set_mesh(mesh):
        placed = {n: jax.device_put(x, NamedSharding(mesh, by_id[n])) for n, x in student.items()}
        spread = run(placed, jax.device_put(batch, rows))
    assert_same(alone, spread)


@pytest.mark.parametrize(
    "config",
    [*(c for c, _ in MEASURES.values()), Distill(top=3), Distill(sampled=True)],
)
def test_a_teacher_equal_to_the_student_gives_zero_and_zero_gradient(config):
    value, slopes = update(on_policy(config, params()), params(), [padded(sequences())])
    np.testing.assert_allclose(value, 0, atol=1e-12)
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0, atol=1e-12), slopes)


def test_every_switch_changes_the_update():
    made, student = sequences(), params()
    switches = [
        *(config for config, _ in MEASURES.values()),
        *(Distill(top=2), Distill(sampled=True), Distill(temperature=2.0), Distill(vocab=5)),
        *(Distill("jsd", beta=0.6), Distill("mix", forward_weight=0.7)),
    ]
    for one in made:
        one["targets"] = one["targets"] % 5
    heads = [update(on_policy(c), student, [padded(made)])[1]["head"] for c in switches]
    for i, head in enumerate(heads):
        assert all(np.abs(head - other).max() > 1e-6 for other in heads[:i]), switches[i]


def test_forced_tokens_have_no_weight_and_no_say():
    made, student = sequences(), params()
    for one in made:
        one["weights"][-1] = 0  # forced
    batch = padded(made)
    want = update(on_policy(), student, [batch])
    np.testing.assert_allclose(want[0], loop(student, teacher_params(), made), rtol=1e-9)
    forced = (batch["weights"] == 0) & (batch["segment_ids"] > 0)
    batch["targets"] = np.where(forced, (batch["targets"] + 1) % V, batch["targets"])
    assert_same(want, update(on_policy(), student, [batch]))


def test_the_teacher_gets_no_gradient():
    batch = padded(sequences())

    def loss(teacher):
        frozen = {"teacher": teacher}
        return distill.divergence(
            apply, params(), batch, frozen, teacher_apply=apply, config=Distill()
        )[0]

    for slope in jax.tree.leaves(jax.grad(loss)(teacher_params())):
        np.testing.assert_array_equal(slope, 0)


def with_stored(made, k, temperature=1.0):
    """The batch with the teacher's k best logits and its normaliser, as a file would hold them."""
    batch, teacher = padded(made), teacher_params()
    hidden = apply(teacher, *(batch[n] for n in ("tokens", "positions", "segment_ids")))[0]
    logp, ids, normaliser = top_k_log_probs(
        hidden.reshape(-1, WIDE), teacher["head"], k, temperature=temperature
    )
    shape = batch["tokens"].shape
    return batch | {
        "teacher_ids": ids.reshape(*shape, k),
        "teacher_logits": (logp + normaliser[:, None]).reshape(*shape, k),
        "teacher_normaliser": normaliser.reshape(shape),
    }


def stored(config):
    return lambda student, batch: distill.stored(apply, student, batch, config=config)


@pytest.mark.parametrize("config, measure", MEASURES.values(), ids=MEASURES)
def test_stored_logits_of_all_ids_are_the_resident_teacher(config, measure):
    made = sequences()
    live = update(on_policy(config), params(), [padded(made)])
    assert_same(live, update(stored(config), params(), [with_stored(made, V)]))


def test_stored_top_k_with_its_tail_equals_a_loop_and_microbatches_do_not_matter():
    made, student, teacher = sequences(), params(), teacher_params()

    def forward_with_tail(s, t):
        best = np.argsort(-t)[:2]
        squash = lambda p: np.append(p[best], 1 - p[best].sum())  # noqa: E731
        return kl(squash(t), squash(s))

    batch, loss = with_stored(made, 2), stored(Distill("forward_kl"))
    value, slopes = update(loss, student, [batch])
    np.testing.assert_allclose(value, loop(student, teacher, made, forward_with_tail), rtol=1e-9)
    assert_same((value, slopes), update(loss, student, split(batch, 2)))
    for name in student:
        at = lambda x, name=name: loop(  # noqa: E731
            {**student, name: x}, teacher, made, forward_with_tail
        )
        np.testing.assert_allclose(slopes[name], gradient(at, student[name]), atol=1e-7)
    _, sums = loss(student, batch)
    mass = loop(student, teacher, made, lambda s, t: s[np.argsort(-t)[:2]].sum())
    assert distill.report(sums)["student_mass"] == pytest.approx(mass)


def test_metrics_per_mode_and_per_tenth_of_the_answer():
    made, student, teacher = sequences(), params(), teacher_params()
    _, sums = on_policy()(student, packed(made))
    got = distill.report(sums)
    assert got["divergence"] == pytest.approx(loop(student, teacher, made))
    for index, mode in enumerate(("no_think", "think")):
        mine = [one for one in made if one["mode"][0] == index]
        assert got[f"divergence/{mode}"] == pytest.approx(loop(student, teacher, mine))
        entropy = loop(student, teacher, mine, lambda s, t: -np.sum(s * np.log(s)))
        assert got[f"entropy/{mode}"] == pytest.approx(entropy)
    tenths = {}
    for one in made:
        s, t = np.exp(log_probs(student, one)), np.exp(log_probs(teacher, one))
        length = len(one["tokens"]) - 1
        for place in range(length):
            row = kl(s[place + 1], t[place + 1])
            tenths.setdefault(place * 10 // length, []).append(row)
    for tenth in range(10):
        rows = tenths.get(tenth, [])
        assert float(sums[f"tokens/tenth_{tenth}"]) == len(rows)
        assert float(sums[f"divergence/tenth_{tenth}"]) == pytest.approx(sum(rows))


@pytest.mark.parametrize(
    "switches, message",
    [
        (dict(kind="kl"), "'kl' is not one of"),
        (dict(kind="jsd"), "needs beta"),
        (dict(beta=0.5), "has no beta"),
        (dict(top=0), "top 0"),
        (dict(temperature=0.0), "temperature 0.0"),
        (dict(sampled=True, top=2), "sampled"),
        (dict(sampled=True, kind="forward_kl"), "sampled"),
    ],
)
def test_a_combination_that_means_nothing_is_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        Distill(**switches)


def test_a_teacher_of_another_vocabulary_needs_a_cut():
    teacher = params(seed=7, width=D, vocab=V + 2)
    batch = padded(sequences())
    with pytest.raises(ValueError, match=f"vocabularies of {V} and {V + 2}"):
        on_policy(teacher=teacher)(params(), batch)
    cut = on_policy(Distill(vocab=V), teacher)(params(), batch)[0]
    same = {**teacher, "head": teacher["head"][:V]}
    np.testing.assert_allclose(cut, on_policy(teacher=same)(params(), batch)[0])


def test_stored_logits_refuse_other_ids():
    with pytest.raises(ValueError, match="fix their own ids"):
        stored(Distill("forward_kl", top=2))(params(), with_stored(sequences(), 2))
