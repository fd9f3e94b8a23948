"""The thinking budget as an automaton of a few integers a row, stepped inside the decode program.

A row thinks after <think> and answers after </think>. When its thinking has used up the budget, a
stop text that ends in </think> is forced, token by token (report, section 4.3, "Thinking Budget").
The report leaves these cases open; here they are decided as follows.

- The tokens between the tags count, forced ones do not; in a prompt that ends inside a block, from
  the last <think> of the open turn on. Blocks in earlier turns are ignored.
- Budget 0 forces the rest of the empty block, "\\n\\n</think>\\n\\n", a form the model has seen.
  A budget of n lets n tokens pass; if the next one would be </think> anyhow, nothing is forced.
- At the limit inside a multi-byte character up to three more tokens may complete it.
- <think> again in the answer thinks on with what is left of the budget, be it nothing.
- A <tool_call> inside thinking counts on; <think> inside an open call of the answer is text.
- An end token inside thinking ends the answer, unless the limit is reached at that very token.
- A budget that leaves no room for the answer is cut: `reserve` tokens and the stop text must fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.data.tokenizer import Tokenizer

Array: TypeAlias = jax.Array | np.ndarray

UNLIMITED = -1  # the budget of a row without one
ANSWER, THINK = 0, 1  # phases
MOST_CONTINUATION_BYTES = 3  # of a character in UTF-8, so the most tokens that may complete one

_SENTENCE = (
    "Considering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n</think>"
)
# Texts that may be forced. "report" and "docs" are the stop texts of the report and of the released
# models' documentation; they differ in line breaks and a full stop.
SCRIPTS = {
    "open": "<think>\n",
    "empty": "\n\n</think>\n\n",
    "docs": f"\n\n{_SENTENCE}\n\n",
    "report": f"{_SENTENCE}.\n\n",
}
STOP_TEXTS = ("docs", "report")
_OPEN, _EMPTY = list(SCRIPTS).index("open"), list(SCRIPTS).index("empty")


class Tables(NamedTuple):
    """What the automaton knows of a tokenizer; ids are -1 where the tokenizer has no such token."""

    think_open: Array  # int32 []
    think_close: Array
    call_open: Array
    call_close: Array
    scripts: Array  # int32 [scripts, longest], padded with 0
    script_lengths: Array  # int32 [scripts]
    continues_V: Array  # int8: bytes of a token that only continues a character, else -1
    pending_V: Array  # int8: bytes that the character at the end of a token still lacks


class Automaton(NamedTuple):
    """The state of the thinking budget, one value a row, [B]."""

    phase: Array  # ANSWER or THINK
    used: Array  # tokens thought so far
    budget: Array  # UNLIMITED or at least 0
    reserve: Array  # tokens kept for the answer
    delayed: Array  # tokens let pass at the limit, to complete a character
    pending: Array  # bytes that the last character still lacks
    in_call: Array  # a tool call of the answer is open
    script: Array  # index of the script being forced, -1 for none
    script_position: Array  # of the script's next token
    stop_text: Array  # index of the script to force at the limit
    may_think: Array  # whether <think> may be sampled
    exhausted: Array  # whether the limit was ever enforced


FLAGS = ("in_call", "may_think", "exhausted")  # bool, the others are int32
DTYPES = {name: np.dtype(bool if name in FLAGS else np.int32) for name in Automaton._fields}


def automaton(fields: Mapping[str, Array]) -> Automaton:
    """The device's state of rows with these fields, e.g. of `start`."""
    return Automaton(**{name: jnp.asarray(fields[name], DTYPES[name]) for name in DTYPES})


