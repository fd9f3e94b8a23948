"""Hugging Face checkpoints <-> our parameters, tensor by tensor, by one table of names.

Reading: the arrays are made empty where they will live, and filled layer by layer; each process
maps only the slices that its own devices hold. Host memory is one layer of one matrix, not the
model. Writing goes the same way back, into a folder beside the target that then takes its place.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.model import hf_config, hf_folder, tensor_file, transformer
from qwen3.model.sizes import ModelConfig
from qwen3.model.tensor_file import StoredTensor


@dataclass(frozen=True)
class Row:
    """One leaf of our tree: its path, its axes, the tensors it is made of and their axes.

    `name` holds {l} for the layer and {e} for the expert that a tensor belongs to. An axis of
    theirs is one letter of ours or several merged: "NH" is heads x head_dim, heads outermost.
    """

    path: str
    ours: str
    name: str
    theirs: str

    @property
    def stacked(self) -> bool:
        return "{l}" in self.name

    @property
    def by_expert(self) -> bool:
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
)


def rows(config: ModelConfig) -> list[Row]:
    """The rows of the table that a model of this config has."""
    absent = {"layers.mlp." if config.moe else "layers.moe.", "head" if config.tied else "-"}
    return [row for row in TABLE if not row.path.startswith(tuple(absent))]


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint of this config, in the order of the network -> its shape."""
    shapes = {}
    for row, layer in _order(config):
        shape = _their_shape(row, config)
        if row.by_expert:
            shapes |= {row.name.format(l=layer, e=e): shape[1:] for e in range(shape[0])}
        else:
            shapes[row.name.format(l=layer)] = shape
    return shapes


def _order(config: ModelConfig) -> Iterator[tuple[Row, int | None]]:
    """(row, layer) from the embedding to the head; layer is None for what no layer holds."""
    table = rows(config)
    first = next(i for i, row in enumerate(table) if row.stacked)
    yield from ((row, None) for row in table[:first])
    for layer in range(config.layers):
        yield from ((row, layer) for row in table if row.stacked)
    yield from ((row, None) for row in table[first:] if not row.stacked)


def _lengths(config: ModelConfig) -> dict[str, int]:
    return {
        "V": config.vocab, "D": config.hidden, "N": config.heads, "K": config.kv_heads,
        "H": config.head_dim, "E": config.experts,
        "F": config.expert_ffn if config.moe else config.ffn,
    }  # fmt: skip


def _their_shape(row: Row, config: ModelConfig) -> tuple[int, ...]:
    lengths = _lengths(config)
    return tuple(int(np.prod([lengths[a] for a in group])) for group in row.theirs.split())


def _their_spec(row: Row, ours: P) -> P:
    """Their axes' partition: of a merged axis the outermost letter is the one that is sharded."""
    letters = row.ours.split()
    axes = dict(zip(letters, ours[len(ours) - len(letters) :], strict=True))
    return P(*(axes[group[0]] for group in row.theirs.split()))


def _to_ours(x: jax.Array, row: Row, lengths: dict[str, int]) -> jax.Array:
    letters = [a for group in row.theirs.split() for a in group]
    x = x.reshape([lengths[a] for a in letters])
    return x.transpose([letters.index(a) for a in row.ours.split()])


def _to_theirs(x: jax.Array, row: Row, shape: tuple[int, ...]) -> jax.Array:
    ours = row.ours.split()
    return x.transpose([ours.index(a) for group in row.theirs.split() for a in group]).reshape(shape)


def load_params(
    folder: str | Path, config: ModelConfig, mesh: Mesh | None = None, dtype: Any = None
) -> dict:
    """The parameters in a Hugging Face folder, sharded over `mesh` (None: the first device).

    dtype: of every array; None keeps what is stored (of a stack the widest). Raises ValueError
    naming missing, extra and mis-shaped tensors, truncated files, an axis that the mesh does not
    divide; FileNotFoundError when the folder holds no safetensors.
    """
    stored = hf_folder.tensors(Path(folder))
    _check_names(stored, config, folder)
    _check_shapes(stored, config)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
    shardings = meshes.shardings_of(transformer.abstract(config, jnp.float32), mesh)
    params: dict = {}
    for row in rows(config):
        sharding = _get(shardings, row.path)
        _put(params, row.path, _read(row, stored, config, sharding, dtype))
    return params


