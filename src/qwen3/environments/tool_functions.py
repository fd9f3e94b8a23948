"""Tools: plain functions with a JSON schema. Arguments are validated, and never evaluated as code.

A function takes the state of its world and the arguments, and returns the text of the result. It
raises ToolError for what the policy did wrong, whose text the policy then reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonschema

from qwen3.data.chat import ToolCall

SHOWN = 200  # characters of an error's text that quotes the policy

# Schemas of arguments. They are bounded, so that no function meets a number or text without end.
INTEGER = {"type": "integer", "minimum": -(10**12), "maximum": 10**12}
NUMBER = {"type": "number", "minimum": -1e12, "maximum": 1e12}
TEXT = {"type": "string", "maxLength": 1_000}


def one_of(*values: str) -> dict[str, Any]:
    """Schema of a text out of a few."""
    return {"type": "string", "enum": list(values)}


class ToolError(Exception):
    """What a call did wrong, in words for the policy."""


@dataclass(frozen=True)
class Tool:
    """A function that a policy may call. ValueError for arguments without a JSON schema."""

    name: str
    description: str
    properties: Mapping[str, Mapping[str, Any]]  # JSON schema of each argument
    function: Callable[..., str]  # (state, **arguments) -> result
    optional: tuple[str, ...] = ()  # arguments that may be left out

    def __post_init__(self) -> None:
        schema = self.listed["function"]["parameters"]
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"tool {self.name!r}: no JSON schema: {error.message}") from None

    @cached_property
    def listed(self) -> dict[str, Any]:
        """The tool as the chat template lists it."""
        parameters = {
            "type": "object",
            "properties": {name: dict(schema) for name, schema in self.properties.items()},
            "required": [name for name in self.properties if name not in self.optional],
            "additionalProperties": False,
        }
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": parameters,
        }
        return {"type": "function", "function": function}

    @cached_property
    def _validator(self) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator(self.listed["function"]["parameters"])

    def __call__(self, state: Any, arguments: Mapping[str, Any]) -> str:
        """The result of a call, or the text of what was wrong with it."""
        error = jsonschema.exceptions.best_match(self._validator.iter_errors(arguments))
        if error is not None:
            place = "".join(f" {part!r}:" for part in error.absolute_path)
            return _error(f"{self.name}:{place} {error.message}")
        try:
            return self.function(state, **arguments)
        except ToolError as failure:
            return _error(f"{self.name}: {failure}")


def _error(text: str) -> str:
    return f"error: {text[:SHOWN]}"


def call_tool(tools: Mapping[str, Tool], state: Any, call: ToolCall) -> str:
    """The result of a call of one of `tools`, or an error's text naming those there are."""
    if call.name not in tools:
        return _error(f"no tool {call.name[:40]!r}; there are {', '.join(tools) or 'none'}")
    return tools[call.name](state, call.arguments)
