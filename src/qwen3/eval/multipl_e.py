"""MultiPL-E: HumanEval in other languages, each program run with its tests (arXiv 2208.08227).

Programs are compiled and run in the sandbox, which sees the folders of compilers and interpreters
beside Python's and has a /work where a compiled program can be executed. A program counts where it
ends without an error after all tests, which a random word behind the last of them tells: leaving
early is no pass. The tests stand in the program itself, as the suite has them, so a program that
redefines what a test calls can pass.

No verdict where a compiler or interpreter is missing, or cannot even run `probe`, a program of no
tests; nor where compiling took more time than the clock gave it.
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

FIELDS = {"name": str, "language": str, "prompt": str, "tests": str}
FOLDERS = (  # of compilers, interpreters and their libraries
    "/usr/bin",
    "/bin",
    "/usr/include",
    "/usr/share/nodejs",
    "/usr/share/java",
    "/etc/mono",  # where Mono looks up the names of C libraries
)
LIMITS = sandbox.Limits(
    memory_mb=16_384,  # of address space: virtual machines reserve gigabytes that they never use
    cpu_s=30,
    wall_s=240.0,
    call_s=200.0,
    processes=64,
    files=256,
    file_kb=65_536,
    tmp_kb=131_072,
    work_kb=65_536,
)
# True where the program says the word last and ends well; None where compiling took too long.
RUN = """
def run(name, text, compiler, command, word):
    import os, subprocess
    with open(name, "w") as file:
        file.write(text)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp"}
    options = dict(capture_output=True, text=True, errors="replace", input="", env=environment)
    if compiler:
        try:
            done = subprocess.run(compiler, timeout=120, **options)
        except subprocess.TimeoutExpired:
            return None
        os.remove(name)  # the word stands in it
        if done.returncode:
            return False
    done = subprocess.run(command, timeout=50, **options)
    return done.returncode == 0 and done.stdout.rstrip().endswith(word)
"""


@dataclass(frozen=True)
class ProgrammingLanguage:
    """How a language's programs are asked for, compiled and run."""

    title: str
    stop: tuple[str, ...]  # where a continued function ends
    total: int  # problems
    file: str  # name of the program
    command: tuple[str, ...]  # runs the program
    end: str  # statement that prints {word} on a line of its own
    inside: bool = False  # whether it stands in a main function, behind its last test
    compiler: tuple[str, ...] = ()  # compiles the program
    extra: str = ""  # what follows the tests
    own_proc: bool = False  # whether its virtual machine reads /proc
    probe: str = ""  # a program of no tests
    libraries: tuple[str, ...] = ()  # files that its programs use

    @property
    def needs(self) -> tuple[str, ...]:
        """The programs that must be installed."""
        return tuple(c[0] for c in (self.compiler, self.command) if c and "/" not in c[0])

    @property
    def missing(self) -> list[str]:
        """Which of its programs and libraries are not installed here."""
        programs = [name for name in self.needs if shutil.which(name) is None]
        return programs + [file for file in self.libraries if not Path(file).exists()]


JAVATUPLES = "/usr/share/java/javatuples.jar"
JAVA = ("-Xmx1g", "-Xss64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")

