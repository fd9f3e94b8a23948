"""The report's claims in small: the paper's numbers, ours, and a stated rule that decides.

Texts stand in `claims.toml`; here is what is measured and decided. A claim has parts, and is
"shown" only if all of them hold in every seed. Estimates are [value, low, high, n] with 95%
intervals over problems; a difference counts where it lies "beyond both intervals".
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from statistics import mean
from typing import Any, TypeAlias

from qwen3.eval import intervals

Result: TypeAlias = Mapping[str, Any]  # one seed's {stage: what it reported}, as read from JSON
Cells: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What one seed says about a claim."""

    rows: Sequence[Cells]  # of the claim's table, without the seed
    parts: dict[str, bool]  # part of the rule: whether it holds
    why: str  # the figures behind the verdict
    plot: dict  # what `plots.svg` draws
    columns: tuple[str, ...] = ()  # more columns, where they depend on the run


@dataclass
class Claim:
    """One claim with its texts (a table of `claims.toml`) and what every seed says about it."""

    name: str
    title: str
    paper: str  # the report's own numbers
    here: str  # how the claim is tried in the tiny world
    rule: str  # what must hold
    needs: Sequence[str]  # stages whose results it reads
    columns: list[str]  # of the table
    notes: Sequence[str]  # caveats
    seeds: dict[int, Measured] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, bool]:
        """Whether each part of the rule holds in every seed; {} where the claim was not tried."""
        verdicts = [measured.parts for measured in self.seeds.values()]
        return {name: all(parts[name] for parts in verdicts) for name in next(iter(verdicts), ())}

    @property
    def state(self) -> str:
        """The verdict in words."""
        held, count = sum(self.parts.values()), len(self.parts)
        if not count:
            return "not tried at this budget"
        if held in (0, count):
            return "shown" if held else "not shown"
        return f"{held} of {count} parts shown"

    @property
    def table(self) -> tuple[Cells, list[Cells]]:
        """(header, rows) of all seeds."""
        extra = next((measured.columns for measured in self.seeds.values()), ())
        rows = [(str(n), *row) for n, measured in self.seeds.items() for row in measured.rows]
        return ("seed", *self.columns, *extra), rows


def judge(results: Sequence[Result]) -> list[Claim]:
    """All claims with their verdicts. A seed counts for a claim whose stages it has finished."""
    claims = [Claim(name, **text) for name, text in texts().items()]
    for claim in claims:
        for seed, result in enumerate(results):
            if all(stage in result for stage in claim.needs):
                claim.seeds[seed] = MEASURES[claim.name](result)
    return claims


def texts() -> dict[str, Any]:
    """{claim: its table of `claims.toml`}"""
    return tomllib.loads((files(__package__) / "claims.toml").read_text(encoding="utf-8"))


def percent(estimate: Sequence[float], digits: int = 1) -> str:
    """ "61.0 [57.0, 64.8]" """
    value, low, high = (100 * x for x in estimate[:3])
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


STUDENTS = {
    "student_exam": "off-policy",
    "student_kl": "+ on-policy KL",
    "student_rl": "+ GRPO",
    "student_control": "+ KL on teacher's samples",
}


def distillation(result: Result) -> Measured:
    """C1: on-policy distillation against GRPO, from one student."""
    students = {name: result[name] for name in STUDENTS if name in result}
    most = max(students["student_exam"]["pass"], key=int)
    kl, rl = students["student_kl"], students["student_rl"]
    gap = result.get("differences") or differences(students, most)
    cost = kl["samples"] / max(rl["samples"], 1)
    time = training_seconds(kl) / max(training_seconds(rl), 1)
    why = (
        f"KL - RL pass@1 {percent(gap['KL - RL'])} points at {cost:.2f} of the samples "
        f"and {time:.2f} of the seconds; pass@{most} minus the start: "
        f"KL {percent(gap['KL - start'])}, RL {percent(gap['RL - start'])}"
    )
    if "KL - control" in gap:
        why += f"; KL on its own minus on the teacher's samples {percent(gap['KL - control'])}"
    return Measured(
        [_student_row(STUDENTS[name], student, most) for name, student in students.items()],
        {
            "KL above RL in pass@1": gap["KL - RL"][1] > 0,
            "at most a fifth of the samples": cost <= 0.2,
            "at most a fifth of the seconds": time <= 0.2,
            f"KL raises pass@{most}": gap["KL - start"][1] > 0,
            f"RL does not raise pass@{most}": gap["RL - start"][1] <= 0,
        },
        why,
        {
            "kind": "bars",
            "title": "share of hard problems, T = 1",
            "names": [STUDENTS[name] for name in students],
            "series": {
                f"pass@{k}": [student["pass"][k] for student in students.values()]
                for k in ("1", most)
            },
        },
    )


