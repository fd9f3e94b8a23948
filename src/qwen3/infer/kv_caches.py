"""What an engine asks of its KV caches, whichever form they have.

The two forms are `row_caches` (one length for all slots, the quickest on a CPU where answers are of
like length) and `paged_caches` (a sequence takes the pages that it uses).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.request_state import RequestState
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig


@dataclass(frozen=True)
class CacheSettings:
    """What KV caches are built for. See `Engine` for the values."""

    config: ModelConfig
    execution: Execution
    mesh: Mesh
    tokenizer: Tokenizer | None
    slots: int  # a multiple of what the mesh divides
    max_length: int
    cache_tokens: int | None
    block: int
    record_experts: bool
    refill: bool
    waiting: deque[RequestState]  # the engine's queue; preempted requests are put back into it
    stats: Counter[str]  # the engine's


class KVCaches(Protocol):
    """The slots of an engine with their KV caches: which requests they serve, and what is next."""

    slots: int  # answers decoded together, at most

    @property
    def requests(self) -> list[RequestState]:
        """The requests that are being decoded, in the order of their slots."""

    @property
    def active(self) -> int:
        """How many requests are being worked on."""

    @property
    def places(self) -> int:
        """Places for tokens in the KV caches as they are now, those of no token included."""

    def place(self, params: Any) -> Any:
        """A copy of a trainer's parameters as the programs want them."""

    def wait(self, state: RequestState) -> None:
        """A request is queued."""

    def clear(self) -> None:
        """Forget what old weights prefilled."""

    def schedule(self, params: Any) -> dict[RequestState, Exception]:
        """Put waiting requests into slots and make room for the next tokens of all; the errors of
        requests that cannot be served, which are the engine's to finish.
        """

    def decode(self, params: Any, *, refill: bool) -> tuple[DecodeOutput, np.ndarray]:
        """A block of tokens: (what was generated, bool [slots]: which slots the device would go on
        with), on the host. refill: less, once `enough` slots have finished.
        """

    def finish(self, states: Sequence[RequestState], active: np.ndarray | None) -> None:
        """Requests are finished, wherever they are. active: bool [slots] of those that the device
        still works on, None for all.
        """

    def reset(self) -> list[RequestState]:
        """Begin with new, empty caches; the requests that were being worked on."""

    def warm_up(self, params: Any, prompts: Sequence[int], turns: Sequence[int]) -> None:
        """Compile all there is to run for prompts of these lengths, and turns with so many new
        tokens.
        """


def enough(slots: int) -> int:
    """Finished slots that are worth coming back for, with work waiting."""
    return max(1, slots // 16)
