"""A folder in the Hugging Face layout: located or downloaded, its tensors listed, or replaced."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

import numpy as np

from qwen3.hosts import local_folder
from qwen3.model import tensor_file
from qwen3.model.tensor_file import StoredTensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # largest file of an export, in bytes, as transformers writes them
# Files beside the model: adapters (PEFT) and copies of its weights in another layout.
SECOND_COPIES = ("adapter_", "consolidated")
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
# The end of a folder's path in a cache of the Hub.
_SNAPSHOT = re.compile(
    r"models--(?P<org>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})"
)
_OURS = {"config.json", "generation_config.json", INDEX, *TOKENIZER_FILES}


def find(name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of that name, else the Hub repository, downloaded or from its cache.

    name: a folder, "org/name", or "org/name@revision"; a folder of another machine's cache of the
    Hub stands for the commit in its path. revision: branch, tag or commit of the repository.
    Raises FileNotFoundError when there is neither, or the network to ask is missing, ValueError for
    a URL, for two revisions, and for a revision of a local folder.
    """
    folder = local_folder(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"revision {revision!r} is of a Hub repository, but {str(name)!r} is a folder here"
            )
        return folder
    repository, _, named = (hub_name(folder) or str(name)).partition("@")
    if repository.count("/") != 1 or repository[0] in "./~":
        raise FileNotFoundError(
            f"{str(name)!r} is no folder; give one that holds config.json and *.safetensors, "
            'or a Hub name such as "Qwen/Qwen3-0.6B"'
        )
    if named and revision not in (None, named):
        raise ValueError(f"{str(name)!r} names a revision, and revision is {revision!r}")
    return _downloaded(repository, named or revision)


def hub_name(folder: Path) -> str | None:
    """ "org/name@commit" of a folder in a cache of the Hub, wherever it is; None for any other."""
    match = _SNAPSHOT.fullmatch("/".join(folder.parts[-3:]))
    return f"{match['org']}/{match['name']}@{match['commit']}" if match else None


def _downloaded(repository: str, revision: str | None) -> Path:
    """The folder of a Hub repository in the cache, after a download of what is not there yet."""
    import huggingface_hub

    wanted = ["config.json", "generation_config.json", "*.safetensors", INDEX, *TOKENIZER_FILES]
    wanted.append("adapter_config.json")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=[*wanted, "additional_chat_templates/*.jinja"],
                # Second copies of the weights, in folders too: `*` matches a slash.
                ignore_patterns=[*(f"*/{pattern}" for pattern in wanted), "consolidated*"],
            )
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        option = f" --revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"{repository!r} is no folder here; {', '.join(wanted)} of that Hub repository would "
            f"be downloaded, which failed ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}). Without a network, run "
            f"`hf download {repository}{option}` where there is one, and give the folder; a gated "
            "model needs `hf auth login` first"
        ) from error


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises FileNotFoundError or ValueError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} holds no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the model in a folder, by its stored name.

    The files are chosen as transformers and vLLM do: `model.safetensors`, else those of the index,
    else all of one set of shards or the only file. Adapters and `consolidated` second copies are
    left aside. Of a tensor that stands in two shards the one that the index names is taken.
    Raises FileNotFoundError naming the files that are missing; ValueError when a file is damaged,
    the index names a path outside of the folder or a tensor that no file holds, or two files hold
    a tensor and no index says which counts.
    """
    weight_map = {}
    if (folder / SINGLE).is_file():
        files = [SINGLE]
        _warn_of_other_shards(folder)
    elif (folder / INDEX).is_file():
        weight_map = _weight_map(folder / INDEX)
        files = sorted(set(weight_map.values()))
    else:
        files = _unindexed(folder)
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise FileNotFoundError(f"{folder}: {INDEX} names {', '.join(absent)}, not there")
    stored: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in tensor_file.read_header(folder / file).items():
            if name in stored and name not in weight_map:
                raise ValueError(f"{folder / file}: {name} is also in {stored[name].path.name}")
            if name not in stored or weight_map[name] == file:
                stored[name] = tensor
    if lost := [name for name in weight_map if name not in stored]:
        raise ValueError(f"{folder / INDEX} names {lost[0]}, which no file holds")
    return stored


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file of an index. Raises ValueError unless all files are below its folder."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path} has no weight_map of tensors to files")
    for file in weight_map.values():
        relative = isinstance(file, str) and not PurePath(file).is_absolute()
        if not relative or ".." in PurePath(file).parts:
            raise ValueError(f"{path}: {file!r} is not the name of a file in this folder")
    return weight_map


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds tensors of a model, and not those of an adapter alone."""
    names = (path.name for path in folder.glob("*.safetensors"))
    return any(not name.startswith(SECOND_COPIES) for name in names)


