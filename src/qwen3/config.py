"""Frozen settings shared by the stages, and how to change and store them. Standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each mesh axis. At most one may be -1, which takes all that are left.

    The batch is sharded over data, fsdp and expert together.
    """

    data: int = 1  # data parallel: weights replicated
    fsdp: int = -1  # data parallel with sharded weights, gathered at use (ZeRO-3)
    context: int = 1  # context parallel: positions of one sequence
    expert: int = 1  # expert parallel: experts of a mixture
    tensor: int = 1  # tensor parallel: heads, FFN channels and vocabulary


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule. Qwen3's own values are unpublished."""

    optimizer: str = "adamw"  # "adamw" or "muon"
    peak: float = 3e-4  # largest learning rate, per optimizer step
    final: float = 0.1  # last learning rate as a share of `peak`
    schedule: str = "cosine"  # "constant", "cosine", "linear" or "wsd" (warm-up, stable, decay)
    warmup: int = 100  # steps of linear warm-up
    decay_share: float = 0.2  # last share of the steps over which "wsd" decays; larger: faster (S2)
    betas: tuple[float, float] = (0.9, 0.95)  # decay rates of Adam's first and second moments
    eps: float = 1e-8  # Adam's epsilon, added to the root of the second moment
    weight_decay: float = 0.1  # decoupled (AdamW); matrices only
    clip_norm: float = 1.0  # gradient clipping: largest global norm of an update's gradient
    # Leave out an update that is not finite, or whose gradient norm exceeds this many medians of
    # the last `spike_window` norms; 0 turns this off.
    skip_spikes: float = 0.0
    spike_window: int = 128  # gradient norms, one a step, that the median is of
    moments: str = "float32"  # dtype of stored first moments; second ones have the weights' dtype


def override(config: Any, assignments: typing.Iterable[str]) -> Any:
    """A copy of `config` with "a.b=value" assignments applied, values read by the field's type.

    Raises ValueError naming the unknown field and its known siblings, or the unreadable value.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is not of the form a.b=value")
        config = _assign(config, path.strip().split("."), text.strip(), path)
    return config


def _assign(node: Any, keys: list[str], text: str, path: str) -> Any:
    """A copy of `node` (a dataclass, dict or sequence) with the value under `keys` replaced."""
    key, rest = keys[0], keys[1:]
    if isinstance(node, dict):
        value = _assign(node[key], rest, text, path) if rest and key in node else _loads(text)
        return {**node, key: value}
    if isinstance(node, (tuple, list)) and rest:
        index = _index(node, key, path)
        items = (_assign(x, rest, text, path) if i == index else x for i, x in enumerate(node))
        return type(node)(items)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise ValueError(f"{path}: {node!r} has no field {key!r}")
    hints = typing.get_type_hints(type(node))
    if key not in hints:
        raise ValueError(f"unknown setting {path!r}: {key!r} is none of {', '.join(sorted(hints))}")
    if rest:
        value = _assign(getattr(node, key), rest, text, path)
    else:
        value = _coerce(_loads(text), hints[key], path)
    return dataclasses.replace(node, **{key: value})


def _index(items: Any, key: str, path: str) -> int:
    """Index of the config that KEY of "a.KEY.b" means: its number or its `name`."""
    names = [getattr(item, "name", None) for item in items]
    known = {**{str(i): i for i in range(len(items))}, **{n: i for i, n in enumerate(names) if n}}
    if key not in known:
        raise ValueError(f"unknown setting {path!r}: {key!r} is none of {', '.join(known)}")
    return known[key]


def _loads(text: str) -> Any:
    """The JSON value of `text` (or Python's None, True, False), else the text itself."""
    try:
        return json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except json.JSONDecodeError:
        return text


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """`value` (from JSON) as the type `hint`, or a ValueError that names the setting."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, path)
    if origin in (tuple, list) and isinstance(value, list):
        kinds = args if args and args[-1] is not ... else (args[0],) * len(value) if args else ()
        if kinds and len(kinds) == 1 and len(value) != 1:
            kinds = kinds * len(value)
        if kinds and len(kinds) != len(value):
            raise ValueError(f"{path}: {value!r} has {len(value)} items, not {len(kinds)}")
        items = [_coerce(v, k, path) for v, k in zip(value, kinds, strict=True)] if kinds else value
        return origin(items)
    if origin is dict and isinstance(value, dict):
        return {k: _coerce(v, args[1], path) for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    plain = origin or hint
    if isinstance(plain, type) and (
        not isinstance(value, plain) or isinstance(value, bool) and plain is not bool
    ):
        raise ValueError(f"{path}: {value!r} is not of type {getattr(plain, '__name__', plain)}")
    return value


def to_dict(config: Any) -> dict:
    """The config as nested plain dicts."""
    return dataclasses.asdict(config)


def to_json(config: Any) -> str:
    """The config as indented JSON with sorted keys."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False, sort_keys=True)


def from_dict(cls: type, values: dict, path: str = "") -> Any:
    """The inverse of `to_dict`. Raises ValueError on unknown keys, naming the known ones."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"{path or cls.__name__}: unknown settings {unknown}; known: {sorted(hints)}"
        )
    prefix = f"{path}." if path else ""
    return cls(**{k: _coerce(v, hints[k], prefix + k) for k, v in values.items()})


def from_json(cls: type, text: str) -> Any:
    """The inverse of `to_json`. Raises ValueError as `from_dict`, or for text that is not JSON."""
    return from_dict(cls, json.loads(text))


def differences(old: dict, new: dict, path: str = "") -> list[str]:
    """Lines "a.b: old -> new" for every setting in which two config dicts differ."""
    lines = []
    for key in sorted(set(old) | set(new)):
        setting = f"{path}.{key}" if path else key
        a, b = old.get(key, "absent"), new.get(key, "absent")
        # Lists of configs are compared item by item, under the names that `override` takes.
        if all(
            isinstance(x, (list, tuple)) and any(isinstance(i, dict) for i in x) for x in (a, b)
        ):
            a, b = ({str(i): item for i, item in enumerate(x)} for x in (a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, setting)
        elif json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
            lines.append(f"{setting}: {a!r} -> {b!r}")
    return lines


def digest(config: Any) -> str:
    """16 hex digits (the start of a SHA-256) that identify a config or any JSON value."""
    value = to_dict(config) if dataclasses.is_dataclass(config) else config
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
