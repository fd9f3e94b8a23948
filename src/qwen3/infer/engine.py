"""The engine: a scheduler with continuous batching over S slots that decode together.

    engine = Engine(config, params, tokenizer=tokenizer, slots=64, max_length=4096)
    completions = engine.generate([Request(prompt, sampling("thinking"), budget=1024), ...])
    engine.update(new_params, version=1)

The host only schedules. Each `step` is one scheduling point: it admits waiting requests to free
slots in their order (a finished answer's slot is refilled at once), fits the KV cache to the
longest sequence, preempts the youngest requests where long caches leave fewer slots, and has the
device decode a block of tokens. A preempted request waits again and is prefilled with what it has
so far. An answer's ids depend on its request only, not on slots, order, blocks or preemption.

The KV cache and the device's decode state live in `slot_table` (as pure functions in `slots` and
`decode`), prefilled prompts in `prefix_cache`, the lengths of caches in `cache_lengths`, and the
host's side of a request in `request_state`.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3 import hosts
from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import cache_lengths, compiled
from qwen3.infer.interrupts import uninterrupted
from qwen3.infer.prefix_cache import CachedPrefix, PrefixCache
from qwen3.infer.request_state import Ending, RequestState, TokenChunk
from qwen3.infer.requests import Completion, Request, check_request
from qwen3.infer.slot_table import SlotTable
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig

logger = logging.getLogger(__name__)


class Engine:
    """Generates answers with one model; see the module's docstring.

    Args:
        config, params: the model; the parameters are copied.
        tokenizer: for stop ids, thinking, stop strings and which ids are tokens at all; without
            one all vocabulary rows are.
        slots: answers decoded together; rounded up to what the mesh divides.
        max_length: tokens of prompt and answer together; None for the model's.
        mesh: None for the first device. Its data, fsdp and expert axes divide the slots.
        execution: None for that of the mesh's platform.
        cache_tokens: places in the KV caches of all slots together, default slots x the longest;
            `bytes_per_token` tells what one takes.
        buckets: growing KV cache lengths; None for `cache_lengths.default_buckets`.
        block: maximum decode steps per device call, i.e. between two scheduling points.
        seed: of the random numbers of requests without a seed of their own.
        version: of the parameters, e.g. the optimizer step.
        record_experts: keep the routing of a mixture of experts with each completion.
        refill: admit the next request as soon as a slot is free (continuous batching); False waits
            until all slots are free (static batching).
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        *,
        tokenizer: Tokenizer | None = None,
        slots: int = 16,
        max_length: int | None = None,
        mesh: Mesh | None = None,
        execution: Execution | None = None,
        cache_tokens: int | None = None,
        buckets: Sequence[int] | None = None,
        block: int = 32,
        seed: int = 0,
        version: int = 0,
        record_experts: bool = False,
        refill: bool = True,
    ):
        max_length = config.max_length if max_length is None else max_length
        for name, value in (("slots", slots), ("max_length", max_length), ("block", block)):
            if value < 1:
                raise ValueError(f"{name} {value}: wanted at least 1")
        if record_experts and not config.moe:
            raise ValueError(f"{config.name} has no experts to record")
        self.config, self.tokenizer = config, tokenizer
        self.max_length, self.block, self.seed = max_length, block, seed
        self.version, self.record_experts, self.refill = version, record_experts, refill
        self.mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        if execution is None:
            execution = Execution.for_mesh(self.mesh, scan=False)
        self.execution = execution.replace(
            outputs_first=meshes.platform(self.mesh) == "cpu" and not execution.scan
        )
        self.cache_lengths = self._cache_lengths(slots, cache_tokens, buckets)
        if config.scalar_head:
            raise ValueError(f"{config.name} is a reward model: it scores answers and writes none")
        self.slots = self.cache_lengths.slots
        self.compiled = compiled.build(config, self.execution, self.mesh, block, record_experts)
        self.params = self.compiled.place(params)
        self.slot_table = SlotTable(self.compiled, self.cache_lengths, tokenizer, config.vocab)
        self.prefix_cache = PrefixCache(
            self.compiled, self.cache_lengths, record_experts=record_experts
        )
        self.waiting: deque[RequestState] = deque()
        self.arrivals = itertools.count()
        self.stats: Counter[str] = Counter()

    def _cache_lengths(
        self, slots: int, cache_tokens: int | None, buckets: Sequence[int] | None
    ) -> cache_lengths.CacheLengths:
        ways = compiled.batch_ways(self.mesh)
        slots = -(-slots // ways) * ways
        buckets = cache_lengths.check_buckets(buckets, self.max_length)
        is_splash = self.execution.attention == "splash"
        return cache_lengths.CacheLengths(
            slots,
            ways,
            buckets,
            cache_tokens or slots * buckets[-1],
            self.block,
            smallest_prefill=cache_lengths.narrowest_prefill(buckets, is_splash),
        )

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """A completion for each request, in their order. ValueError for one that cannot be served,
        before any is begun. A request that fails later ends as "abort" with `Completion.error`.
        """
        states = self.submit(requests)
        try:
            while not all(state.done for state in states):
                self.step()
        finally:
            self.abort(states)
        return [state.completion for state in states]

    def stream(self, requests: Sequence[Request]) -> Iterator[TokenChunk]:
        """New tokens as they come. Closing the iterator early aborts what is unfinished."""
        states = self.submit(requests)
        sent = [0] * len(states)
        unfinished = set(range(len(states)))
        try:
            while unfinished:
                self.step()
                for i in sorted(unfinished):
                    state, tokens = states[i], states[i].completion.tokens
                    if len(tokens) > sent[i] or state.done:
                        if state.done:
                            unfinished.discard(i)
                        new, sent[i] = tokens[sent[i] :], len(tokens)
                        yield TokenChunk(i, new, state.completion if state.done else None)
        finally:
            self.abort(states)

    def submit(self, requests: Sequence[Request]) -> list[RequestState]:
        """Queue requests; `step` then works on them. All are checked before any is queued."""
        states = []
        for i, request in enumerate(requests):
            try:
                check_request(
                    request,
                    vocab=self.config.vocab,
                    max_length=self.max_length,
                    has_tokenizer=self.tokenizer is not None,
                )
            except RecursionError:
                raise ValueError(f"request {i}: a value is nested too deep to be shown") from None
            except ValueError as error:
                raise ValueError(f"request {i}: {error}") from None
            states.append(
                RequestState(
                    request,
                    next(self.arrivals),
                    max_length=self.max_length,
                    tokenizer=self.tokenizer,
                    engine_seed=self.seed,
                )
            )
        for state in states:
            self.prefix_cache.wait(state)
        self.waiting.extend(states)
        return states

    def abort(self, states: Sequence[RequestState]) -> None:
        """Finish requests as "abort" with what they have; others go on undisturbed. Requests that
        are finished, or stand there twice, are no error.
        """
        self._finish({state: Ending("abort") for state in states if not state.done})

    def update(self, params: Any, version: int) -> None:
        """New weights of the same shapes, from the next token on. Unfinished answers keep their
        KV caches; each token's version tells which weights generated it.
        """
        self.params = self.compiled.place(params)
        self.version = version
        self.prefix_cache.clear()

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one place in the KV caches of all layers."""
        c = self.config
        return 2 * c.layers * c.kv_heads * c.head_dim * np.dtype(self.execution.dtype).itemsize

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return len(self.slot_table.requests)

    def step(self) -> None:
        """One scheduling point: admit waiting requests, then decode up to `block` tokens a slot.

        An exception that concerns one request ends it as "abort" with the error's text; one of the
        device, whose donated buffers are then lost, ends those that were being worked on. The
        others go on. A Ctrl-C is held back until the step's end, for the same buffers.
        """
        hosts.alive()
        with uninterrupted():
            admitted = self._select()
            try:
                self._admit(admitted)
                if self.active:
                    self._decode()
            except Exception as error:
                self._restart(admitted, error)

    def warm_up(self, prompts: Sequence[int] = (1,)) -> None:
        """Compile all there is to run for prompts of these lengths: nothing is compiled later.

        ValueError while requests are being worked on. Compiles a decode program for each cache
        length, a prefill program for each different prefill width, and an insert program for each
        pair of them.
        """
        if self.active or self.waiting:
            raise ValueError(f"{self.active + len(self.waiting)} requests are being worked on")
        if self.cache_lengths.tight:  # a preempted answer is prefilled with what it has so far
            prompts = range(1, self.max_length + 1)
        widths = sorted({self.cache_lengths.prefill_width(length - 1) for length in prompts})
        self.slot_table.warm_up(self.params, self.prefix_cache.warm_up(self.params, widths))

    def _select(self) -> list[RequestState]:
        """Take from the queue, in order, the requests that slots and memory allow."""
        longest, current = self.slot_table.longest, self.slot_table.cache_length
        selected: list[RequestState] = []
        if self.refill or not self.active:
            while self.waiting:
                longest = max(longest, len(self.waiting[0].sequence))
                length = self.cache_lengths.target(longest, current)
                if self.active + len(selected) >= self.cache_lengths.slots_at(length):
                    break
                selected.append(self.waiting.popleft())
        return selected

    def _admit(self, selected: Sequence[RequestState]) -> None:
        """Prefill the selected requests and put them into slots of a KV cache that fits."""
        self._fit(max([self.slot_table.longest, *(len(state.sequence) for state in selected)]))
        count, errors = self.prefix_cache.prefill(self.params, selected, self.waiting)
        self.stats["prefills"] += count
        self._fail({state: errors[state.key] for state in selected if state.key in errors})
        batches: dict[int, list[tuple[RequestState, CachedPrefix]]] = {}
        for state in selected:
            if not state.done:
                prefix = self.prefix_cache.entries[state.key]
                batches.setdefault(id(prefix.kv_cache), []).append((state, prefix))
        for batch in batches.values():
            failures = self.slot_table.insert(batch)
            self.stats["admitted"] += len(batch) - len(failures)
            self._fail(dict(failures))
        for state in selected:
            self.prefix_cache.leave(state)

    def _fit(self, longest: int) -> None:
        """KV caches of the right length. Where that leaves too few slots, the youngest answers are
        preempted: they wait again.
        """
        length = self.cache_lengths.target(longest, self.slot_table.cache_length)
        if length == self.slot_table.cache_length:
            return
        for state in self.slot_table.preempt(length):
            self.waiting.appendleft(state)
            self.prefix_cache.wait(state)
            self.stats["preemptions"] += 1
        self.slot_table.resize(length)
        self.stats["resizes"] += 1

    def _decode(self) -> None:
        """Decode a block, hand each request its tokens and finish those at their end."""
        slots = len(self.slot_table.states)
        # With work waiting, come back once a sixteenth of the slots is free again.
        finish = max(1, slots // 16) if self.waiting and self.refill else slots
        output, active = self.slot_table.decode(self.params, finish)
        self.stats["blocks"] += 1
        endings: dict[RequestState, Ending] = {}
        failures: dict[RequestState, Exception] = {}
        for state in self.slot_table.requests:
            try:
                count, ending = state.take(output, self.version, active=bool(active[state.slot]))
            except Exception as error:
                failures[state] = error
                continue
            self.stats["tokens"] += count
            if ending is not None:
                endings[state] = ending
        self._finish(endings, active)
        self._fail(failures)

    def _finish(
        self, endings: dict[RequestState, Ending], active: np.ndarray | None = None
    ) -> None:
        """Complete requests and free their slots. active: bool [slots] of those that the device
        still works on, None for all.
        """
        freed = []
        for state, ending in endings.items():
            state.finish(ending)
            if state.slot is not None:
                freed.append(state.slot)
                state.slot = None
            else:
                self.prefix_cache.leave(state)
                if state in self.waiting:
                    self.waiting.remove(state)
        self.slot_table.free(freed, active)

    def _fail(self, failures: dict[RequestState, Exception]) -> None:
        """End requests as "abort", each with the text of its error."""
        for error in failures.values():
            logger.error("a request failed", exc_info=error)
        self._finish({state: _aborted(error) for state, error in failures.items()})

    def _restart(self, admitted: Sequence[RequestState], error: Exception) -> None:
        """After an error of the device: abort what was being worked on, and begin with empty slots
        and KV caches. Waiting requests stay queued.
        """
        logger.error("a step failed; its requests are aborted", exc_info=error)
        lost = [state for state in (*admitted, *self.slot_table.requests) if not state.done]
        for state in lost:
            self.prefix_cache.leave(state)
            state.slot = None
            state.finish(_aborted(error))
        self.slot_table.reset()


def _aborted(error: Exception) -> Ending:
    return Ending("abort", f"{type(error).__name__}: {error}")
