"""`qwen3 plan`: compile a step of any size for any TPU slice, on a machine without a TPU."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from qwen3.config import MeshConfig, OptimConfig
from qwen3.plan.slice_types import topology_of

if TYPE_CHECKING:
    from qwen3.plan.steps import Setting


def add_parser(subparsers: Any) -> None:
    """Register the command `plan`; its `run` is called with the parsed arguments."""
    parser = subparsers.add_parser(
        "plan", help="memory, FLOPs and predicted speed of a step on TPUs that are not here"
    )
    parser.add_argument(
        "experiment",
        nargs="*",
        help="instead of all other options: FILE [NAME [STAGE]], the step that an experiment runs; "
        "FILE NAME phase: the wall time of a phase of RL or distillation",
    )
    parser.add_argument("--answer-tokens", type=int, default=16_384, help="of a phase's answers")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of a phase's prompts")
    parser.add_argument("--model", help="a size, such as 30b-a3b")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--topology", help="such as v5e:4x4 or v5p:4x4x4")
    where.add_argument("--type", help="the same by Cloud's name, such as v6e-256 or v5litepod-16")
    parser.add_argument("--slices", type=int, default=1, help="as many of it, split along data")
    parser.add_argument("--mesh", default="", help="such as fsdp=64 or fsdp=16,expert=4")
    parser.add_argument("--batch-per-device", type=float, default=1, help="rows a device")
    parser.add_argument("--length", type=int, default=4096, help="tokens a row")
    parser.add_argument(
        "--step",
        default="train",
        help="train, forward, grpo, distill, teacher, reward_model, prefill, decode",
    )
    parser.add_argument("--remat", default="full", help="what is recomputed")
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=1024, help="rows of logits at once a device")
    parser.add_argument("--transport", help="how tokens and experts meet")
    parser.add_argument("--expert-bound", type=float, help="buffer, in balanced loads")
    parser.add_argument("--moments", default="float32", help="dtype of Adam's first moments")
    parser.add_argument("--params-dtype", default="float32")
    parser.add_argument("--teacher", default="32b", help="size, for --step distill")
    parser.add_argument(
        "--teacher-apart",
        action="store_true",
        help="--step distill: it hands over hidden states from its own devices (--step teacher)",
    )
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0: the whole model")
    parser.add_argument("--balance", default="global", help="form of the load-balancing loss")
    parser.add_argument("--cache", default="rows", help="for --step decode: rows or paged")
    parser.add_argument("--cache-dtype", help="of the KV cache: float32, bfloat16 or int8")
    parser.add_argument("--weights", help="int8: form of stored matrices, for prefill and decode")
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

    if args.experiment[2:] == ["phase"]:
        return run_phase(args)
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


def run_phase(args: argparse.Namespace) -> int:
    """Print the wall time of a phase and its parts. Exit code 0: all parts fit; 1: they do not."""
    from qwen3.plan.phase import plan_phase
    from qwen3.plan.phase_text import phase_text

    place = topology(args) if args.type or args.topology else None
    try:
        phase = plan_phase(
            args.experiment[:2],
            place,
            answer_tokens=args.answer_tokens,
            prompt_tokens=args.prompt_tokens,
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    print(json.dumps(phase.to_dict(), indent=1) if args.json else phase_text(phase))
    return 0 if phase.fits else 1


def setting(args: argparse.Namespace) -> Setting:
    """The Setting that the arguments describe."""
    from qwen3.model.lora import LoraConfig
    from qwen3.plan import from_experiment
    from qwen3.plan.steps import Setting

    if args.experiment:
        place = topology(args) if args.type or args.topology else None
        return from_experiment.setting(args.experiment, place)
    if not args.model or not (args.type or args.topology):
        raise ValueError(
            "plan wants --model and --topology or --type, or the file of an experiment"
        )
    if (args.cache_dtype or args.weights) and args.step not in ("prefill", "decode"):
        raise ValueError(
            f"--cache-dtype and --weights are of the steps prefill and decode, not {args.step}"
        )
    names = ("transport", "expert_bound", "cache_dtype", "weights")
    changes = {name: getattr(args, name) for name in names}
    return Setting(
        model=args.model,
        topology=topology(args),
        mesh=read_mesh(args.mesh, args.slices),
        step=args.step,
        batch_per_device=args.batch_per_device,
        length=args.length,
        microbatches=args.microbatches,
        remat=args.remat,
        chunk=args.chunk,
        teacher=args.teacher,
        teacher_apart=args.teacher_apart,
        params_dtype=args.params_dtype,
        optim=OptimConfig(moments=args.moments),
        execution=tuple((name, value) for name, value in changes.items() if value is not None),
        lora=LoraConfig(rank=args.lora),
        balance=args.balance,
        cache=args.cache,
    )


def topology(args: argparse.Namespace) -> str:
    """The topology that --topology or --type, and --slices, tell of, such as "v5e:4x4*2"."""
    if args.slices < 1:
        raise ValueError(f"--slices {args.slices}: at least 1")
    name = topology_of(args.type) if args.type else args.topology
    return f"{name}*{args.slices}" if args.slices > 1 else name


def read_mesh(text: str, slices: int = 1) -> MeshConfig:
    """MeshConfig of "fsdp=16,expert=4"; fsdp takes what is left, and data the slices, by default.

    Raises ValueError naming the axes.
    """
    axes = [field.name for field in dataclasses.fields(MeshConfig)]
    sizes = {"data": slices}
    for part in filter(None, text.split(",")):
        axis, equals, size = part.partition("=")
        if axis not in axes or not equals or not size.lstrip("-").isdigit():
            raise ValueError(f"mesh {text!r} is not axis=size,...; axes: {', '.join(axes)}")
        sizes[axis] = int(size)
    return MeshConfig(**sizes)
