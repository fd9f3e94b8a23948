"""`qwen3 plan`: compile a step of any size for any TPU slice, on a machine without a TPU."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from qwen3.config import MeshConfig, OptimConfig

if TYPE_CHECKING:
    from qwen3.plan.steps import Setting


def add_parser(subparsers: Any) -> None:
    """Register the command `plan`; its `run` is called with the parsed arguments."""
    parser = subparsers.add_parser(
        "plan", help="memory, FLOPs and predicted speed of a step on TPUs that are not here"
    )
    parser.add_argument("--model", required=True, help="a size, such as 30b-a3b")
    parser.add_argument("--topology", required=True, help="such as v5e:4x4 or v5p:4x4x4")
    parser.add_argument("--mesh", default="", help="such as fsdp=64 or fsdp=16,expert=4")
    parser.add_argument("--batch-per-device", type=float, default=1, help="rows a device")
    parser.add_argument("--length", type=int, default=4096, help="tokens a row")
    parser.add_argument(
        "--step", default="train", help="train, forward, grpo, distill, prefill, decode"
    )
    parser.add_argument("--remat", default="full", help="what is recomputed")
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=1024, help="rows of logits at once a device")
    parser.add_argument("--transport", help="how tokens and experts meet")
    parser.add_argument("--expert-bound", type=float, help="buffer, in balanced loads")
    parser.add_argument("--moments", default="float32", help="dtype of Adam's first moments")
    parser.add_argument("--params-dtype", default="float32")
    parser.add_argument("--teacher", default="32b", help="size, for --step distill")
    parser.add_argument("--fit", action="store_true", help="search mesh, microbatches and remat")
    parser.add_argument("--compiles", type=int, default=3, help="how many --fit compiles")
    parser.add_argument("--hlo", default="", help="file for the optimized program")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan, or the plans of --fit. Exit code 0: it fits the chips; 1: it does not."""
    from qwen3.plan import target

    target.prepare()
    from qwen3.plan.compiling import plan
    from qwen3.plan.fit import search
    from qwen3.plan.plan_text import plan_text

    try:
        if args.fit:
            plans = search(
                setting(args), compiles=args.compiles, tell=lambda s: print(s, file=sys.stderr)
            )
        else:
            plans = [plan(setting(args), keep_text=args.hlo)]
    except ImportError as error:
        raise ValueError(str(error)) from error
    if args.json:
        records = [step.to_dict() for step in plans]
        print(json.dumps(records if args.fit else records[0], indent=1))
    else:
        print("\n\n".join(plan_text(step) for step in plans))
    return 0 if plans[0].fits else 1


def setting(args: argparse.Namespace) -> Setting:
    """The Setting that the arguments describe."""
    from qwen3.plan.steps import Setting

    changes = {"transport": args.transport, "expert_bound": args.expert_bound}
    return Setting(
        model=args.model,
        topology=args.topology,
        mesh=read_mesh(args.mesh),
        step=args.step,
        batch_per_device=args.batch_per_device,
        length=args.length,
        microbatches=args.microbatches,
        remat=args.remat,
        chunk=args.chunk,
        teacher=args.teacher,
        params_dtype=args.params_dtype,
        optim=OptimConfig(moments=args.moments),
        execution=tuple((name, value) for name, value in changes.items() if value is not None),
    )


def read_mesh(text: str) -> MeshConfig:
    """MeshConfig of "fsdp=16,expert=4"; fsdp takes what is left unless it is given.

    Raises ValueError naming the axes.
    """
    axes = [field.name for field in dataclasses.fields(MeshConfig)]
    sizes = {}
    for part in filter(None, text.split(",")):
        axis, equals, size = part.partition("=")
        if axis not in axes or not equals or not size.lstrip("-").isdigit():
            raise ValueError(f"mesh {text!r} is not axis=size,...; axes: {', '.join(axes)}")
        sizes[axis] = int(size)
    return MeshConfig(**sizes)
