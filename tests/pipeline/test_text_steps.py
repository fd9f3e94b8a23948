"""Steps that look at one text, by their worked examples and by texts that each rule drops."""

import re

import pytest

from qwen3.pipeline import personal_data, quality_rules, unsafe_text
from qwen3.pipeline.languages import GATITOS, LANGUAGES, UDHR, UNSPACED, WORD_LENGTHS, word_length
from qwen3.pipeline.normalizers import NORMALIZERS, normalize
from qwen3.pipeline.normalizers import build as build_normalizers
from qwen3.pipeline.personal_data import PATTERNS
from qwen3.pipeline.quality_rules import RULES
from qwen3.pipeline.text_record import TextRecord

PROSE = (
    "The river had risen in the night, and by the time the sun was up the lower fields were under "
    "water. Nobody in the village could remember a spring like this one.\n"
    "Anna walked along the wall to see how far it had come, and she met the miller, who had been "
    "there since dawn with a lamp that he had forgotten to put out.\n"
    "They spoke for a while of the bridge, of the cattle on the far bank and of what the council "
    "would say when it met that evening, and then each of them went home to breakfast."
)


def record(text, **labels):
    return TextRecord("0" * 32, text, "test", labels)


EXAMPLES = [(name, *pair) for name, n in NORMALIZERS.items() for pair in n.examples]


@pytest.mark.parametrize("name, before, after", EXAMPLES)
def test_a_normalizer_does_what_its_examples_say(name, before, after):
    if name == "mojibake":
        pytest.importorskip("ftfy")
    assert NORMALIZERS[name].change(before) == after
    assert NORMALIZERS[name].change(after) == after  # nothing is left to do


def test_history_names_the_normalizers_that_changed_something():
    changed = build_normalizers(["line_ends", "nfc", "controls"])(record("a\r\nb\x00"))
    assert changed.text == "a\nb"
    assert changed.history == ("normalize: line_ends, controls",)
    assert normalize("plain", ["nfc"]) == ("plain", [])


def test_a_text_of_controls_alone_is_dropped_as_empty():
    assert build_normalizers(["controls"])(record("\x00\x01")).dropped.reason == "empty"


@pytest.mark.parametrize(
    "kind, before, after", [(k, *pair) for k, p in PATTERNS.items() for pair in p.examples]
)
def test_personal_data_is_replaced_as_the_examples_say(kind, before, after):
    assert personal_data.replace(before, [kind])[0] == after


def test_a_list_of_addresses_is_dropped_and_a_page_with_one_is_kept():
    step = personal_data.build()
    listed = step(record("\n".join(f"person{i}@example.org" for i in range(20))))
    assert listed.dropped.evidence == {"matches": 20, "words": 20}
    once = step(record(f"{PROSE} Write to anna@example.org."))
    assert once.dropped is None and once.text.endswith("Write to [email].")
    assert once.history == ("personal_data: email x1",)


# A text that breaks the rule and, of the default rules before it, none.
BROKEN = {
    "words": "Short and nice, with all of the words that are to be in it.",
    "word_length": " ".join(["of and the a to be it is we do so no"] * 8),
    "symbols": PROSE + " #" * 40,
    "alphabetic_words": PROSE + " 12 34 56" * 30,
    "bullet_lines": "\n".join(f"- {line}" for line in re.split(r"(?<=[,.])\s", PROSE)),
    "ellipsis_lines": "\n".join(f"{line} ..." for line in re.split(r"(?<=[,.]) ", PROSE)[:8]),
    "stop_words": " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(80)),
    "repeated_lines": PROSE + "\nAsk us.\nAsk us.\nAsk us.\nAsk us.",
    "repeated_line_characters": PROSE.replace("\n", " ") + "\n" + (PROSE.split("\n")[0] + "\n") * 2,
    "top_2_words": PROSE + " considerable circumstances" * 14,
    "punctuated_lines": PROSE.replace(".", "").replace(",", ""),
    "short_lines": re.sub(r"(.{20}\w*) ", r"\1\n", PROSE) + ".\n" * 3,
    "placeholder": PROSE + " Lorem ipsum dolor sit amet.",
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_drops_its_text_and_tells_the_value(rule):
    dropped = quality_rules.build([rule])(record(BROKEN[rule])).dropped
    assert dropped is not None and dropped.reason == rule
    low, high = dropped.evidence["bounds"]
    assert not low <= dropped.evidence["value"] <= float(high)


def test_prose_passes_every_rule():
    assert quality_rules.build()(record(PROSE)).dropped is None
    # Characters are counted where words are not set apart.
    chinese = "他们在村里住了很多年，每天早上都去河边散步，看看水有没有涨起来。" * 2 + (
        "有一天，磨坊的主人告诉安娜，桥已经被冲走了，牛还在对岸，"
        "谁也不知道晚上的会议要说些什么，所以大家都回家吃早饭去了。春天来得很晚，田里的麦子还没有发芽，"
        "老人们坐在门口晒太阳，孩子们在院子里追赶一只花猫。"
    )
    assert quality_rules.build()(record(chinese, language="zho_Hans")).dropped is None


def test_thresholds_of_a_language_win_over_those_of_all():
    table = {"*": {"words": [0, 10]}, "deu_Latn": {"words": [0, 1000]}}
    step = quality_rules.build(["words"], table)
    assert step(record(PROSE)).dropped.evidence["bounds"] == [0, 10]
    assert step(record(PROSE, language="deu_Latn")).dropped is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: quality_rules.build(["wrds"]), "no rule 'wrds'; choose from"),
        (lambda: quality_rules.build(thresholds={"*": {"words": [1]}}), "not \\[low, high\\]"),
        (lambda: build_normalizers(["nfd"]), "names \\['nfd'\\]; choose from"),
        (lambda: personal_data.build(["name"]), "kinds \\['name'\\]; choose from"),
        (lambda: unsafe_text.build(), "give a file of words, of sites, or both"),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_rule_has_a_source_and_bounds_in_order():
    for name, rule in RULES.items():
        assert rule.source and rule.low <= rule.high, name


def test_word_lists_and_sites_drop_texts_that_are_full_of_them(tmp_path):
    words = tmp_path / "words.jsonl"
    words.write_text('{"language": "eng_Latn", "words": ["foo", "bar baz"]}\n')
    sites = tmp_path / "sites.txt"
    sites.write_text("bad.example\n")
    step = unsafe_text.build(str(words), str(sites))
    full = step(record("Foo and bar baz and foo and seafood."))
    assert full.dropped.evidence == {"matches": 3, "words": ["bar baz", "foo"]}
    assert step(record(PROSE * 3 + " foo foo foo")).dropped is None  # three in 300 words
    assert step(record(PROSE, url="https://www.bad.example/x")).dropped.reason == "site"
    assert step(record(PROSE, url="https://notbad.example/x")).dropped is None


def test_the_table_has_the_119_languages_of_the_report():
    assert len(LANGUAGES) == 119 and len({entry.name for entry in LANGUAGES.values()}) == 119
    families = [entry.family for entry in LANGUAGES.values()]
    counts = {"Indo-European": 67, "Sino-Tibetan": 4, "Afro-Asiatic": 10, "Austronesian": 12}
    counts |= {"Dravidian": 4, "Turkic": 6, "Tai-Kadai": 2, "Uralic": 3, "Austroasiatic": 2}
    assert {family: families.count(family) for family in families} == counts | {"Other": 9}
    assert {*UDHR, *GATITOS, *WORD_LENGTHS} <= set(LANGUAGES)
    assert all(2.5 < word_length(c) < 13 for c in LANGUAGES if c[-4:] not in UNSPACED)
