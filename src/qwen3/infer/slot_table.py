"""The slots of an engine: which request each serves, and the device's state and KV cache for them.

KV caches are donated to every program that changes them; this is the only place that holds them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import admission, budget, grammar
from qwen3.infer.cache_lengths import CacheLengths
from qwen3.infer.compiled import CompiledPrograms
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.kept_rows import KeptRows
from qwen3.infer.paged_programs import PagedPrograms
from qwen3.infer.prefix_cache import CachedPrefix
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import MOST_ALTERNATIVES
from qwen3.infer.slots import Admission, KVCache, Slots
from qwen3.train import across


class SlotRequests(abc.ABC):
    """Which request each slot serves. programs: of which one stops slots."""

    slots: Slots  # the device's state

    def __init__(
        self, programs: CompiledPrograms | PagedPrograms, tokenizer: Tokenizer | None, vocab: int
    ):
        self.release: Callable[..., Slots] = programs.release
        self.states: list[RequestState | None] = []  # the request in each slot
        self.budget_tables = across.place(budget.tables(tokenizer, vocab), programs.replicated)
        allowed = np.ones(vocab, bool) if tokenizer is None else ~tokenizer.never_sampled(vocab)
        # bool [V]: ids that may be sampled
        self.allowed = across.place(allowed, programs.replicated)

    @property
    def requests(self) -> list[RequestState]:
        """The requests that are being decoded, in the order of their slots."""
        return [state for state in self.states if state is not None]

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Most tokens that the next decode call may generate in a slot."""

    @abc.abstractmethod
    def _decode(
        self, params: Any, most: int, finish: int, allowed: np.ndarray | None, **options: int
    ) -> DecodeOutput: ...

    def decode(self, params: Any, finish: int) -> tuple[DecodeOutput, np.ndarray]:
        """A block of tokens, or less once `finish` slots have finished: (what was generated, bool
        [slots]: which slots the device would go on with), on the host.
        """
        alternatives = max((state.request.alternatives for state in self.requests), default=0)
        # One more program, not one for each number of alternatives.
        options = {"alternatives": MOST_ALTERNATIVES} if alternatives else {}
        allowed = self._grammars()
        # What a grammar lets follow is known once the next token is.
        most = self.steps if allowed is None else 1
        output = self._decode(params, most, finish, allowed, **options)
        return across.read((output, self.slots.active))

    def _grammars(self) -> np.ndarray | None:
        """uint32 [S, words]: the tokens that each slot's grammar allows next; None for no grammar
        in any slot.
        """
        if not any(state.allowed is not None for state in self.requests):
            return None
        rows = np.full((len(self.states), grammar.words(len(self.allowed))), grammar.ALL)
        for state in self.requests:
            if state.allowed is not None:
                rows[state.slot] = state.allowed
        return rows

    def _admit(
        self,
        new: Admission,
        states: Sequence[RequestState],
        place: Callable[[RequestState], tuple[int, int]],
    ) -> tuple[Admission, list[tuple[RequestState, Exception]]]:
        """(`new` with these requests in slots, those whose own data cannot be put there with the
        error). place: of a request (its row of the prefilled batch, a slot that is free now).
        """
        failures: list[tuple[RequestState, Exception]] = []
        for state in states:
            source, slot = place(state)
            try:
                new = admission.add(new, state, source, slot)
            except Exception as error:
                failures.append((state, error))
            else:
                state.slot, self.states[slot] = slot, state
        return new, failures

    def finish(self, states: Sequence[RequestState], active: np.ndarray | None) -> None:
        """Free the slots of those requests that have one. active: as of `free`."""
        slots = [state.slot for state in states if state.slot is not None]
        for state in states:
            state.slot = None
        self.free(slots, active)

    def free(self, slots: Sequence[int], active: np.ndarray | None = None) -> None:
        """Take these slots' requests away. active: bool [slots] of what the device still works on,
        None for all.
        """
        keep = np.ones(len(self.states), bool)
        keep[list(slots)] = False
        if (~keep & (True if active is None else active)).any():
            self.slots = self.release(self.slots, keep)
        for slot in slots:  # last: where the device fails, they are among what it worked on
            self.states[slot] = None


