"""What the turns of dialogues left in the rows of free slots, for the turns that go on behind them.

A finished turn's row stays as it is until another request takes its slot. A request that begins
with the row's tokens waits for that slot: of its prompt, only what is new is prefilled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from qwen3.infer.request_state import RequestState


class KeptRows:
    """Rows by free slot, those that are kept for longest first."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}  # the tokens whose keys and values stand in the row
        self.experts: dict[int, np.ndarray] = {}  # uint8 [tokens, L, A] of those, where recorded
        self.slot_of: dict[RequestState, int] = {}  # the waiting requests that go on in a row

    def keep(self, slot: int, state: RequestState, places: int) -> None:
        """A turn is finished in a slot, whose row has so many places.

        The last token was no input yet. Decode steps write on behind the tokens of a free slot, and
        into the last place of a full row, which is therefore given up.
        """
        tokens = state.sequence[: min(len(state.sequence), places) - 1]
        if len(tokens) < state.prompt_length:
            return  # other samples of the prompt would go on here
        self.tokens[slot] = tokens
        if state.expert_ids:
            self.experts[slot] = np.concatenate(state.expert_ids)[: len(tokens)]

    def claim(self, state: RequestState) -> None:
        """Have a request wait for the row with the most of its tokens, if there is one."""
        claimed, sequence = set(self.slot_of.values()), state.sequence[:-1]
        lengths = {
            slot: len(tokens)
            for slot, tokens in self.tokens.items()
            if slot not in claimed
            and len(tokens) < len(sequence)
            and sequence[: len(tokens)] == tokens
        }
        if lengths:
            self.slot_of[state] = max(lengths, key=lambda slot: lengths[slot])

    def leave(self, state: RequestState) -> None:
        """A request no longer waits. No harm if called again."""
        self.slot_of.pop(state, None)

    def in_order(self, free: Iterable[int]) -> list[int]:
        """Free slots in the order in which they are to be taken: those of no kept row, of rows that
        nobody waits for, and of others.
        """
        claimed = set(self.slot_of.values())
        ages = {slot: age for age, slot in enumerate(self.tokens, 1)}
        return sorted(free, key=lambda slot: (slot in claimed, ages.get(slot, 0), slot))

    def drop(self, slots: Iterable[int]) -> None:
        """Rows of these slots are used by others now."""
        for slot in slots:
            self.tokens.pop(slot, None)
            self.experts.pop(slot, None)
        self.slot_of = {s: slot for s, slot in self.slot_of.items() if slot in self.tokens}

    def move(self, slots: Sequence[int], places: int) -> None:
        """The caches have other slots, the old ones of these numbers first, and so many places."""
        self.drop([slot for slot in self.tokens if slot not in slots])
        new = {old: slot for slot, old in enumerate(slots)}
        self.tokens = {new[old]: tokens[: places - 1] for old, tokens in self.tokens.items()}
        self.experts = {new[old]: ids[: places - 1] for old, ids in self.experts.items()}
        self.slot_of = {state: new[old] for state, old in self.slot_of.items()}

    def clear(self) -> None:
        """Forget all rows: other weights would have written others."""
        self.drop(list(self.tokens))
