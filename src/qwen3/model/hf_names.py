"""The table of names: what each leaf of our parameter tree is called in a Hugging Face checkpoint.

Each row also says, in letters, how the axes of the two correspond; the shapes, the transposes and
the partition of a checkpoint's tensors all follow from it. "Ours" is our tree, "theirs" the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from qwen3.model.sizes import ModelConfig


@dataclass(frozen=True)
class Row:
    """One leaf of our tree and the tensors that it is made of."""

    path: str  # of the leaf, dotted
    ours: str  # the leaf's axes, one letter each, without the stack over layers
    name: str  # of the tensors, with {l} for the layer and {e} for the expert
    theirs: str  # the tensor's axes; merged ones as "NH", heads x head_dim with heads outermost

    @property
    def stacked(self) -> bool:
        """Whether each layer has a tensor of its own."""
        return "{l}" in self.name

    @property
    def by_expert(self) -> bool:
        """Whether each expert has a tensor of its own."""
        return "{e}" in self.name


_LAYER = "model.layers.{l}."
_EXPERT = _LAYER + "mlp.experts.{e}."

TABLE = (
    Row("embed", "V D", "model.embed_tokens.weight", "V D"),
    Row("layers.attention_norm", "D", _LAYER + "input_layernorm.weight", "D"),
    Row("layers.attention.query", "D N H", _LAYER + "self_attn.q_proj.weight", "NH D"),
    Row("layers.attention.key", "D K H", _LAYER + "self_attn.k_proj.weight", "KH D"),
    Row("layers.attention.value", "D K H", _LAYER + "self_attn.v_proj.weight", "KH D"),
    Row("layers.attention.out", "N H D", _LAYER + "self_attn.o_proj.weight", "D NH"),
    Row("layers.attention.query_norm", "H", _LAYER + "self_attn.q_norm.weight", "H"),
    Row("layers.attention.key_norm", "H", _LAYER + "self_attn.k_norm.weight", "H"),
    Row("layers.mlp_norm", "D", _LAYER + "post_attention_layernorm.weight", "D"),
    Row("layers.mlp.gate", "D F", _LAYER + "mlp.gate_proj.weight", "F D"),
    Row("layers.mlp.up", "D F", _LAYER + "mlp.up_proj.weight", "F D"),
    Row("layers.mlp.down", "F D", _LAYER + "mlp.down_proj.weight", "D F"),
    Row("layers.moe.router", "D E", _LAYER + "mlp.gate.weight", "E D"),
    Row("layers.moe.gate", "E D F", _EXPERT + "gate_proj.weight", "E F D"),
    Row("layers.moe.up", "E D F", _EXPERT + "up_proj.weight", "E F D"),
    Row("layers.moe.down", "E F D", _EXPERT + "down_proj.weight", "E D F"),
    Row("final_norm", "D", "model.norm.weight", "D"),
    Row("head", "V D", "lm_head.weight", "V D"),
    Row("score", "O D", "score.weight", "O D"),  # of a reward model, one output
)


def rows(config: ModelConfig) -> list[Row]:
    """The rows of the table for the parameters that a model of this config has."""
    absent = {"layers.mlp." if config.moe else "layers.moe."}
    if config.tied or config.scalar_head:
        absent.add("head")
    if not config.scalar_head:
        absent.add("score")
    return [row for row in TABLE if not row.path.startswith(tuple(absent))]


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a checkpoint of this config, from embedding to head."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row, layer in order(config):
        shape = their_shape(row, config)
        if row.by_expert:
            shapes |= {row.name.format(l=layer, e=e): shape[1:] for e in range(shape[0])}
        else:
            shapes[row.name.format(l=layer)] = shape
    return shapes


def tensor_count(config: ModelConfig) -> int:
    """Number of tensors of a checkpoint of this config, without listing them."""
    return sum(
        (config.layers if row.stacked else 1) * (config.experts if row.by_expert else 1)
        for row in rows(config)
    )


def order(config: ModelConfig) -> Iterator[tuple[Row, int | None]]:
    """(row, layer) from the embedding to the head; layer is None outside of the blocks."""
    table = rows(config)
    first = next(i for i, row in enumerate(table) if row.stacked)
    yield from ((row, None) for row in table[:first])
    for layer in range(config.layers):
        yield from ((row, layer) for row in table if row.stacked)
    yield from ((row, None) for row in table[first:] if not row.stacked)


def lengths_of(config: ModelConfig) -> dict[str, int]:
    """Letter of an axis -> its length."""
    return {
        "V": config.vocab,
        "D": config.hidden,
        "N": config.heads,
        "K": config.kv_heads,
        "H": config.head_dim,
        "E": config.experts,
        "F": config.expert_ffn if config.moe else config.ffn,
        "O": 1,
    }


def their_shape(row: Row, config: ModelConfig) -> tuple[int, ...]:
    """Shape of one layer's tensors, with the experts' as one array [E, ...]."""
    lengths = lengths_of(config)
    return tuple(int(np.prod([lengths[a] for a in group])) for group in row.theirs.split())


def their_spec(row: Row, ours: P) -> P:
    """Partition of one layer's tensors; of a merged axis the outermost letter is sharded."""
    letters = row.ours.split()
    axes = dict(zip(letters, ours[len(ours) - len(letters) :], strict=True))
    return P(*(axes[group[0]] for group in row.theirs.split()))


def our_shape(row: Row, config: ModelConfig) -> tuple[int, ...]:
    """Shape of one layer's share of the leaf."""
    lengths = lengths_of(config)
    return tuple(lengths[a] for a in row.ours.split())


def to_ours(x: jax.Array, ours: str, theirs: str, shape: tuple[int, ...]) -> jax.Array:
    """A tensor in our layout: merged axes split, then transposed to `shape`."""
    lengths = dict(zip(ours.split(), shape, strict=True))
    letters = theirs.replace(" ", "")
    x = x.reshape([lengths[a] for a in letters])
    return x.transpose([letters.index(a) for a in ours.split()])


def to_theirs(x: jax.Array, ours: str, theirs: str, shape: tuple[int, ...]) -> jax.Array:
    """A leaf's layer in the checkpoint's layout: transposed, then merged to `shape`."""
    letters = ours.split()
    return x.transpose([letters.index(a) for a in theirs.replace(" ", "")]).reshape(shape)
