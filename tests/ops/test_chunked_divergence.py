"""Every divergence against a float64 loop, and exact identities over an enumerated vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite import gradient
from jax.sharding import NamedSharding, PartitionSpec

from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.ops import chunked
from qwen3.ops.chunked_divergence import divergence, resolve, stored_divergence

M, D, E, V = 5, 3, 2, 10
KINDS = {
    "reverse": dict(kind="reverse_kl"),
    "forward": dict(kind="forward_kl"),
    "jsd": dict(kind="jsd", beta=0.3),
    "mix": dict(kind="mix", forward_weight=0.4),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def arrays(m=M, v=V, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape)  # noqa: E731
    targets, weights = rng.integers(0, v, m), rng.uniform(0.5, 2, m)
    return normal(m, D), normal(v, D), normal(m, E), normal(v, E), targets, weights


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits)))


def kl(p, q):
    return sum(p[v] * (np.log(p[v]) - np.log(q[v])) for v in range(len(p)) if p[v] > 0)


def loop_value(s, t, kind, beta=None, forward_weight=None):
    """One row's divergence from two lists of probabilities."""
    if kind == "jsd":
        m = [(1 - beta) * a + beta * b for a, b in zip(s, t, strict=True)]
        return beta * kl(t, m) + (1 - beta) * kl(s, m)
    if kind == "mix":
        return forward_weight * kl(t, s) + (1 - forward_weight) * kl(s, t)
    return kl(s, t) if kind == "reverse_kl" else kl(t, s)


def buckets(probs, ids):
    rest = [p for v, p in enumerate(probs) if v not in set(ids.tolist())]
    return [probs[v] for v in ids] + [sum(rest)]


def loop(student, head, teacher, teacher_head, weights, *, ids=None, temperature=1.0, **kind):
    total = 0.0
    for m in range(len(student)):
        s = np.exp(log_softmax(head @ student[m] / temperature))
        t = np.exp(log_softmax(teacher_head @ teacher[m] / temperature))
        if ids is not None:
            s, t = buckets(s, ids[m]), buckets(t, ids[m])
        total += weights[m] * loop_value(s, t, **kind)
    return total


def check(ours, reference, student, head):
    value, (dstudent, dhead) = jax.jit(jax.value_and_grad(ours, (0, 1)))(student, head)
    np.testing.assert_allclose(value, reference(student, head), rtol=1e-10)
    np.testing.assert_allclose(
        dstudent, gradient(lambda h: reference(h, head), student), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        dhead, gradient(lambda w: reference(student, w), head), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("top", [None, 3])
def test_value_and_gradients_equal_a_loop(kind, top):
    student, head, teacher, teacher_head, targets, weights = arrays()
    ids = None if top is None else np.argsort(-student @ head.T, axis=-1)[:, :top]

    def ours(h, w):
        fixed = teacher, teacher_head, targets, weights
        return divergence(h, w, *fixed, top=top, temperature=0.8, chunk=2, **kind)[0]

    def reference(h, w):
        return loop(h, w, teacher, teacher_head, weights, ids=ids, temperature=0.8, **kind)

    check(ours, reference, student, head)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_stored_top_k_of_the_teacher_equals_a_loop(kind):
    student, head, teacher, teacher_head, _, weights = arrays()
    logp, ids, _ = chunked.top_k_log_probs(teacher, teacher_head, 4)

    def ours(h, w):
        return stored_divergence(h, w, ids, logp, weights, chunk=2, **kind)[0]

    def reference(h, w):
        return loop(h, w, teacher, teacher_head, weights, ids=np.asarray(ids), **kind)

    check(ours, reference, student, head)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_all_ids_with_a_tail_are_the_full_divergence(kind):
    student, head, *fixed = arrays()
    logp, ids, _ = chunked.top_k_log_probs(fixed[0], fixed[1], V)
    losses = [
        lambda h, w: divergence(h, w, *fixed, **kind)[0],
        lambda h, w: divergence(h, w, *fixed, top=V, **kind)[0],
        lambda h, w: stored_divergence(h, w, ids, logp, fixed[-1], **kind)[0],
    ]
    full, top, stored = (jax.value_and_grad(loss, (0, 1))(student, head) for loss in losses)
    for other in (top, stored):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), full, other)


@pytest.mark.parametrize("how", [*KINDS.values(), dict(top=3), dict(sampled=True)])
def test_teacher_equal_to_student_gives_zero_and_zero_gradient(how):
    student, head, _, _, *rest = arrays()
    loss = lambda h, w: divergence(h, w, student, head, *rest, **how)[0]  # noqa: E731
    value, slopes = jax.value_and_grad(loss, (0, 1))(student, head)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0, atol=1e-12), slopes)


def test_sampled_token_gradient_averages_to_the_reverse_kl_gradient():
    """Every id once, weighted by the student's own probability: an exact expectation."""
    student, head, teacher, teacher_head, *_ = (x[:1] if len(x) == M else x for x in arrays())
    probs = np.exp(log_softmax(head @ student[0]))

    def sampled(h, w):
        rows = jnp.repeat(h, V, axis=0), w, np.repeat(teacher, V, axis=0), teacher_head
        return divergence(*rows, np.arange(V), probs, sampled=True)[0]

    def full(h, w):
        return divergence(h, w, teacher, teacher_head, np.zeros(1, int), np.ones(1))[0]

    one, other = (jax.value_and_grad(f, (0, 1))(student, head) for f in (sampled, full))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), one, other)


