"""The report's claims in small: the paper's numbers, ours, and a stated rule that decides.

A claim has parts; it is "shown" only if all of them hold in every seed. Estimates are [value, low,
high, n] with 95% intervals over problems. `results` is a list over seeds of {stage: result}.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean

from qwen3.eval import intervals


@dataclass
class Claim:
    """table: (header, rows) of text. lines: what the plot draws, see `plots`. notes: caveats."""

    name: str
    title: str
    paper: str
    rule: str
    needs: tuple[str, ...]
    verdicts: list = field(default_factory=list)  # (seed number, {part: holds}, why)
    table: tuple = ((), ())
    plot: dict | None = None
    notes: list = field(default_factory=list)

    @property
    def parts(self) -> dict[str, bool]:
        """Whether each part holds in every seed."""
        names = self.verdicts[0][1] if self.verdicts else ()
        return {name: all(parts[name] for _, parts, _ in self.verdicts) for name in names}

    @property
    def shown(self) -> bool | None:
        """None where it was not tried."""
        return all(self.parts.values()) if self.verdicts else None

    @property
    def state(self) -> str:
        if self.shown is None:
            return "not tried at this budget"
        held = sum(self.parts.values())
        if held in (0, len(self.parts)):
            return "shown" if held else "not shown"
        return f"{held} of {len(self.parts)} parts shown"


def percent(estimate, digits=1):
    """ "61.0 [57.0, 64.8]" """
    value, low, high = (100 * x for x in estimate[:3])
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def seeds(results, *stages):
    """(number, result) of the seeds that finished all of `stages`."""
    return [(n, r) for n, r in enumerate(results) if all(s in r for s in stages)]


def distillation(results):
    claim = Claim(
        "C1",
        "On-policy distillation beats RL at a fraction of its cost (Table 21)",
        "From one off-policy checkpoint (8B): AIME'24 55.0 (pass@64 90.0); + RL 67.6 (90.0), "
        "17,920 GPU hours; + on-policy distillation 74.4 (93.3), 1,800 GPU hours.",
        "On the same hard problems, paired: pass@1 of KL minus RL above 0 with its whole interval, "
        "at no more than a fifth of RL's samples and of its seconds less those of compiling; "
        "pass@k at the most samples rises under KL with its whole interval, and does not under RL.",
        ("student_exam", "student_kl", "student_rl"),
    )
    rows = []
    for n, r in seeds(results, *claim.needs):
        found = {name: r[name] for name in STUDENTS if name in r}
        most = max(found["student_exam"]["pass"], key=int)
        for name, label in STUDENTS.items():
            if name not in found:
                continue
            one = found[name]
            split = [
                " / ".join(f"{100 * one['by_rare'][which][k]:.0f}" for k in ("1", most))
                for which in ("without", "with")
            ]
            rows.append(
                (
                    str(n),
                    label,
                    percent(one["pass"]["1"]),
                    percent(one["pass"][most]),
                    *split,
                    percent(one["cool"]),
                    f"{one.get('samples', 0):,}",
                    f"{one.get('seconds', 0):.0f}",
                    f"{one.get('compiling', 0):.0f}",
                )
            )
        each = {name: found[name]["per_problem"] for name in found}
        kl, rl = "student_kl", "student_rl"
        ahead = intervals.paired(each[rl]["1"], each[kl]["1"])
        rise = {m: intervals.paired(each["student_exam"][most], each[m][most]) for m in (kl, rl)}
        cost = found[kl]["samples"] / max(found[rl]["samples"], 1)
        time = at_work(found[kl]) / max(at_work(found[rl]), 1)
        parts = {
            "KL above RL in pass@1": ahead.low > 0,
            "at most a fifth of the samples": cost <= 0.2,
            "at most a fifth of the seconds": time <= 0.2,
            f"KL raises pass@{most}": rise[kl].low > 0,
            f"RL does not raise pass@{most}": rise[rl].low <= 0,
        }
        why = (
            f"KL - RL pass@1 {percent(ahead)} points at {cost:.2f} of the samples "
            f"and {time:.2f} of the seconds; pass@{most} "
            f"minus the start: KL {percent(rise[kl])}, RL {percent(rise[rl])}"
        )
        if "student_control" in each:
            same = intervals.paired(each["student_control"]["1"], each[kl]["1"])
            why += f"; KL on its own minus on the teacher's samples {percent(same)}"
        claim.verdicts.append((n, parts, why))
        claim.plot = {
            "kind": "bars",
            "title": "hard problems, T = 1",
            "series": {
                "pass@1": [found[s]["pass"]["1"] for s in STUDENTS if s in found],
                f"pass@{most}": [found[s]["pass"][most] for s in STUDENTS if s in found],
            },
            "names": [STUDENTS[s] for s in STUDENTS if s in found],
        }
    claim.table = (
        (
            "seed",
            "model",
            "pass@1",
            "pass@most",
            "without rare operations",
            "with them",
            "pass@1, T = 0.6",
            "samples",
            "seconds",
            "of these compiling",
        ),
        rows,
    )
    claim.notes.append(
        "The student's pretraining has no document with one of the three rarest of eight "
        "operations: it knows them from its teacher's samples alone, as a small model lacks "
        "knowledge (both parts of the problems: pass@1 / pass@most). "
        "The control trains with the same loss on the teacher's samples: where it equals KL, "
        "dense teacher logits win, not that the samples are the student's own. GRPO drops groups "
        "whose answers are all right or all wrong; replaced by more samples (dynamic sampling), "
        "it raised pass@16 too, by 3.6 to 6.0 points in three seeds of an earlier run (LOG.md)."
    )
    return claim


def at_work(result):
    """Seconds without compiling."""
    return result["seconds"] - result.get("compiling", 0.0)


STUDENTS = {
    "student_exam": "off-policy",
    "student_kl": "+ on-policy KL",
    "student_rl": "+ GRPO",
    "student_control": "+ KL on teacher's samples",
}


def fusion(results):
    claim = Claim(
        "C2",
        "Fusion teaches both modes, general RL nearly perfects the switch (Table 22)",
        "32B: ThinkFollow 88.7 after fusion, 98.9 after general RL; AIME'24 thinking 81.9 -> 81.4, "
        "non-thinking 28.5 -> 31.0; ToolUse 70.4 -> 85.5.",
        "ThinkFollow at least 97% after general RL, and not below its value after fusion beyond "
        "both intervals; thinking beats non-thinking on multi-step problems by 30 points after "
        "fusion.",
        ("fusion", "general_rl"),
    )
    rows = []
    for n, r in seeds(results, "fusion"):
        for stage in ("fusion", "general_rl"):
            if stage not in r:
                continue
            one = r[stage]
            kinds = ", ".join(f"{k} {100 * v[0]:.0f}" for k, v in one["follow"].items())
            rows.append(
                (
                    str(n),
                    stage,
                    percent(one["think"]["accuracy"]),
                    percent(one["no_think"]["accuracy"]),
                    f"{percent(one['think']['multi_step'])} / "
                    f"{percent(one['no_think']['multi_step'])}",
                    percent(one["follow"]["total"]),
                    kinds,
                    percent(one["calls"]["accuracy"]),
                )
            )
        if "general_rl" in r:
            before, after = (r[s]["follow"]["total"] for s in ("fusion", "general_rl"))
            gap = r["fusion"]["think"]["multi_step"][0] - r["fusion"]["no_think"]["multi_step"][0]
            claim.verdicts.append(
                (
                    n,
                    {
                        "ThinkFollow at least 97% after general RL": after[0] >= 0.97,
                        "not below its value after fusion": after[2] >= before[1],
                        "thinking ahead by 30 points": gap >= 0.3,
                    },
                    f"ThinkFollow {percent(before)} -> {percent(after)}; thinking "
                    f"ahead by {100 * gap:.0f} points on multi-step problems",
                )
            )
            claim.plot = {
                "kind": "bars",
                "title": "after fusion and after general RL",
                "names": ["fusion", "general RL"],
                "series": {
                    label: [get(r[s]) for s in ("fusion", "general_rl")]
                    for label, get in (
                        ("ThinkFollow", lambda one: one["follow"]["total"]),
                        ("thinking", lambda one: one["think"]["accuracy"]),
                        ("non-thinking", lambda one: one["no_think"]["accuracy"]),
                        ("tool calls", lambda one: one["calls"]["accuracy"]),
                    )
                },
            }
    claim.table = (
        (
            "seed",
            "after",
            "thinking",
            "non-thinking",
            "multi-step, both",
            "ThinkFollow",
            "by last turn",
            "tool calls",
        ),
        rows,
    )
    return claim


def length(results):
    claim = Claim(
        "C3",
        "Context beyond the training length: ABF, YaRN, DCA (3.2, Table 23)",
        "RULER with YaRN x4, non-thinking: 32B 96.2 at 16K, 94.4 at 32K, 91.8 at 64K, 85.6 at "
        "128K (trained to 32K).",
        "Needles at the length of S3 (four times the old one): at least 80% with base "
        "1,000,000, above base 10,000 beyond both intervals; and YaRN or DCA is above neither "
        "beyond both intervals at the longest length.",
        ("needles",),
    )
    rows = []
    for n, r in seeds(results, "needles"):
        table = r["needles"]["accuracy"]
        lengths = list(next(iter(table.values())))
        for name, found in table.items():
            rows.append((str(n), name, *(f"{100 * found[x][0]:.0f}" for x in lengths)))
        at, far = "640" if "640" in lengths else lengths[-1], lengths[-1]
        high, low = table["S3, base 1M"][at], table["S3, base 10k"][at]
        helped = [
            k
            for k in table
            if ("YaRN" in k or "DCA" in k) and table[k][far][1] > table["S3, base 1M"][far][2]
        ]
        claim.verdicts.append(
            (
                n,
                {
                    "80% at four times the old length": high[0] >= 0.8,
                    "base 1,000,000 above 10,000": high[1] > low[2],
                    "YaRN or DCA helps beyond": bool(helped),
                },
                f"at {at}: base 1M {percent(high)}, 10k {percent(low)}; at {far} "
                f"helped: {', '.join(helped) or 'neither YaRN nor DCA'}",
            )
        )
        claim.table = (("seed", "model", *lengths), rows)
        claim.plot = {
            "kind": "lines",
            "title": "needle accuracy by length",
            "log": True,
            "x": [int(x) for x in lengths],
            "y_label": "accuracy",
            "series": {k: [v[x] for x in lengths] for k, v in table.items()},
        }
    return claim


def budget(results):
    claim = Claim(
        "C4",
        "Accuracy grows smoothly with the thinking budget (Figure 2)",
        "235B, AIME'24 by budget: 1K 42, 2K 42.5, 4K 56, 8K 72.5, 16K 84, 32K 86.5; "
        "non-thinking 40.1.",
        "Over at least five budgets no fall beyond both intervals, the largest above the smallest "
        "beyond both, and the smallest not below non-thinking beyond both.",
        ("budgets",),
    )
    rows = []
    for n, r in seeds(results, "budgets"):
        for kind, found in r["budgets"]["swept"].items():
            lines = found["budgets"]
            for one in lines:
                cut = (percent(x) if x else "-" for x in (one["cut"], one["cut_non_thinking"]))
                rows.append(
                    (
                        str(n),
                        kind,
                        str(one["budget"]),
                        percent(one["all"]),
                        f"{one['cut_share']:.2f}",
                        *cut,
                        percent(found["non_thinking"]),
                    )
                )
        found = r["budgets"]["swept"]["one lock"]
        each = [one["all"] for one in found["budgets"]]
        falls = [i for i in range(len(each) - 1) if each[i + 1][2] < each[i][1]]
        rises = each[-1][1] > each[0][2]
        least = each[0][2] >= found["non_thinking"][1]
        claim.verdicts.append(
            (
                n,
                {
                    "at least five budgets without a fall": len(each) >= 5 and not falls,
                    "the largest above the smallest": rises,
                    "the smallest not below non-thinking": least,
                },
                (
                    f"{len(each)} budgets, {len(falls)} falls, {percent(each[0])} -> "
                    f"{percent(each[-1])}; "
                    f"non-thinking {percent(found['non_thinking'])}"
                    + ("" if least else ": the smallest budget is below it")
                    + "; thoughts closed in the ordinary way without their last steps: "
                    + ", ".join(
                        f"{left} left {percent(x)}"
                        for left, x in r["budgets"]["unfinished"].items()
                    )
                ),
            )
        )
        claim.plot = {
            "kind": "lines",
            "title": "accuracy by thinking budget (tokens)",
            "x": [one["budget"] for one in found["budgets"]],
            "y_label": "accuracy",
            "series": {"all problems": each},
            "level": found["non_thinking"][0],
        }
        cut = [one["cut"] or [None] * 4 for one in found["budgets"]]
        claim.plot["series"]["cut problems"] = cut
    claim.table = (
        (
            "seed",
            "problems",
            "budget",
            "all",
            "cut share",
            "cut problems",
            "same, non-thinking",
            "all, non-thinking",
        ),
        rows,
    )
    claim.notes.append(
        "The column of cut problems tells whether the model answers from partial thought. Where it "
        "stays near 0, the curve is the distribution of the lengths of thoughts and no more. For "
        "several locks it is the share of locks that are right."
    )
    return claim


def growth(results):
    claim = Claim(
        "C5",
        "Reasoning RL grows steadily with level or rising entropy (4.2)",
        "AIME'24 70.1 -> 85.1 in 170 RL steps of one run, without a change by hand.",
        "Held-out thinking accuracy (greedy) at least 25 points above the cold start; entropy's "
        "mean over the last quarter of the steps at least 0.9 of that over the first.",
        ("cold_start", "reasoning_rl"),
    )
    rows = []
    for n, r in seeds(results, "cold_start", "reasoning_rl"):
        for stage in ("cold_start", "reasoning_rl"):
            one = r[stage]
            rows.append(
                (
                    str(n),
                    stage,
                    percent(one["think"]["accuracy"]),
                    percent(one["sampled"]["accuracy"]),
                    f"{one['think']['thinking_tokens']:.1f}",
                    f"{one['sampled']['thinking_tokens']:.1f}",
                )
            )
        rise = r["reasoning_rl"]["think"]["accuracy"][0] - r["cold_start"]["think"]["accuracy"][0]
        curve = r["reasoning_rl"]["curve"]
        entropy = [point["entropy"] for point in curve if point.get("entropy") is not None]
        quarter = max(1, len(entropy) // 4)
        first, last = (mean(part or [0.0]) for part in (entropy[:quarter], entropy[-quarter:]))
        claim.verdicts.append(
            (
                n,
                {
                    "25 points above the cold start": rise >= 0.25,
                    "entropy level": last >= 0.9 * first > 0,
                },
                f"{100 * rise:+.1f} points; entropy {first:.3f} -> {last:.3f}",
            )
        )
        claim.plot = {
            "kind": "curves",
            "title": "reasoning RL",
            "x": [p["step"] for p in curve],
            "series": {
                k: [p.get(k) for p in curve] for k in ("reward", "entropy", "bonus", "length")
            },
        }
    claim.table = (
        ("seed", "after", "greedy", "T = 1", "thinking tokens, greedy", "thinking tokens, T = 1"),
        rows,
    )
    claim.notes.append(
        "The room for RL is put there: the cold start is on hasty traces alone, which leave most "
        "states out. After a state stands any of six stops, as people's wording varies: a choice "
        "that no answer depends on, so that entropy can be held while reward settles the others. "
        "Bonus: the coefficient with which the controller rewards entropy."
    )
    return claim


def experts(results):
    claim = Claim(
        "C6",
        "A mixture of experts equals a dense model of more activated parameters (3.3)",
        "30B-A3B is at the level of the dense 14B with about a fifth of its activated parameters.",
        "Held-out loss of the mixture (global balance) below that of the dense model with equal "
        "activated parameters, on the mean over domains; after the same cold start and GRPO its "
        "share of right digits (locks of one and two days, sampled) is not below the dense model's "
        "beyond both intervals.",
        ("experts",),
    )
    rows = []
    for n, r in seeds(results, "experts"):
        found = r["experts"]
        for name, one in found.items():
            rl = [
                percent(one["rl"][key]["accuracy"]) if "rl" in one else "-"
                for key in ("cold", "after")
            ]
            rows.append(
                (
                    str(n),
                    name,
                    f"{one['total']:,}",
                    f"{one['active']:,}",
                    f"{one['loss']:.4f}",
                    f"{one['seconds']:.0f}",
                    *rl,
                )
            )
        gap = found["dense"]["loss"] - found["global"]["loss"]
        dense, mixed = (found[k]["rl"]["after"]["accuracy"] for k in ("dense", "global"))
        claim.verdicts.append(
            (
                n,
                {"lower loss": gap > 0, "not behind after GRPO": mixed[2] >= dense[1]},
                f"mixture lower by {gap:.4f} nats a token; after GRPO {percent(mixed)} against "
                f"{percent(dense)}",
            )
        )
        claim.plot = {
            "kind": "curves",
            "title": "training loss",
            "x": found["dense"]["curve"]["x"],
            "series": {k: v["curve"]["y"] for k, v in found.items()},
            "one": True,
        }
    claim.table = (
        (
            "seed",
            "model",
            "parameters",
            "activated",
            "held-out loss",
            "seconds",
            "digits after cold start",
            "digits after GRPO",
        ),
        rows,
    )
    claim.notes += [
        NOISE,
        "One digit in ten is right by chance: so little pretraining leaves "
        "reward little to teach. The seconds are of pretraining.",
    ]
    return claim


NOISE = (
    "Two runs of the same mixture that differ in rounding only have differed by 0.04 nats in "
    "held-out loss: smaller differences say nothing."
)


def balance(results):
    claim = Claim(
        "C7",
        "Balance over the global batch lowers the loss and lets experts specialise (5.3)",
        "Global-batch balance has lower perplexity and visible specialisation by domain.",
        "Held-out loss under global balance below that under micro-batch balance, and experts' use "
        "differs more between domains (mean distance of the domains' distributions).",
        ("experts",),
    )
    rows = []
    for n, r in seeds(results, "experts"):
        found = {k: r["experts"][k] for k in ("global", "micro") if k in r["experts"]}
        for name, one in found.items():
            rows.append(
                (
                    str(n),
                    name,
                    f"{one['loss']:.4f}",
                    f"{one['specialisation']:.3f}",
                    f"{one['max_load']:.2f}",
                )
            )
        if len(found) == 2:
            wide, narrow = found["global"], found["micro"]
            claim.verdicts.append(
                (
                    n,
                    {
                        "lower loss": wide["loss"] < narrow["loss"],
                        "more specialised": wide["specialisation"] > narrow["specialisation"],
                    },
                    f"loss {wide['loss']:.4f} against {narrow['loss']:.4f}, specialisation "
                    f"{wide['specialisation']:.3f} against {narrow['specialisation']:.3f}",
                )
            )
            claim.plot = {
                "kind": "heat",
                "title": "share of an expert by domain (global, micro)",
                "grids": {k: v["use"] for k, v in found.items()},
                "domains": wide["domains"],
            }
    claim.table = (("seed", "balance", "held-out loss", "specialisation", "largest load"), rows)
    claim.notes.append(NOISE)
    return claim


def head_room(results):
    claim = Claim(
        "C8",
        "A small, short cold start leaves RL more room (4.1)",
        "A preference, stated without numbers.",
        "After the same RL, the recipe's cold start is not below the longest one beyond both "
        "intervals, and rose more.",
        ("cold_start", "reasoning_rl", "cold_sizes"),
    )
    rows = []
    for n, r in seeds(results, *claim.needs):
        found = cold_starts(r)
        for steps, (cold, after, own) in found.items():
            rows.append(
                (
                    str(n),
                    f"{steps}{', the recipe' if own else ''}",
                    percent(cold),
                    percent(after),
                    f"{100 * (after[0] - cold[0]):+.1f}",
                )
            )
        (small,) = (each for each in found.values() if each[2])
        large = found[max(found)]
        rose = [after[0] - cold[0] for cold, after, _ in (small, large)]
        claim.verdicts.append(
            (
                n,
                {"ends as high": small[1][2] >= large[1][1], "rose more": rose[0] > rose[1]},
                f"{percent(small[1])} against {percent(large[1])}",
            )
        )
        claim.plot = {
            "kind": "bars",
            "title": "before and after the same RL",
            "names": [f"{steps} steps" for steps in found],
            "series": {
                "cold start": [cold for cold, _, _ in found.values()],
                "after RL": [after for _, after, _ in found.values()],
            },
        }
    claim.table = (
        ("seed", "cold-start steps", "cold start, T = 1", "after RL, T = 1", "rise"),
        rows,
    )
    claim.notes.append(
        "The recipe's cold start is on hasty traces; the longest is on four times as many problems "
        "with careful ones, so it is better taught as well as longer."
    )
    return claim


def cold_starts(result):
    """{steps: (accuracy, after RL, whether it is the recipe's own)}, shortest first."""
    sizes = result["cold_sizes"]
    found = {int(n): (one["cold"], one["rl"], False) for n, one in sizes["others"].items()}
    own = (result[stage]["sampled"]["accuracy"] for stage in ("cold_start", "reasoning_rl"))
    found[sizes["own"]] = (*own, True)
    return dict(sorted(found.items()))


CLAIMS = (distillation, fusion, length, budget, growth, experts, balance, head_room)
