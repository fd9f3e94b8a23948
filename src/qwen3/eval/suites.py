"""The table of all suites, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qwen3 import rewards
from qwen3.eval.suite import Suite
from qwen3.eval.suites_base import BASE
from qwen3.eval.suites_extra import EXTRA, generated
from qwen3.eval.suites_further import FURTHER
from qwen3.eval.suites_post import POST

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (*BASE, *POST, *FURTHER, *EXTRA)}
GROUPS = ("base", "post", "ruler", "in-house", "extra")


def chosen(names: Sequence[str]) -> list[Suite]:
    """The suites of names, of groups, "all", and of families of `rewards` (held-out problems).

    Raises ValueError naming what there is.
    """
    picked: dict[str, Suite] = {}
    for name in names:
        matches = [s for s in SUITES.values() if name in (s.name, s.group, "all")]
        if name in rewards.TASKS and not matches:
            matches = [generated(name, name, name)]
        if not matches:
            raise ValueError(
                f"there is no suite {name!r}; there are {', '.join(SUITES)}, the groups "
                f"{', '.join(GROUPS)} and all, and the families {', '.join(rewards.TASKS)}"
            )
        picked |= {suite.name: suite for suite in matches}
    return list(picked.values())


def present(suites: Sequence[Suite], data: Path | None) -> tuple[list[Suite], list[str]]:
    """(suites whose files are below `data` or that are generated, what the others want)."""
    there, missing = [], []
    for suite in suites:
        is_made = suite.generate is not None and (data is not None or not suite.needs)
        if is_made or (data is not None and suite.present(data)):
            there.append(suite)
        else:
            missing.append(f"{suite.name}: {suite.wanted()}")
    return there, missing
