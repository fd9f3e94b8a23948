"""Steps that ask a model, with scripted ones: labels, seeds, synthesis, heads, failures."""

import json
import random

import pytest
import scripted_model

from qwen3.pipeline import annotation, label_heads, synthesis
from qwen3.pipeline.data_recipe import DataRecipe
from qwen3.pipeline.part_files import Part, RunPlan, cleaned
from qwen3.pipeline.pipeline_run import estimate, run
from qwen3.pipeline.seed_texts import stratified
from qwen3.pipeline.text_record import TextRecord

LABELS = {"field": "computing", "domain": "forum", "language": "eng_Latn"}


@pytest.fixture
def ask(tmp_path):
    return {"model": "m", "store": str(tmp_path / "answers.sqlite")}


def record(text, number=0, **labels):
    return TextRecord(f"{number:032x}", text, "seeds", labels)


def one(step, *args, **labels):
    [result] = step.many([record(*args, **labels)])
    return result


def test_a_recipe_asks_about_many_texts_and_sets_aside_what_the_model_failed_at(
    monkeypatch, tmp_path, ask
):
    def answer(instruction, text, question):
        if "refused" in text:
            return ValueError("the server refused the request")
        value = 5 if "good" in text else 1
        return json.dumps({**LABELS, "value": value, "safety": "hate" if "bad" in text else "safe"})

    model = scripted_model.serve(monkeypatch, answer)
    texts = ["good one", "bad one", "refused one", "poor one", "good one, once more"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "in.jsonl").write_text(lines)
    steps = [{"step": "normalize"}, {"step": "annotate", "options": {"ask": ask, "least_value": 2}}]
    inputs = [{"name": "web", "paths": str(tmp_path / "in.jsonl")}]
    recipe = DataRecipe.from_json(json.dumps({"inputs": inputs, "steps": steps}))
    plan = RunPlan(recipe.to_json(), str(tmp_path / "out"), "key")
    part = Part("web", str(tmp_path / "in.jsonl"), 0, 1, "part")
    outcomes = list(cleaned(part, plan))
    reasons = [o.dropped and o.dropped.reason for o in outcomes if isinstance(o, TextRecord)]
    assert reasons == [None, "unsafe", "value", None]
    assert outcomes[0].labels["model_language"] == "eng_Latn" and outcomes[0].labels["value"] == 5
    assert outcomes[2]["step"] == "annotate" and "refused the request" in outcomes[2]["reason"]
    assert list(cleaned(part, plan)) == outcomes
    assert sorted(model.asked.values()) == [1, 1, 1, 1, 2]  # only what had no reply, again


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"ask": {"model": "m"}, "kinds": ["maths"]}, r"ask: \['store'\] missing"),
        ({"ask": {"model": "m", "store": "s", "slot": 1}, "kinds": ["maths"]}, "choose from"),
        ({"ask": {"model": "m", "store": ""}, "kinds": ["maths"]}, "store '' are needed"),
        (
            {"ask": {"model": "m", "store": "s", "tokens_per_second": 0}, "kinds": ["maths"]},
            "above",
        ),
        ({"ask": {"model": "m", "store": "s"}, "kinds": ["poem"]}, "kinds .*textbook"),
    ],
)
def test_options_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        synthesis.build(**fields)


def recipe_that_asks(tmp_path, ask):
    (tmp_path / "in.txt").write_text("A text.")
    steps = [{"step": "normalize"}, {"step": "refine", "options": {"ask": ask}}]
    inputs = [{"name": "web", "paths": str(tmp_path / "in.txt")}]
    return DataRecipe.from_json(json.dumps({"inputs": inputs, "steps": steps}))


def test_the_workers_of_a_cluster_need_a_store_that_they_share(tmp_path, ask):
    recipe = recipe_that_asks(tmp_path, ask)
    with pytest.raises(ValueError, match=r"refine: the workers of flink do not share .*gs://"):
        run(recipe, str(tmp_path / "out"), runner="flink")
    assert not (tmp_path / "out").exists()


def test_the_estimate_tells_what_the_model_writes(tmp_path, ask):
    sizes = [("a.txt", 4_000_000)]
    slow = estimate(recipe_that_asks(tmp_path, ask | {"tokens_per_second": 500}), sizes)
    assert slow.model_tokens == 1_000_000 and slow.model_seconds == 2_000
    assert "writes about 1,000,000 tokens: 0.56 hours at 500 a second" in slow.line()
    assert estimate(recipe_that_asks(tmp_path, ask), sizes).model_seconds == 1_000


# --- synthesis
def test_maths_enters_if_its_answer_is_known_or_comes_out_again(monkeypatch, ask):
    def answer(instruction, text, question):
        if instruction == synthesis.INSTRUCTIONS["maths"]:
            value = 4 if "right" in text else 5
            return json.dumps({"problem": f"{text}: 2 + 2?", "solution": f"\\boxed{{{value}}}"})
        return "It is \\boxed{4.0}." if question.seed % 5 or "known" in text else "\\boxed{3}"

    scripted_model.serve(monkeypatch, answer)
    step = synthesis.build(ask, ["maths"])
    good = one(step, "right", 1)
    assert good.text == "right: 2 + 2?\n\n\\boxed{4}" and good.labels["synthetic"] == "maths"
    assert good.labels["seed"] == good.id and "synthesize: maths by m, prompt" in good.history[0]
    assert one(step, "wrong", 1).dropped.reason == "maths: not reproduced"
    assert one(step, "known", 1, answer="4").text == "known\n\nIt is \\boxed{4.0}."
    assert one(step, "known", 2, answer="6").dropped.reason == "maths: another answer"
    unchecked = synthesis.build(ask, ["maths"], verify=False)
    assert one(unchecked, "wrong", 1).text == "wrong: 2 + 2?\n\n\\boxed{5}"


