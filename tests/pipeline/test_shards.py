"""Parts and shards without a job graph: poison is set aside, bytes depend on the records alone."""

import gzip
import json

import pytest

from qwen3.cli import main
from qwen3.pipeline import part_files
from qwen3.pipeline.data_recipe import DataRecipe
from qwen3.pipeline.dropped_report import manifest_of, page, printable
from qwen3.pipeline.part_files import Part, RunPlan, ensure, member
from qwen3.pipeline.shard_files import facts_path, shard_path, write_shard

TEXTS = [f"A plain text number {i} about nothing in particular, for the shards." for i in range(20)]
TEXTS += ["<script>alert(1)</script> \u202e and \x1b[2J escapes", "short"]


def plan_of(tmp_path, steps=({"step": "normalize"},), **fields):
    rows = [json.dumps({"text": text, "quality": 2}) for text in TEXTS]
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join([*rows, '{"text": 7}', "no json", '{"text": "\\ud800"}']) + "\n")
    recipe = {"inputs": [{"name": "web", "paths": [str(file)]}], "steps": list(steps), "shards": 2}
    text = DataRecipe.from_json(json.dumps(recipe | fields)).to_json()
    return RunPlan(text, str(tmp_path / "out"), "key"), str(file)


def shards(plan, parts, copies=()):
    """(facts, files by path) of the two shards of parts that are cleaned here."""
    for part in parts:
        ensure(part, plan)
    facts = [write_shard(i, [p.name for p in parts], dict(copies), plan) for i in range(2)]
    kinds = ("documents", "dropped", "failed")
    files = {
        (kind, i): open(shard_path(kind, i, plan), "rb").read() for kind in kinds for i in (0, 1)
    }
    return facts, files


def rows(files, kind):
    text = b"".join(gzip.decompress(files[kind, i]) for i in (0, 1)).decode()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_broken_rows_are_set_aside_with_place_and_reason(tmp_path):
    plan, file = plan_of(tmp_path)
    _, files = shards(plan, [Part("web", file, 0, 1, "p")])
    assert len(rows(files, "documents")) == len(TEXTS)
    reasons = {row["place"]: row["reason"] for row in rows(files, "failed")}
    assert len(reasons) == 3
    assert any("is int" in reason for reason in reasons.values())
    assert any("not JSON" in reason for reason in reasons.values())
    assert any("lone surrogate" in reason for reason in reasons.values())
    assert all(file in place for place in reasons)


def test_stripes_and_their_order_do_not_change_a_byte(tmp_path):
    plan, file = plan_of(tmp_path)
    _, whole = shards(plan, [Part("web", file, 0, 1, "p")])
    (tmp_path / "b").mkdir()
    other = RunPlan(plan.recipe_json, str(tmp_path / "b"), "key")
    _, striped = shards(other, [Part("web", file, i, 3, f"q{i}") for i in (2, 0, 1)])
    for place, data in whole.items():
        if place[0] != "failed":  # that tells a line's number
            assert striped[place] == data
    ids = [row["id"] for row in rows(whole, "documents")]
    assert ids == sorted(ids)


def test_a_text_that_a_step_cannot_take_does_not_end_the_run(tmp_path, monkeypatch):
    plan, file = plan_of(tmp_path)

    def fragile(record):
        if "number 3" in record.text:
            raise RuntimeError("cannot")
        return record.drop("quality", "words", value=1) if record.text == "short" else record

    monkeypatch.setattr(part_files, "_functions", lambda text: [("quality", fragile)])
    facts, files = shards(plan, [Part("web", file, 0, 1, "p")])
    (failed,) = [row for row in rows(files, "failed") if row["step"] == "quality"]
    assert failed["reason"] == "RuntimeError: cannot" and "line 4" in failed["place"]
    (dropped,) = rows(files, "dropped")
    assert dropped["dropped"] == {"step": "quality", "reason": "words", "evidence": {"value": 1}}
    assert dropped["text"] == "short"
    reasons = [fact["reasons"] for fact in facts]
    assert sorted(reasons, key=len) == [{}, {"quality: words": 1}]