def _read(
    row: Row,
    stored: dict[str, StoredTensor],
    config: ModelConfig,
    sharding: NamedSharding,
    dtype: Any,
) -> jax.Array:
    """One leaf, filled layer by layer in place: the donated stack is never copied."""
    lengths, shape = _lengths(config), _their_shape(row, config)
    block_sharding = NamedSharding(sharding.mesh, _their_spec(row, sharding.spec))
    layers = range(config.layers) if row.stacked else (0,)
    members = {layer: _members(row, stored, layer, config) for layer in layers}
    kinds = {tensor.dtype for tensors in members.values() for tensor in tensors}
    dtype = jnp.dtype(dtype or jnp.result_type(*kinds))

    if not row.stacked:
        block = _block(members[0], row, shape, block_sharding)
        convert = jax.jit(lambda x: _to_ours(x, row, lengths).astype(dtype), out_shardings=sharding)
        return convert(block)

    def fill(stack, block, layer):
        return jax.lax.dynamic_update_index_in_dim(
            stack, _to_ours(block, row, lengths).astype(dtype), layer, 0
        )

    whole = (config.layers, *(lengths[a] for a in row.ours.split()))
    stack = jax.jit(partial(jnp.zeros, whole, dtype), out_shardings=sharding)()
    fill = jax.jit(fill, donate_argnums=0, out_shardings=sharding)
    for layer, tensors in members.items():
        stack = fill(stack, _block(tensors, row, shape, block_sharding), layer)
        stack.block_until_ready()  # else blocks queue up on the host faster than devices take them
    return stack


def _members(
    row: Row, stored: dict[str, StoredTensor], layer: int, config: ModelConfig
) -> list[StoredTensor]:
    experts = range(config.experts) if row.by_expert else (0,)
    return [stored[row.name.format(l=layer, e=e)] for e in experts]


def _block(
    tensors: list[StoredTensor], row: Row, shape: tuple[int, ...], sharding: NamedSharding
) -> jax.Array:
    """One layer of one leaf in their layout, each device given only the slice it holds."""
    dtype = np.result_type(*{tensor.dtype for tensor in tensors})

    def slice_of(index):
        if not row.by_expert:
            return np.ascontiguousarray(tensors[0].map()[index])
        return np.stack([tensor.map()[index[1:]] for tensor in tensors[index[0]]], dtype=dtype)

    return jax.make_array_from_callback(shape, sharding, slice_of)


def _check_names(stored: dict[str, StoredTensor], config: ModelConfig, folder: Any) -> None:
    expected = tensor_shapes(config)
    if config.tied and "lm_head.weight" in stored:
        _compare_tied(stored.pop("lm_head.weight"), stored.get("model.embed_tokens.weight"), folder)
    missing = [name for name in expected if name not in stored]
    extra = [name for name in stored if name not in expected]
    if missing or extra:
        raise ValueError(
            f"{folder}: the tensors are not those of config.json"
            + (f"; {len(missing)} missing: {_some(missing)}" if missing else "")
            + (f"; {len(extra)} unknown: {_some(extra)}" if extra else "")
        )


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _check_shapes(stored: dict[str, StoredTensor], config: ModelConfig) -> None:
    wrong = [
        f"{name} is {list(stored[name].shape)}, config.json makes it {list(shape)}"
        for name, shape in tensor_shapes(config).items()
        if stored[name].shape != shape
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} mis-shaped tensors: " + "; ".join(wrong[:4]))


def _compare_tied(head: StoredTensor, embed: StoredTensor | None, folder: Any) -> None:
    """The public 0.6B stores a copy of its tied head. The embedding serves, as in transformers."""
    same = embed is not None and head.shape == embed.shape and all(
        np.array_equal(head.map()[i : i + 4096], embed.map()[i : i + 4096])
        for i in range(0, head.shape[0], 4096)
    )  # fmt: skip
    if not same:
        warnings.warn(
            f"{folder}: tie_word_embeddings is true but lm_head.weight differs from "
            "model.embed_tokens.weight; the embedding is used for both",
            stacklevel=4,
        )


