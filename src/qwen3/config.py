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
    """How many devices stand along each mesh axis; at most one may be -1: all that are left."""

    data: int = 1
    fsdp: int = -1
    context: int = 1
    expert: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer ("adamw" or "muon") and its schedule. Qwen3's own values are unpublished.

    schedule: "constant", "cosine", "linear" or "wsd" (warm-up, stable, decay). `decay_share` is
    the last share of the steps over which "wsd" decays; S2's faster decay is a larger share or an
    earlier `steps`. Rates are per optimizer step, `final` is a share of `peak`. `skip_spikes`: an
    update whose gradient norm exceeds this many medians of the last `spike_window` norms is left
    out, and one that is not finite; 0 turns this off. moments: dtype in which the first moments
    (a running mean of gradients) are stored; the second ones have the weights' dtype.
    """

    optimizer: str = "adamw"
    peak: float = 3e-4
    final: float = 0.1
    schedule: str = "cosine"
    warmup: int = 100
    decay_share: float = 0.2
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    skip_spikes: float = 0.0
    spike_window: int = 128
    moments: str = "float32"


def override(config: Any, assignments: typing.Iterable[str]) -> Any:
    """A copy of `config` with "a.b=value" assignments applied, values read by the field's type.

    Raises ValueError naming the unknown field and the fields there are, or the unreadable value.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is not of the form a.b=value")
        config = _set(config, path.strip().split("."), text.strip(), path)
    return config


def _set(node: Any, keys: list[str], text: str, path: str) -> Any:
    key, rest = keys[0], keys[1:]
    if isinstance(node, dict):
        value = _set(node[key], rest, text, path) if rest and key in node else _loads(text)
        return {**node, key: value}
    if isinstance(node, (tuple, list)) and rest:
        at = _index(node, key, path)
        return type(node)(_set(x, rest, text, path) if i == at else x for i, x in enumerate(node))
    if not dataclasses.is_dataclass(node):
        raise ValueError(f"{path}: {node!r} has no field {key!r}")
    hints = typing.get_type_hints(type(node))
    if key not in hints:
        raise ValueError(f"unknown setting {path!r}: {key!r} is none of {', '.join(sorted(hints))}")
    if rest:
        value = _set(getattr(node, key), rest, text, path)
    else:
        value = _coerce(_loads(text), hints[key], path)
    return dataclasses.replace(node, **{key: value})


def _index(items: Any, key: str, path: str) -> int:
    """Which of several configs "a.KEY.b" means: by its number, or by its name."""
    names = [getattr(item, "name", None) for item in items]
    known = {**{str(i): i for i in range(len(items))}, **{n: i for i, n in enumerate(names) if n}}
    if key not in known:
        raise ValueError(f"unknown setting {path!r}: {key!r} is none of {', '.join(known)}")
    return known[key]


def _loads(text: str) -> Any:
    """A JSON value, or the text itself where it is none; Python's None, True and False also."""
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
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, path)
    if origin in (tuple, list) and isinstance(value, list):
        kinds = args if args and args[-1] is not ... else (args[0],) * len(value) if args else ()
        if kinds and len(kinds) == 1 and len(value) != 1:
            kinds = kinds * len(value)
        if kinds and len(kinds) != len(value):
            raise ValueError(f"{path}: {value!r} has {len(value)} items, {len(kinds)} are wanted")
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
        raise ValueError(f"{path}: {value!r} is no {getattr(plain, '__name__', plain)}")
    return value


def to_dict(config: Any) -> dict:
    """Nested plain dict of a config."""
    return dataclasses.asdict(config)


def to_json(config: Any) -> str:
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False, sort_keys=True)


def from_dict(cls: type, values: dict, path: str = "") -> Any:
    """The inverse of to_dict. Raises ValueError on unknown keys, naming those that exist."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"{path or cls.__name__}: unknown settings {unknown}; there are {sorted(hints)}"
        )
    prefix = f"{path}." if path else ""
    return cls(**{k: _coerce(v, hints[k], prefix + k) for k, v in values.items()})


def from_json(cls: type, text: str) -> Any:
    return from_dict(cls, json.loads(text))


def differences(old: dict, new: dict, path: str = "") -> list[str]:
    """Lines "a.b: old -> new" for every setting in which two config dicts differ."""
    lines = []
    for key in sorted(set(old) | set(new)):
        here = f"{path}.{key}" if path else key
        a, b = old.get(key, "absent"), new.get(key, "absent")
        if all(
            isinstance(x, (list, tuple)) and any(isinstance(i, dict) for i in x) for x in (a, b)
        ):
            a, b = ({str(i): item for i, item in enumerate(x)} for x in (a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, here)
        elif json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
            lines.append(f"{here}: {a!r} -> {b!r}")
    return lines


def digest(config: Any) -> str:
    """16 hex digits that name a config (or any JSON value)."""
    value = to_dict(config) if dataclasses.is_dataclass(config) else config
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
