"""What the tiny post-training experiments share: the combination lock, its tokenizer, an engine.

The runs, in order, each one or two minutes on one core, all with default folders:

    python experiments/tiny_cold_start.py --workdir runs/cold_start
    python experiments/tiny_grpo.py       --workdir runs/grpo
    python experiments/tiny_fusion.py     --workdir runs/fusion
    python experiments/tiny_general_rl.py --workdir runs/general_rl
    python experiments/tiny_off_policy.py --workdir runs/off_policy
    python experiments/tiny_on_policy.py  --workdir runs/on_policy

Elsewhere: --set init_from=... --set tokenizer=... (and teacher=...) name the earlier runs. Figures
of all six: docs/log/2026-11-28-tiny-post-training.md; the world: docs/tiny_world.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

from qwen3 import rewards
from qwen3.config import MeshConfig, OptimConfig
from qwen3.curate.files import write_conversations
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.mesh import make_mesh
from qwen3.model.sizes import size
from qwen3.recipe.stages import fresh_start
from qwen3.rewards import Problem
from qwen3.rewards.locks import lock_tasks
from qwen3.stages import teacher
from qwen3.train.recording import Log

TOKENIZER = "runs/cold_start/tokenizer"
# As in 0.6B the heads together are twice as wide as the model: heads of 16 look up half as fast
# (docs/log/2026-11-22-heads-and-copying.md).
MODEL = size("tiny").replace(heads=4, kv_heads=1, head_dim=32)
EXECUTION = {"scan": False}  # four layers: written out they run faster than as a loop
DIFFICULTY = (0.0, 0.4)  # one to three days
LENGTH = 256  # tokens of a row
# Muon learns this world from nothing in less than half of AdamW's steps
# (docs/log/2026-11-22-muon-and-adamw.md).
FROM_NOTHING = OptimConfig("muon", peak=5e-3, final=0.05, warmup=50, weight_decay=0.05)
LOG = Log(every=5)


def problems(count: int, seed: int, split: str = "train") -> list[Problem]:
    """Different locks of one to three days."""
    low, high = DIFFICULTY
    rng = Random(f"difficulty/{seed}")
    task = rewards.get("lock")
    return [task.generate(seed * 10**6 + i, rng.uniform(low, high), split) for i in range(count)]


def answered(problem: Problem, style: str, seed: int) -> dict[str, Any]:
    """A conversation with a trace of `style`, or without thinking for style ""."""
    thinking, answer = lock_tasks.trace(problem, style or "careful", Random(seed))
    reply = {"role": "assistant", "content": answer, "reasoning_content": thinking * bool(style)}
    return {"messages": [*problem.messages, reply]}


def tokenizer(folder: str) -> Tokenizer:
    """The tokenizer in `folder`, trained on the lock's words if it is not there."""
    if not (Path(folder) / "tokenizer.json").exists():
        conversations = [answered(problem, "careful", 0) for problem in problems(300, 9)]
        texts = ["user\nassistant\n /think /no_think"]
        texts += [m[k] for c in conversations for m in c["messages"] for k in m if k != "role"]
        Tokenizer.train(texts * 2, size=400).save(folder)
    return Tokenizer.load(folder)


def fresh(folder: str | Path, config: Any) -> str:
    """A folder with new parameters for a stage's config, made once."""
    return fresh_start.save(folder, config.model, config.seed, make_mesh(MeshConfig()))


def engine(source: str, words: Tokenizer, slots: int = 64, length: int = LENGTH) -> Engine:
    """An engine over the model of a run, for prompts and answers of `length` tokens."""
    mesh = make_mesh(MeshConfig())
    model, params, _ = teacher.load(source, mesh, dtype="float32")
    return Engine(model, params, tokenizer=words, slots=slots, max_length=length, mesh=mesh)


def once(path: str | Path, make: Callable[[], Iterable[dict[str, Any]]]) -> str:
    """The path of a file of the conversations that `make()` returns, written if it is not there."""
    if not Path(path).exists():
        write_conversations(path, make())
    return str(path)