def save(
    folder: str | Path,
    config: ModelConfig,
    params: dict,
    *,
    dtype: Any = None,
    shard_bytes: int = 5_000_000_000,
    generation: dict[str, Any] | None = None,
    files: tuple[Path, ...] = (),
) -> None:
    """Write a folder that transformers 4 and 5, vLLM and SGLang read; an older one is replaced whole.

    dtype: of the tensors written, None for what each array has. shard_bytes: of one file at most,
    save that a larger tensor gets a file of its own. generation: generation_config.json, whose
    token ids go into config.json too. files: copied as they are (tokenizer, chat template).
    On several processes all must call it; the first one writes. Raises ValueError when `params`
    is not a tree of this config or the target holds files that are no export, OSError naming
    the bytes needed when the disk is full; the old folder is then as it was.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; it is at least 1")
    if dtype is not None and np.dtype(dtype) not in tensor_file.CODES:
        raise ValueError(f"dtype {np.dtype(dtype)} is none of {_dtype_names()}")
    params = nn.unbox(params)
    sizes = _sizes(config, params, dtype)
    tensors = _tensors(config, params, sizes)
    if jax.process_index() == 0:
        raw = hf_config.to_hf(config, sizes["model.embed_tokens.weight"][0].name, _ids(generation))
        texts = {
            "config.json": json.dumps(raw, indent=2),
            "generation_config.json": json.dumps(generation or {"do_sample": True}, indent=2),
        }
        hf_folder.replace(Path(folder), sizes, tensors, shard_bytes, texts, files)
    else:
        for _ in tensors:  # every process takes part in the gathering
            pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {folder}")


def _ids(generation: dict[str, Any] | None) -> dict[str, Any]:
    """bos and eos of config.json: one id each, the first where generation stops at several."""
    ids = {k: v for k, v in (generation or {}).items() if k in ("bos_token_id", "eos_token_id")}
    return {k: v[0] if isinstance(v, list) else v for k, v in ids.items()}


def _dtype_names() -> str:
    return ", ".join(dtype.name for dtype in tensor_file.CODES)


def _sizes(
    config: ModelConfig, params: dict, dtype: Any
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor to be written, after a look over the whole tree."""
    lengths, kinds = _lengths(config), {}
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    table = {row.path: row for row in rows(config)}
    if leaves.keys() != table.keys():
        raise ValueError(
            f"the parameters are not those of {config.name!r}: "
            f"missing {sorted(table.keys() - leaves.keys())}, "
            f"unknown {sorted(leaves.keys() - table.keys())}"
        )
    for path, row in table.items():
        want = tuple(lengths[a] for a in row.ours.split())
        want = (config.layers, *want) if row.stacked else want
        if leaves[path].shape != want:
            raise ValueError(f"{path} is {list(leaves[path].shape)}, {config.name!r}: {list(want)}")
        kinds[path] = np.dtype(dtype or leaves[path].dtype)
        if kinds[path] not in tensor_file.CODES:
            raise ValueError(f"{path} is {kinds[path]}; a checkpoint holds {_dtype_names()}")
    sizes = {}
    for row, layer in _order(config):
        shape, kind = _their_shape(row, config), kinds[row.path]
        for e in range(shape[0]) if row.by_expert else (None,):
            name = row.name.format(l=layer, e=e)
            sizes[name] = (kind, shape[1:] if row.by_expert else shape)
    return sizes


def _tensors(config: ModelConfig, params: dict, sizes: dict) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) in the order of `sizes`; on the host there is one layer of one leaf at a time."""
    takes = {}
    for row, layer in _order(config):
        if row.path not in takes:
            dtype = sizes[row.name.format(l=0, e=0)][0]
            takes[row.path] = jax.jit(partial(_take, row=row, config=config, dtype=dtype))
        block = takes[row.path](_get(params, row.path), layer or 0)
        if block.is_fully_addressable:
            block = np.asarray(block)
        else:
            block = multihost_utils.process_allgather(block, tiled=True)
        if row.by_expert:
            yield from ((row.name.format(l=layer, e=e), block[e]) for e in range(len(block)))
        else:
            yield row.name.format(l=layer), block


def _take(leaf: jax.Array, layer: jax.Array, *, row: Row, config: ModelConfig, dtype: np.dtype):
    one = jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False) if row.stacked else leaf
    return _to_theirs(one, row, _their_shape(row, config)).astype(dtype)


def _get(tree: dict, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _put(tree: dict, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value
