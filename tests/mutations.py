"""One-line faults that the suite must catch, and the program that plants them.

    python tests/mutations.py                      every fault of tests/mutants.toml, two at a time
    python tests/mutations.py --only dca-documents --workers 1

A fault is a row of `tests/mutants.toml`: a line of the package, what is put in its place, and the
test file that must then fail. Each is planted in a copy of `src`, so the checkout is never changed.
Exit code 1 when a fault survives, or a row no longer fits the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutants.toml")
CAUGHT, SURVIVED, ERROR = "caught", "SURVIVED", "ERROR"
FAILED = 1  # pytest's exit code when tests ran and some failed


@dataclass(frozen=True)
class Mutant:
    """One fault: `old` occurs once in `file` (below src/qwen3) and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # below tests/, with a selection behind it if wanted: "losses/test_lm.py -k mask"

    def planted(self) -> str:
        """The text of the file with the fault. Raises ValueError where the row does not fit."""
        text = (ROOT / "src/qwen3" / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: {self.old!r} stands {text.count(self.old)} times in {self.file}"
            )
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """The rows of the table, in its order."""
    rows = tomllib.loads(TABLE.read_text())["mutant"]
    return [Mutant(**row) for row in rows]


def outcome(mutant: Mutant) -> str:
    """Whether the fault is caught by its test file, run on a copy of the package that has it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        shutil.copytree(ROOT / "src", folder, dirs_exist_ok=True)
        (Path(folder) / "qwen3" / mutant.file).write_text(mutant.planted())
        file, *selection = mutant.tests.split(" ", 2)
        # Files of the copy come before those of an editable installation.
        environment = os.environ | {"PYTHONPATH": folder, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, f"tests/{file}", *selection],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode == FAILED:
        return CAUGHT
    return (
        SURVIVED if done.returncode == 0 else f"{ERROR}: {done.stdout[-400:]}{done.stderr[-400:]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="names of faults")
    parser.add_argument("--workers", type=int, default=2, help="faults tried at a time")
    options = parser.parse_args()
    chosen = [mutant for mutant in mutants() if not options.only or mutant.name in options.only]
    if unknown := set(options.only) - {mutant.name for mutant in chosen}:
        parser.error(f"no fault is called {', '.join(sorted(unknown))}")

    def timed(mutant: Mutant) -> str:
        began = time.monotonic()
        result = outcome(mutant)
        print(
            f"{result:9} {time.monotonic() - began:5.0f} s  {mutant.name} ({mutant.tests})",
            flush=True,
        )
        return result

    with ThreadPoolExecutor(options.workers) as threads:
        results = list(threads.map(timed, chosen))
    caught = results.count(CAUGHT)
    print(f"{caught} of {len(results)} caught")
    return int(caught < len(results))


if __name__ == "__main__":
    sys.exit(main())
