"""What a pod is, whether the step fits it, and what it may cost, before anything is rented.

    python -m qwen3.supervise.quote RUN.env [--brief]

The step is what PLAN of the run says; it is compiled as `qwen3 plan` does, which needs the package
with `.[tpu]`. With PLAN=none the standard library is enough. Exit codes: 0 it fits, or is not
checked; 1 it does not; 2 a wrong setting.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Any

from qwen3.supervise.pod_settings import PodSettings, read


def quote(run: PodSettings, step: dict[str, Any] | None) -> str:
    """The lines of `launch/pod.py plan`. step: a plan as a dict, None if it is not checked."""
    hours, price = run.MAX_HOURS, run.PRICE
    time, cost, speed = "no MAX_HOURS", "unknown (no PRICE)", []
    if hours:
        time = f"{hours:g} h, {hours * run.chips:,.0f} chip-hours"
    if price:
        cost = f"${run.dollars(1):,.2f} an hour, ${run.dollars(hours):,.0f} in all, at ${price:g} "
        cost += f"a chip-hour ({run.PRICE_SOURCE})"
    if step and step["fits"]:
        seconds, rate = (step["prediction"][k] for k in ("seconds", "tokens_per_second_per_chip"))
        speed = [f"speed: {seconds:.2f} s a step, {86400 * rate * run.chips:,.0f} tokens a day"]
    kind = f"{run.SLICES} x {run.TYPE} ({run.slice_type.topology})"
    lines = [
        f"{kind} on {len(run.hosts)} hosts",
        f"quota: {run.chips} chips of {run.TYPE.partition('-')[0]}, {run.CAPACITY}, {run.ZONE}",
        f"memory: {memory(step) if step else 'not checked (PLAN=none)'}",
        f"time: {time}",
        f"cost: {cost}",
    ]
    return "\n".join(lines + speed)


def memory(step: dict[str, Any]) -> str:
    """Whether a step fits, with the bytes, and what would help."""
    verdict = "fits" if step["fits"] else "does not fit"
    size = f"{step['used'] / 1e9:.1f} GB of {step['limit'] / 1e9:.1f} GB a device"
    return " ".join([f"{verdict}: {size}.", step["reason"], *step["advice"]]).strip()


def planned(run: PodSettings) -> dict[str, Any] | None:
    """The plan of the step on this pod; None with PLAN=none. Raises ValueError for a wrong PLAN."""
    if run.PLAN == "none":
        return None
    if not run.PLAN:
        raise ValueError("PLAN is empty: it is the arguments of `qwen3 plan` for the step, or none")
    words = [*shlex.split(run.PLAN), "--json", f"--type={run.TYPE}", f"--slices={run.SLICES}"]
    argv = [sys.executable, "-m", "qwen3.cli", "plan", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600)
    if done.returncode not in (0, 1) or not done.stdout:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise ValueError(f"`qwen3 plan` says: {reason}")
    step: dict[str, Any] = json.loads(done.stdout)
    return step


def main() -> int:
    """Print the quote, or with --brief what is said of memory alone."""
    path, *options = sys.argv[1:]
    try:
        run = read(path)
        step = planned(run)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    fits = step is None or step["fits"]
    print(memory(step) if step and options == ["--brief"] else quote(run, step))
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
