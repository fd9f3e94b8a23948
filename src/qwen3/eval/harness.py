"""lm-eval on our engine: any of its tasks runs in this process, without torch.

    lm = EngineLM(qwen3.load(MODEL))
    results = evaluate(lm, ["gsm8k", "hellaswag"], limit=100)

or `qwen3 eval MODEL --lm-eval gsm8k,hellaswag`. The package comes with the extra `[eval]`. Thinking
is on with chat prompts alone (`thinking=True`); what stands before the last "</think>" of an answer
is then no part of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from qwen3.data.chat_prompt import chat_prompt_ids
from qwen3.eval.likelihood import log_likelihoods
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import Request, SamplingParams
from qwen3.infer.thinking_head import quality_of

DEFAULT_TOKENS = 256  # of an answer, where a task does not say
THINK_END = "</think>"
SAMPLED = ("temperature", "top_p", "top_k", "min_p")  # generation settings that are followed

if TYPE_CHECKING:
    TemplateLM = Any
else:
    try:
        from lm_eval.api.model import TemplateLM
    except ModuleNotFoundError:  # `evaluate` says what to install
        TemplateLM = object


class EngineLM(TemplateLM):
    """A LanguageModel as lm-eval sees one.

    thinking: of chat prompts; None leaves it to the template, False closes the thought in the
    prompt. budget: most tokens of a thought. slots: requests, and rows of likelihoods, at a time.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        thinking: bool | None = None,
        budget: int | str | None = None,
        slots: int = 16,
        seed: int = 0,
    ):
        super().__init__()
        if model.tokenizer is None:
            raise ValueError(f"{model.config.name} has no tokenizer to evaluate with")
        self._model, self._tokenizer = model, model.tokenizer
        self._thinking, self._budget, self._slots, self._seed = thinking, budget, slots, seed

    # --- what lm-eval asks of a model's tokens

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.endoftext

    @property
    def max_length(self) -> int:
        return self._model.config.max_length

    @property
    def tokenizer_name(self) -> str:
        return self._model.config.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return self._tokenizer.encode(string)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self._tokenizer.chat_template or "qwen3"

    def apply_chat_template(
        self, chat_history: Sequence[Mapping], add_generation_prompt: bool = True
    ) -> str:
        ids = chat_prompt_ids(self._tokenizer, chat_history, enable_thinking=self._thinking)
        return self._tokenizer.decode(ids)

    # --- what it asks of the model

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        measured = dict(log_likelihoods(self._model, pairs, rows=self._slots))
        return [(measured[i].log_prob, measured[i].greedy) for i in range(len(pairs))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list:
        """Log-likelihood of whole texts, in windows of the context's length."""
        utils = importlib.import_module("lm_eval.utils")
        sums = []
        for (text,) in [request.args for request in requests]:
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [utils.make_disjoint_window(window) for window in windows]
            measured = dict(log_likelihoods(self._model, pairs, rows=self._slots))
            sums.append(sum(likelihood.log_prob for likelihood in measured.values()))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to a task's stop strings, the thought left out."""
        engine = self._model.engine(slots=self._slots)
        asked = [self._request(*request.args) for request in requests]
        texts = []
        for completion, request in zip(engine.generate(asked), requests, strict=True):
            text = self._tokenizer.decode(list(completion.tokens))
            if self._thinking or (self._thinking is None and THINK_END in text):
                text = text.split(THINK_END)[-1].lstrip()
            for stop in _stops(request.args[1]):
                text = text.split(stop)[0]
            for stop_id in self._tokenizer.stop_ids:
                text = text.split(self._tokenizer.decode([stop_id]))[0]
            texts.append(text)
        return texts

    def _request(self, context: str, settings: Mapping[str, Any]) -> Request:
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        limit = next((settings[name] for name in names if settings.get(name)), DEFAULT_TOKENS)
        if limit >= self.max_length:
            raise ValueError(
                f"a task wants answers of {limit} tokens; the context holds {self.max_length}"
            )
        sampled = settings.get("do_sample", float(settings.get("temperature", 0) or 0) > 0)
        fields = {name: settings[name] for name in SAMPLED if name in settings}
        sampling = SamplingParams(**fields) if sampled else SamplingParams(temperature=0.0)
        thinks = self._thinking or self._budget is not None
        prompt = self.tok_encode(context)[-(self.max_length - limit) :]
        budget = self._budget
        if (quality := quality_of(budget)) is not None:
            budget = self._model.auto_budget(prompt, quality)
        assert not isinstance(budget, str)
        return Request(
            prompt,
            sampling=sampling,
            max_tokens=limit,
            # A stop string within the thought is no end of the answer.
            stop_strings=() if thinks else _stops(settings),
            budget=budget,
            seed=self._seed,
        )


def _stops(settings: Mapping[str, Any]) -> tuple[str, ...]:
    until = settings.get("until") or ()
    return tuple(text for text in ([until] if isinstance(until, str) else until) if text)


def evaluate(lm: EngineLM, tasks: Sequence[Any], **options: Any) -> dict[str, Any]:
    """lm-eval's `simple_evaluate` of tasks, names or dicts of their own; options go to it.

    Raises ModuleNotFoundError saying which extra brings lm-eval, ValueError for unknown tasks.
    """
    try:
        lm_eval = importlib.import_module("lm_eval")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'qwen3[eval]'", name=error.name) from error
    results = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), **options)
    assert results is not None or jax.process_index() > 0
    return results or {}
