"""Recipes: what is read is what is written, and every mistake is named with what there is."""

import json
from pathlib import Path

import pytest

from qwen3.pipeline.data_recipe import DataRecipe
from qwen3.pipeline.step_table import STEPS
from qwen3.pipeline.text_record import TextRecord, record_id, shard_of

GOOD = {
    "inputs": [{"name": "web", "paths": "web/*.jsonl.gz", "options": {"text": "body"}}],
    "steps": [{"step": "normalize"}, {"step": "duplicates", "options": {"jaccard": 0.7}}],
    "shards": 2,
}


def changed(**fields):
    return json.dumps(GOOD | fields)


def test_a_recipe_is_the_same_after_writing_and_reading():
    recipe = DataRecipe.from_json(json.dumps(GOOD))
    assert recipe.inputs[0].paths == ("web/*.jsonl.gz",)
    assert DataRecipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "recipe: not JSON"),
        ("[]", "recipe: \\[\\] is not an object"),
        (changed(shard=1), "recipe: unknown \\['shard'\\]; choose from"),
        (changed(shards=0), "shards = 0: wanted is a whole number from 1"),
        (changed(inputs=[]), "inputs \\[\\]: wanted is at least one"),
        (changed(inputs=[{"name": "a"}]), "inputs\\[0\\]: \\['paths'\\] missing"),
        (changed(steps=[{"step": "cleanse"}]), "there is no step 'cleanse'; choose from"),
        (
            changed(steps=[{"step": "normalize", "options": {"name": []}}]),
            "step 'normalize' has no option \\['name'\\]; choose from \\['names'\\]",
        ),
        (changed(steps=[{"step": "language"}]), "step 'language' needs \\['model'\\]"),
        (changed(steps=GOOD["steps"][::-1]), "'duplicates' compares records and must come last"),
        (changed(steps=[{"step": "normalize"}] * 2), "a step stands twice"),
        (changed(steps={}), "steps is dict, not a list"),
    ],
)
def test_a_mistake_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        DataRecipe.from_json(text)


def test_every_step_says_what_it_is_for():
    assert all(kind.purpose and kind.rate > 0 for kind in STEPS.values())


def test_a_record_is_the_same_after_writing_and_reading():
    record = TextRecord("0" * 32, "text", "web", {"url": "x", "quality": 1.5})
    record = record.rewritten("Text", "test: case").drop("quality", "words", value=1)
    assert TextRecord.from_row(json.loads(json.dumps(record.row()))) == record


def test_ids_depend_on_text_and_labels_and_spread_over_the_shards():
    assert record_id("e\u0301", "a", {}) == record_id("é", "a", {})
    assert len({record_id("x", s, n) for s in "ab" for n in ({}, {"n": 1.0}, {"n": "1"})}) == 6
    shards = [shard_of(record_id(str(i), "a", {}), 4) for i in range(400)]
    assert all(60 < shards.count(shard) < 140 for shard in range(4))
    ids = sorted(record_id(str(i), "a", {}) for i in range(50))
    assert [shard_of(i, 8) for i in ids] == sorted(shard_of(i, 8) for i in ids)


def test_the_workers_image_has_the_pinned_beam():
    root = Path(__file__).parents[2]
    pins = (root / "constraints.txt").read_text().split()
    (pin,) = [pin for pin in pins if pin.startswith("apache-beam==")]
    image = (root / "launch/Dockerfile.beam").read_text()
    assert f"_sdk:{pin.removeprefix('apache-beam==')}\n" in image
