"""Tunix's sampler as the child of `bench_generate.py`, in an environment of its own.

Loads the Qwen3 folder, says "ready", and for each line on stdin, "greedy", "sampled" or "prefill",
makes NEW tokens (one for "prefill") after each prompt and writes the wall and processor seconds.

Command:   python experiments/tunix_sampler.py FOLDER PROMPTS.json NEW
Hardware:  one core, as bench_generate.py gives it.
Expected:  a line of JSON with "times" and "first" for each line read (google-tunix 0.1.7).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


class Ids:
    """A tokenizer whose texts are written ids; none begins a text, pads or ends it."""

    def encode(self, text: str, **options: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **options: Any) -> str:
        return ""

    def bos_id(self) -> None:
        return None

    def pad_id(self) -> int:
        return -1

    eos_id = pad_id


def main() -> None:
    # Here, so that the file can be read where Tunix is not installed.
    from tunix.generate.sampler import CacheConfig, Sampler
    from tunix.models.qwen3.model import ModelConfig
    from tunix.models.qwen3.params import create_model_from_safe_tensors

    folder, prompts, new = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    c = json.loads((folder / "config.json").read_text())
    config = ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        head_dim=c["head_dim"],
        num_kv_heads=c["num_key_value_heads"],
        rope_theta=int(c.get("rope_theta") or c["rope_parameters"]["rope_theta"]),
        norm_eps=c["rms_norm_eps"],
        use_tied_embedding=c["tie_word_embeddings"],
    )
    axes = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = create_model_from_safe_tensors(str(folder), config, axes, dtype=jnp.float32)
    texts = [" ".join(map(str, ids)) for ids in json.loads(prompts.read_text())]
    longest = max(len(text.split()) for text in texts)
    cache = CacheConfig(longest + new, config.num_layers, config.num_kv_heads, config.head_dim)
    sampler = Sampler(model, Ids(), cache)
    rules = {"greedy": {}, "prefill": {}, "sampled": {"temperature": 1.0, "top_p": 1.0}}
    print("ready", flush=True)
    for line in sys.stdin:
        kind = line.strip()
        wall, cpu = time.perf_counter(), time.process_time()
        count = 1 if kind == "prefill" else new
        out = sampler(
            texts,
            max_generation_steps=count,
            max_prompt_length=longest,
            eos_tokens=[-1],
            **rules[kind],
        )
        assert all(len(tokens) == count for tokens in out.tokens), [len(t) for t in out.tokens]
        times = time.perf_counter() - wall, time.process_time() - cpu
        first = [int(i) for i in out.tokens[0][:8]]
        print(json.dumps({"times": times, "first": first}), flush=True)


if __name__ == "__main__":
    main()
