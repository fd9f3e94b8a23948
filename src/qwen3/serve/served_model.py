"""The model that a server serves, as the checks of bodies see it: nothing here runs the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import thinking_head
from qwen3.infer.answer_grammar import GrammarTokens
from qwen3.infer.auto_budget import ChooseBudget
from qwen3.infer.engine import Engine
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import Request, SamplingParams, check_request
from qwen3.serve.api_errors import ApiError, invalid
from qwen3.serve.body_fields import shown


@dataclass(frozen=True)
class ServedModel:
    """What a body is checked against."""

    name: str  # that clients ask for
    tokenizer: Tokenizer
    vocab: int
    max_length: int  # tokens of prompt and answer together
    text_sampling: SamplingParams  # of plain completions
    choose_budget: ChooseBudget | None = None  # of automatic thinking budgets
    has_budget_head: bool = False  # whether the model's folder holds a head that chooses them
    chat_sampling: Any = None  # of chats, as `chat_request` takes it; None: the mode's preset
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970

    @cached_property
    def grammar_tokens(self) -> GrammarTokens:
        """The tokenizer as grammars see it."""
        return GrammarTokens(self.tokenizer, self.vocab)

    @classmethod
    def of(cls, name: str, model: LanguageModel, engine: Engine) -> ServedModel:
        """A loaded model. ValueError for one without a tokenizer."""
        if model.tokenizer is None:
            raise ValueError(f"{name} has no tokenizer to read and write text with")
        return cls(
            name,
            model.tokenizer,
            model.config.vocab,
            engine.max_length,
            model.sampling or SamplingParams(),
            model.auto_budget,
            model.folder is not None and (model.folder / thinking_head.FILE).is_file(),
            model.chat_sampling(None),
        )

    def check_name(self, name: str | None) -> None:
        """Status 404 for another model's name; none at all is this one."""
        if name not in (None, self.name):
            message = f"the model {shown(name)} does not exist; there is {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_requests(self, requests: Sequence[Request], param: str) -> None:
        """Status 400 for requests that the engine would refuse. param: the field of the prompt."""
        for request in requests:
            if len(request.prompt) >= self.max_length:
                raise invalid(
                    f"the prompt has {len(request.prompt)} tokens; the context of "
                    f"{self.max_length} must hold it and at least one more",
                    param,
                    "context_length_exceeded",
                )
            try:
                check_request(
                    request, vocab=self.vocab, max_length=self.max_length, has_tokenizer=True
                )
            except ValueError as error:
                raise invalid(str(error), param) from None

    def describe(self) -> dict[str, Any]:
        """The object of /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "qwen3",
            "max_model_len": self.max_length,
            "automatic_budget": self.has_budget_head,
        }
