"""A world for models that know nothing: say the letter e, over three turns of four letters."""

import dataclasses

import numpy as np

from qwen3.environments.agent_loop import Trajectory
from qwen3.environments.episode import EpisodeLimits
from qwen3.environments.world import World
from qwen3.infer import grammar
from qwen3.rewards import Problem

LETTERS = "aeiouxyz"
TURNS, SIZE = 3, 4  # turns of an episode, letters of a turn
MORE = "say more of it please and then some more"


def make(rng, difficulty, split):
    number = rng.randrange(1_000)
    return Problem(
        "talk", [{"role": "user", "content": f"q{number}"}], {"number": number}, tools=[]
    )


def reply(problem, state, turns):
    return [MORE] if len(turns) < TURNS else []


def grade(problem, state, turns):
    return sum(turn.content.count("e") for turn in turns) / (TURNS * SIZE)


WORLD = World(
    "talk",
    make,
    tools=(),
    start=lambda answer: None,
    grade=grade,
    solve=lambda problem: ("eeee" for _ in range(TURNS)),
    guess=lambda problem, rng: ("".join(rng.choices(LETTERS, k=SIZE)) for _ in range(TURNS)),
    hacks={},
    limits=EpisodeLimits(turn_tokens=2 * SIZE),
    reply=reply,
)


class ShortTurns:
    """A grammar of turns: SIZE of the LETTERS, then <|im_end|>."""

    def __init__(self, tokenizer, vocab):
        self.vocab, self.end = vocab, tokenizer.im_end
        self.letters = [tokenizer.encode(letter)[0] for letter in LETTERS]

    def matcher(self):
        return ShortTurn(self)


class ShortTurn:
    def __init__(self, grammar_):
        self.grammar, self.count = grammar_, 0

    def allowed(self):
        ids = self.grammar.letters if self.count < SIZE else [self.grammar.end]
        bits = np.zeros(grammar.words(self.grammar.vocab), np.uint32)
        for i in ids:
            bits[i // 32] |= np.uint32(1 << i % 32)
        return bits

    def accept(self, token, *, forced):
        self.count += 1


def let_it_speak(monkeypatch, worlds, tokenizer, vocab):
    """Register the world, whose turns are short whatever the weights are."""
    monkeypatch.setitem(worlds, "talk", WORLD)
    rules, next_request = ShortTurns(tokenizer, vocab), Trajectory.next_request

    def short(self, tokenizer):
        return dataclasses.replace(next_request(self, tokenizer), grammar=rules)

    monkeypatch.setattr(Trajectory, "next_request", short)
