"""Scores of a reward model: of token sequences, of pairs of answers, of conversations.

A reward model reads what a user reads: the conversation with its last answer, without the thought
behind it, and gives one number at the <|im_end|> that ends the answer. The number means something
in comparison with that of another answer to the same question only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3.config import MeshConfig
from qwen3.data import chat
from qwen3.data.chat_prompt import LITERAL_ROLES
from qwen3.data.chat_render import split_thought
from qwen3.data.folder_template import template_text
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.preference import token_scores
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.stages.rollout_batches import RolloutBatches
from qwen3.train import model_source

SHORTEST = 64  # slots of the shortest rows; longer ones are its doubles, so that few are compiled


def answer_ids(
    tokenizer: Tokenizer, messages: Sequence[Mapping], tools: Sequence[Mapping] | None = None
) -> list[int]:
    """Ids of a conversation up to the end token of its last message, the answer that is scored.

    Raises ValueError for a conversation that does not end with an answer, and for a chat template
    that ends an answer with no end token.
    """
    if not messages or messages[-1].get("role") != "assistant":
        raise ValueError("a reward model scores a conversation that ends with an answer")
    thought, answer = split_thought(messages[-1])
    if thought:
        messages = [*messages[:-1], {**messages[-1], "content": answer, "reasoning_content": ""}]
    if tokenizer.chat_template is None:
        ids, _ = chat.render_tokens(tokenizer, messages, tools=tools, literal_roles=LITERAL_ROLES)
    else:
        text, literal = template_text(tokenizer, messages, tools=tools)
        ids = tokenizer.encode_spans(text, literal=literal)[0]
    ends = [place for place, token in enumerate(ids) if token in tokenizer.stop_ids]
    if not ends:
        raise ValueError("this model's chat template writes no end token behind the answer")
    return ids[: ends[-1] + 1]


def scored_sequence(ids: Sequence[int], pad: int) -> TokenSequence:
    """The sequence whose weight marks where its score is read: at the last of `ids`.

    A row's slot t reads token t and predicts token t + 1, so that one more token must follow the
    last one that is read.
    """
    weights = np.zeros(len(ids) + 1, np.float32)
    weights[-1] = 1.0
    return TokenSequence(np.array([*ids, pad], np.int32), weights)


class SequenceScorer:
    """score(params, sequences) -> [n] fp32: the scores where the sequences' weights are read.

    batch: sequences that are scored at once.
    """

    def __init__(
        self, model: ModelConfig, mesh: Mesh, execution: Execution, *, pad: int, batch: int = 64
    ):
        if not model.scalar_head:
            raise ValueError(f"{model.name} is no reward model: it has no scalar head")
        self._mesh, self._pad, self._batch, self._most = mesh, pad, batch, model.max_length
        self._scores = jax.jit(partial(token_scores, transformer.bind(model, execution)))

    def __call__(self, params: Any, sequences: Sequence[TokenSequence]) -> np.ndarray:
        scores = np.zeros(len(sequences), np.float32)
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        with jax.set_mesh(self._mesh):
            for start in range(0, len(by_length), self._batch):
                chosen = by_length[start : start + self._batch]
                part = [sequences[i] for i in chosen]
                values = self._batches(part).values(self._scores, params, part)
                scores[chosen] = [value[-1] for value in values]
        return scores

    def _batches(self, part: Sequence[TokenSequence]) -> RolloutBatches:
        width = SHORTEST
        while width < max(map(len, part)):
            width *= 2
        return RolloutBatches(self._mesh, width, most=self._batch, microbatches=1, pad=self._pad)


class RewardModel:
    """A trained reward model and its tokenizer.

    model = RewardModel.load("runs/reward_model")  # or an exported folder
    model.scores([[{"role": "user", ...}, {"role": "assistant", ...}]])
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Any,
        tokenizer: Tokenizer,
        *,
        mesh: Mesh,
        execution: Execution | None = None,
    ):
        tokenizer.check_fits(model.vocab)
        self.model, self.params, self.tokenizer = model, params, tokenizer
        execution = execution or Execution.for_mesh(mesh)
        self._score = SequenceScorer(model, mesh, execution, pad=tokenizer.pad)

    @classmethod
    def load(
        cls, name: str | Path, mesh: Mesh | None = None, dtype: Any = None, **execution: Any
    ) -> RewardModel:
        """From a run of `stages.reward_model`, one of its checkpoints, or a folder in the Hugging
        Face layout (sequence classification with one label).

        execution: changes to Execution.for_mesh. Raises ValueError for a model that is none, and
        for one without a tokenizer.
        """
        source = model_source.find(name)
        if not source.config.scalar_head:
            raise ValueError(f"{name} is a language model, not a reward model: it has no score")
        if not source.tokenizer_folder:
            raise ValueError(f"{name} has no tokenizer; put tokenizer.json beside its weights")
        mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if mesh is None else mesh
        return cls(
            source.config,
            source.params(mesh, dtype),
            Tokenizer.load(source.tokenizer_folder),
            mesh=mesh,
            execution=Execution.for_mesh(mesh, **execution),
        )

    def scores(
        self,
        conversations: Sequence[Sequence[Mapping]],
        tools: Sequence[Sequence[Mapping] | None] | None = None,
    ) -> list[float | None]:
        """The score of the last answer of each conversation; None for one that is too long.

        tools: those on offer in each conversation.
        """
        every = [
            answer_ids(self.tokenizer, messages, offered)
            for messages, offered in zip(
                conversations, tools or [None] * len(conversations), strict=True
            )
        ]
        fits = [i for i, ids in enumerate(every) if len(ids) <= self.model.max_length]
        sequences = [scored_sequence(every[i], self.tokenizer.pad) for i in fits]
        scores: list[float | None] = [None] * len(every)
        for i, score in zip(fits, self._score(self.params, sequences), strict=True):
            scores[i] = float(score)
        return scores
