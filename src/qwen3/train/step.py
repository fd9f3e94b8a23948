"""The one train step: gradients of a sum over microbatches, divided once by the total weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3 import mesh
from qwen3.train import expert_counts
from qwen3.train.state import TrainState

# (params, batch, frozen) -> (sum, sums with "weight")
Loss = Callable[[Any, dict, Any], tuple[jax.Array, dict]]
Prepass = Callable[[Any, dict, Any], dict]
CARRIES = (None, "microbatch", "step")  # from where a loss gets earlier selections of experts


def make_step(
    loss_fn: Loss,
    tx: optax.GradientTransformation,
    *,
    microbatches: int | Callable[[int], int] = 1,
    prepass: Prepass | None = None,
    carry: str | None = None,
) -> Step:
    """A jitted (state, batch, frozen=()) -> (state, metrics) that donates `state`.

    `loss_fn(params, batch, frozen) -> (sum, sums)`, sums with "weight" (float32 scalar). Sums and
    gradients of all microbatches are added in fp32 and divided once by the total weight (gradient
    accumulation without bias): neither microbatches, nor padding, nor the mesh changes the update.
    Microbatch m takes rows m, m + M, ... of the batch: each device keeps its own rows, whatever M.
    `microbatches` is their number, or a function that gives it for a batch's number of rows.

    `prepass(params, microbatch, frozen) -> sums`: sums over all microbatches (expert counts for
    the global-batch load-balancing loss, say), taken first and given to the loss as
    batch["totals"]. With one microbatch the loss sees the whole batch by itself, so there is no
    prepass and no "totals".

    `carry`: the loss has the sum "expert_counts", an array that is no metric, and is given as
    batch["counted"] that of the microbatches before in this step ("microbatch"; none at the first),
    or that of the step before ("step"), which `tx` keeps (`expert_counts.remember`).

    metrics: each sum over the weight, "loss", "weight", "grad_norm" (before gradient clipping),
    "update_norm", "param_norm", "skipped" (1 where spike skipping or a weight of 0 left the
    parameters as they were). Raises ValueError when the rows do not divide over the microbatches.
    """
    if not callable(microbatches) and microbatches < 1:
        raise ValueError(f"microbatches is {microbatches}; at least 1 is needed")
    if carry not in CARRIES:
        raise ValueError(f"carry {carry!r} is none of {', '.join(map(repr, CARRIES))}")
    tx = optax.with_extra_args_support(tx)

    def step(
        state: TrainState, batch: dict, frozen: Any, shardings: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        known = {"counted": expert_counts.last(state.opt_state)} if carry == "step" else {}
        loss, sums, grads = _totals(
            loss_fn,
            prepass,
            count_parts(microbatches, batch),
            state.params,
            batch,
            frozen,
            shardings,
            known=known,
            running=carry == "microbatch",
        )
        return _update(tx, state, loss, sums, grads)

    return Step(step)


def count_parts(microbatches: int | Callable[[int], int], batch: dict) -> int:
    """The number of microbatches of a batch, see `make_step`."""
    if not callable(microbatches):
        return microbatches
    return microbatches(next(iter(batch.values())).shape[0])


def _update(
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    loss: jax.Array,
    sums: dict[str, jax.Array],
    grads: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The optimizer step from the sums over a whole batch, and its metrics."""
    weight, counts = sums.pop("weight"), sums.pop("expert_counts", None)
    carried = {} if counts is None else {"expert_counts": counts}
    # A batch without a single weighted token moves nothing; dividing by 0 would give NaN.
    empty = weight == 0
    divisor = jnp.where(empty, 1.0, weight)
    grads = jax.tree.map(lambda g: g / divisor, grads)
    mean = loss / divisor
    with jax.named_scope("optimizer"):
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, step=state.step, value=mean, **carried
        )
        updates = jax.tree.map(lambda u: jnp.where(empty, jnp.zeros_like(u), u), updates)
        opt_state = _choose(empty, state.opt_state, opt_state)
        params = optax.apply_updates(state.params, updates)
    skipped = optax.tree_utils.tree_get(opt_state, "skipped_last", default=jnp.zeros(()))
    metrics = {name: value / divisor for name, value in sums.items()}
    metrics |= {
        "loss": mean,
        "weight": weight,
        "grad_norm": optax.global_norm(grads),
        "update_norm": optax.global_norm(updates),
        "param_norm": optax.global_norm(params),
        "skipped": jnp.where(empty, 1.0, skipped),
    }
    return TrainState(state.step + 1, params, opt_state), metrics