def differences(students: Mapping[str, Any], most: str) -> Mapping[str, Sequence[float]]:
    """Paired differences: pass@1 of KL minus RL and minus the control, pass@most minus the start.

    Results that are published without their per-problem scores have these under "differences".
    """
    scores = {name: student["per_problem"] for name, student in students.items()}
    start, kl, rl = (scores[name] for name in ("student_exam", "student_kl", "student_rl"))
    pairs = {
        "KL - RL": intervals.paired(rl["1"], kl["1"]),
        "KL - start": intervals.paired(start[most], kl[most]),
        "RL - start": intervals.paired(start[most], rl[most]),
    }
    if "student_control" in scores:
        pairs["KL - control"] = intervals.paired(scores["student_control"]["1"], kl["1"])
    return pairs


def _student_row(label: str, student: Result, most: str) -> Cells:
    split = (
        " / ".join(f"{100 * student['by_rare'][which][k]:.0f}" for k in ("1", most))
        for which in ("without", "with")
    )
    return (
        label,
        percent(student["pass"]["1"]),
        percent(student["pass"][most]),
        *split,
        percent(student["pass_at_1_t06"]),
        f"{student.get('samples', 0):,}",
        f"{student.get('seconds', 0):.0f}",
        f"{student.get('compiling', 0):.0f}",
    )


def training_seconds(result: Result) -> float:
    """Seconds of a stage without compiling."""
    return result["seconds"] - result.get("compiling", 0.0)


def fusion(result: Result) -> Measured:
    """C2: both modes in one model, and the switch between them."""
    stages = {name: result[name] for name in ("fusion", "general_rl")}
    before, after = (stage["follow"]["total"] for stage in stages.values())
    think, no_think = (result["fusion"][mode]["multi_step"] for mode in ("think", "no_think"))
    gap = think[0] - no_think[0]
    rows = [
        (
            name,
            percent(stage["think"]["accuracy"]),
            percent(stage["no_think"]["accuracy"]),
            " / ".join(percent(stage[mode]["multi_step"]) for mode in ("think", "no_think")),
            percent(stage["follow"]["total"]),
            ", ".join(f"{kind} {100 * share[0]:.0f}" for kind, share in stage["follow"].items()),
            percent(stage["calls"]["accuracy"]),
        )
        for name, stage in stages.items()
    ]
    series = {
        "ThinkFollow": [stage["follow"]["total"] for stage in stages.values()],
        "thinking": [stage["think"]["accuracy"] for stage in stages.values()],
        "non-thinking": [stage["no_think"]["accuracy"] for stage in stages.values()],
        "tool calls": [stage["calls"]["accuracy"] for stage in stages.values()],
    }
    return Measured(
        rows,
        {
            "ThinkFollow at least 97% after general RL": after[0] >= 0.97,
            "not below its value after fusion": after[2] >= before[1],
            "thinking ahead by 30 points": gap >= 0.3,
        },
        f"ThinkFollow {percent(before)} -> {percent(after)}; thinking "
        f"ahead by {100 * gap:.0f} points on multi-step problems",
        {
            "kind": "bars",
            "title": "after fusion and after general RL",
            "names": ["fusion", "general RL"],
            "series": series,
        },
    )


