"""Writes the report, report.html and report.md, from the results of all seeds.

python -m qwen3.recipe.report.page FOLDER      writes both again from FOLDER/results.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3.recipe.report import content, html_page, markdown_page
from qwen3.recipe.report.claims import Result


def write(folder: Path, results: Sequence[Result], facts: Mapping[str, Any]) -> dict[str, str]:
    """Write both files into `folder`; returns {claim: verdict}.

    results: of each seed {stage: result, ..., "wall": {stage: seconds}}. facts: "command", "date",
    "minutes" (the budget), "elapsed" (seconds), "exam", "workers" and "cores".
    """
    report = content.gather(results, facts)
    (folder / "report.html").write_text(html_page.render(report), encoding="utf-8")
    (folder / "report.md").write_text(markdown_page.render(report), encoding="utf-8")
    return {claim.name: claim.state for claim in report.claims}


def rewrite(folder: Path) -> dict[str, str]:
    """Write both files again from the results.json that a run has left in `folder`."""
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return write(folder, stored["seeds"], stored["facts"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(rewrite(Path(sys.argv[1])))
