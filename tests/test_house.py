"""The house rules a reader relies on: names that mean one thing, even rooms, no cycles."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from test_layers import FILES, SOURCE, imports, package

ROOT = SOURCE.parents[1]
CODE = [
    path
    for folder in ("src", "tests", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# A loss and its stage are called alike on purpose, as are the Configs of the stages.
SHARED_FILES, SHARED_CLASSES = {"grpo.py", "distill.py"}, {"Config"}
# What somebody who knows other codebases of the field looks for, and where one search leads.
WORDS = {
    "KV cache": "infer",
    "prefix cache": "infer",
    "scheduler": "infer",
    "continuous batching": "infer",
    "gradient clipping": "train",
    "importance sampling": "losses",
    "load-balancing loss": "ops",
    "Dual Chunk Attention": "ops",
    "loss mask": "data",
}


def test_no_two_packages_share_a_file_name():
    places = defaultdict(list)
    for path in FILES:
        if path.name not in {"__init__.py", *SHARED_FILES}:
            places[path.name].append(str(path.relative_to(SOURCE)))
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_no_class_name_stands_twice():
    names = Counter(
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name not in SHARED_CLASSES
    )
    assert not {name: count for name, count in names.items() if count > 1}


def test_no_room_holds_more_than_15_percent_of_the_lines():
    lines = Counter()
    for path in FILES:
        lines[package(path)] += len(path.read_text().splitlines())
    shares = {room: count / lines.total() for room, count in lines.items()}
    assert max(shares.values()) <= 0.15, shares


def test_files_do_not_import_each_other_in_a_circle():
    names = {
        f"qwen3.{'.'.join(path.relative_to(SOURCE).with_suffix('').parts)}": path for path in FILES
    }
    arrows = {}
    for name, path in names.items():
        targets = {part for _, whole in imports(path) for part in (whole, whole.rpartition(".")[0])}
        arrows[name] = {target for target in targets if target in names and target != name}
    done, open_ = set(), []

    def visit(name):
        if name in open_:
            raise AssertionError(" -> ".join([*open_[open_.index(name) :], name]))
        if name not in done:
            open_.append(name)
            for target in sorted(arrows[name]):
                visit(target)
            done.add(open_.pop())

    for name in names:
        visit(name)


@pytest.mark.parametrize("word", WORDS)
def test_the_fields_words_are_found_where_the_thing_is(word):
    texts = " ".join(path.read_text() for path in sorted((SOURCE / WORDS[word]).rglob("*.py")))
    assert re.search(re.escape(word), re.sub(r"\s+", " ", texts), re.IGNORECASE)


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_repairs_no_search_path_and_formats_like_the_rest(path):
    text = path.read_text()
    if path not in (ROOT / "tests/conftest.py", Path(__file__)):
        added = r"sys\.path(\.(insert|append|extend)|\[|\s*\+?=[^=])"
        assert not re.search(added, text), "only conftest.py adds to the search path"
        assert "# fmt:" not in text


def test_the_readme_is_for_a_newcomer():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_what_the_package_imports_is_declared():
    import sys

    setup = (ROOT / "setup.cfg").read_text().lower()
    names = {name.split(".")[0] for path in FILES for _, name in imports(path)}
    # A module's distribution where it is called otherwise.
    called = {
        "absl": "absl-py",
        "orbax": "orbax-checkpoint",
        "prometheus_client": "prometheus-client",
        "libtpu": "jax[tpu]",
        "lm_eval": "lm-eval",
    }
    called |= {
        "apache_beam": "apache-beam",
        "tensorboardX": "tensorboardx",
        "array_record": "tensorflow-datasets",
        "sklearn": "scikit-learn",
    }
    outside = {name for name in names if name not in sys.stdlib_module_names and name != "qwen3"}
    assert not {name for name in outside if called.get(name, name) not in setup}