def length(result: Result) -> Measured:
    """C3: needles by length, before S3, after it with two RoPE bases, and with YaRN or DCA."""
    accuracy = result["needles"]["accuracy"]
    lengths = list(next(iter(accuracy.values())))
    at, far = "640" if "640" in lengths else lengths[-1], lengths[-1]
    large, small = accuracy["S3, base 1M"], accuracy["S3, base 10k"]
    helped = [
        name
        for name, row in accuracy.items()
        if ("YaRN" in name or "DCA" in name) and row[far][1] > large[far][2]
    ]
    return Measured(
        [(name, *(f"{100 * row[x][0]:.0f}" for x in lengths)) for name, row in accuracy.items()],
        {
            "80% at four times the old length": large[at][0] >= 0.8,
            "base 1,000,000 above 10,000": large[at][1] > small[at][2],
            "YaRN or DCA helps beyond": bool(helped),
        },
        f"at {at}: base 1M {percent(large[at])}, 10k {percent(small[at])}; at {far} "
        f"helped: {', '.join(helped) or 'neither YaRN nor DCA'}",
        {
            "kind": "lines",
            "title": "needle accuracy by length (tokens)",
            "log": True,
            "x": [int(x) for x in lengths],
            "y_label": "accuracy",
            "series": {name: [row[x] for x in lengths] for name, row in accuracy.items()},
        },
        columns=tuple(lengths),
    )


def budget(result: Result) -> Measured:
    """C4: accuracy by thinking budget."""
    swept, unfinished = result["budgets"]["swept"], result["budgets"]["unfinished"]
    rows = [
        (
            kind,
            str(row["budget"]),
            percent(row["all"]),
            f"{row['cut_share']:.2f}",
            *(percent(row[key]) if row[key] else "-" for key in ("cut", "cut_non_thinking")),
            percent(sweep["non_thinking"]),
        )
        for kind, sweep in swept.items()
        for row in sweep["budgets"]
    ]
    curve, without = swept["one lock"]["budgets"], swept["one lock"]["non_thinking"]
    shares = [row["all"] for row in curve]
    falls = sum(after[2] < before[1] for before, after in zip(shares, shares[1:], strict=False))
    least = shares[0][2] >= without[1]
    left_out = (f"{left} left {percent(share)}" for left, share in unfinished.items())
    return Measured(
        rows,
        {
            "at least five budgets without a fall": len(shares) >= 5 and not falls,
            "the largest above the smallest": shares[-1][1] > shares[0][2],
            "the smallest not below non-thinking": least,
        },
        f"{len(shares)} budgets, {falls} falls, {percent(shares[0])} -> {percent(shares[-1])}; "
        f"non-thinking {percent(without)}{'' if least else ': the smallest budget is below it'}; "
        "thoughts closed in the ordinary way without their last steps: " + ", ".join(left_out),
        {
            "kind": "lines",
            "title": "accuracy by thinking budget (tokens)",
            "x": [row["budget"] for row in curve],
            "y_label": "accuracy",
            "series": {
                "all problems": shares,
                "cut problems": [row["cut"] or [None] * 4 for row in curve],
            },
            "level": without[0],
        },
    )


