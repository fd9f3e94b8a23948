"""The layer rule: a file of qwen3 imports only layers to its left, or its own package."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "qwen3"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# Left to right; packages on one line do not see each other.
LAYERS = [
    {"config"},
    {"mesh"},
    {"hosts"},
    {"ops"},
    {"model"},
    {"losses", "data"},
    {"train"},
    {"infer"},
    {"sandbox"},
    {"rewards"},
    {"environments"},
    {"eval", "curate"},
    {"stages"},
    {"plan", "run", "doctor", "pipeline"},
    {"workflows", "supervise"},
    {"recipe", "serve", "research"},
    {"cli"},
]
RANK = {name: i for i, names in enumerate(LAYERS) for name in names}
# What `import qwen3` offers to people; code imports the modules.
FACADE = ("load", "create", "rl", "sft", "reward_model", "distill", "pretrain")
WITHOUT = {"ops": {"flax", "qwen3.config"}, "losses": {"flax", "qwen3.config"}}


def imports(path):
    """(line, dotted name) of all that a file imports, functions' own imports too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def package(path):
    part = path.relative_to(SOURCE).parts[0]
    return part.removesuffix(".py")


FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_to_its_left(path):
    own = package(path)
    assert own in RANK, f"{own} has no place in the layer rule"
    for line, name in imports(path):
        assert not name.startswith("flax.nnx"), f"{path}:{line}: nnx is used nowhere"
        for barred in WITHOUT.get(own, ()):
            assert not name.startswith(barred), f"{path}:{line}: {own} imports {name}"
        if name.startswith("qwen3."):
            theirs = name.split(".")[1]
            if theirs in FACADE:
                raise AssertionError(f"{path}:{line}: import the module, not the façade")
            allowed = theirs == own or RANK[theirs] < RANK[own]
            if own == "sandbox":  # knows nothing of what it runs or for whom
                allowed = theirs in ("sandbox", "config")
            assert allowed, f"{path}:{line}: {own} imports {name}"


def test_nothing_imports_experiments():
    for path in FILES:
        for line, name in imports(path):
            assert not name.startswith("experiments"), f"{path}:{line}"


def test_every_package_has_its_place():
    found = {package(p) for p in FILES}
    assert found <= set(RANK), found - set(RANK)
