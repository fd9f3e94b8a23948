"""A planned phase as text for people: a part a line."""

from __future__ import annotations

import math

from qwen3.plan.phase import PhasePlan


def phase_text(phase: PhasePlan) -> str:
    """What `qwen3 plan FILE NAME phase` prints, a part a line."""
    lines = [
        f"{phase.name}, {phase.model} on {phase.topology}: a phase of {phase.prompts} prompts x "
        f"{phase.samples} answers of {phase.answer_tokens:,} tokens (prompts of "
        f"{phase.prompt_tokens:,}), {phase.slots} slots",
        "",
        f"{'part':14} {'rows x tokens':>26} {'times':>9} {'once':>11} {'all':>10}  share  bound",
    ]
    for part in phase.parts:
        share = part.total / phase.seconds if phase.seconds < math.inf else math.nan
        lines.append(
            f"{part.name:14} {part.program:>26} {part.times:9,.0f} {part.seconds:9.4f} s "
            f"{part.total:8,.0f} s  {share:5.1%}  {part.bound}"
        )
    lines += [
        f"{'phase':14} {'':26} {'':9} {'':11} {phase.seconds:8,.0f} s",
        "",
        f"a token step takes {phase.decode_over_reading:.2f} times the {phase.reading_once:.4f} s "
        f"of reading weights and caches of {phase.cache_length:,} places once, and a device sends "
        f"{phase.sent / 1e9:.3f} GB in it",
    ]
    short = [part.name for part in phase.parts if not part.fits]
    if short:
        lines.append(f"DOES NOT FIT: {', '.join(short)}")
    return "\n".join([*lines, "", "how it was counted", *(f"  {m}" for m in phase.methods)])
