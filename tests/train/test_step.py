import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from qwen3.config import MeshConfig, OptimConfig
from qwen3.mesh import batch_sharding, make_mesh
from qwen3.train import expert_counts, optim
from qwen3.train.state import abstract, create, fresh
from qwen3.train.step import make_step

CONFIG = OptimConfig(peak=0.1, warmup=2, schedule="constant", eps=1e-3)
TX = optim.build(CONFIG, optim.schedule(CONFIG, 20))


def run(steps=3, microbatches=1, rows=None, mesh=None, loss=toy.loss, prepass=None):
    step = make_step(loss, TX, microbatches=microbatches, prepass=prepass)
    state, metrics = create(toy.init(), TX), {}
    for s in range(steps):
        batch = toy.batch(s) if rows is None else pad(toy.batch(s), rows)
        if mesh is not None:
            batch = {k: jax.device_put(v, batch_sharding(mesh)) for k, v in batch.items()}
        state, metrics = step(state, batch)
    return state, metrics


def pad(batch, rows):
    return {k: np.concatenate([v, np.zeros((rows - len(v), 8), v.dtype)]) for k, v in batch.items()}


@pytest.fixture(scope="module")
def plain():
    return run()


def assert_same(got, want, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=tolerance)


def test_one_microbatch_is_the_textbook_update_bitwise(plain):
    def textbook(state, batch):
        (loss, sums), grads = jax.value_and_grad(toy.loss, has_aux=True)(state.params, batch)
        grads = jax.tree.map(lambda g: g / sums["weight"], grads)
        mean = loss / sums["weight"]
        updates, opt = TX.update(grads, state.opt_state, state.params, step=state.step, value=mean)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt), mean

    state = create(toy.init(), TX)
    for s in range(3):
        state, loss = jax.jit(textbook)(state, toy.batch(s))
    assert_same(plain[0], state, tolerance=0)
    assert float(loss) == float(plain[1]["loss"]) < 4.5


def test_microbatches_may_follow_the_number_of_rows():
    asked = []
    state, _ = run(steps=1, microbatches=lambda rows: asked.append(rows) or 2)
    assert set(asked) == {len(next(iter(toy.batch(0).values())))}
    same, _ = run(steps=1, microbatches=2)
    jax.tree.map(np.testing.assert_array_equal, state.params, same.params)


@pytest.mark.parametrize("microbatches", [2, 8])
def test_microbatches_do_not_change_the_update(plain, microbatches):
    state, metrics = run(microbatches=microbatches)
    assert_same((state.params, metrics), (plain[0].params, plain[1]))


def test_a_microbatch_has_every_nth_row():
    """Contiguous rows of a batch that is sharded over devices would lie on one of them."""

    def spans(params, batch, frozen):
        loss, sums = toy.loss(params, batch)
        rows = batch["row"][:, 0]
        return loss, {**sums, "span": rows.max() - rows.min(), "first": rows.min()}

    step = make_step(spans, TX, microbatches=4)
    batch = {**toy.batch(0), "row": np.tile(np.arange(16, dtype=np.float32)[:, None], (1, 8))}
    _, metrics = step(create(toy.init(), TX), batch)
    weight = float(metrics["weight"])
    assert float(metrics["span"]) * weight == pytest.approx(4 * 12)  # rows m, m + 4, m + 8, m + 12
    assert float(metrics["first"]) * weight == pytest.approx(0 + 1 + 2 + 3)


def test_padding_rows_do_not_change_the_update(plain):
    state, metrics = run(microbatches=2, rows=24)
    assert_same((state.params, metrics), (plain[0].params, plain[1]))


@pytest.mark.parametrize(
    ("sizes", "microbatches"),
    [({"data": 8, "fsdp": 1}, 2), ({"data": 2, "fsdp": 2, "context": 2}, 1)],
)
def test_meshes_do_not_change_the_update_and_keep_the_shardings(plain, sizes, microbatches):
    mesh = make_mesh(MeshConfig(**sizes))
    with jax.set_mesh(mesh):
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        shapes = jax.eval_shape(toy.init)
        template = abstract(jax.tree.map(lambda p: p.update(sharding=rows), shapes), TX)
        state = fresh(toy.init, TX, template)
        step = make_step(toy.loss, TX, microbatches=microbatches)
        for s in range(3):
            batch = {k: jax.device_put(v, batch_sharding(mesh)) for k, v in toy.batch(s).items()}
            state, metrics = step(state, batch)
    assert_same((state.params, metrics), (plain[0].params, plain[1]))
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(template), strict=True):
        assert leaf.sharding == wanted.sharding
    moments = optax.tree_utils.tree_get(state.opt_state, "mu")
    assert moments["embed"].sharding.spec == rows.spec
    assert metrics["loss"].sharding.is_fully_replicated


def balance(params, batch, frozen):
    """A toy of the balance loss: its factor is the share of token 3 in the whole step's batch."""
    loss, sums = toy.loss(params, batch)
    totals = batch.get("totals") or count(params, batch, frozen)
    share = totals["threes"] / totals["weight"]
    extra = share * (params["embed"][batch["tokens"]].sum(-1) * batch["weights"]).sum()
    return loss + extra, sums


