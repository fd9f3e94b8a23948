"""Requests to the engine, their sampling parameters, and the completions that answer them.

`check_request` refuses a request with a ValueError that names the field, before the engine queues
it. The numbers it lets through fit the engine's 32-bit arrays or are clamped to the context by
`answer_limit`, `thinking_budget` and `answer_reserve`.
"""

from __future__ import annotations

import dataclasses
import numbers
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qwen3.infer import budget as budgets
from qwen3.infer.grammar import Grammar

FINISH = ("stop", "length", "budget-then-stop", "abort")  # why an answer ended
MOST_ALTERNATIVES = 20  # most likely tokens that may be recorded beside each token
MOST_STOP_IDS = 8  # stop ids of one request; the device's table has this many columns


@dataclass(frozen=True)
class SamplingParams:
    """How a token is drawn: penalties, temperature, top-k, top-p, min-p, in this order.

    The default is the model's own distribution. ValueError for a value out of its range.
    """

    temperature: float = 1.0  # 0 is greedy decoding
    top_k: int = 0  # most likely tokens to draw from; 0 keeps all
    top_p: float = 1.0  # nucleus: smallest set of tokens with this much probability
    min_p: float = 0.0  # least probability, as a fraction of the most likely token's
    presence_penalty: float = 0.0  # subtracted once from the logit of a generated token
    frequency_penalty: float = 0.0  # subtracted each time a token was generated
    repetition_penalty: float = 1.0  # divides positive logits of prompt and generated tokens

    def __post_init__(self) -> None:
        for name, (low, high, wanted) in _RANGES.items():
            value = getattr(self, name)
            is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not is_real or not low <= value <= high:
                raise ValueError(f"{name} {value!r}: wanted {wanted}")
        if self.top_k != int(self.top_k):
            raise ValueError(f"top_k {self.top_k!r}: wanted a whole number")
        if 0 < self.temperature < COLDEST:
            # The logits divided by it would overflow in fp32.
            raise ValueError(
                f"temperature {self.temperature!r}: wanted 0 (greedy) or at least {COLDEST}"
            )


COLDEST = 1e-6  # smallest temperature that is not 0
_RANGES = {
    "temperature": (0, 100, "a number from 0 (greedy) to 100"),
    "top_k": (0, 2**31 - 1, "0 (all) or the number of tokens to keep"),
    "top_p": (1e-9, 1, "a probability above 0, at most 1"),
    "min_p": (0, 1, "a probability from 0 to 1"),
    "presence_penalty": (-100, 100, "a number from -100 to 100"),
    "frequency_penalty": (-100, 100, "a number from -100 to 100"),
    "repetition_penalty": (1e-3, 1e3, "a positive number, 1 for none"),
}

# The report's settings for evaluation (arXiv 2505.09388, section 4.6), its presence penalty for
# writing benchmarks, and the settings that the released models' documentation gives for tool use.
PRESETS = {
    "model": SamplingParams(),
    "greedy": SamplingParams(temperature=0.0),
    "thinking": SamplingParams(0.6, 20, 0.95),
    "thinking_writing": SamplingParams(0.6, 20, 0.95, presence_penalty=1.5),
    "non_thinking": SamplingParams(0.7, 20, 0.8, presence_penalty=1.5),
    "tools": SamplingParams(0.7, 20, 0.8, repetition_penalty=1.05),
}


