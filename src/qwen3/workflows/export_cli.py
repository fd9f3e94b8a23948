"""`qwen3 export RUN FOLDER`: a run's newest checkpoint, or its best, in the Hugging Face layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Registers `export`."""
    parser = subparsers.add_parser("export", help="a run as a Hugging Face folder")
    parser.add_argument("model", help="a run's workdir, a checkpoint, a folder with an adapter")
    parser.add_argument("folder", type=Path, help="written whole, or not at all")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: as it is stored"
    )
    parser.add_argument(
        "--best", action="store_true", help="of a run: the best on held-out problems, not the last"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="of a run with LoRA: the adapters alone, for PEFT"
    )
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Load, merge adapters unless they alone are asked for, write."""
    import jax

    from qwen3.config import MeshConfig
    from qwen3.infer import language_model
    from qwen3.mesh import make_mesh
    from qwen3.train import model_source
    from qwen3.workflows.training_run import TrainingRun

    model = TrainingRun(Path(options.model)).best if options.best else options.model
    if options.adapter:
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        model_source.find(model).save_adapter(options.folder, mesh)
        print(f"{options.folder}: the adapters of {model}, as PEFT loads them")
        return 0
    loaded = language_model.load(model)
    loaded.save(options.folder, dtype=options.dtype)
    is_scorer = loaded.config.scalar_head
    use = "transformers' sequence classification" if is_scorer else f"`qwen3 chat {options.folder}`"
    print(f"{options.folder}: written; {use} {'loads' if is_scorer else 'talks to'} it")
    return 0
