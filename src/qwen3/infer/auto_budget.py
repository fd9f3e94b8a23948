"""The automatic thinking budget of a loaded model: prompt -> state -> head -> tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.infer import thinking_head
from qwen3.infer.compiled import batch_ways
from qwen3.infer.thinking_head import BudgetHead
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig

ChooseBudget: TypeAlias = Callable[[Sequence[int], float], int]  # (prompt, dial) -> tokens
SHORTEST = 64  # tokens that prompts are padded to, at least; then powers of two


class PromptStates:
    """The features of prompts: the residual stream behind every block at the last token.

    The state behind the last block alone is shaped for the next token, which is nearly always
    <think> (docs/log/2026-11-30-automatic-budget.md).
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, execution: Execution):
        self._config, self._mesh = config, mesh
        self._execution = execution.replace(remat="none")

    def __call__(self, params: Any, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """fp32 [N, layers * hidden]. Raises ValueError for a prompt beyond the context."""
        longest = max(map(len, prompts))
        if longest > self._config.max_length:
            raise ValueError(
                f"a prompt of {longest} tokens is beyond the context of {self._config.max_length}"
            )
        length = max(SHORTEST, 1 << (longest - 1).bit_length())
        length += -length % self._mesh.shape["context"]
        rows = len(prompts) + -len(prompts) % batch_ways(self._mesh)
        tokens_BT, lengths_B = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, : len(prompt)] = prompt
            lengths_B[row] = len(prompt)
        segments_BT = (np.arange(length) < lengths_B[:, None]).astype(np.int32)
        inputs = jax.device_put((tokens_BT, segments_BT), meshes.batch_sharding(self._mesh))
        with jax.set_mesh(self._mesh):
            states = _states(params, self._config, self._execution, *inputs, lengths_B - 1)
        return np.asarray(states)[: len(prompts)]


@partial(jax.jit, static_argnums=(1, 2))
def _states(
    params: Any,
    config: ModelConfig,
    execution: Execution,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    last_B: jax.Array,
) -> jax.Array:
    output = transformer.forward(
        params,
        config,
        tokens_BT,
        None,
        segments_BT,
        execution=execution,
        collect=frozenset({"blocks"}),
    )
    assert output.blocks_LBTD is not None
    rows = tokens_BT.shape[0]
    states_LBD = output.blocks_LBTD[:, jnp.arange(rows), last_B]
    return states_LBD.swapaxes(0, 1).reshape(rows, -1).astype(jnp.float32)


def fingerprint(params: Any) -> str:
    """Names the weights that a head was trained for: a checksum of the last norm, in bf16."""
    gains = np.asarray(params["final_norm"], np.float32).astype(ml_dtypes.bfloat16)
    return hashlib.sha256(gains.tobytes()).hexdigest()[:16]


class AutoBudget:
    """Chooses budgets for the prompts of one model."""

    def __init__(self, head: BudgetHead, states: PromptStates):
        self._head, self._states = head, states

    def __call__(self, params: Any, prompt: Sequence[int], quality: float) -> int:
        """Tokens of thinking for a prompt that the model is about to answer.

        Raises ValueError where the head was trained for other weights.
        """
        if fingerprint(params) != self._head.model:
            raise ValueError(
                f"thinking_budget auto: {thinking_head.FILE} was trained for other weights; "
                "`qwen3 budget` trains it anew"
            )
        (states_F,) = self._states(params, [prompt])
        return thinking_head.budget(self._head, self._head.predict(states_F), quality)