def step(
    state: Automaton, sampled: Array, tokens_left: Array, tables: Tables
) -> tuple[jax.Array, jax.Array, Automaton]:
    """(token, whether it is forced, next state), each [B], of rows that would emit `sampled`.

    tokens_left: how many tokens each row may still emit, this one included.
    """
    in_script = state.script >= 0
    stop_text = jnp.where(state.budget == 0, _EMPTY, state.stop_text)
    needed = tables.script_lengths[stop_text] + state.reserve
    is_spent = (state.used >= state.budget) | (tokens_left <= needed)
    at_limit = (state.phase == THINK) & (state.budget >= 0) & is_spent & ~in_script
    in_character = (state.pending > 0) & (state.delayed < MOST_CONTINUATION_BYTES)
    begins = at_limit & ~in_character & (sampled != tables.think_close)

    script = jnp.where(begins, stop_text, state.script)
    position = jnp.where(begins, 0, state.script_position)
    forced = script >= 0
    token = jnp.where(forced, tables.scripts[jnp.maximum(script, 0), position], sampled)
    ends = forced & (position + 1 == tables.script_lengths[jnp.maximum(script, 0)])

    opens = (token == tables.think_open) & (state.phase == ANSWER) & ~state.in_call
    closes = (token == tables.think_close) & (state.phase == THINK)
    is_thought = (state.phase == THINK) & ~closes & ~forced
    in_call = (state.phase == ANSWER) & (
        (state.in_call | (token == tables.call_open)) & (token != tables.call_close)
    )
    # A token of continuation bytes only fills up the open character; any other sets what it lacks.
    continuation = tables.continues_V[token]
    pending = jnp.where(
        continuation >= 0, jnp.maximum(state.pending - continuation, 0), tables.pending_V[token]
    )
    return (
        token,
        forced,
        state._replace(
            phase=jnp.where(opens, THINK, jnp.where(closes, ANSWER, state.phase)),
            used=state.used + is_thought,
            delayed=jnp.where(at_limit & in_character, state.delayed + 1, 0),
            pending=pending.astype(jnp.int32),
            in_call=in_call,
            script=jnp.where(ends, -1, script),
            script_position=jnp.where(forced, position + 1, 0),
            exhausted=state.exhausted | begins,
        ),
    )


def start(
    prompt: Sequence[int],
    tokenizer: Tokenizer | None,
    *,
    thinking: bool | None = None,
    budget: int | None = None,
    stop_text: str = "docs",
    reserve: int = 0,
) -> dict[str, int]:
    """The fields of the Automaton for a row that is about to answer `prompt`.

    thinking: True forces <think> first, unless the prompt ends inside a block; False forbids it;
    None leaves it to the model. budget: tokens of thinking, None for no limit. stop_text: one of
    STOP_TEXTS. reserve: tokens that the budget keeps for the answer.
    """
    fields: dict[str, int] = dict.fromkeys(Automaton._fields, 0)
    fields.update(
        budget=UNLIMITED if budget is None else budget,
        reserve=reserve,
        script=-1,
        stop_text=list(SCRIPTS).index(stop_text),
        may_think=thinking is not False,
    )
    if tokenizer is None:
        return fields
    turn = list(prompt[_last_index(prompt, tokenizer.im_start) + 1 :])
    opened = _last_index(turn, tokenizer.think_open)
    closed = _last_index(turn, tokenizer.think_close)
    if opened > closed:
        fields.update(phase=THINK, used=len(turn) - 1 - opened)
    elif thinking:
        fields.update(script=_OPEN)
    called = _last_index(turn, tokenizer.tool_call_open)
    returned = max(_last_index(turn, tokenizer.tool_call_close), closed)
    fields["in_call"] = opened <= closed and called > returned
    return fields


def tables(tokenizer: Tokenizer | None, vocab: int) -> Tables:
    """The tables for a model with `vocab` vocabulary rows, as host arrays."""
    continues, pending = np.full(vocab, -1, np.int8), np.zeros(vocab, np.int8)
    ids, scripts = (-1,) * 4, [[0]] * len(SCRIPTS)
    if tokenizer is not None:
        ids = (
            tokenizer.think_open,
            tokenizer.think_close,
            tokenizer.tool_call_open,
            tokenizer.tool_call_close,
        )
        scripts = [tokenizer.encode(text) for text in SCRIPTS.values()]
        added = set(tokenizer.added.values())
        for i, text in enumerate(tokenizer.token_bytes):
            if text and i not in added:
                continues[i], pending[i] = _utf8_state(text)
    longest = max(map(len, scripts))
    padded = np.array([script + [0] * (longest - len(script)) for script in scripts], np.int32)
    lengths = np.array([len(script) for script in scripts], np.int32)
    think_open, think_close, call_open, call_close = (np.asarray(i, np.int32) for i in ids)
    return Tables(
        think_open, think_close, call_open, call_close, padded, lengths, continues, pending
    )


def _utf8_state(text: bytes) -> tuple[int, int]:
    """(its length if all bytes continue a character, else -1; bytes its last character lacks)."""
    # In UTF-8 continuation bytes are 10xxxxxx; the last other byte leads the last character.
    tail = next((n for n, byte in enumerate(reversed(text)) if byte & 0xC0 != 0x80), None)
    if tail is None:
        return len(text), 0
    lead = text[-1 - tail]
    continuation_bytes = 3 if lead >= 0xF0 else 2 if lead >= 0xE0 else 1 if lead >= 0xC0 else 0
    return -1, max(continuation_bytes - tail, 0)


def _last_index(ids: Sequence[int], token: int) -> int:
    """Index of the last `token` among the ids, -1 if there is none."""
    return max((index for index, i in enumerate(ids) if i == token), default=-1)
