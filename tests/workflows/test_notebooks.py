"""The notebooks of experiments/colab run from their first to their last cell, at a tiny size."""

import ast
import json
from pathlib import Path

import pytest

import qwen3
from qwen3.workflows import own_rewards, show

FOLDER = Path(__file__).parents[2] / "experiments" / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
TRAINING = dict(REVISION=None, STEPS=2, EVERY=2, MAX_TOKENS=4, LORA=2, LEARNING_RATE=1e-2)
PHASES = dict(PROBLEMS=6, HELD_OUT=0.4, PROMPTS=2, SAMPLES=4)


def code_cells(path):
    """(source without its magic lines, tags) of each code cell."""
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            plain = [
                line[: len(line) - len(line.lstrip())] + "pass" if is_magic(line) else line
                for line in lines
            ]
            yield "\n".join(plain), cell["metadata"].get("tags", [])


def is_magic(line):
    return line.lstrip().startswith(("%", "!"))


def run_cells(path, changes):
    """(names, what the cells show) of a notebook, with these changes to its parameter cell.

    What a cell's last expression shows is asked for as Jupyter asks: a picture or a bundle.
    """
    names, shown = {}, []
    for source, tags in code_cells(path):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), path.name, "eval"), names)
            if hasattr(value, "_repr_png_"):
                shown.append(value._repr_png_())
            elif hasattr(value, "_repr_mimebundle_"):
                shown.append(value._repr_mimebundle_((), ())["text/plain"])
        if "parameters" in tags:
            assert not set(changes) - set(names), "the parameter cell has no such name"
            names.update(changes)
    return names, shown


def parts(shown):
    """(tables, pictures)"""
    pictures = [item for item in shown if isinstance(item, bytes)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    return [item for item in shown if isinstance(item, str)], pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_imports_explains_and_defines_nothing(path):
    cells = json.loads(path.read_text())["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert any(line.lstrip().startswith("%pip install") for line in first["source"])
    assert "find_spec" in "".join(first["source"]), "an installed package stays"
    trees = [ast.parse(source) for source, _ in code_cells(path)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not [node for node in nodes if isinstance(node, DEFINITIONS)]
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert any(module.split(".")[0] == "qwen3" for module in modules)
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds[0] == "markdown" and kinds.count("markdown") >= kinds.count("code") - 2
    assert f"]({path.name})" in (FOLDER / "README.md").read_text()


@pytest.mark.slow
def test_fine_tuning(checkpoint, one_device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = dict(MODEL=str(checkpoint), EXAMPLES=12, HELD_OUT=2, BATCH=1, LENGTH=192)
    names, shown = run_cells(FOLDER / "fine_tune.ipynb", {**TRAINING, **changes})
    tables, pictures = parts(shown)
    assert len(tables) == 2 and len(pictures) == 1 and "/no_think" in tables[1]
    assert [record["step"] for record in names["run"].scores] == [0, 2]
    assert names["run"].metrics[-1]["loss"] < names["run"].metrics[1]["loss"]
    assert (tmp_path / "fine_tuned" / "model.safetensors").is_file()


def test_rl(checkpoint, one_device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Random answers long and many enough that some hold a digit of the sum: rewards must differ.
    changes = dict(MODEL=str(checkpoint), PROMPTS=3, SAMPLES=8, MAX_TOKENS=8)
    names, shown = run_cells(FOLDER / "rl.ipynb", {**TRAINING, **PHASES, **changes})
    tables, pictures = parts(shown)
    assert len(tables) == 5 and len(pictures) == 1
    assert [record["step"] for record in names["run"].scores] == [0, 2]
    assert len(names["run"].samples(training=True)) >= 8
    qwen3.load(tmp_path / "trained")


def test_distillation(checkpoint, one_device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student, teacher = checkpoint, tmp_path / "teacher"
    config = qwen3.load(checkpoint).config
    tokenizer = qwen3.load(checkpoint).tokenizer
    qwen3.create(config, seed=4, tokenizer=tokenizer).save(teacher)
    changes = dict(STUDENT=str(student), TEACHER=str(teacher), TEACHER_REVISION=None)
    changes |= {**TRAINING, **PHASES, "STUDENT_REVISION": None}
    del changes["REVISION"]
    names, shown = run_cells(FOLDER / "distill.ipynb", changes)
    tables, pictures = parts(shown)
    assert len(tables) == 3 and len(pictures) == 1
    first, *_, last = [r["divergence"] for r in names["run"].metrics if "divergence" in r]
    assert 0 < last < first
    qwen3.load(tmp_path / "student")


def test_chat_with_a_budget(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    changes = dict(MODEL=str(checkpoint), REVISION=None, BUDGETS=[0, 4], MAX_TOKENS=8, PROBLEMS=2)
    names, shown = run_cells(FOLDER / "chat_with_a_budget.ipynb", changes)
    tables, pictures = parts(shown)
    assert len(tables) == 2 and len(pictures) == 1 and "no thinking" in tables[1]
    assert [row["budget"] for row in names["rows"]] == [0, 4]
    assert len(capsys.readouterr().out) > len(own_rewards.write_example("my_reward.py").read_text())


def test_tables_and_curves_name_what_there_is():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "note": "x" * 1000}]
    assert [column.header for column in show.table(rows).columns] == ["step", "loss", "note"]
    with pytest.raises(ValueError, match="columns .'lost'.: the rows have step, loss, note"):
        show.table(rows, ["lost"])
    with pytest.raises(ValueError, match="nothing to plot as .'lost'.: the rows have step, loss"):
        show.curves(rows, ["lost"])
    (axes,) = show.curves(rows, ["loss"]).axes
    assert axes.lines[0].get_ydata().tolist() == [2.0, 1.0]
