"""Grammars of answers: JSON of a schema, and calls of given functions, behind free thinking.

llguidance says which tokens a schema allows; what is added here is Qwen3's turn around it: a
thinking block is free but for its end tokens, line breaks may stand between block and answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import grammar

MOST_BREAKS = 2  # tokens of line breaks between a thinking block and the answer
# Between the parts of JSON: nothing, a blank, or a line break and its indent; no endless blanks.
JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"( |\n {0,32})?"}
BEFORE, THINKING, AFTER, ANSWER = range(4)  # phases of an answer


class GrammarTokens:
    """A tokenizer as llguidance wants it, built once, and the sets of tokens around an answer."""

    def __init__(self, tokenizer: Tokenizer, vocab: int):
        self.tokenizer, self.vocab = tokenizer, vocab
        self.llguidance = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(tokenizer)), eos_token=tokenizer.eos
        )
        texts = tokenizer.token_bytes
        self.breaks = self.bits(
            [i for i, text in enumerate(texts) if text and not text.strip(b"\n")]
        )
        self.think_open = self.bits([tokenizer.think_open])
        free = [i for i in range(vocab) if i not in tokenizer.stop_ids]
        self.unfinished = self.bits(free)  # all but the ends of an answer

    def bits(self, ids: Sequence[int]) -> np.ndarray:
        """A set of tokens as the engine's words."""
        flags = np.zeros(32 * grammar.words(self.vocab), bool)
        flags[list(ids)] = True
        return np.packbits(flags, bitorder="little").view(np.uint32)


class _Tokens:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.eos, None
        self.tokens = list(tokenizer.token_bytes)
        self.special_token_ids = sorted(tokenizer.added.values())

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, allow_special=False)


class AnswerGrammar:
    """The grammar of a turn. ValueError for one that is malformed or that no text can meet.

    Args:
        tokens: of the model.
        lark: the grammar of what follows the thinking, in llguidance's Lark.
        thinking: the prompt ends inside a thinking block.
        may_think: the answer may open a thinking block first.
    """

    def __init__(self, tokens: GrammarTokens, lark: str, *, thinking: bool, may_think: bool):
        self.tokens = tokens
        self.start = THINKING if thinking else BEFORE
        self.may_think = may_think
        limits = llguidance.LLParserLimits(verbose_errors=False)
        self.prototype = llguidance.LLMatcher(tokens.llguidance, lark, log_level=0, limits=limits)
        if not self.prototype.is_error() and not self.matcher().of_answer().any():
            raise ValueError("no text can meet the schema")
        if self.prototype.is_error():
            # "at LINE(COLUMN): failed to compile JSON schema: REASON", of a grammar nobody wrote.
            reason = self.prototype.get_error().strip().split("\n")[0].rpartition("schema: ")[2]
            raise ValueError(f"the schema cannot be followed: {reason[:300]}")

    def matcher(self) -> AnswerMatcher:
        """A matcher at the beginning of the turn."""
        return AnswerMatcher(self)


class AnswerMatcher:
    """Follows one turn; see `AnswerGrammar`."""

    def __init__(self, grammar: AnswerGrammar):
        self.grammar, self.tokens = grammar, grammar.tokens
        self.phase = grammar.start
        self.breaks = 0
        self.answer = grammar.prototype.deep_copy()

    def allowed(self) -> np.ndarray:
        """uint32 [words]: the tokens that may come next. ValueError where nothing may."""
        if self.phase == THINKING:
            return self.tokens.unfinished
        allowed = self.of_answer()
        if self.phase == BEFORE and self.grammar.may_think:
            allowed |= self.tokens.think_open
        if self.phase == AFTER and self.breaks < MOST_BREAKS:
            allowed |= self.tokens.breaks
        if not allowed.any():
            raise ValueError(f"the grammar allows no token: {self.answer.get_error()[:200]}")
        return allowed

    def of_answer(self) -> np.ndarray:
        """What the grammar itself allows next."""
        words = grammar.words(self.tokens.vocab)
        own = np.frombuffer(self.answer.compute_bitmask(), np.uint32)[:words]
        return np.pad(own, (0, words - len(own)))

    def accept(self, token: int, *, forced: bool) -> None:
        """The next token. ValueError for one that the grammar does not allow there."""
        tokenizer = self.tokens.tokenizer
        if self.phase == THINKING:
            self.phase = AFTER if token == tokenizer.think_close else THINKING
        elif self.phase == BEFORE and token == tokenizer.think_open:
            self.phase = THINKING
        elif self.phase == AFTER and self._is_break(token):
            self.breaks += 1
        else:
            self.phase = ANSWER
            if not self.answer.consume_token(token):
                raise ValueError(
                    f"token {token} breaks the grammar: {self.answer.get_error()[:200]}"
                )

    def _is_break(self, token: int) -> bool:
        text = self.tokens.tokenizer.token_bytes[token]
        return bool(text) and not text.strip(b"\n")


def json_rule(name: str, schema: Any) -> str:
    """The Lark rule of JSON that a schema describes."""
    if isinstance(schema, dict | bool) and schema is not False:
        schema = {"x-guidance": JSON_OPTIONS} | ({} if schema is True else schema)
    return f"{name}: %json {json.dumps(schema)}"


def call_rules(
    tokenizer: Tokenizer, functions: Sequence[tuple[str, Any]], *, parallel: bool
) -> list[str]:
    """The Lark rules `calls`: one call of the functions (name, schema of its arguments), or more.

    Each schema is a grammar of its own, so that references in it are to itself.
    """
    rules, bodies = [], []
    for i, (name, schema) in enumerate(functions):
        opening = json.dumps({"name": name}, ensure_ascii=False)[:-1] + ', "arguments": '
        bodies.append(f'{json.dumps(opening)} arguments_{i} "}}"')
        rules.append(json_rule(f"arguments_{i}", schema))
    opened, closed = f"<[{tokenizer.tool_call_open}]>", f"<[{tokenizer.tool_call_close}]>"
    rules.append(f'call: {opened} "\\n" ({" | ".join(bodies)}) "\\n" {closed}')
    rules.append('calls: call ("\\n" call)*' if parallel else "calls: call")
    return rules


def turn_grammar(
    tokens: GrammarTokens,
    *,
    schema: Any = None,
    functions: Sequence[tuple[str, Any]] = (),
    calls_only: bool = False,
    parallel: bool = True,
    thinking: bool = False,
    may_think: bool = True,
) -> AnswerGrammar | None:
    """The grammar of a turn that is JSON of `schema`, calls of `functions` or, where both are
    given and not `calls_only`, either. None where nothing is asked for. thinking, may_think: see
    AnswerGrammar.
    """
    rules, starts = [], []
    if functions and (calls_only or schema is not None):
        rules += call_rules(tokens.tokenizer, functions, parallel=parallel)
        starts.append("calls")
    if schema is not None and not calls_only:
        rules.append(json_rule("body", schema))
        starts.append("body")
    if not starts:
        return None
    lark = "\n".join([f"start: {' | '.join(starts)}", *rules])
    return AnswerGrammar(tokens, lark, thinking=thinking, may_think=may_think)