def test_jsd_ends_are_the_kls_and_the_interior_does_not_reach_them():
    student, head, *fixed = arrays()
    value = lambda **kind: float(divergence(student, head, *fixed, **kind)[0])  # noqa: E731
    forward, reverse = value(kind="forward_kl"), value(kind="reverse_kl")
    assert (value(kind="jsd", beta=0), value(kind="jsd", beta=1)) == (forward, reverse)
    near_zero, near_one = (value(kind="jsd", beta=b) for b in (1e-5, 1 - 1e-5))
    assert max(near_zero, near_one) < 1e-3 < min(forward, reverse)
    assert near_zero / 1e-5 == pytest.approx(forward, rel=1e-3)
    assert near_one / 1e-5 == pytest.approx(reverse, rel=1e-3)


def test_truncation_without_a_tail_would_not_be_a_divergence_and_the_tail_repairs_it():
    """Mass outside the k ids must cost: with a tail the value is never below 0."""
    head = np.eye(6)
    student, teacher = np.log([[0.3, 0.3, 0.1, 0.1, 0.1, 0.1]]), np.log([[0.4, 0.4, *[0.05] * 4]])
    truncated = np.sum(np.exp(student[0, :2]) * (student[0, :2] - teacher[0, :2]))
    fixed = student, head, teacher, head, np.zeros(1, int), np.ones(1)
    with_tail, full = (float(divergence(*fixed, top=top)[0]) for top in (2, None))
    assert truncated < 0 < with_tail <= full + 1e-12


def test_both_heads_are_cut_to_one_vocabulary():
    student, head, teacher, teacher_head, targets, weights = arrays()
    targets = targets % 8
    padded = np.concatenate([teacher_head, np.ones((4, E))])
    cut = lambda h, w: divergence(h, w, teacher, padded, targets, weights, vocab=8)[0]  # noqa: E731
    value, (_, dhead) = jax.value_and_grad(cut, (0, 1))(student, head)
    want = loop(student, head[:8], teacher, teacher_head[:8], weights, kind="reverse_kl")
    np.testing.assert_allclose(value, want, rtol=1e-10)
    np.testing.assert_array_equal(dhead[8:], 0)
    with pytest.raises(ValueError, match="vocabularies of 10 and 14"):
        divergence(student, head, teacher, padded, targets, weights)
    with pytest.raises(ValueError, match="vocab 11"):
        divergence(student, head, teacher, padded, targets, weights, vocab=11)


def test_statistics_are_k1_entropies_and_agreement():
    student, head, teacher, teacher_head, targets, weights = arrays()
    _, got = divergence(student, head, teacher, teacher_head, targets, weights * 0, top=2, chunk=2)
    for m in range(M):
        s, t = log_softmax(head @ student[m]), log_softmax(teacher_head @ teacher[m])
        np.testing.assert_allclose(got["k1"][m], s[targets[m]] - t[targets[m]])
        np.testing.assert_allclose(got["entropy"][m], -np.sum(np.exp(s) * s))
        np.testing.assert_allclose(got["teacher_entropy"][m], -np.sum(np.exp(t) * t))
        assert got["agree"][m] == (np.argmax(s) == np.argmax(t))


def test_a_stored_tail_lost_to_rounding_stays_bounded():
    """The teacher's k probabilities sum to 1 in fp32: a student outside pays a finite price."""
    logp = np.log(np.float32([[0.75, 0.25]]))
    arguments = np.zeros((1, D)), np.ones((V, D)), np.array([[1, 4]]), logp, np.ones(1)
    for kind in ("reverse_kl", "forward_kl"):
        loss = lambda h, kind=kind: stored_divergence(h, *arguments[1:], kind=kind)[0]  # noqa: E731
        value, slope = jax.value_and_grad(loss)(arguments[0])
        assert 0 < value < 40 and np.all(np.isfinite(slope))


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(kind="kl"), "'kl' is not one of reverse_kl, forward_kl, jsd, mix"),
        (dict(kind="jsd"), "needs beta"),
        (dict(kind="jsd", beta=1.5), "1.5"),
        (dict(kind="mix", beta=0.5, forward_weight=0.5), "has no beta"),
        (dict(kind="reverse_kl", forward_weight=0.5), "has no forward_weight"),
    ],
)
def test_a_wrong_kind_or_parameter_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        resolve(**bad)


def test_sampled_is_reverse_kl_only_and_top_is_within_the_vocabulary():
    rows = arrays()
    with pytest.raises(ValueError, match="sampled"):
        divergence(*rows, kind="forward_kl", sampled=True)
    with pytest.raises(ValueError, match="top 11"):
        divergence(*rows, top=11)


@pytest.mark.parametrize("how", [dict(kind="jsd", beta=0.3), dict(top=2)], ids=["full", "top"])
def test_vocabulary_and_rows_sharded_over_eight_devices_equal_one(how):
    student, head, teacher, teacher_head, targets, weights = arrays(m=16, v=16)

    def run(student, head, *fixed):
        loss = lambda h, w: divergence(h, w, *fixed, chunk=2, **how)  # noqa: E731
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(student, head)

    arguments = student, head, teacher, teacher_head, targets, weights
    alone = jax.jit(run)(*arguments)
    sizes = dict(data=2, fsdp=2, context=1, expert=1, tensor=2)
    mesh = make_mesh(MeshConfig(**sizes))
    by_row, by_id = PartitionSpec(("data", "fsdp")), PartitionSpec("tensor")
    specs = by_row, by_id, by_row, by_id, by_row, by_row
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arguments, specs, strict=True)
        ]
        spread = jax.jit(run)(*placed)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)  # noqa: E731
    jax.tree.map(compare, alone, spread)
