"""What the post-training tests share: a tokenizer of the lock's words, a very small model, data."""

import functools
import tempfile
from pathlib import Path
from random import Random

from qwen3 import rewards
from qwen3.config import MeshConfig, OptimConfig
from qwen3.curate.files import write_conversations
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import word_problems
from qwen3.stages.report import Log

QUIET = Log(every=1, display=False)
ONE = MeshConfig(data=1, fsdp=1)
CONSTANT = OptimConfig(peak=3e-3, schedule="constant", warmup=0, weight_decay=0.0)


def lock(seed, difficulty=0.0, mode="any"):
    return rewards.get("lock").generate(seed, difficulty, mode=mode)


def conversation(problem, style="careful", seed=0, thinks=True):
    thinking, answer = word_problems.trace(problem, style, Random(seed))
    reply = {"role": "assistant", "content": answer, "reasoning_content": thinking * thinks}
    return {"messages": [*problem.messages, reply]}


@functools.cache
def tokenizer_folder():
    """Of a tokenizer with most of the lock's words."""
    texts = [
        message["content"] + " " + message.get("reasoning_content", "")
        for seed in range(60)
        for message in conversation(lock(seed, difficulty=1.0))["messages"]
    ]
    folder = tempfile.mkdtemp()
    Tokenizer.train(["user assistant\n", *texts] * 3, size=400).save(folder)
    return folder


def model(**changes):
    small = ModelConfig("toy", 2, 32, 64, 2, 1, head_dim=16, vocab=512, tied=True, max_length=256)
    return small.replace(**changes)


def write(folder, samples, name="data.jsonl"):
    path = Path(folder) / name
    write_conversations(path, samples)
    return str(path)