def sampling(preset: str = "model", **changes: float) -> SamplingParams:
    """A preset by name, with changes. Raises ValueError naming the known presets or fields."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    known = [field.name for field in dataclasses.fields(SamplingParams)]
    if unknown := set(changes) - set(known):
        raise ValueError(f"unknown sampling fields {sorted(unknown)}; there are {known}")
    return SamplingParams(**(dataclasses.asdict(PRESETS[preset]) | changes))


@dataclass(frozen=True)
class Request:
    """One answer to one prompt of token ids.

    The random numbers of an answer depend on (seed, prompt_id, sample) and on the position in the
    sequence, on nothing else: not on the engine's slots, its order of work or other requests.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None  # longest answer; None: as many tokens as the context holds
    stop_ids: tuple[int, ...] | None = None  # ids that end an answer; None: the tokenizer's
    stop_strings: tuple[str, ...] = ()  # the answer ends with the token that completes one
    thinking: bool | None = None  # True forces <think> first, False forbids it, None: the model
    budget: int | None = None  # most tokens of thinking; None: no limit
    stop_text: str = "docs"  # text that ends the thinking at the budget, of budget.STOP_TEXTS
    answer_reserve: int | None = None  # tokens kept for the answer; None: an eighth of max_tokens
    prompt_id: int | str | None = None  # names the prompt to the random numbers; None: its checksum
    sample: int = 0  # index among the samples of one prompt
    seed: int | None = None  # seed of the run; None: the engine's
    alternatives: int = (
        0  # most likely tokens to record beside each token, MOST_ALTERNATIVES at most
    )
    grammar: Grammar | None = None  # what the answer must be, e.g. JSON of a schema
    # Number of a dialogue's turn: its KV cache is kept for the next one where there is room, and
    # turns behind the first are admitted before other requests. None: of no dialogue.
    turn: int | None = None

    def samples(self, count: int) -> list[Request]:
        """`count` requests for the same prompt; they share its prefill."""
        check_integer("samples", count, 1, "at least 1")
        return [dataclasses.replace(self, sample=self.sample + i) for i in range(count)]


@dataclass
class Completion:
    """The answer to a request; the lists have one entry per token."""

    request: Request
    tokens: list[int] = field(default_factory=list)  # the answer, its stop id included
    log_probs: list[float] = field(default_factory=list)  # nats, at temperature 1, all rows
    sampling_log_probs: list[float] = field(default_factory=list)  # as sampled from; 0 if forced
    forced: list[bool] = field(default_factory=list)  # written by the budget or the mode
    versions: list[int] = field(default_factory=list)  # of the weights that generated the token
    finish: str | None = None  # one of FINISH; None while the answer is being generated
    error: str | None = None  # why it was aborted, if not by the caller
    # Where the request asks for alternatives: {id: log-probability at temperature 1}, best first.
    alternatives: list[dict[int, float]] = field(default_factory=list)
    # uint8 [len(prompt) + len(tokens) - 1, L, A]: the experts of every token that was an input.
    experts: np.ndarray | None = None


# Fields that hold integers: (least value or None, whether None may stand, what is wanted).
_INTEGERS: dict[str, tuple[int | None, bool, str]] = {
    "max_tokens": (1, True, "at least 1, or None for what the context holds"),
    "budget": (0, True, "at least 0, or None for no limit"),
    "answer_reserve": (0, True, "at least 0, or None for an eighth of the answer"),
    "sample": (0, False, "at least 0"),
    "alternatives": (0, False, f"0 to {MOST_ALTERNATIVES}"),
    "seed": (None, True, "an integer, or None for the engine's seed"),
    "turn": (0, True, "at least 0, or None for what is no turn of a dialogue"),
}


def check_request(request: Request, *, vocab: int, max_length: int, has_tokenizer: bool) -> None:
    """ValueError for a request that an engine of this vocabulary and context cannot serve."""
    if not isinstance(request, Request):
        raise ValueError(f"{request!r:.80} is a {type(request).__name__}; wanted a Request")
    _check_prompt(request.prompt, vocab, max_length)
    if not isinstance(request.sampling, SamplingParams):
        raise ValueError(f"sampling {request.sampling!r:.80}: wanted a SamplingParams")
    for name, (least, optional, wanted) in _INTEGERS.items():
        value = getattr(request, name)
        if value is not None or not optional:
            check_integer(name, value, least, wanted)
    if request.alternatives > MOST_ALTERNATIVES:
        raise ValueError(f"alternatives {request.alternatives}: wanted 0 to {MOST_ALTERNATIVES}")
    if request.grammar is not None and not hasattr(request.grammar, "matcher"):
        raise ValueError(f"grammar {request.grammar!r:.80}: wanted a Grammar, or None")
    if request.thinking is not None and not isinstance(request.thinking, bool):
        raise ValueError(f"thinking {request.thinking!r:.80}: wanted True, False or None")
    if not isinstance(request.stop_text, str) or request.stop_text not in budgets.STOP_TEXTS:
        known = ", ".join(budgets.STOP_TEXTS)
        raise ValueError(f"unknown stop_text {request.stop_text!r:.80}; there are {known}")
    _check_stop_ids(request.stop_ids, vocab)
    _check_stop_strings(request.stop_strings)
    _check_prompt_id(request.prompt_id)
    needs_text = request.budget is not None or request.thinking is not None or request.stop_strings
    if needs_text and not has_tokenizer:
        raise ValueError("thinking, budget and stop_strings need an engine with a tokenizer")


