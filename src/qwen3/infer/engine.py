"""Continuous batching: S slots decode together, and a finished one is filled with the next request.

    engine = Engine(config, params, tokenizer=tokenizer, slots=64, max_length=4096)
    completions = engine.generate([Request(prompt, sampling("thinking"), budget=1024), ...])
    engine.update(new_params, version=1)

The host only schedules: it fills slots, asks for a block of tokens, reads what was made. Caches
have one length for all slots, taken from a few buckets and grown or cut as the longest answer
needs. Memory is bounded by `cache_tokens`: slots x length never exceed it, so long answers
leave fewer slots; the youngest answers then go back into the queue and are read again later.
What an answer's ids are depends on its request only, not on slots, order, blocks or preemption.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import budget, decode, programs, requests
from qwen3.infer.requests import MOST_STOP_IDS, Completion, Request
from qwen3.infer.stops import StopStrings
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops import sampling

SMALLEST_PREFILL = 32
PREFILL_ROWS = (8, 1)


class Ticket:
    """A request on its way through the engine."""

    def __init__(self, request: Request, serial: int, left: int, state: dict[str, int]):
        self.request, self.serial = request, serial
        self.completion = Completion(request)
        self.sequence = list(map(int, request.prompt))  # prompt and answer
        self.left, self.state = left, state
        self.slot: int | None = None
        self.stops: StopStrings | None = None
        self.routes: list[np.ndarray] = []

    @property
    def done(self) -> bool:
        return self.completion.finish is not None

    @property
    def key(self) -> bytes:
        """Of what must be read before the next token can be made."""
        return requests.prompt_key(self.sequence[:-1])


class Delta(NamedTuple):
    """New tokens of the request at `index`; completion once it is finished."""

    index: int
    tokens: list[int]
    completion: Completion | None


class Prefilled(NamedTuple):
    """A row of a prefilled batch. width: the batch's length; routes: its experts or None."""

    layers: Any
    row: int
    width: int
    routes: np.ndarray | None