def _unindexed(folder: Path) -> list[str]:
    """The model's files in a folder without an index: a complete set of shards or a single file."""
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    files = [file for file in files if not file.startswith(SECOND_COPIES)]
    numbers = [re.search(r"-(\d+)-of-(\d+)\.safetensors$", file) for file in files]
    shards = [(int(match[1]), int(match[2])) for match in numbers if match]
    complete = bool(files) and shards == [(i + 1, len(files)) for i in range(len(files))]
    if not complete and len(files) != 1:
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds neither {SINGLE} nor {INDEX} nor one .safetensors file, but {held}"
        )
    return files


def _warn_of_other_shards(folder: Path) -> None:
    """Warn when the folder holds a complete sharded model beside the single file that is read."""
    if not (folder / INDEX).is_file():
        return
    shards = set(_weight_map(folder / INDEX).values()) - {SINGLE}
    if shards and all((folder / shard).is_file() for shard in shards):
        warnings.warn(
            f"{folder} holds {SINGLE} and also the shards of {INDEX}; {SINGLE} is read, as "
            "transformers does",
            stacklevel=4,
        )


def split(sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]], shard_bytes: int) -> list[dict]:
    """`sizes` cut, in order, into files of at most `shard_bytes` of tensors each."""
    shards: list[dict] = [{}]
    left = shard_bytes
    for name, (dtype, shape) in sizes.items():
        nbytes = dtype.itemsize * math.prod(shape)
        if nbytes > left and shards[-1]:
            shards.append({})
            left = shard_bytes
        shards[-1][name] = (dtype, shape)
        left -= nbytes
    return shards


def replace(
    folder: Path,
    sizes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    arrays: Iterator[tuple[str, np.ndarray]],
    texts: Mapping[str, str],
    files: tuple[Path, ...],
    *,
    shard_bytes: int = SHARD_BYTES,
    single: str = SINGLE,
) -> None:
    """Write an export into a folder beside `folder`, sync it to disk, and exchange the two.

    texts: file name -> content. files: copied as they are. shard_bytes: largest size of a file of
    tensors. single: name of the file where there is only one. Raises ValueError when `folder` is a
    file or holds other files than an export's (they would be lost), OSError naming the bytes when
    they do not fit.
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
        _write_shards(partial, sizes, arrays, shard_bytes, need, single)
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
    """Raise ValueError when replacing `folder` would lose anything but an older export."""
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
    single: str,
) -> None:
    shards = split(sizes, shard_bytes)
    if len(shards) == 1:
        tensor_file.write(folder / single, shards[0], arrays)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        tensor_file.write(folder / file, shard, arrays)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": need}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a full disk shows before the exchange."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Put `new` where `old` is; where the system can, in one step that a kill cannot interrupt."""
    if not old.exists():
        os.rename(new, old)
        return
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = os.fsencode(new), os.fsencode(old)
    if swap and swap(current_folder, names[0], current_folder, names[1], exchange) == 0:
        return  # `new` now holds the old one, which the caller removes
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside)
    warnings.warn(f"{old}: this file system cannot exchange two folders in one step", stacklevel=2)
