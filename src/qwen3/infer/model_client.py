"""The one client of models that answer in text: judges, research and data work ask through it.

A model is a function of questions that yields (index, reply) as the replies come: `ChatServer` for
any server with OpenAI's interface, `EngineModel` for our engine in this process. A question may
carry a JSON schema that its answer must follow.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:  # which import jax; a server is asked without
    from qwen3.infer.backend import RolloutBackend
    from qwen3.infer.grammar import Grammar
    from qwen3.infer.requests import Request

Messages: TypeAlias = list[dict[str, str]]

KEYS = ("QWEN3_API_KEY", "OPENAI_API_KEY")  # environment variables of a server's key
PAUSE = 0.5  # seconds before the first retry; each further one waits twice as long
LONGEST_PAUSE = 60.0  # seconds
# Besides 500 and above: request timeout, conflict, too early, too many requests.
BUSY = (408, 409, 425, 429)


class AnswerCut(ValueError):
    """An answer that ended at max_tokens."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What a model is asked. Its content, with the model's name, is its identity in a store."""

    messages: Messages  # {"role", "content"} of each turn
    max_tokens: int  # longest answer
    temperature: float | None = 0.0  # None: whatever the server samples with
    seed: int | None = None  # of the sampling
    thinking: bool = False  # whether our engine thinks first; a server has its own setting
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer; None for free text

    def fault_of(self, finish: str) -> AnswerCut | None:
        """The fault of JSON that ended at the longest answer; a text that did is still of use."""
        if finish == "length" and self.schema is not None:
            return AnswerCut(f"the answer was cut at max_tokens = {self.max_tokens}")
        return None


class Reply(NamedTuple):
    """What came back: a text, or the fault that stood in its way."""

    text: str | None  # a thought included, where the model shows it; see `after_thought`
    tokens: int = 0  # of prompt and answer together
    finish: str = "stop"  # "length" for an answer that was cut at max_tokens
    # ValueError: the question was refused, or its answer was cut. ConnectionError: no usable answer
    # after all retries. ConnectionRefusedError: the server is not there at all.
    fault: Exception | None = None


Model: TypeAlias = Callable[[Sequence[Question]], Iterator[tuple[int, Reply]]]


class UnreadableAnswer(ValueError):
    """An answer of another form than the one asked for: cut, no JSON, against the schema."""


def replies(model: Model, questions: Sequence[Question]) -> list[Reply]:
    """All replies in the order of the questions."""
    by_index = dict(model(questions))
    return [by_index[i] for i in range(len(questions))]


def after_thought(text: str) -> str:
    """An answer without the thought before it."""
    return text.rpartition("</think>")[2].strip()


def check_answer(question: Question, text: str) -> None:
    """UnreadableAnswer for a text that is not the JSON that the question asks for."""
    if question.schema is None:
        return
    import jsonschema

    try:
        jsonschema.validate(json.loads(after_thought(text)), question.schema)
    except json.JSONDecodeError as error:
        raise UnreadableAnswer(f"not JSON ({error}): {text[-80:]!r}") from None
    except jsonschema.ValidationError as error:
        raise UnreadableAnswer(f"against the schema: {error.message[:200]}") from None


