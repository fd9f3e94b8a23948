"""The thinking budget as an automaton of a few integers a row, stepped inside the decode program.

A row thinks after <think> and answers after </think>. When its thinking has used up the budget, a
stop text that ends in </think> is forced, token by token (report, section 4.4; docs). Choices:

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

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.data import ranks
from qwen3.data.tokenizer import Tokenizer

UNLIMITED = -1
ANSWER, THINK = 0, 1
LONGEST_WAIT = 3  # a character has at most three continuation bytes

_SENTENCE = (
    "Considering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n</think>"
)
# What may be forced. "docs" and "report" are the two published stop texts (RECIPE 6).
SCRIPTS = {
    "open": "<think>\n",
    "empty": "\n\n</think>\n\n",
    "docs": f"\n\n{_SENTENCE}\n\n",
    "report": f"{_SENTENCE}.\n\n",
}
STOP_TEXTS = ("docs", "report")
_OPEN, _EMPTY = list(SCRIPTS).index("open"), list(SCRIPTS).index("empty")


class Tables(NamedTuple):
    """What the automaton knows of a tokenizer; ids are -1 where there is none."""

    think_open: jax.Array
    think_close: jax.Array
    call_open: jax.Array
    call_close: jax.Array
    scripts: jax.Array  # [scripts, longest], padded with 0
    script_lengths: jax.Array
    continues_V: jax.Array  # int8: bytes of a token that only continues a character, else -1
    pending_V: jax.Array  # int8: bytes that the character at the end of a token still lacks


class Automaton(NamedTuple):
    """One value a row."""

    phase: jax.Array  # ANSWER or THINK
    used: jax.Array  # tokens thought so far
    budget: jax.Array  # UNLIMITED or at least 0
    reserve: jax.Array  # tokens kept for the answer
    waited: jax.Array  # tokens let pass at the limit, to complete a character
    pending: jax.Array  # bytes that the last character still lacks
    in_call: jax.Array  # a tool call of the answer is open
    script: jax.Array  # the script being forced, -1 for none
    place: jax.Array  # its next token
    stop_text: jax.Array  # the script to force at the limit
    may_think: jax.Array  # whether <think> may be sampled
    stopped: jax.Array  # whether the limit was ever enforced


FLAGS = ("in_call", "may_think", "stopped")  # bool, the others are int32
DTYPES = {name: np.dtype(bool if name in FLAGS else np.int32) for name in Automaton._fields}


def step(
    state: Automaton, sampled: jax.Array, left: jax.Array, tables: Tables
) -> tuple[jax.Array, jax.Array, Automaton]:
    """(token, whether it is forced, next state) of rows that would emit `sampled`.

    left: how many tokens each row may still emit, this one included.
    """
    running = state.script >= 0
    stop_text = jnp.where(state.budget == 0, _EMPTY, state.stop_text)
    needed = tables.script_lengths[stop_text] + state.reserve
    spent = (state.used >= state.budget) | (left <= needed)
    at_limit = (state.phase == THINK) & (state.budget >= 0) & spent & ~running
    in_character = (state.pending > 0) & (state.waited < LONGEST_WAIT)
    begins = at_limit & ~in_character & (sampled != tables.think_close)

    script = jnp.where(begins, stop_text, state.script)
    place = jnp.where(begins, 0, state.place)
    forced = script >= 0
    token = jnp.where(forced, tables.scripts[jnp.maximum(script, 0), place], sampled)
    ends = forced & (place + 1 == tables.script_lengths[jnp.maximum(script, 0)])

    opens = (token == tables.think_open) & (state.phase == ANSWER) & ~state.in_call
    closes = (token == tables.think_close) & (state.phase == THINK)
    thought = (state.phase == THINK) & ~closes & ~forced
    in_call = (state.phase == ANSWER) & (
        (state.in_call | (token == tables.call_open)) & (token != tables.call_close)
    )
    continued = tables.continues_V[token]
    pending = jnp.where(
        continued >= 0, jnp.maximum(state.pending - continued, 0), tables.pending_V[token]
    )
    return (
        token,
        forced,
        state._replace(
            phase=jnp.where(opens, THINK, jnp.where(closes, ANSWER, state.phase)),
            used=state.used + thought,
            waited=jnp.where(at_limit & in_character, state.waited + 1, 0),
            pending=pending.astype(jnp.int32),
            in_call=in_call,
            script=jnp.where(ends, -1, script),
            place=jnp.where(forced, place + 1, 0),
            stopped=state.stopped | begins,
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
    """The fields of the Automaton for a row about to answer `prompt`.

    thinking: True forces <think> first, unless the prompt ends inside a block; False forbids it;
    None leaves it to the model.
    """
    state = dict.fromkeys(Automaton._fields, 0)
    state.update(
        budget=UNLIMITED if budget is None else budget,
        reserve=reserve,
        script=-1,
        stop_text=list(SCRIPTS).index(stop_text),
        may_think=thinking is not False,
    )
    if tokenizer is None:
        return state
    turn = list(prompt[_last(prompt, tokenizer.im_start) + 1 :])
    opened, closed = _last(turn, tokenizer.think_open), _last(turn, tokenizer.think_close)
    if opened > closed:
        state.update(phase=THINK, used=len(turn) - 1 - opened)
    elif thinking:
        state.update(script=_OPEN)
    called = _last(turn, tokenizer.tool_call_open)
    returned = max(_last(turn, tokenizer.tool_call_close), closed)
    state["in_call"] = opened <= closed and called > returned
    return state


def tables(tokenizer: Tokenizer | None, rows: int) -> Tables:
    """For a model with `rows` vocabulary rows."""
    continues, pending = np.full(rows, -1, np.int8), np.zeros(rows, np.int8)
    ids, scripts = (-1,) * 4, [[0]] * len(SCRIPTS)
    if tokenizer is not None:
        ids = (
            tokenizer.think_open,
            tokenizer.think_close,
            tokenizer.tool_call_open,
            tokenizer.tool_call_close,
        )
        scripts = [tokenizer.encode(text) for text in SCRIPTS.values()]
        for i, text in token_bytes(tokenizer).items():
            continues[i], pending[i] = _utf8(text)
    longest = max(map(len, scripts))
    padded = np.array([script + [0] * (longest - len(script)) for script in scripts], np.int32)
    lengths = np.array([len(script) for script in scripts], np.int32)
    return Tables(*(np.int32(i) for i in ids), padded, lengths, continues, pending)


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """What each ordinary (not added) token stands for."""
    value = {character: byte for byte, character in enumerate(ranks.byte_alphabet())}
    added = set(tokenizer.added.values())
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=False)
    return {
        i: bytes(value[character] for character in text)
        for text, i in vocabulary.items()
        if i not in added
    }


def _utf8(text: bytes) -> tuple[int, int]:
    """(its length if all bytes continue a character, else -1; bytes its last character lacks)."""
    tail = next((n for n, byte in enumerate(reversed(text)) if byte & 0xC0 != 0x80), None)
    if tail is None:
        return len(text), 0
    lead = text[-1 - tail]
    wanted = 3 if lead >= 0xF0 else 2 if lead >= 0xE0 else 1 if lead >= 0xC0 else 0
    return -1, max(wanted - tail, 0)


def _last(ids: Sequence[int], wanted: int) -> int:
    """Index of the last `wanted`, -1 if there is none."""
    return max((i for i, found in enumerate(ids) if found == wanted), default=-1)
