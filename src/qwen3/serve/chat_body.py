"""Bodies of /v1/chat/completions -> requests. Every fault is an ApiError that names the field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from qwen3.infer import budget, thinking_head
from qwen3.infer.answer_grammar import turn_grammar
from qwen3.infer.chat_session import chat_request
from qwen3.infer.requests import MOST_ALTERNATIVES, Request
from qwen3.serve import body_fields as fields
from qwen3.serve.answer_plan import AnswerPlan, with_samples
from qwen3.serve.api_errors import ApiError, invalid
from qwen3.serve.served_model import ServedModel

FORMAT = "response_format"


def _is_automatic(value: Any) -> bool:
    try:
        return thinking_head.quality_of(value) is not None
    except ValueError:
        return False


FIELDS = fields.COMMON | {
    "messages": fields.sequence(),
    "max_completion_tokens": fields.integer(1, 2**31 - 1),
    "logprobs": fields.flag(),
    "top_logprobs": fields.integer(0, MOST_ALTERNATIVES),
    "tools": fields.sequence(),
    "tool_choice": fields.BodyField(
        lambda x: x in ("none", "auto", "required") or isinstance(x, dict),
        "none, auto, required, or a function by name",
    ),
    "parallel_tool_calls": fields.flag(True),
    "response_format": fields.mapping(),
    "chat_template_kwargs": fields.mapping(),
    "thinking_budget": fields.BodyField(
        lambda x: fields.integer(0, 2**31 - 1).check(x) or _is_automatic(x),
        'a whole number from 0 to 2147483647, "auto", or "auto:Q" with Q from 0 to 1',
    ),
}
TEMPLATE_FIELDS = {"enable_thinking": fields.flag(None)}
# Roles of OpenAI's that are another name of one of the template's.
ROLES = {"developer": "system"}
# Fields of messages that OpenAI's objects carry and that no model is shown.
NOT_SHOWN = {"refusal", "annotations", "audio", "function_call", "parsed"}


def chat_plan(body: Mapping[str, Any], model: ServedModel) -> AnswerPlan:
    """The plan of a chat body."""
    values = fields.read_fields(body, FIELDS)
    model.check_name(values["model"])
    if values["messages"] is None:
        raise invalid("messages are missing", "messages")
    if values["top_logprobs"] is not None and not values["logprobs"]:
        raise invalid("top_logprobs without logprobs", "top_logprobs")
    tools = _shown_tools(values)
    request = _request(values, model, tools)
    request = _constrained(request, values, model, tools or ())
    requests = with_samples(request, values)
    model.check_requests(requests[:1], "messages")
    return AnswerPlan(
        chat=True,
        requests=tuple(requests),
        stream=values["stream"],
        include_usage=fields.include_usage(values),
        logprobs=(values["top_logprobs"] or 0) if values["logprobs"] else None,
        tools=bool(tools),
        most_calls=None if values["parallel_tool_calls"] else 1,
        return_token_ids=values["return_token_ids"],
    )


def _shown_tools(values: Mapping[str, Any]) -> list[Mapping] | None:
    """The tools that the model is shown: none of them where it must not call any."""
    tools, choice = values["tools"], values["tool_choice"]
    if choice not in (None, "none") and not tools:
        raise invalid("tool_choice without tools", "tool_choice")
    return None if choice == "none" else tools


def _request(values: Mapping[str, Any], model: ServedModel, tools: Any) -> Request:
    switches = fields.read_fields(values["chat_template_kwargs"] or {}, TEMPLATE_FIELDS)
    limit = values["max_completion_tokens"] or values["max_tokens"]
    try:
        request = chat_request(
            model.tokenizer,
            [_message(i, message) for i, message in enumerate(values["messages"])],
            thinking=switches["enable_thinking"],
            thinking_budget=values["thinking_budget"],
            choose_budget=model.choose_budget,
            tools=tools,
            sampling=model.chat_sampling,
            max_tokens=limit,
            stop_strings=fields.stop_strings(values),
        )
        sampling = dataclasses.replace(request.sampling, **fields.sampling_changes(values))
        alternatives = values["top_logprobs"] or 0
    except ApiError:
        raise
    except (ValueError, RecursionError) as error:
        text = str(error)
        param = next((p for p in ("tool", "thinking_budget") if text.startswith(p)), "messages")
        param = "tools" if param == "tool" else param
        raise invalid(text, param) from None
    return dataclasses.replace(request, sampling=sampling, alternatives=alternatives)


def _constrained(
    request: Request, values: Mapping[str, Any], model: ServedModel, tools: Sequence[Mapping]
) -> Request:
    """The request with the grammar of its response format and tool choice, if they ask for one."""
    schema, functions = _schema(values["response_format"]), _callable(values["tool_choice"], tools)
    calls_only = values["tool_choice"] not in (None, "none", "auto")
    param = "tools" if calls_only else "response_format"
    start = budget.start(request.prompt, model.tokenizer)
    try:
        grammar = turn_grammar(
            model.grammar_tokens,
            schema=schema,
            functions=functions,
            calls_only=calls_only,
            parallel=values["parallel_tool_calls"],
            thinking=start["phase"] == budget.THINK,
            may_think=request.thinking is not False,
        )
    except (ValueError, RecursionError) as error:
        raise invalid(str(error), param, "invalid_schema") from None
    return dataclasses.replace(request, grammar=grammar)


def _schema(response_format: Mapping[str, Any] | None) -> Any:
    """The JSON schema of a response format; None for free text."""
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    described = (response_format or {}).get("json_schema")
    if kind != "json_schema":
        wanted = "text, json_object or json_schema"
        raise invalid(f"response_format type {fields.shown(kind)}: wanted {wanted}", FORMAT)
    if not isinstance(described, Mapping) or not isinstance(described.get("schema"), dict | bool):
        raise invalid("response_format.json_schema has no schema", FORMAT)
    schema = described["schema"]
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except (jsonschema.SchemaError, TypeError) as error:
        reason = getattr(error, "message", error)
        raise invalid(f"response_format: no JSON schema: {reason}"[:300], FORMAT) from None
    return schema


def _callable(choice: Any, tools: Sequence[Mapping]) -> list[tuple[str, Any]]:
    """(name, schema of the arguments) of the functions that the choice leaves."""
    functions = [tool.get("function", tool) for tool in tools]
    named = [(f["name"], f.get("parameters") or {"type": "object"}) for f in functions]
    if not isinstance(choice, Mapping):
        return named
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    chosen = [pair for pair in named if pair[0] == name]
    if choice.get("type") != "function" or not chosen:
        known = ", ".join(name for name, _ in named)
        raise invalid(
            f"tool_choice {fields.shown(choice)}: wanted one function of {known:.200}",
            "tool_choice",
        )
    return chosen


def _message(i: int, message: Any) -> dict[str, Any]:
    """A message in the form of the chat template: text parts joined, roles by its names."""
    if not isinstance(message, Mapping):
        raise invalid(f"messages[{i}] is no object: {fields.shown(message)}", f"messages[{i}]")
    shown = {k: v for k, v in message.items() if k not in NOT_SHOWN and v is not None}
    role = shown.get("role")
    if isinstance(role, str):
        shown["role"] = ROLES.get(role, role)
    content = shown.get("content")
    if isinstance(content, list):
        shown["content"] = "".join(_part(i, part) for part in content)
    elif content is None and shown.get("tool_calls"):
        shown["content"] = ""
    if calls := shown.get("tool_calls"):
        shown["tool_calls"] = _calls(i, calls)
    return shown


def _part(i: int, part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        if isinstance(text := part.get("text"), str):
            return text
    message = f"messages[{i}].content: {fields.shown(part)}: this model takes parts of text only"
    raise invalid(message, f"messages[{i}].content")


def _calls(i: int, calls: Any) -> Sequence[Mapping]:
    """Tool calls whose arguments are JSON text, as OpenAI's are, with arguments as objects."""
    if not isinstance(calls, list):
        raise invalid(f"messages[{i}].tool_calls is no list", f"messages[{i}].tool_calls")
    parsed = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            message = f"messages[{i}].tool_calls: {fields.shown(call)} is no call of a function"
            raise invalid(message, f"messages[{i}].tool_calls")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                message = f"messages[{i}].tool_calls: arguments {fields.shown(arguments)} no JSON"
                raise invalid(message, f"messages[{i}].tool_calls") from None
        parsed.append({"function": {"name": function.get("name"), "arguments": arguments}})
    return parsed
