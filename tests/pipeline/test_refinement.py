"""Repair of read text: what a model invents does not pass, what it repairs does."""

import json

import pytest
import scripted_model

from qwen3.pipeline import refinement
from qwen3.pipeline.refinement import LONGEST, objection, pieces
from qwen3.pipeline.text_record import TextRecord

# As they were read, and as they should be.
READ = {
    "Tlie cornpass was known in Cbina by 1044, and sailors used it to hold a course at night.": (
        "The compass was known in China by 1044, and sailors used it to hold a course at night."
    ),
    "Water boils at 100 degrees Celsius at sea 1evel; on a rnountain of 4000 metres it is 87.": (
        "Water boils at 100 degrees Celsius at sea level; on a mountain of 4000 metres it is 87."
    ),
    "The judges found that tbe contract of 12 May was not bind ing on the buyer in Lyon.": (
        "The judges found that the contract of 12 May was not binding on the buyer in Lyon."
    ),
    "A leaf takes in carbon di0xide and gives off oxygen; the sugar it rnakes feeds the plant.": (
        "A leaf takes in carbon dioxide and gives off oxygen; the sugar it makes feeds the plant."
    ),
    "In the third year of the war the river froze, and the arrny crossed it without a boat.": (
        "In the third year of the war the river froze, and the army crossed it without a boat."
    ),
}


def put(text, place, word):
    words = text.split()
    return " ".join([*words[:place], word, *words[place:]])


INVENTIONS = {
    "a sentence at the end": lambda text: f"{text} It was the greatest discovery of its age.",
    "a sentence before": lambda text: f"Chapter One: The Art of War. {text}",
    "a word": lambda text: put(text, 4, "famous"),
    "a negation": lambda text: put(text, 3, "never"),
    "a number": lambda text: put(text, 6, "17"),
    "another number": lambda text: text[:20] + text[20:].replace("0", "9") + " 3",
    "another name": lambda text: " ".join(
        "Argentina" if i == 5 else w for i, w in enumerate(text.split())
    ),
    "a summary": lambda text: " ".join(text.split()[:6]) + ".",
    "a translation": lambda text: "Der Text handelt von etwas ganz anderem, als man denken mag.",
    "twice": lambda text: f"{text} {text}",
}


@pytest.mark.parametrize("name", INVENTIONS)
def test_the_guards_stop_all_planted_inventions(name):
    """Ten kinds on five texts, before and after the repair: 50 of 50, twice."""
    for read, right in READ.items():
        planted = INVENTIONS[name](right)
        assert planted != right and objection(read, planted) and objection(right, planted), planted


def test_repairs_of_what_was_read_pass():
    assert [objection(read, right) for read, right in READ.items()] == [""] * 5
    assert objection("one two", "one  two\n\n") == ""
    assert objection("", "The Art of War") == "new words" and objection("", " ") == ""
    assert objection("7 apples", "8 apples") == "other numbers"
    assert objection("xy " * 700, "xz " * 700) == "new words"  # and does not take minutes
    assert objection("不怕慢只怕站", "不怕慢只怕停") == "new words"


def test_a_text_is_repaired_piece_by_piece_and_its_history_tells_what_was_refused(
    monkeypatch, tmp_path
):
    invented = "Pages of nothing were read here, one word after the other, without a number."

    def answer(instruction, text, question):
        assert question.schema == refinement.SCHEMA and text.strip()
        if "endless" in text:
            return question.fault_of("length")
        for read, right in READ.items():
            text = text.replace(read, right)
        return json.dumps({"text": text.replace("Pages of", "Dragons ate pages of")})

    scripted_model.serve(monkeypatch, answer)
    filler = " ".join(f"x{i}" for i in range(LONGEST // 6))
    text = "\n\n".join([*READ, filler, invented, filler, " "])
    step = refinement.build({"model": "m", "store": str(tmp_path / "s.sqlite")}, least=0.5)
    [record] = step.many([TextRecord("0" * 32, text, "papers")])
    assert "\n\n".join(READ.values()) in record.text and invented in record.text
    assert "Dragons" not in record.text and not record.dropped
    [event] = record.history
    assert event.startswith("refine: of ") and "1 new words" in event and "1 repaired" in event
    strict = refinement.build({"model": "m", "store": str(tmp_path / "s.sqlite")}, least=1.0)
    [dropped] = strict.many([TextRecord("0" * 32, text, "papers")])
    assert dropped.dropped.reason == "unreadable"
    [cut] = step.many([TextRecord("2" * 32, "an endless page", "papers")])
    assert cut.text == "an endless page" and "1 cut" in cut.history[0] and cut.dropped
    [blank] = step.many([TextRecord("1" * 32, " \n\n ", "papers")])
    assert blank.text == " \n\n " and blank.history == ("refine: of 0 pieces none to repair, by m",)


def test_a_refused_paragraph_does_not_spoil_the_others_of_its_piece(monkeypatch, tmp_path):
    (first, first_right), (second, second_right) = list(READ.items())[:2]

    def answer(instruction, text, question):
        return json.dumps({"text": f"{first_right}\n\nThe Art of War. {second_right}"})

    scripted_model.serve(monkeypatch, answer)
    step = refinement.build({"model": "m", "store": str(tmp_path / "s.sqlite")}, least=0.5)
    [record] = step.many([TextRecord("0" * 32, f"{first}\n\n{second}", "papers")])
    assert record.text == f"{first_right}\n\n{second}" and record.dropped
    assert record.history == ("refine: of 1 pieces 1 repaired but for new words, by m",)


def test_pieces_hold_all_of_a_text():
    text = "word " * 1000 + "\n\n" + "\n\n".join(f"paragraph {i}" for i in range(300))
    parts = pieces(text)
    assert max(map(len, parts)) <= LONGEST
    assert "".join("\n\n".join(parts).split()) == "".join(text.split())