LANGUAGES: Mapping[str, ProgrammingLanguage] = {
    "cpp": ProgrammingLanguage(
        title="C++",
        stop=("\n}",),
        total=161,
        file="program.cpp",
        compiler=("g++", "-std=c++17", "program.cpp", "-o", "program"),
        command=("./program",),
        end='std::cout << std::endl << "{word}" << std::endl;',
        inside=True,
        probe="#include <iostream>\nint main() {\n    int zero = 0;\n}\n",
    ),
    "cs": ProgrammingLanguage(
        title="C#",
        stop=("\n    }\n",),
        total=158,
        file="program.cs",
        compiler=("mcs", "-r:System.Numerics.dll", "-out:program.exe", "program.cs"),
        command=("mono", "program.exe"),
        end='Console.WriteLine("\\n{word}");',
        inside=True,
        own_proc=True,
        # It hides System.Diagnostics.Debug, whose Assert only writes a line.
        extra="static class Debug { public static void Assert(bool holds)"
        " { if (!holds) Environment.Exit(1); } }",
        probe="using System;\nusing System.Numerics;\nclass Problem {\n"
        "    public static void Main(string[] args) {\n    var one = BigInteger.One;\n    }\n}\n",
    ),
    "java": ProgrammingLanguage(
        title="Java",
        stop=("\n    }\n",),
        total=158,
        file="Problem.java",
        compiler=("javac", *(f"-J{o}" for o in JAVA), "-cp", JAVATUPLES, "Problem.java"),
        command=("java", *JAVA, "-ea", "-cp", f".:{JAVATUPLES}", "Problem"),
        own_proc=True,
        libraries=(JAVATUPLES,),
        end='System.out.println("\\n{word}");',
        inside=True,
        probe="import org.javatuples.*;\nclass Problem {\n"
        "    public static void main(String[] args) {\n    int zero = 0;\n    }\n}\n",
    ),
    "js": ProgrammingLanguage(
        title="JavaScript",
        stop=("\nfunction ", "\n/*", "\n//", "\nconsole.log"),
        total=161,
        file="program.js",
        command=("node", "program.js"),
        end='console.log("\\n{word}");',
    ),
    "php": ProgrammingLanguage(
        title="PHP",
        stop=("\nfunction", "\n?>", "\n//", "\n#"),
        total=161,
        file="program.php",
        command=("php", "program.php"),
        end='echo "\\n{word}";',
        probe="<?php\n",
    ),
    "sh": ProgrammingLanguage(
        title="Bash",
        stop=("\n}",),
        total=158,
        file="program.sh",
        command=("bash", "program.sh"),
        end="echo; echo {word}",
    ),
    "ts": ProgrammingLanguage(
        title="TypeScript",
        stop=("\nfunction ", "\n/*", "\n//", "\nclass"),
        total=159,
        file="program.ts",
        compiler=("tsc", "--target", "esnext", "--skipLibCheck", "program.ts"),
        command=("node", "program.js"),
        end='console.log("\\n{word}");',
    ),
}


@cache
def _sandbox(own_proc: bool) -> sandbox.Sandbox:
    default = sandbox.default()
    return sandbox.Sandbox(
        workers=default.workers,
        limits=LIMITS,
        allow_unisolated=default.allow_unisolated,
        folders=(*FOLDERS, *_java_folders()),
        own_proc=own_proc,
    )


def _java_folders() -> tuple[str, ...]:
    """Debian keeps a Java's settings below /etc and links them into its folder."""
    java = shutil.which("java")
    if java is None:
        return ()
    home = Path(os.path.realpath(java)).parents[1]
    return str(home), str((home / "lib/jvm.cfg").resolve().parent)


@cache
def works(name: str) -> bool:
    """Whether programs of a language can be compiled and run here: a program of no tests ends well.

    Raises SandboxUnavailable as the default sandbox does.
    """
    sandbox.default().require()
    language = LANGUAGES[name]
    try:
        return not language.missing and run(language, "", language.probe) is True
    except sandbox.SandboxUnavailable:  # it does not isolate with the folders of this language
        return False


def run(language: ProgrammingLanguage, function: str, tests: str) -> bool | None:
    """Whether the function passes the tests; None where nothing is known of it."""
    word = secrets.token_hex(8)
    end = language.end.format(word=word)
    if language.inside:
        head, semicolon, tail = tests.rpartition(";")
        tests = f"{head}{semicolon}\n{end}{tail}"
    else:
        tests = f"{tests}\n{end}\n"
    text = (
        f"{function}\n{tests}\n{language.extra}\n" if function else f"{tests}\n{language.extra}\n"
    )
    compiler, command = map(_resolved, (language.compiler, language.command))
    job = (language.file, text, compiler, command, word)
    try:
        calls = _sandbox(language.own_proc).run(RUN, "run", [job], cached=False).calls
    except sandbox.SandboxError:
        return None
    return calls[0][1] if calls and calls[0][0] == "value" else False


def _resolved(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with its program's own path: Debian's alternatives link through /etc."""
    program = shutil.which(command[0]) if command else None
    return (os.path.realpath(program), *command[1:]) if program else command


def reader(language: str) -> Reader:
    """A reader of humaneval-LANGUAGE.jsonl."""

    def read(files: Sequence[Path]) -> list[Item]:
        return [
            Item(row["name"], row) for file in files for _, row in read_rows(file, fields=FIELDS)
        ]

    return read


def score(item: Item, answer: str) -> Verdict:
    """1 where the prompt with its continuation passes the tests."""
    name = item["language"]
    if not works(name):
        return Verdict(None, answer)
    passed = run(LANGUAGES[name], f"{item['prompt']}{answer}\n", item["tests"])
    return Verdict(None if passed is None else float(passed), answer)
