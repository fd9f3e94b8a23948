"""Host-side state of one request while it is served, and the increments streamed to the caller."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import budget, requests
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.requests import Completion, Request
from qwen3.infer.stop_strings import StopStrings

NOT_FINITE = "the model's log-probabilities are not finite"


class TokenChunk(NamedTuple):
    """New tokens of one of the requests that were streamed together."""

    request_index: int
    tokens: list[int]
    completion: Completion | None  # once the answer is finished


class Ending(NamedTuple):
    """Why an answer ends."""

    finish: str  # one of requests.FINISH
    error: str | None = None


class RequestState:
    """One request between submission and completion.

    Everything that the engine's steps need of the request is worked out here, so that a request
    that cannot be served is refused before it is queued.
    """

    def __init__(
        self,
        request: Request,
        arrival: int,
        *,
        max_length: int,
        tokenizer: Tokenizer | None,
        engine_seed: int,
    ):
        self.request = request
        self.arrival = arrival  # number among the engine's requests; later ones are preempted first
        self.completion = Completion(request)
        self.sequence = [int(i) for i in request.prompt]  # prompt and answer so far
        self.prompt_length = len(self.sequence)
        self.tokens_left = requests.answer_limit(request, max_length)
        self.seeds = requests.seeds(request, engine_seed)
        # Fields of the thinking budget's automaton when the request was last queued.
        self.automaton: dict[str, Any] = budget.start(
            self.sequence,
            tokenizer,
            thinking=request.thinking,
            budget=requests.thinking_budget(request, max_length),
            stop_text=request.stop_text,
            reserve=requests.answer_reserve(request, self.tokens_left),
        )
        default_stops = () if tokenizer is None else tokenizer.stop_ids
        self.stop_ids = tuple(default_stops if request.stop_ids is None else request.stop_ids)
        self.stop_strings: StopStrings | None = None
        if request.stop_strings and tokenizer is not None:
            self.stop_strings = StopStrings(tokenizer, request.stop_strings)
        self.matcher = None if request.grammar is None else request.grammar.matcher()
        # uint32 [words]: the tokens that the request's grammar allows next; None without one.
        self.allowed = None if self.matcher is None else self.matcher.allowed()
        self.slot: int | None = None  # where it is decoded; None while it waits and at its end
        # Where a paged KV cache has it, see `page_cache`.
        self.shard: int | None = None  # of the mesh's batch axes; None while it waits
        self.pages: list[int] = []  # in the shard's pool
        self.copies: list[tuple[int, int]] = []  # for the next decode call: which of them, of what
        self.generation = 0  # of the weights that its first page is of
        self.ahead = False  # whether it was prefilled while it waited in the queue
        self.keys: list[bytes] | None = None  # of the pages of all tokens but the last
        self.expert_ids: list[np.ndarray] = []  # [tokens, L, A] of each block, where recorded

    @property
    def done(self) -> bool:
        return self.completion.finish is not None

    @property
    def goes_on(self) -> bool:
        """Whether it comes back for what was decoded: a later turn of a dialogue, or preempted."""
        return bool(self.request.turn) or bool(self.completion.tokens)

    @property
    def key(self) -> bytes:
        """What the prefix cache must hold before the next token can be generated: all tokens but
        the last, which is the first input of the decode loop.
        """
        return requests.prompt_key(self.sequence[:-1])

    def take(
        self, output: DecodeOutput, version: int, *, active: bool
    ) -> tuple[int, Ending | None]:
        """Append what a block generated in this request's slot: (number of tokens, the ending).

        active: whether the device would go on with it. The answer ends with the token that
        completes a stop string, or before the first one whose log-probability is not finite, so
        neither its tokens nor its finish reason depend on the size of the block.
        """
        slot = self.slot
        count = int(output.generated[:, slot].sum())
        finite = np.isfinite(output.log_probs[:count, slot])
        finite &= np.isfinite(output.sampling_log_probs[:count, slot])
        ending = None
        if not finite.all():
            count = int(finite.argmin())
            ending = Ending("abort", NOT_FINITE)
        tokens = [int(i) for i in output.token_ids[:count, slot]]
        stop_index = None if self.stop_strings is None else self.stop_strings.feed(tokens)
        if stop_index is not None:
            count = stop_index + 1
            tokens = tokens[:count]
        self._append(tokens, output, version)
        if self.matcher is not None and ending is None and active:
            for token, forced in zip(tokens, output.forced[:count, slot], strict=True):
                self.matcher.accept(token, forced=bool(forced))
            self.allowed = self.matcher.allowed()
        if stop_index is not None or (ending is None and not active):
            by_id = tokens[-1] in self.stop_ids and not output.forced[count - 1, slot]
            natural = "budget-then-stop" if output.exhausted[count - 1, slot] else "stop"
            ending = Ending(natural if by_id or stop_index is not None else "length")
        return count, ending

    def _append(self, tokens: list[int], output: DecodeOutput, version: int) -> None:
        count, slot, completion = len(tokens), self.slot, self.completion
        self.sequence += tokens
        self.tokens_left -= count
        completion.tokens += tokens
        completion.log_probs += output.log_probs[:count, slot].tolist()
        completion.sampling_log_probs += output.sampling_log_probs[:count, slot].tolist()
        completion.forced += output.forced[:count, slot].tolist()
        completion.versions += [version] * count
        if self.request.alternatives:
            assert output.top_ids_TSA is not None and output.top_log_probs_TSA is not None
            most = slice(self.request.alternatives)
            for step in range(count):
                ids, log_probs = (
                    output.top_ids_TSA[step, slot],
                    output.top_log_probs_TSA[step, slot],
                )
                pairs = zip(ids[most].tolist(), log_probs[most].tolist(), strict=True)
                completion.alternatives.append(dict(pairs))
        if output.expert_ids_TLSA is not None:
            self.expert_ids.append(np.asarray(output.expert_ids_TLSA[:count, :, slot]))

    def finish(self, ending: Ending) -> None:
        """Complete the answer with what was generated so far."""
        self.completion.finish, self.completion.error = ending
        if self.expert_ids:
            self.completion.experts = np.concatenate(self.expert_ids)