class ChatServer:
    """A model behind a URL with OpenAI's interface, asked `slots` questions at once.

    What a busy or failing server, a timeout or a cut answer spoils is asked again, with pauses that
    double or that the server names (Retry-After). model: "" for the first one the server has.
    Raises ValueError where the client library is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        slots: int = 32,
        timeout: float = 600.0,
        retries: int = 3,
        pause: float = PAUSE,
    ):
        if importlib.util.find_spec("openai") is None:
            raise ValueError("a model behind a URL needs openai: pip install 'qwen3[judge]'")
        import openai

        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "none")
        # The retries are ours: the library's do not see an answer that is cut.
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)
        self.url, self._model, self._slots = url, model, slots
        self._retries, self._pause = retries, pause

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        """(index, reply) in the order in which replies come."""
        with ThreadPoolExecutor(self._slots) as pool:
            calls = {pool.submit(self.reply, q): i for i, q in enumerate(questions)}
            try:
                for call in as_completed(calls):
                    yield calls[call], call.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def reply(self, question: Question) -> Reply:
        """The reply to one question."""
        unreadable = 0  # answers so far; the same seed would give the same one again

        def send() -> Reply:
            nonlocal unreadable
            try:
                return self._send(question, model, unreadable)
            except UnreadableAnswer:
                unreadable += 1
                raise

        try:
            model = self.model
            return self._persistently(send)
        except (ValueError, ConnectionError) as error:
            return Reply(None, fault=error)

    @functools.cached_property
    def model(self) -> str:
        """The model's name at the server. ValueError for a server without models."""
        if self._model:
            return self._model
        models = self._persistently(lambda: list(self._client.models.list()))
        if not models:
            raise ValueError(f"{self.url} names no model: say which one")
        return models[0].id

    def _persistently(self, send: Callable[[], Any]) -> Any:
        """What `send` returns, tried again where that may help.

        Raises ValueError for a refusal, ConnectionError after the last try.
        """
        import openai

        for attempt in range(self._retries + 1):
            wait = self._pause * 2**attempt
            try:
                return send()
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in BUSY:
                    raise ValueError(f"{self.url} refused the request: {error}") from None
                fault: Exception = ConnectionError(f"no answer from {self.url}: {error}")
                wait = max(wait, _seconds(error.response.headers.get("retry-after")))
            except openai.APITimeoutError as error:
                fault = ConnectionError(f"no answer from {self.url}: {error}")
            except openai.APIConnectionError as error:
                reason = error.__cause__ or error
                # A connection that breaks off half-way may be this question's fault; one that
                # cannot be opened is not.
                kind = ConnectionRefusedError if _is_unreached(error) else ConnectionError
                fault = kind(f"no answer from {self.url}: {reason}")
            except (openai.OpenAIError, ValueError) as error:
                fault = ConnectionError(f"no usable answer from {self.url}: {error}")
            if attempt < self._retries:
                time.sleep(min(wait, LONGEST_PAUSE) * random.uniform(0.8, 1.2))
        raise fault from None

    def _send(self, question: Question, model: str, unreadable: int) -> Reply:
        body: dict[str, Any] = {"temperature": question.temperature}
        if question.seed is not None:
            body["seed"] = (question.seed + unreadable) % 2**31
        if question.schema is not None:
            form = {"name": "answer", "schema": question.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        result: Any = self._client.chat.completions.create(
            model=model,
            messages=cast(Any, question.messages),
            max_tokens=question.max_tokens,
            **{name: value for name, value in body.items() if value is not None},
        )
        try:
            choice = result.choices[0]
            text, finish = choice.message.content or "", choice.finish_reason or "stop"
        except (AttributeError, LookupError, TypeError):
            raise UnreadableAnswer("an answer without choices") from None
        if finish != "length":
            check_answer(question, text)
        usage = getattr(result, "usage", None)
        tokens = usage.total_tokens if usage else _estimate(question.messages, text)
        return Reply(text, tokens, finish, question.fault_of(finish))


class EngineModel:
    """Our engine, in this process; a schema is followed by grammar.

    vocab: of the model, which grammars need. Raises ValueError for an engine without a tokenizer.
    """

    def __init__(self, backend: RolloutBackend, *, vocab: int = 0, slots: int = 32):
        from qwen3.infer.backend import tokenizer_of

        self._backend, self._tokenizer = backend, tokenizer_of(backend)
        self._vocab, self._window = vocab, 4 * slots
        self._grammars: dict[str, Grammar] = {}

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        """(index, reply) of a few times as many questions as the engine has slots, then the next.

        So an end of the process loses little of what was generated.
        """
        for begin in range(0, len(questions), self._window):
            window = questions[begin : begin + self._window]
            requests = [self._request(q, begin + i) for i, q in enumerate(window)]
            completions = self._backend.generate(requests)
            for i, (question, done) in enumerate(zip(window, completions, strict=True)):
                fault = ValueError(done.error) if done.error else None
                ends = self._tokenizer.stop_ids
                text = self._tokenizer.decode([t for t in done.tokens if t not in ends])
                finish = "length" if done.finish == "length" else "stop"
                count = len(done.request.prompt) + len(done.tokens)
                cut = fault or question.fault_of(finish)
                yield begin + i, Reply(None if fault else text, count, finish, cut)

    def _request(self, question: Question, index: int) -> Request:
        from qwen3.data.chat_prompt import chat_prompt_ids
        from qwen3.infer.requests import Request, SamplingParams

        temperature = 1.0 if question.temperature is None else question.temperature
        return Request(
            chat_prompt_ids(self._tokenizer, question.messages, enable_thinking=question.thinking),
            sampling=SamplingParams(temperature=temperature),
            max_tokens=question.max_tokens,
            # The answer to a question with a seed depends on the two alone.
            prompt_id=index if question.seed is None else None,
            seed=question.seed,
            grammar=self._grammar(question),
        )

    def _grammar(self, question: Question) -> Grammar | None:
        if question.schema is None:
            return None
        if not self._vocab:
            raise ValueError("answers of a JSON schema need the vocabulary of the engine's model")
        from qwen3.infer.answer_grammar import turn_grammar

        key = json.dumps([question.schema, question.thinking], sort_keys=True)
        if key not in self._grammars:
            grammar = turn_grammar(
                self._grammar_tokens, schema=question.schema, may_think=question.thinking
            )
            assert grammar is not None
            self._grammars[key] = grammar
        return self._grammars[key]

    @functools.cached_property
    def _grammar_tokens(self) -> Any:
        from qwen3.infer.answer_grammar import GrammarTokens

        return GrammarTokens(self._tokenizer, self._vocab)


def _is_unreached(error: Exception) -> bool:
    """Whether no connection could be opened. By name: which HTTP library is below is not ours."""
    return type(error.__cause__).__name__ == "ConnectError"


def _seconds(header: str | None) -> float:
    """The pause that a Retry-After header asks for; 0 for none, or a date."""
    try:
        return max(float(header or 0), 0.0)
    except ValueError:
        return 0.0


def _estimate(messages: Messages, text: str) -> int:
    """Tokens of a call whose server does not count them: a quarter of the characters."""
    return (sum(len(message["content"]) for message in messages) + len(text)) // 4
