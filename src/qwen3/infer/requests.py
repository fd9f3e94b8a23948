"""What is asked of an engine, and what comes back."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qwen3.infer import budget as budgets

FINISH = ("stop", "length", "budget-then-stop", "abort")
MOST_STOP_IDS = 8


@dataclass(frozen=True)
class SamplingParams:
    """How a token is drawn: penalties, temperature, top-k, top-p, min-p, in this order.

    The default is the model's own distribution. temperature 0 is greedy, top_k 0 keeps all.
    presence and frequency penalties see generated tokens, repetition the prompt's as well.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        for name, (low, high, text) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not low <= value <= high:
                raise ValueError(f"{name} {value!r}: wanted {text}")
        if self.top_k != int(self.top_k):
            raise ValueError(f"top_k {self.top_k!r}: wanted a whole number")


_RANGES = {
    "temperature": (0, 100, "a number from 0 (greedy) to 100"),
    "top_k": (0, 2**31 - 1, "0 (all) or the number of tokens to keep"),
    "top_p": (1e-9, 1, "a probability above 0, at most 1"),
    "min_p": (0, 1, "a probability from 0 to 1"),
    "presence_penalty": (-100, 100, "a number from -100 to 100"),
    "frequency_penalty": (-100, 100, "a number from -100 to 100"),
    "repetition_penalty": (1e-3, 1e3, "a positive number, 1 for none"),
}

# RECIPE 7 and 9: the report's settings, one for its writing benchmarks, the docs' for tools.
PRESETS = {
    "model": SamplingParams(),
    "greedy": SamplingParams(temperature=0.0),
    "thinking": SamplingParams(0.6, 20, 0.95),
    "thinking_writing": SamplingParams(0.6, 20, 0.95, presence_penalty=1.5),
    "non_thinking": SamplingParams(0.7, 20, 0.8, presence_penalty=1.5),
    "tools": SamplingParams(0.7, 20, 0.8, repetition_penalty=1.05),
}


def sampling(preset: str = "model", **changes: float) -> SamplingParams:
    """A preset by name, with changes. Raises ValueError naming the presets or fields there are."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    fields = [each.name for each in dataclasses.fields(SamplingParams)]
    if unknown := set(changes) - set(fields):
        raise ValueError(f"unknown sampling fields {sorted(unknown)}; there are {fields}")
    return dataclasses.replace(PRESETS[preset], **changes)


@dataclass(frozen=True)
class Request:
    """One answer to one prompt of token ids.

    max_tokens: None for as many as the context holds. stop_ids: None for the tokenizer's; the
    sampled one stays in the answer. stop_strings: the answer ends with the token that completes
    one. thinking: True forces <think> first, False forbids it, None leaves it to the model.
    budget: tokens of thinking, None for no limit; stop_text: of budget.STOP_TEXTS;
    answer_reserve: tokens that a budget must leave of max_tokens, None for an eighth of them.
    prompt_id, sample, seed (None: the engine's): what the random numbers depend on, besides the
    position in the sequence; prompt_id None is a checksum of the prompt.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop_ids: tuple[int, ...] | None = None
    stop_strings: tuple[str, ...] = ()
    thinking: bool | None = None
    budget: int | None = None
    stop_text: str = "docs"
    answer_reserve: int | None = None
    prompt_id: int | str | None = None
    sample: int = 0
    seed: int | None = None

    def samples(self, count: int) -> list[Request]:
        """`count` requests for the same prompt; their prefill is shared."""
        return [dataclasses.replace(self, sample=self.sample + i) for i in range(count)]


@dataclass
class Completion:
    """tokens: the answer, its end token included. log_probs: of the full distribution of all rows
    at temperature 1, before any rule. sampling_log_probs: of the distribution that was sampled
    from, 0 for forced tokens. forced: put there by the budget or the mode, not by the model.
    versions: of the weights that made each token. experts: uint8 [len(prompt) + len(tokens) - 1,
    L, A], the routing of every token that was read, where the engine records it.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampling_log_probs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None
    experts: np.ndarray | None = None


def check(request: Request, *, vocab: int, max_length: int, thinks: bool) -> None:
    """ValueError for a request that an engine of this vocabulary and context cannot serve."""
    prompt = np.asarray(request.prompt)
    if prompt.ndim != 1 or not prompt.size or not np.issubdtype(prompt.dtype, np.integer):
        raise ValueError(f"a prompt is a non-empty list of token ids, not {request.prompt!r:.80}")
    if not 0 <= prompt.min() <= prompt.max() < vocab:
        raise ValueError(
            f"prompt ids run from {prompt.min()} to {prompt.max()}; the vocabulary is 0 to "
            f"{vocab - 1}"
        )
    if prompt.size >= max_length:
        raise ValueError(
            f"the prompt has {prompt.size} tokens; the engine's context of {max_length} must hold "
            "it and at least one more"
        )
    if request.max_tokens is not None and request.max_tokens < 1:
        raise ValueError(f"max_tokens {request.max_tokens}: wanted at least 1, or None")
    if not isinstance(request.sampling, SamplingParams):
        raise ValueError(f"sampling {request.sampling!r}: wanted a Sampling; see sampling()")
    stops = request.stop_ids or ()
    if len(stops) > MOST_STOP_IDS or any(not 0 <= i < vocab for i in stops):
        raise ValueError(f"stop_ids {stops}: at most {MOST_STOP_IDS}, of 0 to {vocab - 1}")
    if any(not isinstance(text, str) or not text for text in request.stop_strings):
        raise ValueError(f"stop_strings {request.stop_strings!r}: wanted strings, none empty")
    if isinstance(request.stop_strings, str):
        raise ValueError(f"stop_strings {request.stop_strings!r}: wanted a tuple of strings")
    if request.budget is not None and request.budget < 0:
        raise ValueError(f"budget {request.budget}: wanted at least 0, or None for no limit")
    if request.answer_reserve is not None and request.answer_reserve < 0:
        raise ValueError(f"answer_reserve {request.answer_reserve}: wanted at least 0")
    if request.stop_text not in budgets.STOP_TEXTS:
        raise ValueError(
            f"unknown stop_text {request.stop_text!r}; there are {', '.join(budgets.STOP_TEXTS)}"
        )
    needs = request.budget is not None or request.thinking is not None or request.stop_strings
    if needs and not thinks:
        raise ValueError("thinking, budget and stop_strings need an engine with a tokenizer")


def limit(request: Request, max_length: int) -> int:
    """How many tokens it may get."""
    room = max_length - len(request.prompt)
    return room if request.max_tokens is None else min(request.max_tokens, room)


def reserve(request: Request, most: int) -> int:
    return most // 8 if request.answer_reserve is None else request.answer_reserve


def seeds(request: Request, seed: int) -> tuple[int, int, int]:
    """(run seed, prompt id, sample index) as uint32."""
    run = seed if request.seed is None else request.seed
    prompt = request.prompt_id
    if prompt is None:
        prompt = zlib.crc32(np.asarray(request.prompt, np.int32).tobytes())
    elif isinstance(prompt, str):
        prompt = zlib.crc32(prompt.encode())
    return tuple(int(x) % 2**32 for x in (run, prompt, request.sample))


def prompt_key(prompt: Sequence[int]) -> bytes:
    return np.asarray(prompt, np.int32).tobytes()
