"""OpenAI's objects, made of plans and completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.requests import Completion
from qwen3.serve.answer_plan import AnswerPlan
from qwen3.serve.answer_stream import CONTENT, REASONING, TOOL_CALL, Delta
from qwen3.serve.api_errors import ApiError
from qwen3.serve.json_body import dumps

FINISH_REASONS = {"stop": "stop", "budget-then-stop": "stop", "length": "length"}


class AnswerReader:
    """One answer while it is generated: its deltas, and what a response says of its tokens."""

    def __init__(self, plan: AnswerPlan, index: int, completion: Completion, tokenizer: Tokenizer):
        self.plan, self.index, self.completion = plan, index, completion
        self.tokenizer = tokenizer
        self.stream = plan.deltas(index, tokenizer)
        self.read = 0  # tokens so far
        self.calls = 0  # tool calls so far
        self.characters = 0  # of the text of a plain completion so far

    def advance(self, count: int, done: bool) -> tuple[list[Delta], range]:
        """(what the completion's tokens up to `count` add, which tokens these are)."""
        tokens = range(self.read, count)
        self.read = count
        deltas = self.stream.feed(self.completion.tokens[tokens.start : count])
        if done:
            deltas += self.stream.close()
        self.calls += sum(delta.kind == TOOL_CALL for delta in deltas)
        return deltas, tokens

    def finish_reason(self) -> str:
        """Why a finished answer ended, in OpenAI's words; status 500 for one that failed."""
        finish = self.completion.finish
        if finish not in FINISH_REASONS:
            message = self.completion.error or "the answer was aborted"
            raise ApiError(500, f"the model failed: {message}")
        reason = FINISH_REASONS[finish]
        return "tool_calls" if reason == "stop" and self.calls else reason

    def logprobs(self, tokens: range) -> dict[str, Any] | None:
        """The log-probabilities of these tokens, at temperature 1, in the endpoint's form."""
        if self.plan.logprobs is None:
            return None
        entries = [self._entry(place) for place in tokens]
        if self.plan.chat:
            return {"content": entries, "refusal": None}
        texts = [entry["token"] for entry in entries]
        offsets = []
        for text in texts:
            offsets.append(self.characters)
            self.characters += len(text)
        tops = [{top["token"]: top["logprob"] for top in e["top_logprobs"]} for e in entries]
        return {
            "tokens": texts,
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": tops if self.plan.logprobs else None,
            "text_offset": offsets,
        }

    def _entry(self, place: int) -> dict[str, Any]:
        completion = self.completion
        entry = self._token(completion.tokens[place], completion.log_probs[place])
        tops = completion.alternatives[place] if self.plan.logprobs else {}
        entry["top_logprobs"] = [self._token(i, log_prob) for i, log_prob in tops.items()]
        return entry

    def _token(self, token: int, log_prob: float) -> dict[str, Any]:
        data = self.tokenizer.token_bytes[token]
        text = data.decode("utf-8", "replace")
        return {"token": text, "logprob": log_prob, "bytes": list(data)}


class ResponseWriter:
    """Writes the one response, or the chunks, of an HTTP request."""

    def __init__(self, plan: AnswerPlan, model: str, readers: Sequence[AnswerReader]):
        self.plan, self.model, self.readers = plan, model, readers
        prefix, self.kind = ("chatcmpl", "chat.completion") if plan.chat else ("cmpl", "")
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def _object(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        kind = (
            f"chat.completion{'.chunk' if chunk else ''}" if self.plan.chat else "text_completion"
        )
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def whole(self, deltas: Sequence[list[Delta]]) -> dict[str, Any]:
        """The response, given all deltas of every answer."""
        choices = [
            self._choice(reader, pieces)
            for reader, pieces in zip(self.readers, deltas, strict=True)
        ]
        return self._object(choices, chunk=False) | {"usage": self.usage()}

    def _choice(self, reader: AnswerReader, deltas: Sequence[Delta]) -> dict[str, Any]:
        texts = {
            kind: "".join(delta.text for delta in deltas if delta.kind == kind)
            for kind in (CONTENT, REASONING)
        }
        choice: dict[str, Any] = {"index": reader.index}
        if self.plan.chat:
            message: dict[str, Any] = {"role": "assistant", "content": texts[CONTENT]}
            if texts[REASONING]:
                message[REASONING] = texts[REASONING]
            if calls := self._calls(deltas):
                message["tool_calls"] = calls
                message["content"] = texts[CONTENT] or None
            choice["message"] = message
        else:
            choice["text"] = texts[CONTENT]
        choice["logprobs"] = reader.logprobs(range(reader.read))
        choice["finish_reason"] = reader.finish_reason()
        return choice | self._ids(reader, range(reader.read), first=True)

    def _calls(self, deltas: Sequence[Delta]) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {
                    "name": delta.call.name,
                    "arguments": dumps(delta.call.arguments).decode(),
                },
            }
            for delta in deltas
            if delta.call is not None
        ]

    def _ids(self, reader: AnswerReader, tokens: range, *, first: bool) -> dict[str, Any]:
        if not self.plan.return_token_ids:
            return {}
        completion = reader.completion
        ids: dict[str, Any] = {"token_ids": completion.tokens[tokens.start : tokens.stop]}
        if first:
            ids["prompt_token_ids"] = [int(i) for i in completion.request.prompt]
        return ids

    def opening(self) -> list[dict[str, Any]]:
        """The chunks that begin a stream: the role of every answer."""
        if not self.plan.chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [self._chunk({"index": r.index, "delta": delta}) for r in self.readers]

    def chunks(self, reader: AnswerReader, count: int, done: bool) -> list[dict[str, Any]]:
        """The chunks for an answer's tokens up to `count`; the last one has the finish reason."""
        seen = reader.calls
        first = reader.read == 0
        deltas, tokens = reader.advance(count, done)
        choices = self._delta_choices(reader, deltas, seen)
        shows_tokens = self.plan.logprobs is not None or self.plan.return_token_ids
        if done or (shows_tokens and tokens and not choices):
            choices.append(
                {"index": reader.index, **({"delta": {}} if self.plan.chat else {"text": ""})}
            )
        if choices:
            # The tokens' log-probabilities stand with the first piece of their text.
            choices[0]["logprobs"] = reader.logprobs(tokens)
            choices[0] |= self._ids(reader, tokens, first=first)
        if done:
            choices[-1]["finish_reason"] = reader.finish_reason()
        return [self._chunk(choice) for choice in choices]

    def _delta_choices(
        self, reader: AnswerReader, deltas: Sequence[Delta], seen: int
    ) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = []
        for delta in deltas:
            if not self.plan.chat:
                choices.append({"index": reader.index, "text": delta.text})
            elif delta.kind == TOOL_CALL:
                call = self._calls([delta])[0] | {"index": seen}
                choices.append({"index": reader.index, "delta": {"tool_calls": [call]}})
                seen += 1
            elif choices and delta.kind in choices[-1]["delta"]:
                choices[-1]["delta"][delta.kind] += delta.text
            else:
                choices.append({"index": reader.index, "delta": {delta.kind: delta.text}})
        return choices

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        choice = {"logprobs": None, "finish_reason": None} | choice
        usage = {"usage": None} if self.plan.include_usage else {}
        return self._object([choice], chunk=True) | usage

    def closing(self) -> list[dict[str, Any]]:
        """The chunks that end a stream: usage, where it was asked for."""
        if not self.plan.include_usage:
            return []
        return [self._object([], chunk=True) | {"usage": self.usage()}]

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompts, each counted once, and of all answers."""
        prompts = {bytes(str(list(r.prompt)), "ascii"): len(r.prompt) for r in self.plan.requests}
        prompt = sum(prompts.values())
        answer = sum(len(reader.completion.tokens) for reader in self.readers)
        reasoning = sum(reader.stream.reasoning_tokens for reader in self.readers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
