"""Continuous batching: S slots decode together, and a finished one is filled with the next request.

    engine = Engine(config, params, tokenizer=tokenizer, slots=64, max_length=4096)
    completions = engine.generate([Request(prompt, sampling("thinking"), budget=1024), ...])
    engine.update(new_params, version=1)

The host only schedules: it fills slots, asks for a block of tokens, reads what was made. Where long
answers leave fewer slots (`room`), the youngest go back into the queue and are read again later.
What an answer's ids are depends on its request only, not on slots, order, blocks or preemption.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import cache_lengths, compiled, requests
from qwen3.infer.interrupts import uninterrupted
from qwen3.infer.prefix_cache import Prefilled, PrefixCache
from qwen3.infer.request_state import Delta, RequestState
from qwen3.infer.requests import Completion, Request
from qwen3.infer.slot_table import SlotTable
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig


class Engine:
    """slots: answers decoded together. max_length: of prompt and answer. tokenizer: for stop ids,
    thinking, stop strings and which ids are tokens at all; without it all vocabulary rows are.
    mesh: None for the first device; a mesh's data, fsdp and expert axes divide the slots, which
    are rounded up. cache_tokens: places the caches may have in all, default slots x last bucket;
    `bytes_per_token` tells what one takes. buckets: cache lengths, default `room.lengths`. block:
    most tokens a slot makes between two looks of the host. seed: of the run. record_experts: keep
    the routing of a MoE. refill: put the next request into a slot as soon as it is free.
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
        mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        self.config, self.tokenizer, self.mesh = config, tokenizer, mesh
        self.max_length, self.block, self.seed = max_length, block, seed
        self.version, self.record_experts, self.refill = version, record_experts, refill
        if execution is None:
            execution = Execution.for_mesh(mesh, scan=False)
        self.execution = execution.replace(
            outputs_first=meshes.platform(mesh) == "cpu" and not execution.scan
        )
        ways, lengths = compiled.batch_ways(mesh), cache_lengths.checked(buckets, max_length)
        self.slots = -(-slots // ways) * ways
        splash = self.execution.attention == "splash"
        self.room = cache_lengths.CacheLengths(
            self.slots,
            ways,
            lengths,
            cache_tokens or self.slots * lengths[-1],
            block,
            smallest=cache_lengths.narrowest(lengths, splash),
        )
        self.programs = compiled.build(config, self.execution, mesh, block, record_experts)
        self.params = self.programs.place(params)
        self.running = SlotTable(self.programs, self.room, tokenizer, config.vocab, seed)
        self.prompts = PrefixCache(self.programs, self.room, record_experts=record_experts)
        self.queue: deque[RequestState] = deque()
        self.serials = itertools.count()
        self.stats = Counter()

    def generate(self, asked: Sequence[Request]) -> list[Completion]:
        """A completion for each request, in their order. ValueError for one that cannot be served,
        before any is begun.
        """
        found: list[Completion | None] = [None] * len(asked)
        for delta in self.stream(asked):
            if delta.completion is not None:
                found[delta.index] = delta.completion
        return found

    def stream(self, asked: Sequence[Request]) -> Iterator[Delta]:
        """New tokens as they come. Closing the iterator early aborts what is unfinished."""
        tickets = self.submit(asked)
        sent = [0] * len(tickets)
        open_ = set(range(len(tickets)))
        try:
            while open_:
                self.step()
                for i in sorted(open_):
                    ticket, made = tickets[i], tickets[i].completion.tokens
                    if len(made) > sent[i] or ticket.done:
                        if ticket.done:
                            open_.discard(i)
                        new, sent[i] = made[sent[i] :], len(made)
                        yield Delta(i, new, ticket.completion if ticket.done else None)
        finally:
            self.abort([tickets[i] for i in open_])

    def submit(self, asked: Sequence[Request]) -> list[RequestState]:
        """Queue requests; `step` then works on them. All are checked before any is queued."""
        for i, request in enumerate(asked):
            try:
                requests.check(
                    request,
                    vocab=self.config.vocab,
                    max_length=self.max_length,
                    thinks=self.tokenizer is not None,
                )
            except ValueError as error:
                raise ValueError(f"request {i}: {error}") from None
        tickets = [
            RequestState(request, next(self.serials), self.max_length, self.tokenizer)
            for request in asked
        ]
        for ticket in tickets:
            self.prompts.wait(ticket)
        self.queue.extend(tickets)
        return tickets

    def abort(self, tickets: Sequence[RequestState]) -> None:
        """Finish them as "abort" with what they have; others go on undisturbed."""
        self._finish([(ticket, "abort", None) for ticket in tickets if not ticket.done])

    def update(self, params: Any, version: int) -> None:
        """New weights of the same shapes, from the next token on. Unfinished answers keep their
        caches; each token's version tells which weights made it.
        """
        self.params = self.programs.place(params)
        self.version = version
        self.prompts.read.clear()

    @property
    def bytes_per_token(self) -> int:
        """Of one place in the caches of all layers."""
        c = self.config
        return 2 * c.layers * c.kv_heads * c.head_dim * np.dtype(self.execution.dtype).itemsize

    @property
    def active(self) -> int:
        """How many slots are taken."""
        return len(self.running.taken)

    def step(self) -> None:
        """Fill free slots, then make up to `block` tokens in each. A Ctrl-C waits for its end: the
        caches are donated, and lost if their new owner is not noted.
        """
        with uninterrupted():
            self._step()

    def _step(self) -> None:
        self._admit()
        rows = self.running.rows
        if not self.active:
            return
        # With work waiting, come back once a sixteenth of the slots is free again.
        finish = max(1, len(rows) // 16) if self.queue and self.refill else len(rows)
        record, active, stopped = self.running.decode(self.params, finish)
        self.stats["blocks"] += 1
        endings = []
        for ticket in [rows[slot] for slot in self.running.taken]:
            slot = ticket.slot
            count, end = ticket.take(
                record, self.version, active=active[slot], stopped=stopped[slot]
            )
            self.stats["tokens"] += count
            if end is not None:
                endings.append((ticket, *end))
        self._finish(endings, running=active)

    def warm_up(self, prompts: Sequence[int] = (1,)) -> None:
        """Compile all there is to run for prompts of these lengths: nothing is compiled later.

        Only while nothing is active. Takes a decode program a bucket, and a prefill and, a bucket
        each, an insert program for each different prefill width.
        """
        if self.active or self.queue:
            raise ValueError(f"{self.active + len(self.queue)} requests are being worked on")
        if self.room.tight:  # an answer that had to wait again is read with what it has so far
            prompts = range(1, self.max_length + 1)
        widths = sorted({self.room.width(length - 1) for length in prompts})
        self.running.warm_up(self.params, self.prompts.warm_up(self.params, widths))

    def _admit(self) -> None:
        """Take from the queue, in order, what slots and memory allow; make the caches fit."""
        running, longest = self.running, self.running.longest
        chosen: list[RequestState] = []
        if self.refill or not self.active:
            while self.queue:
                needed = max(longest, len(self.queue[0].sequence))
                length = self.room.target(needed, running.length)
                if self.active + len(chosen) >= self.room.rows_at(length):
                    break
                chosen.append(self.queue.popleft())
                longest = needed
        self._fit(longest)
        self.stats["prefills"] += self.prompts.prefill(self.params, chosen, self.queue)
        batches: dict[int, list[tuple[RequestState, Prefilled]]] = {}
        for ticket in chosen:
            found = self.prompts.read[ticket.key]
            batches.setdefault(id(found.layers), []).append((ticket, found))
        for batch in batches.values():
            running.insert(batch)
            self.stats["admitted"] += len(batch)
        for ticket in chosen:
            self.prompts.leave(ticket)

    def _fit(self, longest: int) -> None:
        """Caches of the right length. Where that leaves too few slots, the youngest answers wait
        again.
        """
        wanted = self.room.target(longest, self.running.length)
        if wanted == self.running.length:
            return
        for ticket in self.running.fit(wanted):
            self.queue.appendleft(ticket)
            self.prompts.wait(ticket)
            self.stats["preemptions"] += 1
        self.stats["resizes"] += 1

    def _finish(self, endings, running: np.ndarray | None = None) -> None:
        """Free the slots of (ticket, reason, error); running: slots the device still works on."""
        freed = []
        for ticket, reason, error in endings:
            ticket.finish(reason, error)
            if ticket.slot is None:
                self.queue.remove(ticket)
                self.prompts.leave(ticket)
            else:
                freed.append(ticket.slot)
                ticket.slot = None
        self.running.free(freed, running)
