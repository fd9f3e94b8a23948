"""Hugging Face checkpoints <-> our parameters, tensor by tensor, by the table in hf_names.

Reading: the arrays are allocated empty on their devices and filled layer by layer; each process
maps only the slices that its own devices hold. Host memory is one layer of one matrix, not the
model. Writing goes the same way back, into a folder beside the target that then replaces it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from qwen3 import hosts
from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.hosts import local_folder
from qwen3.model import hf_config, hf_folder, hf_layouts, tensor_file, transformer
from qwen3.model import hf_names as names
from qwen3.model.hf_names import Row
from qwen3.model.sizes import ModelConfig
from qwen3.model.tensor_file import StoredTensor


def load_params(
    folder: str | Path, config: ModelConfig, mesh: Mesh | None = None, dtype: Any = None
) -> dict:
    """The parameters in a Hugging Face folder, sharded over `mesh` (None: the first device).

    dtype: of every array; None keeps what is stored (of a stack the widest). Raises ValueError
    naming missing, extra and mis-shaped tensors, truncated files, an axis that the mesh does not
    divide; FileNotFoundError when the folder holds no safetensors.
    """
    stored = hf_layouts.standard(hf_folder.tensors(local_folder(folder)), config)
    _check_names(stored, config, folder)
    _check_shapes(stored, config)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
    shardings = meshes.shardings_of(transformer.abstract(config, jnp.float32), mesh)
    params: dict = {}
    for row in names.rows(config):
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
    """One leaf; a stack over layers is allocated empty and filled in place, never copied."""
    layers = range(config.layers) if row.stacked else (0,)
    members = [_members(row, stored, layer, config) for layer in layers]
    dtype = jnp.dtype(dtype or jnp.result_type(*{t.dtype for ts in members for t in ts}))
    shape, block_shape = names.our_shape(row, config), names.their_shape(row, config)
    block_sharding = NamedSharding(sharding.mesh, names.their_spec(row, sharding.spec))
    hosts.alive()
    if not row.stacked:
        block = _block(members[0], row, block_shape, block_sharding)
        return _converter(row.ours, row.theirs, shape, dtype, sharding)(block)
    fill = _filler(row.ours, row.theirs, shape, dtype, sharding)
    stack = _empty((config.layers, *shape), dtype, sharding)()
    for layer, tensors in enumerate(members):
        hosts.alive()
        stack = fill(stack, _block(tensors, row, block_shape, block_sharding), layer)
        stack.block_until_ready()  # else blocks queue up on the host faster than devices take them
    return stack


# The next three are cached so that leaves of one shape, and later loads, share a compilation.


@lru_cache(maxsize=256)
def _converter(
    ours: str, theirs: str, shape: tuple, dtype: np.dtype, sharding: NamedSharding
) -> Callable:
    def convert(block: jax.Array) -> jax.Array:
        return names.to_ours(block, ours, theirs, shape).astype(dtype)

    return jax.jit(convert, out_shardings=sharding)


@lru_cache(maxsize=256)
def _filler(
    ours: str, theirs: str, shape: tuple, dtype: np.dtype, sharding: NamedSharding
) -> Callable:
    def fill(stack: jax.Array, block: jax.Array, layer: jax.Array) -> jax.Array:
        new = names.to_ours(block, ours, theirs, shape).astype(dtype)
        return jax.lax.dynamic_update_index_in_dim(stack, new, layer, 0)

    return jax.jit(fill, donate_argnums=0, out_shardings=sharding)


@lru_cache(maxsize=256)
def _empty(shape: tuple, dtype: np.dtype, sharding: NamedSharding) -> Callable:
    return jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)


def _members(
    row: Row, stored: dict[str, StoredTensor], layer: int, config: ModelConfig
) -> list[StoredTensor]:
    experts = range(config.experts) if row.by_expert else (0,)
    return [stored[row.name.format(l=layer, e=e)] for e in experts]


def _block(
    tensors: list[StoredTensor], row: Row, shape: tuple[int, ...], sharding: NamedSharding
) -> jax.Array:
    """One layer of one leaf in the checkpoint's layout; each process reads its devices' slices."""
    dtype = jnp.result_type(*{tensor.dtype for tensor in tensors})

    def slice_of(index: Any) -> np.ndarray:  # a tuple of one slice an axis
        if not row.by_expert:
            return np.ascontiguousarray(tensors[0].map()[index])
        return np.stack([tensor.map()[index[1:]] for tensor in tensors[index[0]]], dtype=dtype)

    return jax.make_array_from_callback(shape, sharding, slice_of, dtype=dtype)


def _check_names(stored: dict[str, StoredTensor], config: ModelConfig, folder: Any) -> None:
    count = names.tensor_count(config)
    if count > 2 * len(stored) + 1000:  # before any of them is named: config.json may be hostile
        raise ValueError(
            f"{folder}: config.json describes {count:,} tensors ({config.layers:,} layers, "
            f"{config.experts:,} experts), the files hold {len(stored):,}"
        )
    expected = names.tensor_shapes(config)
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
        for name, shape in names.tensor_shapes(config).items()
        if stored[name].shape != shape
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} mis-shaped tensors: " + "; ".join(wrong[:4]))


def _compare_tied(head: StoredTensor, embed: StoredTensor | None, folder: Any) -> None:
    """Warn when a stored head differs from the embedding that it is tied to.

    The public 0.6B stores a copy of its tied head. The embedding is used, as in transformers.
    """
    same = (
        embed is not None
        and head.shape == embed.shape
        and all(
            np.array_equal(head.map()[i : i + 4096], embed.map()[i : i + 4096])
            for i in range(0, head.shape[0], 4096)
        )
    )
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
    shard_bytes: int = hf_folder.SHARD_BYTES,
    generation: dict[str, Any] | None = None,
    files: tuple[Path, ...] = (),
) -> None:
    """Write a folder that transformers 4 and 5, vLLM and SGLang read, replacing an older one.

    dtype: of the tensors written; None keeps each array's own. shard_bytes: largest size of a file,
    except that a larger tensor gets a file of its own. generation: generation_config.json, whose
    token ids go into config.json too. files: copied as they are (tokenizer, chat template).
    With several processes all must call it; the first one writes. Raises ValueError when `params`
    is not a tree of this config or the target holds files that are not of an export, OSError
    naming the bytes needed when the disk is full; the old folder is then left as it was.
    """
    folder = local_folder(folder)
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; it is at least 1")
    if dtype is not None and np.dtype(dtype) not in tensor_file.CODES:
        raise ValueError(f"dtype {np.dtype(dtype)} is none of {_dtype_names()}")
    params = nn.unbox(params)
    sizes = _sizes(config, params, dtype)
    tensors = _tensors(config, params, sizes)
    if jax.process_index() == 0:
        named = ("bos_token_id", "eos_token_id", *(["pad_token_id"] if config.scalar_head else ()))
        dtype_name = sizes["model.embed_tokens.weight"][0].name
        raw = hf_config.to_hf(config, dtype_name, _ids(generation, named))
        texts = {
            "config.json": json.dumps(raw, indent=2),
            "generation_config.json": json.dumps(generation or {"do_sample": True}, indent=2),
        }
        try:
            hf_folder.replace(folder, sizes, tensors, texts, files, shard_bytes=shard_bytes)
        finally:
            _finish(tensors, folder)
    else:
        _finish(tensors, folder)


def _finish(tensors: Iterator, folder: Any) -> None:
    """With several processes: all gather the remaining tensors, also after an error, and wait."""
    if jax.process_count() > 1:
        for _ in tensors:
            pass
        multihost_utils.sync_global_devices(f"saved {folder}")


def _ids(generation: dict[str, Any] | None, named: tuple[str, ...]) -> dict[str, Any]:
    """The named ids for config.json: one each, the first where generation stops at several."""
    ids = {k: v for k, v in (generation or {}).items() if k in named}
    return {k: v[0] if isinstance(v, list) else v for k, v in ids.items()}


def _dtype_names() -> str:
    return ", ".join(dtype.name for dtype in tensor_file.CODES)


def _sizes(
    config: ModelConfig, params: dict, dtype: Any
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor to be written.

    Raises ValueError when the tree, a shape or a dtype is not one that this config can be written
    with.
    """
    dtypes = {}
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    table = {row.path: row for row in names.rows(config)}
    if leaves.keys() != table.keys():
        raise ValueError(
            f"the parameters are not those of {config.name!r}: "
            f"missing {sorted(table.keys() - leaves.keys())}, "
            f"unknown {sorted(leaves.keys() - table.keys())}"
        )
    for path, row in table.items():
        shape = (config.layers,) * row.stacked + names.our_shape(row, config)
        if leaves[path].shape != shape:
            raise ValueError(
                f"{path} is {list(leaves[path].shape)}, {config.name!r}: {list(shape)}"
            )
        dtypes[path] = np.dtype(dtype or leaves[path].dtype)
        if dtypes[path] not in tensor_file.CODES:
            raise ValueError(f"{path} is {dtypes[path]}; a checkpoint holds {_dtype_names()}")
    sizes = {}
    for row, layer in names.order(config):
        shape = names.their_shape(row, config)
        for e in range(shape[0]) if row.by_expert else (None,):
            name = row.name.format(l=layer, e=e)
            sizes[name] = (dtypes[row.path], shape[1:] if row.by_expert else shape)
    return sizes


def _tensors(config: ModelConfig, params: dict, sizes: dict) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) in the order of `sizes`; the host holds one layer of one leaf at a time."""
    for row, layer in names.order(config):
        block = _take(
            _get(params, row.path),
            layer or 0,
            row=(row.ours, row.theirs, row.stacked),
            shape=names.their_shape(row, config),
            dtype=sizes[row.name.format(l=layer, e=0)][0],
        )
        if block.is_fully_addressable:
            block = np.asarray(block)
        else:
            block = multihost_utils.process_allgather(block, tiled=True)
        if row.by_expert:
            yield from ((row.name.format(l=layer, e=e), block[e]) for e in range(len(block)))
        else:
            yield row.name.format(l=layer), block


@partial(jax.jit, static_argnames=("row", "shape", "dtype"))
def _take(
    leaf: jax.Array, layer: jax.Array, *, row: tuple, shape: tuple, dtype: np.dtype
) -> jax.Array:
    """One layer of a leaf in the checkpoint's layout."""
    ours, theirs, stacked = row
    if stacked:
        leaf = jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False)
    return names.to_theirs(leaf, ours, theirs, shape).astype(dtype)


def _get(tree: dict, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _put(tree: dict, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value