class SlotTable(SlotRequests):
    """The requests in the slots, and the programs that decode them."""

    def __init__(
        self,
        compiled: CompiledPrograms,
        cache_lengths: CacheLengths,
        tokenizer: Tokenizer | None,
        vocab: int,
    ):
        super().__init__(compiled, tokenizer, vocab)
        self.compiled, self.cache_lengths = compiled, cache_lengths
        self.reset()

    def reset(self) -> None:
        """Empty slots with new KV caches of the shortest length."""
        self.cache_length = self.cache_lengths.buckets[0]
        count = self.cache_lengths.slots_at(self.cache_length)
        self.states = [None] * count
        self.kept = KeptRows()
        self.kv_cache: KVCache = ()  # the old one is freed before the new one is allocated
        self.slots, self.kv_cache = self.compiled.new(count, self.cache_length)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, 1 where there is none."""
        return max((len(state.sequence) for state in self.requests), default=1)

    def insert(
        self, batch: Sequence[tuple[RequestState, CachedPrefix]]
    ) -> list[tuple[RequestState, Exception]]:
        """Put requests that were prefilled together into free slots.

        Returns those whose own data cannot be put there, with the error; the others are.
        """
        free = self.kept.in_order(s for s, state in enumerate(self.states) if state is None)
        prefixes, empty = dict(batch), admission.empty(len(self.states), batch[0][1].width)

        def place(state: RequestState) -> tuple[int, int]:
            return prefixes[state].row, next(slot for slot in free if self.states[slot] is None)

        new, failures = self._admit(empty, list(prefixes), place)
        for state, prefix in batch:
            is_placed = state.slot is not None
            if is_placed and prefix.expert_ids is not None and not state.expert_ids:
                prompt_ids = prefix.expert_ids[:, prefix.row, : len(state.sequence) - 1]
                state.expert_ids.append(prompt_ids.swapaxes(0, 1))
        self.slots, self.kv_cache = self.compiled.insert(
            self.slots, self.kv_cache, batch[0][1].kv_cache, new
        )
        self.kept.drop(free[: int(new.count)])
        return failures

    def go_on(
        self, params: Any, batch: Sequence[RequestState], rows: int, width: int
    ) -> list[tuple[RequestState, Exception]]:
        """Prefill what is new of requests that go on in a kept row, as a batch of `rows` requests
        of `width` tokens. Returns those whose own data cannot be put there, with the error.
        """
        kept, count = self.kept, len(self.states)
        tokens, (lengths, starts) = np.zeros((rows, width), np.int32), np.zeros((2, rows), np.int32)
        slots = np.full(rows, count, np.int32)  # no slot
        for row, state in enumerate(batch):
            slots[row] = kept.slot_of[state]
            starts[row] = len(kept.tokens[slots[row]])
            new_ids = state.sequence[starts[row] : -1]
            tokens[row] = new_ids[-1]  # padded with a token of its own, see `prefix_cache`
            tokens[row, : len(new_ids)], lengths[row] = new_ids, len(new_ids)
        arrays = (tokens, lengths, starts, slots)
        self.kv_cache, expert_ids = self.compiled.extend(params, self.kv_cache, *arrays)
        empty = admission.empty(count, self.cache_length)
        new, failures = self._admit(empty, batch, lambda state: (0, kept.slot_of[state]))
        recording = [row for row, state in enumerate(batch) if state.slot in kept.experts]
        experts = across.read(expert_ids).astype(np.uint8) if recording else None
        for row in recording:
            slot = batch[row].slot
            assert slot is not None and experts is not None
            ids = experts[:, row, : lengths[row]].swapaxes(0, 1)
            batch[row].expert_ids = [kept.experts[slot], ids]
        self.slots = self.compiled.admit(self.slots, new)
        kept.drop([int(slot) for slot in slots[: len(batch)]])
        return failures

    @property
    def steps(self) -> int:
        return min(self.cache_lengths.block, self.cache_length - self.longest + 1)

    def _decode(
        self,
        params: Any,
        most: int,
        finish: int,
        allowed: np.ndarray | None = None,
        **options: int,
    ) -> DecodeOutput:
        self.slots, self.kv_cache, output = self.compiled.decode(
            params,
            self.slots,
            self.kv_cache,
            self.budget_tables,
            self.allowed,
            np.int32(most),
            np.int32(finish),
            *(() if allowed is None else (allowed,)),
            **options,
        )
        return output

    def preempt(self, length: int) -> list[RequestState]:
        """Take away the slots that caches of `length` do not leave, those of the youngest requests;
        returns these, the oldest first.
        """
        by_age = sorted(self.requests, key=lambda state: state.arrival)
        preempted = by_age[self.cache_lengths.slots_at(length) :]
        if preempted:
            automaton = across.read(self.slots.automaton)._asdict()
            for state in preempted:
                slot = state.slot
                assert slot is not None  # it is being decoded
                state.automaton = {name: field[slot].item() for name, field in automaton.items()}
                self.states[slot], state.slot = None, None
        return preempted

    def resize(self, length: int) -> None:
        """KV caches of `length` places, in as many slots as that leaves."""
        count = self.cache_lengths.slots_at(length)
        taken = [slot for slot, state in enumerate(self.states) if state is not None]
        rows = list(reversed(self.kept.in_order(self.kept.tokens)))
        keep = list(range(count)) if count == len(self.states) else [*taken, *rows][:count]
        self._resize(length, keep)

    def _resize(self, length: int, keep: Sequence[int]) -> None:
        """KV caches of `length`, the old slots `keep` first."""
        count = self.cache_lengths.slots_at(length)
        indices = np.zeros(count, np.int32)
        indices[: len(keep)] = keep
        slots, kv_cache = self.compiled.resize(self.slots, self.kv_cache, indices, length=length)
        self.states = [self.states[slot] for slot in keep] + [None] * (count - len(keep))
        self.slots = self.compiled.release(slots, np.array([s is not None for s in self.states]))
        self.kv_cache, self.cache_length = kv_cache, length
        self.kept.move(keep, length)
        for slot, state in enumerate(self.states):
            if state is not None:
                state.slot = slot

    def warm_up(
        self,
        params: Any,
        prefilled: Sequence[tuple[int, KVCache]],
        new: Sequence[tuple[int, int]],
    ) -> None:
        """Run every program once per cache length. prefilled: (width, KV cache) of each batch; new:
        (rows, width) of the batches of turns that go on in their rows.
        """
        for length in self.cache_lengths.buckets:
            self._resize(length, [])
            for other in self.cache_lengths.buckets:
                keep = np.zeros(self.cache_lengths.slots_at(other), np.int32)
                self.compiled.resize(self.slots, self.kv_cache, keep, length=other)
            for width, kv_cache in prefilled:
                self.slots, self.kv_cache = self.compiled.insert(
                    self.slots, self.kv_cache, kv_cache, admission.empty(len(self.states), width)
                )
            for rows, width in new:
                arrays = np.zeros((rows, width), np.int32), *np.zeros((2, rows), np.int32)
                nowhere = np.full(rows, len(self.states), np.int32)
                self.kv_cache, _ = self.compiled.extend(params, self.kv_cache, *arrays, nowhere)
                none = admission.empty(len(self.states), length)
                self.slots = self.compiled.admit(self.slots, none)
            self._decode(params, 0, 1)
        self._resize(self.cache_lengths.buckets[0], [])
