"""What post-training wants of a generator, and the check that it runs the weights it claims to.

An external server can take the engine's place by having these methods; prompts and answers are
token ids throughout, since text that is decoded and encoded again is not the text that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.infer.request_state import Delta
from qwen3.infer.requests import Completion, Request


@runtime_checkable
class RolloutBackend(Protocol):
    """Implemented by `infer.engine.Engine`. version: of the weights that make the next token."""

    version: int

    def generate(self, asked: Sequence[Request]) -> list[Completion]:
        """A completion for each request, in their order."""
        ...

    def stream(self, asked: Sequence[Request]) -> Iterator[Delta]:
        """New tokens as they come; closing the iterator aborts what is unfinished."""
        ...

    def update(self, params: Any, version: int) -> None:
        """New weights from the next token on."""
        ...


def score(
    apply: Callable[..., Any], params: Any, completions: Sequence[Completion], *, length: int
) -> list[np.ndarray]:
    """The trainer's log-probability of every answer token, at temperature 1.

    apply(params, tokens, positions, segment_ids) -> Output, as the losses take it. length: what
    rows are padded to, at least the longest prompt and answer; one program serves all that
    share it.
    """
    tokens = np.zeros((len(completions), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, each in enumerate(completions):
        ids = [*each.request.prompt, *each.tokens]
        if len(ids) > length:
            raise ValueError(f"completion {row} has {len(ids)} tokens, more than length {length}")
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    found = np.asarray(_next_log_probs(apply, params, tokens, positions, segments))
    starts = [len(each.request.prompt) - 1 for each in completions]
    return [
        row[start : start + len(each.tokens)]
        for row, start, each in zip(found, starts, completions, strict=True)
    ]


def log_prob_gap(
    apply: Callable[..., Any], params: Any, completions: Sequence[Completion], *, length: int
) -> float:
    """max |log p_train - log p_engine| over all tokens: after every update of the engine's weights
    it should be rounding, about 1e-5 in fp32. See `score`.
    """
    scored = score(apply, params, completions, length=length)
    return max(
        float(np.abs(train - np.asarray(each.log_probs)).max(initial=0.0))
        for train, each in zip(scored, completions, strict=True)
    )


@partial(jax.jit, static_argnums=0)
def _next_log_probs(apply, params, tokens_BT, positions_BT, segments_BT):
    """[B, T - 1]: of token t + 1 after tokens 0..t, one row at a time to bound the logits."""

    def row(inputs):
        tokens_T, positions_T, segments_T = inputs
        out = apply(params, tokens_T[None], positions_T[None], segments_T[None])
        logits_TV = jnp.einsum(
            "TD,VD->TV", out.hidden_BTD[0], out.head_VD, preferred_element_type=jnp.float32
        )
        log_probs_TV = jax.nn.log_softmax(logits_TV[:-1], axis=-1)
        return jnp.take_along_axis(log_probs_TV, tokens_T[1:, None], axis=1)[:, 0]

    return jax.lax.map(row, (tokens_BT, positions_BT, segments_BT))
