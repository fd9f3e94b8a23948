"""Log-likelihoods of continuations: how base models answer multiple choice.

    log p(continuation | context) = sum over its tokens of log p(token | all before it)

The full softmax over all vocabulary rows is taken in chunks of positions (`ops.chunked`), so that
nothing of size [positions, vocabulary] is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.compiled import batch_ways
from qwen3.infer.language_model import LanguageModel
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops.chunked import cross_entropy
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows

BUCKETS = tuple(2**power for power in range(5, 18))  # lengths that are compiled


class Likelihood(NamedTuple):
    """How likely a continuation is."""

    log_prob: float  # nats, of all its tokens together
    greedy: bool  # whether each of its tokens is the most likely one
    tokens: int


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """(ids of the context, ids of the continuation), cut from the ids of the whole text.

    Spaces at the end of the context belong to the continuation, whose first token holds them in
    text. An empty context is the end-of-text token.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not context:
        return [tokenizer.pad], tokenizer.encode(continuation)
    ids, head = tokenizer.encode(context + continuation), tokenizer.encode(context)
    return head, ids[len(head) :]


def log_likelihoods(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, rows: int = 8
) -> Iterator[tuple[int, Likelihood]]:
    """(index, Likelihood) of each pair (context ids, continuation ids), the longest first.

    A pair longer than the model's context loses its oldest tokens. rows: of a batch. Raises
    ValueError for a pair without context or continuation.
    """
    longest = model.config.max_length
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not 0 < len(continuation) <= longest:
            raise ValueError(
                f"pair {number}: {len(context)} context and {len(continuation)} continuation ids; "
                f"wanted at least one of each, at most {longest}"
            )
    rows += -rows % batch_ways(model.mesh)
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    for begin in range(0, len(order), rows):
        numbers = order[begin : begin + rows]
        ids = [[*pairs[i][0], *pairs[i][1]][-(longest + 1) :] for i in numbers]
        width = next(b for b in BUCKETS if b >= len(ids[0]) - 1)
        width += -width % model.mesh.shape["context"]
        tokens = np.zeros((rows, width), np.int32)
        targets = np.zeros((rows, width), np.int32)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence) - 1] = sequence[:-1]
            targets[row, : len(sequence) - 1] = sequence[1:]
        measure = _measure(model.config, model.execution, model.mesh)
        with jax.set_mesh(model.mesh):
            log_probs, correct = map(np.asarray, measure(model.params, tokens, targets))
        for row, (number, sequence) in enumerate(zip(numbers, ids, strict=True)):
            count, end = len(pairs[number][1]), len(sequence) - 1
            span = slice(end - count, end)
            log_prob = float(log_probs[row, span].sum(dtype=np.float64))
            yield number, Likelihood(log_prob, bool(correct[row, span].all()), count)


@lru_cache(maxsize=8)
def _measure(config: ModelConfig, execution: Execution, mesh: Mesh) -> Callable:
    """Jitted (params, tokens, targets [B, T]) -> (log p(target), whether it is the argmax)."""
    apply = transformer.bind(config, execution)

    def measure(params: Any, tokens: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, length = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
        output = apply(params, tokens, positions, jnp.ones_like(tokens))
        hidden_MD, targets_M = flatten_rows(output.hidden_BTD), flatten_rows(targets)
        ones = jnp.ones(targets_M.shape, jnp.float32)
        _, statistics = cross_entropy(hidden_MD, output.head_VD, targets_M, ones)
        log_probs = unflatten_rows(-statistics["ce"], rows, length)
        return log_probs, unflatten_rows(statistics["correct"], rows, length) > 0

    return jax.jit(measure)