def test_code_enters_if_two_programs_pass_tests_that_test_something(monkeypatch, ask):
    tests = [{"arguments": [x], "expected": 2 * x} for x in range(4)]
    vain = [{"arguments": [x], "expected": None} for x in range(4)]

    def answer(instruction, text, question):
        if instruction == synthesis.INSTRUCTIONS["program"]:
            return "```python\ndef double(x):\n    return x + x\n```"
        body = "x * 3" if "broken" in text else "None" if "vain" in text else "x * 2"
        solution = f"def double(x):\n    return {body}\n"
        task = {"problem": text, "entry": "double", "solution": solution}
        return json.dumps(task | {"tests": vain if "vain" in text else tests})

    scripted_model.serve(monkeypatch, answer)
    step = synthesis.build(ask, ["code"])
    assert "return x * 2" in one(step, "double").text
    assert one(step, "broken").dropped.reason == "code: the solution fails its tests"
    assert one(step, "vain").dropped.reason == "code: the tests test nothing"


def test_answers_agree_twice_responses_are_graded_and_pages_are_prose(monkeypatch, ask):
    page = " ".join(f"word{i}" for i in range(60))

    def answer(instruction, text, question):
        if instruction == synthesis.INSTRUCTIONS["questions"]:
            pairs = [{"question": q, "answer": "in 1905"} for q in ("When?", "When not?")]
            return json.dumps({"pairs": pairs})
        if instruction == synthesis.INSTRUCTIONS["answer"]:
            return "In 1905." if text.endswith("When?") else "in 1906"
        if instruction == synthesis.INSTRUCTIONS["instructions"]:
            return json.dumps({"instruction": "Say it.", "response": text})
        if instruction == synthesis.INSTRUCTIONS["grade"]:
            return json.dumps({"follows": True, "true": "false" not in text})
        return {"long": "cut", "short": "no", "loop": "a b c " * 40, "copy": text}.get(
            text.split()[0], page
        )

    scripted_model.serve(monkeypatch, answer)
    asked = one(synthesis.build(ask, ["questions"]), "text")
    assert asked.text == "Question: When?\nAnswer: in 1905"
    told = synthesis.build(ask, ["instructions"])
    assert one(told, "so").text == "Say it.\n\nso"
    assert one(told, "false").dropped.evidence["true"] is False
    pages = synthesis.build(ask, ["textbook"])
    assert one(pages, "any").text == page
    reasons = [
        one(pages, text).dropped.reason for text in ("long", "short", "loop", f"copy {page}")
    ]
    wanted = ("cut", "short", "repeats itself", "copied from its seed")
    assert reasons == [f"textbook: {reason}" for reason in wanted]


def test_seeds_are_as_many_of_each_label_in_any_order():
    rows = [
        {"id": f"{i:032x}", "text": f"t{i}", "source": "web", "field": "rare" if i < 3 else "often"}
        for i in range(100)
    ]
    seeds = list(stratified(rows, ["field"], 5))
    assert [s["field"] for s in seeds] == ["often"] * 5 + ["rare"] * 3
    random.Random(1).shuffle(rows)
    assert list(stratified(rows, ["field"], 5)) == seeds != list(stratified(rows, ["field"], 5, 1))
    assert "source" not in seeds[0] and int(seeds[0]["document"], 16) >= 3
    with pytest.raises(ValueError, match="no label"):
        list(stratified(rows, ["value"], 5))


# --- heads
WORDS = {"mathematics": "sum proof number angle", "law and economics": "court law price contract"}


def labelled(count, noise):
    choose = random.Random(3)
    for i in range(count):
        field = choose.choice(list(WORDS))
        good = choose.random() < 0.5
        words = choose.choices(WORDS[field].split() + ["the", "and", "of"], k=30)
        words += choose.choices(["because", "therefore"] if good else ["buy", "click"], k=4)
        value, seen = (4 if good else 1), choose.random()
        if seen < noise:
            value = 5 - value
        yield {"id": f"{i:032x}", "text": " ".join(words), "field": field, "value": value}


def test_heads_learn_labels_and_tell_what_they_are_worth(tmp_path):
    rows = list(labelled(600, noise=0.2))
    heads, [field, value] = label_heads.train(rows, ["field", "value"])
    assert field.kappa > 0.9 and field.documents > 30
    # A fifth of the labels are wrong: no head can agree better, and a calibrated one knows.
    assert 0.3 < value.kappa < 0.85 and value.calibration < 0.15
    label_heads.save(heads, str(tmp_path / "heads.npz"))
    apply = label_heads.build(str(tmp_path / "heads.npz"))
    labels = apply(record("a proof of the sum of the angle because therefore because")).labels
    assert labels["field"] == "mathematics" and labels["value"] == 4.0
    assert labels["value_confidence"] > 0.5 and labels["field_confidence"] > 0.95
    sure = label_heads.build(str(tmp_path / "heads.npz"), least=1.0)
    assert not set(WORDS) & set(sure(record("of the and")).labels.values())


def test_heads_refuse_what_teaches_nothing(tmp_path):
    rows = list(labelled(60, noise=0))
    with pytest.raises(ValueError, match="0 documents with safety"):
        label_heads.train(rows, ["safety"])
    with pytest.raises(ValueError, match="nothing to learn"):
        label_heads.train([row | {"safety": "safe"} for row in rows], ["safety"])
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="not heads"):
        label_heads.build(str(tmp_path / "x.npz"))


def test_an_annotator_is_shown_the_ends_and_the_middle_of_a_long_text():
    text = "a" * 5000 + "b" * 5000 + "c" * 5000
    assert set("abc") < set(annotation.shown(text)) and len(annotation.shown(text)) < 4100