def growth(result: Result) -> Measured:
    """C5: accuracy and entropy over reasoning RL."""
    stages = {name: result[name] for name in ("cold_start", "reasoning_rl")}
    before, after = (stage["think"]["accuracy"][0] for stage in stages.values())
    curve = result["reasoning_rl"]["curve"]
    entropy = [point["entropy"] for point in curve if point.get("entropy") is not None]
    quarter = max(1, len(entropy) // 4)
    first, last = (mean(part or [0.0]) for part in (entropy[:quarter], entropy[-quarter:]))
    rows = [
        (
            name,
            *(percent(stage[key]["accuracy"]) for key in ("think", "sampled")),
            *(f"{stage[key]['thinking_tokens']:.1f}" for key in ("think", "sampled")),
        )
        for name, stage in stages.items()
    ]
    return Measured(
        rows,
        {
            "25 points above the cold start": after - before >= 0.25,
            "entropy level": last >= 0.9 * first > 0,
        },
        f"{100 * (after - before):+.1f} points; entropy {first:.3f} -> {last:.3f}",
        {
            "kind": "curves",
            "title": "reasoning RL",
            "x": [point["step"] for point in curve],
            "series": {
                key: [point.get(key) for point in curve]
                for key in ("reward", "entropy", "bonus", "length")
            },
        },
    )


def experts(result: Result) -> Measured:
    """C6: a mixture of experts beside a dense model of equal activated parameters."""
    runs = result["experts"]
    gap = runs["dense"]["loss"] - runs["global"]["loss"]
    dense, mixture = (runs[name]["rl"]["after"]["accuracy"] for name in ("dense", "global"))
    rows = [
        (
            name,
            f"{measured['total']:,}",
            f"{measured['active']:,}",
            f"{measured['loss']:.4f}",
            f"{measured['seconds']:.0f}",
            *_digits(measured),
        )
        for name, measured in runs.items()
    ]
    return Measured(
        rows,
        {"lower loss": gap > 0, "not behind after GRPO": mixture[2] >= dense[1]},
        f"mixture lower by {gap:.4f} nats a token; after GRPO {percent(mixture)} against "
        f"{percent(dense)}",
        {
            "kind": "curves",
            "title": "training loss",
            "x": runs["dense"]["curve"]["x"],
            "series": {name: measured["curve"]["y"] for name, measured in runs.items()},
            "one": True,
        },
    )


def _digits(measured: Result) -> Cells:
    """Right digits after the cold start and after GRPO, which not every run has."""
    if "rl" not in measured:
        return ("-", "-")
    return tuple(percent(measured["rl"][key]["accuracy"]) for key in ("cold", "after"))


def balance(result: Result) -> Measured:
    """C7: load-balancing loss over the global batch beside the micro-batch."""
    runs = {name: result["experts"][name] for name in ("global", "micro")}
    wide, narrow = runs.values()
    return Measured(
        [
            (
                name,
                f"{measured['loss']:.4f}",
                f"{measured['specialisation']:.3f}",
                f"{measured['max_load']:.2f}",
            )
            for name, measured in runs.items()
        ],
        {
            "lower loss": wide["loss"] < narrow["loss"],
            "more specialised": wide["specialisation"] > narrow["specialisation"],
        },
        f"loss {wide['loss']:.4f} against {narrow['loss']:.4f}, specialisation "
        f"{wide['specialisation']:.3f} against {narrow['specialisation']:.3f}",
        {
            "kind": "heat",
            "title": "share of an expert by domain",
            "grids": {f"{name} balance": measured["use"] for name, measured in runs.items()},
            "domains": wide["domains"],
        },
    )


def head_room(result: Result) -> Measured:
    """C8: cold starts of several lengths before the same RL."""
    starts = cold_starts(result)
    own = result["cold_sizes"]["own"]
    small, large = starts[own], starts[max(starts)]
    rise = {steps: after[0] - cold[0] for steps, (cold, after) in starts.items()}
    rows = [
        (
            f"{steps}{', the recipe' if steps == own else ''}",
            percent(cold),
            percent(after),
            f"{100 * rise[steps]:+.1f}",
        )
        for steps, (cold, after) in starts.items()
    ]
    return Measured(
        rows,
        {"ends as high": small[1][2] >= large[1][1], "rose more": rise[own] > rise[max(starts)]},
        f"{percent(small[1])} against {percent(large[1])}",
        {
            "kind": "bars",
            "title": "before and after the same RL",
            "names": [f"{steps} steps" for steps in starts],
            "series": {
                "cold start": [cold for cold, _ in starts.values()],
                "after RL": [after for _, after in starts.values()],
            },
        },
    )


def cold_starts(result: Result) -> dict[int, tuple[list[float], list[float]]]:
    """{steps: (accuracy after the cold start, after RL)}, shortest first, the recipe's own among
    them."""
    sizes = result["cold_sizes"]
    starts = {int(steps): (size["cold"], size["rl"]) for steps, size in sizes["others"].items()}
    cold, after = (result[name]["sampled"]["accuracy"] for name in ("cold_start", "reasoning_rl"))
    starts[sizes["own"]] = (cold, after)
    return dict(sorted(starts.items()))


MEASURES: dict[str, Callable[[Result], Measured]] = {
    "C1": distillation,
    "C2": fusion,
    "C3": length,
    "C4": budget,
    "C5": growth,
    "C6": experts,
    "C7": balance,
    "C8": head_room,
}
