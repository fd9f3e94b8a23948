"""MultiPL-E: HumanEval in other languages, each program run with its tests (arXiv 2208.08227).

Programs run in the sandbox, with the interpreter's folders beside Python's. A program counts where
it ends without an error after all tests, which a random word behind them tells: leaving early is no
pass. No verdict where the interpreter is missing, and for compiled languages: nothing that is
written inside the sandbox can be executed there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qwen3 import sandbox
from qwen3.data.jsonl import read_rows
from qwen3.eval.item_readers import Reader
from qwen3.eval.items import Item, Verdict
from qwen3.sandbox.child_pool import ChildPool

FIELDS = {"name": str, "language": str, "prompt": str, "tests": str}
FOLDERS = ("/usr/bin", "/bin")  # of interpreters; their libraries are among Python's
LIMITS = sandbox.Limits(
    memory_mb=16_384, cpu_s=30, wall_s=120.0, call_s=60.0, processes=64, files=256
)
RUN = """
def run(name, text, command, word):
    import subprocess
    path = "/tmp/" + name
    with open(path, "w") as file:
        file.write(text)
    done = subprocess.run(
        [*command, path], capture_output=True, text=True, errors="replace",
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp"}, input="", timeout=50,
    )
    return done.returncode == 0 and done.stdout.rstrip().endswith(word)
"""


@dataclass(frozen=True)
class ProgrammingLanguage:
    """How a language's programs are asked for and run."""

    title: str
    stop: tuple[str, ...]  # where a continued function ends
    total: int  # problems
    file: str = ""  # name of the program; "" where it cannot be run here
    command: str = ""  # the interpreter
    end: str = ""  # line after the tests that prints the word {word}


LANGUAGES: Mapping[str, ProgrammingLanguage] = {
    "cpp": ProgrammingLanguage("C++", ("\n}",), 161),
    "cs": ProgrammingLanguage("C#", ("\n    }\n",), 158),
    "java": ProgrammingLanguage("Java", ("\n    }\n",), 158),
    "js": ProgrammingLanguage(
        "JavaScript",
        ("\nfunction ", "\n/*", "\n//", "\nconsole.log"),
        161,
        "program.js",
        "node",
        'console.log("{word}");',
    ),
    "php": ProgrammingLanguage(
        "PHP",
        ("\nfunction", "\n?>", "\n//", "\n#"),
        161,
        "program.php",
        "php",
        'echo "{word}";',
    ),
    "sh": ProgrammingLanguage("Bash", ("\n}",), 158, "program.sh", "bash", "echo {word}"),
    "ts": ProgrammingLanguage("TypeScript", ("\nfunction ", "\n/*", "\n//", "\nclass"), 159),
}


class InterpreterSandbox(sandbox.Sandbox):
    """A sandbox whose candidates see the folders of interpreters too."""

    def _start(self, level: str) -> ChildPool:
        pool = super()._start(level)
        for worker in pool.children:
            binds = [*worker.hello["binds"], *(f for f in FOLDERS if not os.path.islink(f))]
            worker.hello = {**worker.hello, "binds": binds}
        return pool


@cache
def _sandbox() -> sandbox.Sandbox:
    default = sandbox.default()
    return InterpreterSandbox(
        workers=default.workers, limits=LIMITS, allow_unisolated=default.allow_unisolated
    )


def reader(language: str) -> Reader:
    """A reader of humaneval-LANGUAGE.jsonl."""

    def read(files: Sequence[Path]) -> list[Item]:
        return [
            Item(row["name"], row) for file in files for _, row in read_rows(file, fields=FIELDS)
        ]

    return read


def score(item: Item, answer: str) -> Verdict:
    """1 where the prompt with its continuation passes the tests."""
    language = LANGUAGES[item["language"]]
    command = language.command and shutil.which(language.command)
    if not command:
        return Verdict(None, answer)
    word = secrets.token_hex(8)
    code = f"{item['prompt']}{answer}\n{item['tests']}\n{language.end.format(word=word)}\n"
    job = (language.file, code, (os.path.realpath(command),), word)
    try:
        run = _sandbox().run(RUN, "run", [job], cached=False)
    except sandbox.SandboxError:
        return Verdict(None, answer)
    return Verdict(float(run.calls == (("value", True),)), answer)
