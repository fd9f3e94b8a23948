"""The trainer's log-probabilities of what the engine generated, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.infer.requests import Completion


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
    for row, completion in enumerate(completions):
        ids = [*completion.request.prompt, *completion.tokens]
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    log_probs = np.asarray(_next_log_probs(apply, params, tokens, positions, segments))
    starts = [len(completion.request.prompt) - 1 for completion in completions]
    return [
        row[start : start + len(completion.tokens)]
        for row, start, completion in zip(log_probs, starts, completions, strict=True)
    ]


def log_prob_gap(
    apply: Callable[..., Any], params: Any, completions: Sequence[Completion], *, length: int
) -> float:
    """max |log p_train - log p_engine| over all tokens: rounding, about 1e-5 in fp32, where the
    engine has the trainer's weights. See `score`.
    """
    scores = score(apply, params, completions, length=length)
    return max(
        float(np.abs(score - np.asarray(completion.log_probs)).max(initial=0.0))
        for score, completion in zip(scores, completions, strict=True)
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
