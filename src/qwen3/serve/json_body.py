"""JSON from clients and to clients. What comes in is hostile; every fault is an ApiError."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request as HttpRequest

from qwen3.serve.api_errors import ApiError, invalid

DEEPEST = 64  # levels of lists and objects in a body, far below Python's recursion limit


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8. A lone surrogate, as an echoed word may hold, becomes its escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


async def read_body(request: HttpRequest, most_bytes: int) -> dict[str, Any]:
    """The JSON object that a client sent.

    Status 415 for another content type than JSON, which also keeps web pages of other sites from
    posting without being asked; 413 for more than `most_bytes`; 400 for what is no JSON object.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"Content-Type {kind!r}: wanted application/json")
    too_large = ApiError(413, f"the body is larger than {most_bytes} bytes", code="body_too_large")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most_bytes:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most_bytes:
            raise too_large
    return parse_object(bytes(data))


def parse_object(data: bytes) -> dict[str, Any]:
    """Bytes of a body -> its JSON object; status 400 naming what is wrong."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise invalid(f"the body is nested deeper than {DEEPEST} levels") from None
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:  # bad syntax, or a number of thousands of digits
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"the body is a JSON {type(value).__name__}; wanted an object")
    _check_depth(value)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise invalid(f"the body is nested deeper than {DEEPEST} levels")
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