def count(params, batch, frozen):
    threes = ((batch["tokens"] == 3) * batch["weights"]).sum()
    return {"threes": threes, "weight": batch["weights"].sum()}


def test_totals_of_the_whole_step_reach_every_microbatch(plain):
    whole, _ = run(loss=balance, prepass=count)
    parts, _ = run(loss=balance, prepass=count, microbatches=4)
    assert_same(parts.params, whole.params)
    local, _ = run(loss=balance, microbatches=4)
    assert not np.allclose(local.params["embed"], whole.params["embed"], atol=1e-5)


def carrying(params, batch, frozen):
    """The loss times 1 and the small tokens that the step carries here; counts small tokens."""
    loss, sums = toy.loss(params, batch)
    small = (batch["tokens"] < 8).sum(dtype=jnp.float32)[None, None]
    counted = batch.get("counted", jnp.zeros_like(small))
    return loss * (1 + counted.sum()), {**sums, "expert_counts": small}


def small_in(rows):
    return float((rows["tokens"] < 8).sum())


def test_what_is_counted_in_earlier_microbatches_reaches_the_later_ones():
    step = make_step(carrying, TX, microbatches=2, carry="microbatch")
    state = create(toy.init(), TX)
    _, metrics = step(state, toy.batch(0))
    halves = [{name: value[m::2] for name, value in toy.batch(0).items()} for m in range(2)]
    first, second = (float(toy.loss(toy.init(), half)[0]) for half in halves)
    want = first + second * (1 + small_in(halves[0]))
    assert float(metrics["loss"] * metrics["weight"]) == pytest.approx(want, rel=1e-5)
    assert "expert_counts" not in metrics and small_in(halves[0]) > 0


@pytest.mark.parametrize("microbatches", [1, 4])
def test_what_a_step_counts_is_in_its_state_and_reaches_the_next_step(microbatches):
    tx = expert_counts.remember(TX, 1, 1)
    step = make_step(carrying, tx, microbatches=microbatches, carry="step")
    state, first = step(create(toy.init(), tx), toy.batch(0))
    np.testing.assert_allclose(expert_counts.last(state.opt_state), small_in(toy.batch(0)))
    want = float(toy.loss(state.params, toy.batch(1))[0]) * (1 + small_in(toy.batch(0)))
    assert float(first["loss"] * first["weight"]) == pytest.approx(
        float(toy.loss(toy.init(), toy.batch(0))[0]), rel=1e-5
    )
    _, second = step(state, toy.batch(1))
    assert float(second["loss"] * second["weight"]) == pytest.approx(want, rel=1e-5)


def test_a_carry_that_cannot_be_is_named():
    with pytest.raises(ValueError, match="carry 'epoch' is none of None, 'microbatch', 'step'"):
        make_step(toy.loss, TX, carry="epoch")
    with pytest.raises(ValueError, match="keeps no expert counts"):
        make_step(carrying, TX, carry="step")(create(toy.init(), TX), toy.batch(0))


def test_each_device_keeps_its_own_rows_in_every_microbatch():
    """No collective moves rows: the compiled split of a sharded batch has no all-to-all."""
    mesh = make_mesh(MeshConfig(data=8, fsdp=1))
    with jax.set_mesh(mesh):
        batch = {k: jax.device_put(v, batch_sharding(mesh)) for k, v in toy.batch(0).items()}
        text = make_step(toy.loss, TX, microbatches=2).lower(create(toy.init(), TX), batch)
        compiled = text.compile().as_text()
    assert not any(word in compiled for word in ("all-to-all", "all-gather", "collective-permute"))
    assert "all-reduce" in compiled


def test_a_batch_of_weight_zero_moves_nothing_and_says_so():
    step = make_step(toy.loss, TX)
    state = create(toy.init(), TX)
    batch = toy.batch(0)
    batch["weights"] = np.zeros_like(batch["weights"])
    new, metrics = step(state, batch)
    assert_same(new.params, toy.init(), tolerance=0)
    assert int(new.step) == 1 and float(metrics["skipped"]) == 1 and float(metrics["loss"]) == 0
    assert int(optax.tree_utils.tree_get(new.opt_state, "count")) == 0


def test_a_skipped_spike_shows_in_the_metrics():
    config = OptimConfig(peak=0.1, warmup=0, schedule="constant", skip_spikes=2.0)
    tx = optim.build(config, optim.schedule(config, 20))
    step = make_step(lambda p, b, f: (jnp.nan * p["embed"].sum(), {"weight": jnp.float32(1)}), tx)
    state, metrics = step(create(toy.init(), tx), toy.batch(0))
    assert float(metrics["skipped"]) == 1
    assert_same(state.params, toy.init(), tolerance=0)


def test_the_old_state_is_donated():
    state = create(toy.init(), TX)
    make_step(toy.loss, TX)(state, toy.batch(0))
    assert state.params["embed"].is_deleted()


def test_rows_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="16 rows of 't[a-z]*' do not divide into 3"):
        run(microbatches=3)
    with pytest.raises(ValueError, match="at least 1"):
        make_step(toy.loss, TX, microbatches=0)


def test_a_loss_without_weight_is_refused():
    with pytest.raises(ValueError, match="without 'weight'"):
        run(loss=lambda p, b, f: (p["embed"].sum(), {}))
