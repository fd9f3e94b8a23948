"""Fields of request bodies: what each may hold, what a missing one counts as, which are ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qwen3.serve.api_errors import invalid


class BodyField(NamedTuple):
    """One field of a body."""

    check: Callable[[Any], bool]  # whether a value may stand there
    wanted: str  # in words, for the error
    default: Any = None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(low: int, high: int, default: int | None = None) -> BodyField:
    """A whole number from low to high."""
    wanted = f"a whole number from {low} to {high}"
    return BodyField(lambda x: _is_integer(x) and low <= x <= high, wanted, default)


def number(low: float, high: float) -> BodyField:
    """A number from low to high."""
    wanted = f"a number from {low:g} to {high:g}"
    return BodyField(
        lambda x: (_is_integer(x) or isinstance(x, float)) and low <= x <= high, wanted
    )


def flag(default: bool | None = False) -> BodyField:
    """true or false."""
    return BodyField(lambda x: isinstance(x, bool), "true or false", default)


def text() -> BodyField:
    """A string."""
    return BodyField(lambda x: isinstance(x, str), "a string")


def mapping() -> BodyField:
    """An object."""
    return BodyField(lambda x: isinstance(x, dict), "an object")


def sequence() -> BodyField:
    """A list."""
    return BodyField(lambda x: isinstance(x, list), "a list")


MOST_STOPS, LONGEST_STOP = 16, 1000  # stop strings of a request; characters of one
_STOP_TEXT = f"1 to {LONGEST_STOP} characters"


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and len(texts) <= MOST_STOPS
        and all(isinstance(x, str) and 0 < len(x) <= LONGEST_STOP for x in texts)
    )


# What both endpoints have. Defaults of sampling are the model's own.
COMMON = {
    "model": text(),
    "stream": flag(),
    "stream_options": mapping(),
    "n": integer(1, 128, 1),
    "seed": integer(-(2**63), 2**63 - 1),
    "max_tokens": integer(1, 2**31 - 1),
    "stop": BodyField(_is_stop, f"up to {MOST_STOPS} strings of {_STOP_TEXT}"),
    "temperature": number(0, 2),
    "top_p": number(1e-9, 1),
    "top_k": integer(-1, 2**31 - 1),
    "min_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "repetition_penalty": number(1e-3, 1e3),
    "return_token_ids": flag(),
}
# Fields of OpenAI's that change nothing here, whatever they hold.
IGNORED = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
}
# Fields of OpenAI's that would change the answer: refused but for a value that asks for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({}, []),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": (),
    "suffix": ("",),
    "best_of": (1,),
}


def read_fields(body: Mapping[str, Any], fields: Mapping[str, BodyField]) -> dict[str, Any]:
    """A value for every field; null and a missing one count as the default.

    Status 400 naming a field that is unknown, not supported, or holds what it may not.
    """
    values = {name: field.default for name, field in fields.items()}
    for name, value in body.items():
        if name in IGNORED or value is None:
            continue
        if name in fields:
            if not fields[name].check(value):
                raise invalid(f"{name} {shown(value)}: wanted {fields[name].wanted}", name)
            values[name] = value
        elif name in UNSUPPORTED:
            if value not in UNSUPPORTED[name]:
                raise invalid(f"{name} is not supported by this server", name, "unsupported")
        else:
            raise invalid(
                f"unknown field {shown(name)}; there are {', '.join(sorted(fields))}",
                name[:80],
                "unknown_field",
            )
    return values


def shown(value: Any) -> str:
    """A value as an error names it: short, whatever a client sent."""
    return f"{str(value)[:80]!r}" if isinstance(value, str) else f"{str(value):.80}"


SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


def sampling_changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that a body sets. top_k -1 keeps all, as 0 does here."""
    changes = {name: values[name] for name in SAMPLING if values[name] is not None}
    if changes.get("top_k") == -1:
        changes["top_k"] = 0
    if 0 < changes.get("temperature", 0) < 1e-6:
        changes["temperature"] = 0  # greedy: colder than the engine can divide by
    return changes


def stop_strings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop strings of a body, as a tuple."""
    stop = values["stop"]
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def include_usage(values: Mapping[str, Any]) -> bool:
    """Whether a stream ends with a chunk of usage. Status 400 for an unknown stream option."""
    options = values["stream_options"] or {}
    if options and not values["stream"]:
        raise invalid("stream_options without stream", "stream_options")
    known = {"include_usage": flag(), "include_obfuscation": flag()}
    return bool(read_fields(options, known)["include_usage"])