class Engine:
    """slots: answers decoded together. max_length: of prompt and answer. tokenizer: for stop ids,
    thinking, stop strings and which ids are tokens at all; without it all vocabulary rows are.
    mesh: None for the first device; a mesh's data, fsdp and expert axes divide the slots, which
    are rounded up. cache_tokens: places the caches may have in all, default slots x max_length;
    `bytes_per_token` tells what one takes. buckets: cache
    lengths, default `lengths(max_length)`. block: most tokens a slot makes between two looks of
    the host. seed: of the run. record_experts: keep the routing of a MoE.
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
        self.ways = programs.batch_ways(mesh)
        self.slots = -(-slots // self.ways) * self.ways
        self.buckets = _checked_buckets(buckets, max_length)
        self.cache_tokens = cache_tokens or self.slots * self.buckets[-1]
        if self.cache_tokens < self.ways * self.buckets[-1]:
            raise ValueError(
                f"cache_tokens {self.cache_tokens} cannot hold {self.ways} answers of "
                f"{self.buckets[-1]} tokens; wanted at least {self.ways * self.buckets[-1]}"
            )
        if execution is None:
            execution = Execution.for_mesh(mesh, scan=False)
        self.execution = execution
        self.programs = programs.build(config, execution, mesh, block, record_experts)
        self.params = self.programs.place(params)
        self.tables = jax.device_put(budget.tables(tokenizer, config.vocab))
        allowed = np.ones(config.vocab, bool)
        if tokenizer is not None:
            allowed = ~tokenizer.never_sampled(config.vocab)
        self.allowed = jax.device_put(allowed)

        self.length = self.buckets[0]
        self.rows: list[Ticket | None] = [None] * self._rows_at(self.length)
        self.state, self.layers = self.programs.new(len(self.rows), self.length)
        self.queue: deque[Ticket] = deque()
        self.prefilled: dict[bytes, Prefilled] = {}
        self.waiting: Counter[bytes] = Counter()
        self.serial = 0
        self.stats = Counter()

    # --- for callers -----------------------------------------------------------------------------

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

    def submit(self, asked: Sequence[Request]) -> list[Ticket]:
        """Queue requests; `step` then works on them. All are checked before any is queued."""
        for i, request in enumerate(asked):
            try:
                requests.check(
                    request, vocab=self.config.vocab, max_length=self.max_length,
                    thinks=self.tokenizer is not None,
                )  # fmt: skip
            except ValueError as error:
                raise ValueError(f"request {i}: {error}") from None
        tickets = [self._ticket(request) for request in asked]
        for ticket in tickets:
            self.waiting[ticket.key] += 1
        self.queue.extend(tickets)
        return tickets

    def abort(self, tickets: Sequence[Ticket]) -> None:
        """Finish them as "abort" with what they have; others go on undisturbed."""
        self._finish([(ticket, "abort", None) for ticket in tickets if not ticket.done])

    def update(self, params: Any, version: int) -> None:
        """New weights of the same shapes, from the next token on. Unfinished answers keep their
        caches; each token's version tells which weights made it.
        """
        self.params = self.programs.place(params)
        self.version = version
        self.prefilled.clear()

    @property
    def bytes_per_token(self) -> int:
        """Of one place in the caches of all layers."""
        c = self.config
        return 2 * c.layers * c.kv_heads * c.head_dim * np.dtype(self.execution.dtype).itemsize

    @property
    def active(self) -> int:
        return sum(ticket is not None for ticket in self.rows)

    def step(self) -> None:
        """Fill free slots, then make up to `block` tokens in each. A Ctrl-C waits for its end: the
        caches are donated, and lost if their new owner is not noted.
        """
        with _uninterrupted():
            self._step()

    def _step(self) -> None:
        self._admit()
        if not self.active:
            return
        longest = max(len(ticket.sequence) for ticket in self.rows if ticket is not None)
        most = min(self.block, self.length - longest + 1)
        # With work waiting, come back once an eighth of the slots is free again.
        finish = max(1, len(self.rows) // 8) if self.queue and self.refill else len(self.rows)
        self.state, self.layers, record = self.programs.decode(
            self.params, self.state, self.layers, self.tables, self.allowed,
            np.int32(most), np.int32(finish),
        )  # fmt: skip
        self.stats["blocks"] += 1
        self._collect(*jax.device_get((record, self.state.active, self.state.thinking.stopped)))

    def warm_up(self, prompts: Sequence[int] = (1,)) -> None:
        """Compile all there is to run for prompts of these lengths: nothing is compiled later.

        Only while nothing is active. Takes a decode program a bucket, and a prefill and, a bucket
        each, an insert program for each different prefill width.
        """
        if self.active or self.queue:
            raise ValueError(f"{self.active + len(self.queue)} requests are being worked on")
        tight = self._rows_at(self.buckets[-1]) < self.slots
        if tight:  # an answer that had to wait again is read with what it has so far
            prompts = range(1, self.max_length + 1)
        shapes = [
            (rows * self.ways, width)
            for width in sorted({self._width(length - 1) for length in prompts})
            for rows in PREFILL_ROWS
        ]
        batches = [
            (width, self.programs.prefill(
                self.params, np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
            )[0])
            for rows, width in shapes
        ]  # fmt: skip
        for length in self.buckets:
            self._fit_to(length, [])
            for other in self.buckets:
                keep = np.zeros(self._rows_at(other), np.int32)
                self.programs.resize(self.state, self.layers, keep, length=other)
            for width, layers in batches:
                self.state, self.layers = self.programs.insert(
                    self.state, self.layers, layers, _arrivals(len(self.rows), width)
                )
            self.state, self.layers, _ = self.programs.decode(
                self.params, self.state, self.layers, self.tables, self.allowed,
                np.int32(0), np.int32(1),
            )  # fmt: skip
        self._fit_to(self.buckets[0], [])

    # --- scheduling ------------------------------------------------------------------------------

    def _ticket(self, request: Request) -> Ticket:
        most = requests.limit(request, self.max_length)
        state = budget.start(
            request.prompt, self.tokenizer,
            thinking=request.thinking, budget=request.budget, stop_text=request.stop_text,
            reserve=requests.reserve(request, most),
        )  # fmt: skip
        self.serial += 1
        ticket = Ticket(request, self.serial, most, state)
        if request.stop_strings:
            ticket.stops = StopStrings(self.tokenizer, request.stop_strings)
        return ticket

    def _admit(self) -> None:
        """Take from the queue, in order, what slots and memory allow; make the caches fit."""
        longest = max((len(t.sequence) for t in self.rows if t is not None), default=1)
        chosen: list[Ticket] = []
        if self.refill or not self.active:
            while self.queue:
                needed = max(longest, len(self.queue[0].sequence))
                if self.active + len(chosen) >= self._rows_at(self._target(needed)):
                    break
                chosen.append(self.queue.popleft())
                longest = needed
        self._fit(longest)
        self._prefill(chosen)
        free = iter([i for i, ticket in enumerate(self.rows) if ticket is None])
        batches: dict[int, list[tuple[Ticket, Prefilled, int]]] = {}
        for ticket in chosen:
            found = self.prefilled[ticket.key]
            batches.setdefault(id(found.layers), []).append((ticket, found, next(free)))
        for batch in batches.values():
            self._insert(batch)
        for ticket in chosen:
            self._leave_queue(ticket)

    def _fit(self, longest: int) -> None:
        """Caches of the right length. Where that leaves too few slots, the youngest answers wait
        again.
        """
        wanted = self._target(longest)
        if wanted == self.length:
            return
        rows = self._rows_at(wanted)
        taken = [i for i, ticket in enumerate(self.rows) if ticket is not None]
        for i in sorted(taken, key=lambda i: self.rows[i].serial)[rows:]:
            self._preempt(i)
            taken.remove(i)
        self._fit_to(wanted, list(range(rows)) if rows == len(self.rows) else taken)
        self.stats["resizes"] += 1

    def _fit_to(self, length: int, keep: list[int]) -> None:
        """Caches of `length`, in as many slots as that leaves, the old slots `keep` first."""
        rows = self._rows_at(length)
        kept = np.zeros(rows, np.int32)
        kept[: len(keep)] = keep
        state, layers = self.programs.resize(self.state, self.layers, kept, length=length)
        self.rows = [self.rows[i] for i in keep] + [None] * (rows - len(keep))
        self.state = self.programs.release(state, np.array([t is not None for t in self.rows]))
        self.layers, self.length = layers, length
        for slot, ticket in enumerate(self.rows):
            if ticket is not None:
                ticket.slot = slot

    def _preempt(self, slot: int) -> None:
        ticket = self.rows[slot]
        state = jax.device_get(self.state.thinking)
        ticket.state = {name: value[slot].item() for name, value in state._asdict().items()}
        ticket.slot, self.rows[slot] = None, None
        self.queue.appendleft(ticket)
        self.waiting[ticket.key] += 1
        self.stats["preemptions"] += 1

    def _prefill(self, chosen: Sequence[Ticket]) -> None:
        """Read each different prompt once; in batches of one bucket, largest batches first."""
        missing: dict[int, dict[bytes, list[int]]] = {}
        for ticket in chosen:
            if ticket.key not in self.prefilled:
                tokens = ticket.sequence[:-1]
                missing.setdefault(self._width(len(tokens)), {})[ticket.key] = tokens
        for width, prompts in missing.items():
            entries = list(prompts.items())
            while entries:
                # A mesh divides rows: fill up to its multiple.
                rows = next(
                    r * self.ways for r in PREFILL_ROWS if r * self.ways <= len(entries) or r == 1
                )
                self._prefill_batch(entries[:rows], rows, width)
                entries = entries[rows:]

    def _prefill_batch(self, entries, rows: int, width: int) -> None:
        tokens = np.zeros((rows, width), np.int32)
        lengths = np.zeros(rows, np.int32)
        for row, (_, ids) in enumerate(entries):
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        layers, routes = self.programs.prefill(self.params, tokens, lengths)
        routes = np.asarray(routes, np.uint8) if self.record_experts else None
        for row, (key, _) in enumerate(entries):
            self.prefilled[key] = Prefilled(layers, row, width, routes)
        self.stats["prefills"] += len(entries)

    def _insert(self, batch: list[tuple[Ticket, Prefilled, int]]) -> None:
        """Tickets that were prefilled together into their slots."""
        rows, width = len(self.rows), batch[0][1].width
        new = _arrivals(rows, width)
        for i, (ticket, found, slot) in enumerate(batch):
            request, sequence = ticket.request, ticket.sequence
            new.slot[i], new.source[i] = slot, found.row
            new.token[i], new.length[i] = sequence[-1], len(sequence) - 1
            new.left[i] = ticket.left
            new.seeds[i] = requests.seeds(request, self.seed)
            _set(new.rules, i, _rules(request))
            _set(new.thinking, i, ticket.state)
            stops = self._stop_ids(request)
            new.stops[i, : len(stops)] = stops
            new.history[i, : len(sequence)] = sequence
            new.kinds[i, : len(request.prompt)] = decode.PROMPT
            forced = np.array(ticket.completion.forced, bool)
            made = np.where(forced, decode.FORCED, decode.SAMPLED)
            new.kinds[i, len(request.prompt) : len(sequence)] = made
            ticket.slot, self.rows[slot] = slot, ticket
            if found.routes is not None and not ticket.routes:
                ticket.routes.append(found.routes[:, found.row, : len(sequence) - 1].swapaxes(0, 1))
        new = new._replace(count=np.int32(len(batch)))
        self.state, self.layers = self.programs.insert(
            self.state, self.layers, batch[0][1].layers, new
        )
        self.stats["admitted"] += len(batch)

    def _collect(self, record: decode.Record, active: np.ndarray, stopped: np.ndarray) -> None:
        """Give every ticket what its slot made, and finish those that are done."""
        endings = []
        for slot, ticket in enumerate(self.rows):
            if ticket is None:
                continue
            count = int(record.made[:, slot].sum())
            error = None
            if not np.isfinite(record.log_probs[:count, slot]).all():
                error = "the model's log-probabilities are not finite"
            hit = ticket.stops.feed(record.ids[:count, slot]) if ticket.stops else None
            count = count if hit is None else hit + 1
            made = ticket.completion
            tokens = record.ids[:count, slot].tolist()
            ticket.sequence += tokens
            ticket.left -= count
            made.tokens += tokens
            made.log_probs += record.log_probs[:count, slot].tolist()
            made.sampling_log_probs += record.sampling_log_probs[:count, slot].tolist()
            made.forced += record.forced[:count, slot].tolist()
            made.versions += [self.version] * count
            if record.experts is not None:
                ticket.routes.append(record.experts[:count, :, slot])
            self.stats["tokens"] += count
            if error is not None:
                endings.append((ticket, "abort", error))
            elif hit is not None or not active[slot]:
                by_id = made.tokens[-1] in self._stop_ids(ticket.request) and not made.forced[-1]
                natural = "budget-then-stop" if stopped[slot] else "stop"
                endings.append((ticket, natural if by_id or hit is not None else "length", None))
        self._finish(endings, running=active)

    def _finish(self, endings, running: np.ndarray | None = None) -> None:
        """Free the slots of (ticket, reason, error); running: slots the device still works on."""
        keep = np.ones(len(self.rows), bool)
        for ticket, reason, error in endings:
            made = ticket.completion
            made.finish, made.error = reason, error
            if ticket.routes:
                made.experts = np.concatenate(ticket.routes)
            if ticket.slot is None:
                self.queue.remove(ticket)
                self._leave_queue(ticket)
            else:
                keep[ticket.slot], self.rows[ticket.slot] = False, None
                ticket.slot = None
        if (~keep & (True if running is None else running)).any():
            self.state = self.programs.release(self.state, keep)

    def _leave_queue(self, ticket: Ticket) -> None:
        key = ticket.key
        self.waiting[key] -= 1
        if not self.waiting[key]:
            del self.waiting[key]
            self.prefilled.pop(key, None)

    def _stop_ids(self, request: Request) -> tuple[int, ...]:
        if request.stop_ids is not None:
            return request.stop_ids
        return () if self.tokenizer is None else self.tokenizer.stop_ids

    def _rows_at(self, length: int) -> int:
        """How many slots caches of this length leave."""
        rows = min(self.slots, self.cache_tokens // length)
        return rows // self.ways * self.ways

    def _bucket(self, length: int) -> int:
        return next(b for b in self.buckets if b >= length)

    def _target(self, longest: int) -> int:
        """The shortest cache for one more token of the longest answer; a cache is cut only where a
        whole block fits into the shorter one.
        """
        wanted = self._bucket(longest)
        if wanted >= self.length:
            return wanted
        return min(self._bucket(min(longest + self.block, self.buckets[-1])), self.length)

    def _width(self, tokens: int) -> int:
        """Length of the prefill batch for a prompt: a power of two, or the whole context."""
        width = SMALLEST_PREFILL
        while width < tokens:
            width *= 2
        return min(width, max(self.max_length, SMALLEST_PREFILL))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds back Ctrl-C until the end; signals only come to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *arguments: pressed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[0])


def lengths(max_length: int, step: int = 64) -> tuple[int, ...]:
    """Cache buckets: by `step` up to 8 steps, then by an eighth more, rounded to steps."""
    found = [min(step, max_length)]
    while found[-1] < max_length:
        grown = found[-1] + max(step, found[-1] // 8 // step * step)
        found.append(min(grown, max_length))
    return tuple(found)


def _checked_buckets(buckets: Sequence[int] | None, max_length: int) -> tuple[int, ...]:
    if buckets is None:
        return lengths(max_length)
    buckets = tuple(buckets)
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] != max_length:
        raise ValueError(f"buckets {buckets}: wanted growing lengths up to {max_length}")
    return buckets


def _rules(request: Request) -> tuple[float, ...]:
    s = request.sampling
    return (
        s.temperature, s.top_k, s.top_p, s.min_p,
        s.presence_penalty, s.frequency_penalty, s.repetition_penalty,
    )  # fmt: skip


def _arrivals(rows: int, width: int) -> decode.Arrivals:
    """Empty host arrays for `rows` arrivals with prompts of up to `width` + 1 tokens."""
    ints = np.zeros(rows, np.int32)
    flags = ("in_call", "may_think", "stopped")
    thinking = {
        name: np.zeros(rows, bool if name in flags else np.int32)
        for name in budget.Automaton._fields
    }
    return decode.Arrivals(
        count=np.int32(0), slot=ints.copy(), source=ints.copy(), token=ints.copy(),
        length=ints.copy(), left=ints.copy(), seeds=np.zeros((rows, 3), np.uint32),
        rules=sampling.Rules(*(np.array(x) for x in jax.device_get(sampling.neutral(rows)))),
        stops=np.full((rows, MOST_STOP_IDS), -1, np.int32),
        history=np.zeros((rows, width + 1), np.int32),
        kinds=np.zeros((rows, width + 1), np.int8),
        thinking=budget.Automaton(**thinking),
    )  # fmt: skip


def _set(arrays: Any, i: int, values: Any) -> None:
    """Row i of each of a NamedTuple's arrays."""
    values = values.values() if isinstance(values, dict) else values
    for array, value in zip(arrays, values, strict=True):
        array[i] = value
