"""A folder in the Hugging Face layout: found or downloaded, listed, and replaced as a whole."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from qwen3.model import tensor_file
from qwen3.model.tensor_file import StoredTensor

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
_OURS = {"config.json", "generation_config.json", INDEX, *TOKENIZER_FILES}


def find(name: str | Path, *, revision: str | None = None) -> Path:
    """A local folder as it is, else the Hub repository of that name, downloaded or from its cache.

    revision: branch, tag or commit of the repository. Raises FileNotFoundError when there is
    neither, or no network to ask.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if str(name).count("/") != 1 or str(name)[0] in "./~":
        raise FileNotFoundError(
            f"{str(name)!r} is no folder; give one that holds config.json and *.safetensors, "
            'or a Hub name such as "Qwen/Qwen3-0.6B"'
        )
    import huggingface_hub

    wanted = ["config.json", "generation_config.json", "*.safetensors", INDEX, *TOKENIZER_FILES]
    wanted.append("adapter_config.json")
    try:
        return Path(
            huggingface_hub.snapshot_download(str(name), revision=revision, allow_patterns=wanted)
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise FileNotFoundError(
            f"{str(name)!r} is no folder here; {', '.join(wanted)} of that Hub repository would be "
            f"downloaded, which failed ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}). Without a network, run `hf download {name}` "
            "where there is one, and give the folder; a gated model needs `hf auth login` first"
        ) from error


def read_json(path: Path) -> dict:
    """Raises FileNotFoundError or ValueError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} holds no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of one model.safetensors or of the files that the index names.

    Raises FileNotFoundError naming the files that are not there; ValueError when a file is
    damaged or does not hold what the index says it holds.
    """
    weight_map: dict[str, str] = {}
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map", {})
        files = sorted(set(weight_map.values()))
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(files) != 1:
            held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"{folder} holds neither {INDEX} nor one .safetensors file, but {held}"
            )
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise FileNotFoundError(f"{folder}: {INDEX} names {', '.join(absent)}, not there")
    found: dict[str, StoredTensor] = {}
    for file in files:
        header = tensor_file.read_header(folder / file)
        astray = [name for name in header if weight_map.get(name, file) != file]
        if twice := [name for name in header if name in found] or astray:
            raise ValueError(f"{folder / file}: {twice[0]} is also, or should be, in another file")
        found |= header
    return found


def split(sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]], shard_bytes: int) -> list[dict]:
    """`sizes` cut, in order, into files of at most `shard_bytes` of tensors each."""
    shards: list[dict] = [{}]
    room = shard_bytes
    for name, (dtype, shape) in sizes.items():
        need = dtype.itemsize * math.prod(shape)
        if need > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = (dtype, shape)
        room -= need
    return shards


def replace(
    folder: Path,
    sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    arrays: Iterator[tuple[str, np.ndarray]],
    shard_bytes: int,
    texts: Mapping[str, str],
    files: tuple[Path, ...],
) -> None:
    """Write everything into a folder beside `folder`, sync it, and exchange the two.

    texts: file name -> content. files: copied. Raises ValueError when `folder` is a file or holds
    what is no part of an export (it would be lost), OSError naming the bytes when they do not fit.
    """
    folder = folder.expanduser().resolve()
    copies = {path.name: path for path in map(Path, files)}
    _check_target(folder, set(texts) | set(copies))
    folder.parent.mkdir(parents=True, exist_ok=True)
    need = sum(dtype.itemsize * math.prod(shape) for dtype, shape in sizes.values())
    free = shutil.disk_usage(folder.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need:,} bytes do not fit, {free:,} are free", str(folder))
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    try:
        for name, path in copies.items():
            shutil.copyfile(path, partial / name)
        _write_shards(partial, sizes, arrays, shard_bytes, need)
        for name, text in texts.items():
            (partial / name).write_text(text + "\n", encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _sync(path)
        _exchange(partial, folder)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror} while writing {need:,} bytes of tensors "
            f"({shutil.disk_usage(folder.parent).free:,} are free); what was there before is whole",
            str(folder),
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync(folder.parent)


def _check_target(folder: Path, known: set[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an export is a folder")
    held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    other = sorted(n for n in held if n not in _OURS | known and not n.endswith(".safetensors"))
    if other:
        raise ValueError(
            f"{folder} would be replaced, but holds {', '.join(other[:5])}, no part of an export; "
            "choose another folder"
        )


def _write_shards(
    folder: Path,
    sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    arrays: Iterator[tuple[str, np.ndarray]],
    shard_bytes: int,
    need: int,
) -> None:
    shards = split(sizes, shard_bytes)
    if len(shards) == 1:
        tensor_file.write(folder / "model.safetensors", shards[0], arrays)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        tensor_file.write(folder / file, shard, arrays)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": need}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """To the disk: a full one must show before the exchange."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Put `new` where `old` is; where the system can, in one step that no kill can fall into."""
    if not old.exists():
        os.rename(new, old)
        return
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, atomically = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap and swap(here, os.fsencode(new), here, os.fsencode(old), atomically) == 0:
        return  # `new` now holds the old one, which the caller removes
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside)
    warnings.warn(f"{old}: this file system cannot exchange two folders in one step", stacklevel=2)