def _totals(
    loss_fn: Loss,
    prepass: Prepass | None,
    microbatches: int,
    params: Any,
    batch: dict,
    frozen: Any,
    shardings: Any,
    *,
    known: dict,
    running: bool,
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """(sum, sums, gradient of the sum) over the batch of one optimizer step, in fp32.

    known: what each microbatch is given besides its rows. running: and "counted", the sum
    "expert_counts" of the microbatches before it.
    """

    def gradient(part: dict) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        (loss, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, part, frozen)
        if "weight" not in sums:
            raise ValueError(f"the loss gives sums {sorted(sums)} without 'weight'")
        grads = _constrain(grads, shardings)
        return _float32((loss, dict(sums), grads))

    if microbatches == 1:
        return gradient({**batch, **known})
    parts = {name: split(name, value, microbatches) for name, value in batch.items()}
    if prepass is not None:
        with jax.named_scope("prepass"):
            totals = _scan_sum(lambda part, _: _float32(prepass(params, part, frozen)), parts)
        # The load-balancing loss holds the global expert counts fixed (arXiv 2501.11873).
        known = {**known, "totals": jax.lax.stop_gradient(totals)}

    def add(part: dict, sums: Any) -> Any:
        earlier = {"counted": sums[1]["expert_counts"]} if running and sums is not None else {}
        return gradient({**part, **known, **earlier})

    return _scan_sum(add, parts)


class Step:
    """The jitted train step. The new state lies where the old one lies, on whatever mesh."""

    def __init__(self, function: Callable) -> None:
        self._function = function
        self._jitted: dict[tuple, Any] = {}  # by the shardings of the state

    def __call__(self, state: TrainState, batch: Any, frozen: Any = ()) -> tuple[TrainState, dict]:
        return self._jit_for(state)(state, batch, frozen)

    def lower(self, state: TrainState, batch: Any, frozen: Any = ()) -> Any:
        """The lowered computation, also of abstract arguments (`state.abstract`)."""
        return self._jit_for(state).lower(state, batch, frozen)

    def _jit_for(self, state: TrainState) -> Any:
        shardings = jax.tree.map(_named_sharding, state)
        key = tuple(jax.tree.leaves(shardings, is_leaf=lambda x: x is None))
        if key not in self._jitted:
            named = [sharding for sharding in key if sharding is not None]
            # Metrics are replicated so that every process can read them.
            everywhere = NamedSharding(named[0].mesh, P()) if named else None

            def step(state: TrainState, batch: Any, frozen: Any) -> tuple[TrainState, dict]:
                return self._function(state, batch, frozen, shardings.params)

            out = (shardings if named else None, everywhere)
            self._jitted[key] = jax.jit(step, donate_argnums=0, out_shardings=out)
        return self._jitted[key]


def _named_sharding(leaf: Any) -> NamedSharding | None:
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None


def _constrain(grads: Any, shardings: Any) -> Any:
    """Gradients where the parameters lie: reduce-scattered, not all-reduced."""

    def constrain(sharding: NamedSharding | None, grad: jax.Array) -> jax.Array:
        return grad if sharding is None else jax.lax.with_sharding_constraint(grad, sharding)

    return jax.tree.map(constrain, shardings, grads, is_leaf=lambda x: x is None)


def split(name: str, value: jax.Array, count: int) -> jax.Array:
    """[B, ...] to [count, B // count, ...], microbatch m being rows m, m + count, ...

    Strided, because contiguous rows of a batch sharded over `data` lie on one device: a microbatch
    of them would leave the other devices idle, or move rows between them.
    """
    rows = value.shape[0]
    if rows % count:
        raise ValueError(f"{rows} rows of {name!r} do not divide into {count} microbatches")
    sizes = mesh.ambient_sizes()
    ways = math.prod(sizes.get(axis, 1) for axis in mesh.BATCH_AXES)
    if rows // count % ways:
        raise ValueError(
            f"a microbatch of {rows // count} rows ({rows} in {count}) does not divide over the "
            f"{ways} devices of the axes {', '.join(mesh.BATCH_AXES)}"
        )
    parts = jnp.moveaxis(value.reshape(rows // count, count, *value.shape[1:]), 1, 0)
    names = (None, "batch", "length")[: value.ndim + 1] + (None,) * (value.ndim - 2)
    return mesh.constrain(parts, *names)


def join(parts: jax.Array) -> jax.Array:
    """[count, B // count, ...] to [B, ...]: the inverse of `split`."""
    rows = jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])
    return mesh.constrain(rows, *("batch", "length")[: rows.ndim], *(None,) * (rows.ndim - 2))


def _scan_sum(function: Callable[[dict, Any], Any], parts: dict) -> Any:
    """Sum of function(part, sum so far) over the leading axis, one part at a time.

    For the shapes of the sum the function is traced with None as the sum so far.
    """
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(lambda part: function(part, None), first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def body(sums: Any, part: dict) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, function(part, sums)), None

    return jax.lax.scan(body, zeros, parts)[0]


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), tree)


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
