"""What a pod is, whether the step fits it, and what it may cost, before anything is rented."""

import json
import shlex
import sys
from typing import Any

from pods import types
from pods.command import ROOT, Refused
from pods.run_file import Run


def describe(run: Run, step: dict[str, Any] | None) -> str:
    """The lines of `pod.py plan`."""
    hours, price = run.MAX_HOURS, run.PRICE
    lines = [
        f"{run.SLICES} x {run.TYPE} ({types.parse(run.TYPE).topology}) on {len(run.hosts)} hosts",
        f"quota: {run.chips} chips of {run.TYPE.partition('-')[0]}, {run.CAPACITY}, {run.ZONE}",
        f"memory: {memory(step) if step else 'not checked (PLAN=none)'}",
        f"time: {hours:g} h, {hours * run.chips:,.0f} chip-hours"
        if hours
        else "time: no MAX_HOURS",
        f"cost: ${run.dollars(1):,.2f} an hour, ${run.dollars(hours):,.0f} in all, at "
        f"${price:g} a chip-hour ({run.PRICE_SOURCE})"
        if price
        else "cost: unknown (no PRICE)",
    ]
    if step and step["fits"]:
        seconds, rate = (step["prediction"][k] for k in ("seconds", "tokens_per_second_per_chip"))
        lines.append(f"speed: {seconds:.2f} s a step, {86400 * rate * run.chips:,.0f} tokens a day")
    return "\n".join(lines)


def memory(step: dict[str, Any]) -> str:
    verdict = "fits" if step["fits"] else "does not fit"
    size = f"{step['used'] / 1e9:.1f} GB of {step['limit'] / 1e9:.1f} GB a device"
    return " ".join([f"{verdict}: {size}.", step["reason"], *step["advice"]]).strip()


def planned(run: Run) -> dict[str, Any] | None:
    """What `qwen3 plan` says of the step on this pod; None with PLAN=none."""
    if run.PLAN == "none" or run.dry:
        return None
    if not run.PLAN:
        raise Refused("PLAN is empty: it is the arguments of `qwen3 plan` for the step, or none")
    argv = [sys.executable, "-m", "qwen3.cli", "plan", *shlex.split(run.PLAN), "--json"]
    argv += [f"--type={run.TYPE}", f"--slices={run.SLICES}"]
    answer = run.command(argv, 3600, PYTHONPATH=str(ROOT / "src"))
    try:
        return json.loads(answer.out)
    except ValueError:
        reason = (answer.err.strip().splitlines() or ["no answer"])[-1]
        raise Refused(f"`qwen3 plan` says: {reason}") from None
