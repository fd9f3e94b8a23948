"""The engine: a scheduler with continuous batching over S slots that decode together.

    engine = Engine(config, params, tokenizer=tokenizer, slots=64, max_length=4096)
    completions = engine.generate([Request(prompt, sampling("thinking"), budget=1024), ...])
    engine.update(new_params, version=1)

The host only schedules. Each `step` is one scheduling point: it admits waiting requests to free
slots in their order (a finished answer's slot is refilled at once), makes room in the KV caches,
preempts the youngest requests where there is none, and has the device decode a block of tokens. A
preempted request waits again; what it has so far is prefilled, or, in pages, comes back from the
host's memory. An answer's ids depend on its request only, not on slots, order, blocks, pages or
preemption.

KV caches have one of two forms behind one interface (`kv_caches`): rows of one length for all slots
(`row_caches`), or pages (`paged_caches`). The device's programs are pure functions in `slots`,
`decode` and `kv_pages`, and the host's side of a request is in `request_state`.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3 import hosts
from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import compiled
from qwen3.infer import slots as slots_
from qwen3.infer.backend import completions
from qwen3.infer.interrupts import uninterrupted
from qwen3.infer.kv_caches import CacheSettings, KVCaches
from qwen3.infer.paged_caches import PagedCaches
from qwen3.infer.request_state import Ending, RequestState, TokenChunk
from qwen3.infer.requests import Completion, Request, check_request
from qwen3.infer.row_caches import RowCaches
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig

logger = logging.getLogger(__name__)

CACHES: dict[str, Callable[..., KVCaches]] = {"rows": RowCaches, "paged": PagedCaches}


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
        cache: "rows": KV caches of one length for all slots, which follows the longest sequence;
            "paged": every sequence takes the pages that it uses.
        buckets: growing lengths of rows; None for `cache_lengths.default_buckets`.
        page_size: places of a page, a power of two; None for 32, and for 64 on a TPU.
        chunk: most tokens of a prompt that are prefilled into pages between two decode calls, a
            power of two; None for 512.
        host_tokens: places of given-up pages in the host's memory, for turns of dialogues and
            preempted requests to go on in; None for as many as cache_tokens, 0 to prefill again.
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
        cache: str = "rows",
        buckets: Sequence[int] | None = None,
        page_size: int | None = None,
        chunk: int | None = None,
        host_tokens: int | None = None,
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
        if config.scalar_head:
            raise ValueError(f"{config.name} is a reward model: it scores answers and writes none")
        self.config, self.tokenizer = config, tokenizer
        self.max_length, self.block, self.seed = max_length, block, seed
        self.version, self.record_experts, self.refill = version, record_experts, refill
        self.mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        if execution is None:
            execution = Execution.for_mesh(self.mesh, scan=False)
        self.execution = execution.replace(
            outputs_first=meshes.platform(self.mesh) == "cpu" and not execution.scan
        )
        self.waiting: deque[RequestState] = deque()
        self.arrivals = itertools.count()
        self.stats: Counter[str] = Counter()
        options: dict[str, dict[str, Any]] = {
            "rows": {"buckets": buckets},
            "paged": {"page_size": page_size, "chunk": chunk, "host_tokens": host_tokens},
        }
        self.caches = self._caches(cache, options, slots=slots, cache_tokens=cache_tokens)
        self.slots = self.caches.slots
        self.params = self.caches.place(params)

    def _caches(
        self,
        cache: str,
        options: dict[str, dict[str, Any]],
        *,
        slots: int,
        cache_tokens: int | None,
    ) -> KVCaches:
        """options: those of each form; ValueError where one is given to another form."""
        if cache not in CACHES:
            raise ValueError(f"cache {cache!r}: wanted one of {', '.join(CACHES)}")
        for form, values in options.items():
            for name, value in values.items():
                if form != cache and value is not None:
                    raise ValueError(f"{name} {value} is for cache={form!r}, not {cache!r}")
        ways = compiled.batch_ways(self.mesh)
        settings = CacheSettings(
            self.config,
            self.execution,
            self.mesh,
            self.tokenizer,
            slots=-(-slots // ways) * ways,
            max_length=self.max_length,
            cache_tokens=cache_tokens,
            block=self.block,
            record_experts=self.record_experts,
            refill=self.refill,
            waiting=self.waiting,
            stats=self.stats,
        )
        return CACHES[cache](settings, **options[cache])

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """A completion for each request, in their order. ValueError for one that cannot be served,
        before any is begun. A request that fails later ends as "abort" with `Completion.error`.
        """
        return completions(self, requests)

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
            self.caches.wait(state)
        later = [state for state in states if state.request.turn]
        self.waiting.extendleft(reversed(later))  # before others take the place of their cache
        self.waiting.extend(state for state in states if not state.request.turn)
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
        self.params = self.caches.place(params)
        self.version = version
        self.caches.clear()

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of one place in the KV caches of all layers."""
        place = jax.eval_shape(lambda: slots_.new_kv_cache(self.config, 1, 1, self.execution))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(place))

    @property
    def active(self) -> int:
        """How many requests are being worked on."""
        return self.caches.active

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV caches of all slots as they are now."""
        return self.caches.places * self.bytes_per_token

    def step(self) -> None:
        """One scheduling point: admit waiting requests, then decode up to `block` tokens a slot.

        An exception that concerns one request ends it as "abort" with the error's text; one of the
        device, whose donated buffers are then lost, ends those that were being worked on. The
        others go on. A Ctrl-C is held back until the step's end, for the same buffers.
        """
        hosts.alive()
        with uninterrupted():
            try:
                self._fail(self.caches.schedule(self.params))
                if self.caches.requests:
                    self._decode()
            except Exception as error:
                self._restart(error)

    def warm_up(self, prompts: Sequence[int] = (1,), turns: Sequence[int] = ()) -> None:
        """Compile all there is to run for prompts of these lengths: nothing is compiled later.

        turns: numbers of tokens that are new in the later turns of dialogues. ValueError while
        requests are being worked on. See `warm_up` of `row_caches` and `paged_caches` for the
        programs.
        """
        if self.active or self.waiting:
            raise ValueError(f"{self.active + len(self.waiting)} requests are being worked on")
        self.caches.warm_up(self.params, prompts, turns)

    def _decode(self) -> None:
        """Decode a block, hand each request its tokens and finish those at their end."""
        output, active = self.caches.decode(self.params, refill=bool(self.waiting) and self.refill)
        self.stats["blocks"] += 1
        endings: dict[RequestState, Ending] = {}
        failures: dict[RequestState, Exception] = {}
        for state in self.caches.requests:
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
        for state, ending in endings.items():
            state.finish(ending)
            if state.slot is None and state in self.waiting:
                self.waiting.remove(state)
        self.caches.finish(list(endings), active)

    def _fail(self, failures: dict[RequestState, Exception]) -> None:
        """End requests as "abort", each with the text of its error."""
        for error in failures.values():
            logger.error("a request failed", exc_info=error)
        self._finish({state: _aborted(error) for state, error in failures.items()})

    def _restart(self, error: Exception) -> None:
        """After an error of the device: abort what was being worked on, and begin with empty slots
        and KV caches. Waiting requests stay queued.
        """
        logger.error("a step failed; its requests are aborted", exc_info=error)
        for state in self.caches.reset():
            if not state.done:
                state.finish(_aborted(error))


def _aborted(error: Exception) -> Ending:
    return Ending("abort", f"{type(error).__name__}: {error}")