def test_a_store_of_objects_holds_the_same_bytes(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    plan, file = plan_of(tmp_path)
    _, local = shards(plan, [Part("web", file, 0, 1, "p")])
    store = fsspec.filesystem("memory")
    with store.open("/in/web.jsonl", "wb") as remote, open(file, "rb") as here:
        remote.write(here.read())
    distant = RunPlan(plan.recipe_json, "memory://shards", "key")
    ensure(Part("web", "memory://in/web.jsonl", 0, 1, "p"), distant)
    for shard in (0, 1):
        write_shard(shard, ["p"], {}, distant)
        for kind in ("documents", "dropped"):
            path = shard_path(kind, shard, distant).removeprefix("memory:/")
            assert store.cat_file(path) == local[kind, shard]
    store.rm("/shards", recursive=True)


def test_copies_are_dropped_with_the_survivor_they_resemble(tmp_path):
    plan, file = plan_of(tmp_path)
    part = Part("web", file, 0, 1, "p")
    ensure(part, plan)
    first, second = (row["id"] for row in list(member("p", "records", 0, plan))[:2])
    copies = {first: ("near", second, 0.91)}
    write_shard(0, ["p"], copies, plan)
    (dropped,) = map(json.loads, gzip.open(shard_path("dropped", 0, plan)))
    assert dropped["id"] == first
    assert dropped["dropped"]["evidence"] == {"of": second, "jaccard": 0.91}


def test_what_is_published_is_not_done_again(tmp_path, monkeypatch):
    plan, file = plan_of(tmp_path)
    part = Part("web", file, 0, 1, "p")
    facts, files = shards(plan, [part])
    monkeypatch.setattr(part_files, "_publish", None)
    assert shards(plan, [part]) == (facts, files)


def test_a_file_without_a_readable_row_is_one_failure(tmp_path):
    plan, _ = plan_of(tmp_path)
    broken = tmp_path / "cut.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:40])
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\0\1\2" * 100)
    parts = [Part("web", str(path), 0, 1, path.name) for path in (broken, binary)]
    _, files = shards(plan, parts)
    text = " ".join(row["reason"] for row in rows(files, "failed"))
    assert "truncated" in text and "binary data" in text


def test_a_text_beyond_the_longest_is_set_aside(tmp_path):
    plan, file = plan_of(tmp_path, longest_text=40)
    _, files = shards(plan, [Part("web", file, 0, 1, "p")])
    assert len(rows(files, "documents")) == 1
    assert any("see longest_text" in row["reason"] for row in rows(files, "failed"))


@pytest.fixture
def finished(tmp_path):
    """A run whose shards were written here, with its manifest."""
    plan, file = plan_of(tmp_path)
    part = Part("web", file, 0, 1, "p")
    ensure(part, plan)
    identifier = next(r["id"] for r in member("p", "records", 0, plan))
    survivor = next(r["id"] for r in member("p", "records", 1, plan))
    for shard, copies in [(0, {identifier: ("near", survivor, 0.9)}), (1, {})]:
        write_shard(shard, ["p"], copies, plan)
    manifest = {"recipe": json.loads(plan.recipe_json), "key": "key"}
    manifest |= {"rows": {"documents": 21, "dropped": 1}, "reasons": {"duplicates: near": 1}}
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    return str(tmp_path / "out")


def test_a_person_can_look_at_what_was_dropped_and_why(finished, capsys):
    assert main(["data", "show", finished]) == 0
    out = capsys.readouterr().out
    assert "duplicates: near" in out and '"jaccard": 0.9' in out and "plain text number" in out
    assert main(["data", "show", finished, "--kind", "documents", "--count", "99"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "<202e>" in out
    assert main(["data", "show", finished, "--reason", "qality"]) == 2
    assert "there are ['duplicates: near']" in capsys.readouterr().err
    assert main(["data", "show", finished, "--kind", "all"]) == 2


def test_the_page_escapes_what_strangers_wrote(finished, tmp_path):
    text = page(finished, count=99)
    assert "<script>" not in text and "&lt;script&gt;" in text and "\u202e" not in text
    assert text.count("<details>") >= 3
    assert main(["data", "show", finished, "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_the_span_of_a_match_is_marked():
    from qwen3.pipeline.dropped_report import _item

    row = {"text": "before the item after", "id": "x"}
    row["dropped"] = {"step": "decontaminate", "reason": "demo", "evidence": {"span": [7, 15]}}
    assert "before <mark>the item</mark> after" in _item(row, 100)
    assert printable("a\tb\x07") == "a<9>b<7>"


def test_an_unfinished_run_cannot_be_shown(tmp_path, capsys):
    assert main(["data", "show", str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no manifest.json"):
        manifest_of(str(tmp_path))


def test_facts_are_written_last(tmp_path, monkeypatch):
    plan, file = plan_of(tmp_path)
    ensure(Part("web", file, 0, 1, "p"), plan)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwen3.pipeline.shard_files.gzip.compress", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(0, ["p"], {}, plan)
    assert not part_files.exists(facts_path(0, plan))
    assert not part_files.exists(shard_path("documents", 0, plan))