def check_integer(name: str, value: Any, least: int | None, wanted: str) -> None:
    """ValueError naming the field for a value that is no integer or less than `least`."""
    if not _is_integer(value) or (least is not None and value < least):
        raise ValueError(f"{name} {value!r:.80}: wanted {wanted}")


def check_text(name: str, text: str) -> None:
    """ValueError for text with a lone surrogate, as JSON may hold one: it has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} {text!r:.80} has a lone surrogate at character {error.start}; "
            "wanted text that can be encoded as UTF-8"
        ) from None


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_prompt(prompt: Any, vocab: int, max_length: int) -> None:
    try:
        ids = np.asarray(prompt)
    except (ValueError, TypeError):  # e.g. lists of different lengths
        ids = np.zeros(0)
    # np.asarray takes a bool among integers for 0 or 1.
    has_bool = isinstance(prompt, (list, tuple)) and any(
        isinstance(i, (bool, np.bool_)) for i in prompt
    )
    if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer) or has_bool:
        raise ValueError(f"a prompt is a non-empty list of token ids, not {prompt!r:.80}")
    if not 0 <= ids.min() <= ids.max() < vocab:
        raise ValueError(
            f"prompt ids run from {ids.min()} to {ids.max()}; the vocabulary is 0 to {vocab - 1}"
        )
    if ids.size >= max_length:
        raise ValueError(
            f"the prompt has {ids.size} tokens; the engine's context of {max_length} must hold "
            "it and at least one more"
        )


def _check_stop_ids(stop_ids: Any, vocab: int) -> None:
    if stop_ids is None:
        return
    valid = (
        isinstance(stop_ids, (tuple, list))
        and len(stop_ids) <= MOST_STOP_IDS
        and all(_is_integer(i) and 0 <= i < vocab for i in stop_ids)
    )
    if not valid:
        raise ValueError(
            f"stop_ids {stop_ids!r:.80}: wanted a tuple of at most {MOST_STOP_IDS} ids from 0 to "
            f"{vocab - 1}, or None for the tokenizer's"
        )


def _check_stop_strings(strings: Any) -> None:
    if not isinstance(strings, (tuple, list)):
        raise ValueError(f"stop_strings {strings!r:.80}: wanted a tuple of strings")
    if any(not isinstance(text, str) or not text for text in strings):
        raise ValueError(f"stop_strings {strings!r:.80}: wanted strings, none empty")
    for text in strings:
        check_text("stop string", text)


def _check_prompt_id(prompt_id: Any) -> None:
    if isinstance(prompt_id, str):
        check_text("prompt_id", prompt_id)
    elif prompt_id is not None:
        check_integer("prompt_id", prompt_id, None, "an integer, a string, or None")


def answer_limit(request: Request, max_length: int) -> int:
    """Most tokens that the answer may have in a context of `max_length`."""
    available = max_length - len(request.prompt)
    return available if request.max_tokens is None else int(min(request.max_tokens, available))


def thinking_budget(request: Request, max_length: int) -> int | None:
    """The budget, at most the context; one that large still sees to the answer's reserve."""
    return None if request.budget is None else int(min(request.budget, max_length))


def answer_reserve(request: Request, limit: int) -> int:
    """Tokens of an answer of at most `limit` that a thinking budget keeps for what follows it."""
    return limit // 8 if request.answer_reserve is None else int(min(request.answer_reserve, limit))


def seeds(request: Request, engine_seed: int) -> tuple[int, int, int]:
    """(run seed, prompt id, sample index), each modulo 2**32."""
    run = engine_seed if request.seed is None else request.seed
    prompt_id = request.prompt_id
    if prompt_id is None:
        prompt_id = zlib.crc32(prompt_key(request.prompt))
    elif isinstance(prompt_id, str):
        prompt_id = zlib.crc32(prompt_id.encode())
    return int(run) % 2**32, int(prompt_id) % 2**32, int(request.sample) % 2**32


def prompt_key(prompt: Sequence[int]) -> bytes:
    """The ids as bytes: what the prefix cache looks prompts up by."""
    return np.asarray(prompt, np.int32).tobytes()
