"""Problems of the families that a model of 0.3M parameters can learn, and texts that teach it.

Families, scorers and splits are those of the package; chosen here are easy problems of few words
(EASY), a chat template that lists tools by name and arguments alone, and a tokenizer of their
words.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import jax.numpy as jnp
import numpy as np

from qwen3 import environments
from qwen3.config import MeshConfig
from qwen3.data.folder_template import template_text
from qwen3.data.tokenizer import SMALLEST, Tokenizer
from qwen3.data.tokenizer_settings import TokenizerSettings
from qwen3.environments import World
from qwen3.environments.scripted import dialogue
from qwen3.infer.language_model import create
from qwen3.mesh import make_mesh
from qwen3.rewards import Problem, Task
from qwen3.rewards.grounding.toy_sources import SYLLABLES
from qwen3.rewards.task import in_split
from qwen3.stages import teacher

Sample = dict[str, Any]  # of stages.conversations


def _always(problem: Problem) -> bool:
    return True


def _short_numbers(problem: Problem) -> bool:
    """Requests to tools without a fraction and without a number of four digits."""
    return not re.search(r"\d\.\d|\d{4}", problem.messages[-1]["content"])


TOWN = re.compile(rf"\b(?:{'|'.join(SYLLABLES)})(?:{'|'.join(SYLLABLES)})[a-z]+", re.IGNORECASE)


def _few_towns(problem: Problem) -> bool:
    """One in sixteen of the 864 invented towns, so that each is one word of the tokenizer."""
    towns = TOWN.findall(problem.messages[-1]["content"])
    return all(zlib.crc32(town.encode()) % 16 == 0 for town in towns)


def _countable(problem: Problem) -> bool:
    record = problem.answer
    limits = {("words", "at most"): 99, ("words", "about"): 24, ("characters", "at most"): 180}
    return record["n"] <= limits.get((record["unit"], record["kind"]), 0)


# family: (difficulty, which of its problems)
EASY: Mapping[str, tuple[float, Callable[[Problem], bool]]] = {
    # instruction, preference
    "length_control": (0.0, _countable),
    "planted_style": (0.2, _always),
    # format
    "exact_stop": (0.0, lambda problem: problem.answer["values"]["kind"] != "letter"),
    "format": (0.0, lambda problem: "as CSV" in problem.messages[-1]["content"]),
    # agent
    "tool_call": (0.0, _short_numbers),
    "irrelevant_tool": (0.0, _short_numbers),
    "missing_argument": (0.0, _short_numbers),
    "key_value": (0.0, _always),
    "late_requests": (0.0, lambda problem: problem.answer["kind"] != "late"),
    # special
    "grounded_answer": (0.0, _few_towns),
    "abstention": (0.0, _few_towns),
    "conflicting_sources": (0.0, _few_towns),
    "counterfactual_context": (0.0, _always),
    # reasoning
    "bracket_completion": (0.0, _always),
    "lock_digits": (0.0, _always),
}

# Qwen3's roles, thoughts and calls. Of the tools it shows what a call needs, and every turn keeps
# its thought, so that a dialogue is one sequence.
CHAT_TEMPLATE = """
{%- if tools -%}
  {{- '<|im_start|>system\\n' -}}
  {%- for tool in tools -%}
    {{- tool.function.name + ': ' + tool.function.parameters.required | join(', ') + '\\n' -}}
  {%- endfor -%}
  {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {%- if message.role == 'assistant' -%}
    {{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' -}}
  {%- endif -%}
  {{- message.content -}}
  {%- for call in message.tool_calls or [] -%}
    {{- '\\n' if message.content or not loop.first else '' -}}
    {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
    {{- call.arguments | tojson + '}\\n</tool_call>' -}}
  {%- endfor -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def units(name: str, split: str, seed: int) -> Iterator[list[Problem]]:
    """Different easy problems of a family in English, twins together, without end. The splits share
    no problem, but the wordings, which are those of training."""
    family = environments.get(name)
    difficulty, is_easy = EASY.get(name, (0.0, _always))
    size = 1 + family.paired
    seen: set[str] = set()
    for number in range(seed * 10**6, (seed + 1) * 10**6):
        unit = []
        for side in range(size):
            problem = family.generate(size * number + side, difficulty)
            if not _is_english(problem) or not is_easy(problem):
                break
            unit.append(problem)
        text = str([(p.messages, p.tools, p.answer) for p in unit])
        if len(unit) == size and text not in seen and in_split(text, split):
            seen.add(text)
            yield [_in_mode(problem) for problem in unit]
    raise ValueError(f"{name}: only {len(seen)} easy problems of split {split!r}")


def _is_english(problem: Problem) -> bool:
    return all(message["content"].isascii() for message in problem.messages)


def _in_mode(problem: Problem) -> Problem:
    """Episodes with thinking; single answers without, unless the problem asks for a mode."""
    is_world = problem.task in environments.WORLDS
    if problem.mode != "any":
        return problem
    return problem.flagged("think" if is_world else "no_think")


@functools.cache
def problems(families: tuple[str, ...], split: str, seed: int, count: int) -> list[Problem]:
    """At least `count` problems of each family, twins together."""
    drawn: list[Problem] = []
    for name in families:
        size = 1 + environments.get(name).paired
        for unit in islice(units(name, split, seed), -(-count // size)):
            drawn += unit
    return drawn


def answered(problem: Problem, rng: Random, is_right: bool) -> Sample:
    """A conversation with the oracle's answer, or one of a policy that knows the form only."""
    family = environments.get(problem.task)
    if isinstance(family, World):
        script = family.solve(problem) if is_right else family.guess(problem, rng)
        return dialogue(family, problem, script, "Next.").conversation()
    thinking, answer = family.solve(problem)
    if not is_right:
        answer = _wrong(family, problem, rng)
    reply = {"role": "assistant", "content": answer}
    if problem.mode == "think":
        reply["reasoning_content"] = thinking
    return {"messages": [*problem.messages, reply], "tools": problem.tools}


def _wrong(family: Task, problem: Problem, rng: Random) -> str:
    if family.name == "length_control":  # guesses run to 200 words: one of any other length
        n = max(1, round(problem.answer["n"] * rng.uniform(0.3, 1.7)))
        return family.solve(replace(problem, answer={**problem.answer, "n": n}))[1]
    return family.guess(problem, rng)


def look_up(rng: Random, words: Sequence[str]) -> str:
    """Pairs of words and of words and numbers, then all of them in other orders, three times: as in
    the recipe's ledgers, every second word must be looked up."""
    keys = rng.sample(words, rng.randint(2, 6))
    pairs = [f" {key} {rng.choice((rng.choice(words), rng.randint(0, 999)))}" for key in keys]
    orders = [pairs, *(rng.sample(pairs, len(pairs)) for _ in range(3))]
    return ".".join(pair for order in orders for pair in order) + "."


def read_whole(tokens: Tokenizer, text: str) -> Sample:
    """A text of which every token is learnt."""
    ids = tokens.encode(text)
    return {"ids": ids, "mask": [1] * len(ids), "think": False}


def documents(
    tokens: Tokenizer, samples: Sequence[Sample], look_ups: int, seed: int
) -> list[Sample]:
    """For pretraining, in a mixed order: conversations of which questions are learnt as well as
    answers, and lists of look-ups of the conversations' words."""
    rng = Random(f"documents/{seed}")
    texts = [template_text(tokens, s["messages"], tools=s["tools"])[0] for s in samples]
    words = sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})
    texts += [look_up(rng, words) for _ in range(look_ups)]
    rng.shuffle(texts)
    return [read_whole(tokens, text) for text in texts]


def tokenizer(folder: Path, samples: Sequence[Sample], size: int) -> Tokenizer:
    """The tokenizer in a folder, with the chat template, trained on conversations if not there."""
    if not (folder / "tokenizer.json").exists():
        settings = TokenizerSettings(CHAT_TEMPLATE)
        plain = Tokenizer(Tokenizer.train([""], SMALLEST).backend, settings)
        texts = [template_text(plain, s["messages"], tools=s["tools"])[0] for s in samples]
        Tokenizer(Tokenizer.train(texts, size).backend, settings).save(folder)
    return Tokenizer.load(folder)


def with_words(folder: Path, recipe: Path, words: Tokenizer) -> str:
    """A folder with the model that a seed of the recipe pretrained (S1 and S2), for another
    tokenizer, made once, for `init_from`.

    Embeddings (of rank 2, tied) are those of the text's tokens in the recipe's own tokenizer, their
    mean where there are several; all else stays as it is.
    """
    if not folder.exists():
        mesh, own = make_mesh(MeshConfig()), Tokenizer.load(recipe / "tokenizer")
        model, params, _ = teacher.load(str(recipe / "pretrain"), mesh, dtype="float32")
        new = create(model.replace(vocab=words.vocab_rows), 0, mesh)
        old, rows = np.array(params["embed"]), np.array(new.params["embed"])
        for i in range(words.vocab_size):
            if pieces := own.encode(words.decode([i])):
                rows[i] = old[pieces].mean(axis=0)
        new.params = {**params, "embed": jnp.asarray(rows)}
        new.save(folder)
    return str(folder)
