"""Languages: by script alone where one has it, by n-grams where many share it."""

import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

from qwen3.data.jsonl import read_rows
from qwen3.pipeline.language_identifier import LanguageTable, build, script_of, train
from qwen3.pipeline.language_texts import declarations, halves, word_lists
from qwen3.pipeline.languages import WITHOUT_TEXT
from qwen3.pipeline.text_record import TextRecord

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TEXTS = [
    (
        "eng_Latn",
        "All human beings are born free and equal in dignity and rights, and they should "
        "act towards one another in a spirit of brotherhood.",
    ),
    (
        "deu_Latn",
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren; sie sollen "
        "einander im Geist der Brüderlichkeit begegnen.",
    ),
    ("rus_Cyrl", "Все люди рождаются свободными и равными в своем достоинстве и правах."),
    ("bul_Cyrl", "Всички хора се раждат свободни и равни по достойнство и права."),
]


@pytest.mark.parametrize(
    "text, script",
    [
        ("plain", "Latn"),
        ("Čeština", "Latn"),
        ("привет", "Cyrl"),
        ("漢字とかな", "Jpan"),
        ("汉字", "Hani"),
        ("ภาษาไทย", "Thai"),
        ("తెలుగు", "Telu"),
        ("123 !?", ""),
    ],
)
def test_the_script_of_a_text(text, script):
    assert script_of(text) == script


def test_texts_like_those_trained_on_are_told_apart():
    table = train(TEXTS)
    assert table.identify("They are free and should act in a spirit of dignity")[0] == "eng_Latn"
    assert table.identify("Sie sollen frei und gleich an Rechten sein")[0] == "deu_Latn"
    assert table.identify("Хора се раждат равни")[0] == "bul_Cyrl"
    code, confidence = table.identify("Все люди рождаются свободными")
    assert code == "rus_Cyrl" and confidence > 0.6
    assert table.identify("123")[0] == "und"


def test_a_script_of_one_language_and_sindhi_need_no_training():
    table = train(
        TEXTS + [("pes_Arab", "تمام افراد بشر آزاد به دنیا می‌آیند"), ("urd_Arab", "تمام انسان")]
    )
    assert table.identify("ଓଡ଼ିଆ ଭାଷା")[0] == "ory_Orya"
    assert table.identify("සිංහල භාෂාව")[0] == "sin_Sinh"
    assert table.identify("سنڌي ٻولي ڳالهائڻ وارا ماڻهو")[0] == "snd_Arab"
    assert table.identify("افراد بشر آزاد")[0] == "pes_Arab"


def test_a_table_is_stored_and_read_and_another_file_is_refused(tmp_path):
    path = str(tmp_path / "table.npz")
    table = train(TEXTS)
    table.save(path)
    assert LanguageTable.load(path).identify(TEXTS[1][1])[0] == "deu_Latn"
    (tmp_path / "other.npz").write_bytes(b"no table")
    with pytest.raises(ValueError, match="not a table of languages"):
        LanguageTable.load(str(tmp_path / "other.npz"))
    step = build(path, keep=["deu_Latn"])
    kept = step(TextRecord("0" * 32, TEXTS[1][1], "test"))
    assert kept.labels["language"] == "deu_Latn" and kept.dropped is None
    assert step(TextRecord("0" * 32, TEXTS[0][1], "test")).dropped.reason == "unwanted"
    with pytest.raises(ValueError, match="keep \\['xx'\\]; choose from"):
        build(path, keep=["xx"])
    with pytest.raises(ValueError, match="language 'xx' is not of the 119"):
        train([("xx", "text")])


def test_declarations_and_word_lists_are_read_by_language(tmp_path):
    path = tmp_path / "udhr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("udhr2/eng.txt", "Title\n\n   All are equal.\n")
        archive.writestr("udhr2/xyz.txt", "unknown")
    assert list(declarations(str(path))) == [("eng_Latn", ["Title", "All are equal."])]
    (tmp_path / "en_szl.tsv").write_text("a little\ttrocha\tkapka\na lot\tmocka\n")
    assert list(word_lists(str(tmp_path))) == [("szl_Latn", "trocha\nkapka\nmocka")]
    assert halves(["aa", "bb", "c", "ddd"]) == (["aa", "bb"], ["c", "ddd"])


UD = {"ar": "arb_Arab", "de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn"}
UD |= {"hi": "hin_Deva", "id": "ind_Latn", "it": "ita_Latn", "ja": "jpn_Jpan", "ko": "kor_Hang"}
UD |= {"pt": "por_Latn", "ru": "rus_Cyrl", "th": "tha_Thai", "tr": "tur_Latn", "zh": "zho_Hant"}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the declarations are not here")
def test_languages_of_second_halves_and_of_sentences_of_another_domain():
    texts = {c: halves(t) for c, t in declarations(str(SHARED / "corpus/multi_udhr2.zip"))}
    pairs = [(code, "\n".join(first)) for code, (first, _) in texts.items()]
    table = train(pairs + list(word_lists(str(SHARED / "gatitos"))))
    assert len(texts) == 94 and not set(WITHOUT_TEXT) & set(table.codes)
    shares = {}
    for code, (_, lines) in texts.items():
        lines = [line for line in lines if len(line) >= 20]
        shares[code] = sum(table.identify(line)[0] == code for line in lines) / len(lines)
    assert sum(shares.values()) / len(shares) >= 0.97
    right = defaultdict(list)
    for _, row in read_rows(SHARED / "corpus/multi_ud_sentences.jsonl.gz", fields=("lang", "text")):
        code = table.identify(row["text"])[0]
        # The Chinese sentences are traditional ones; some have no character that tells it.
        wanted = {UD[row["lang"]]} | ({"zho_Hans"} if row["lang"] == "zh" else set())
        right[row["lang"]].append(code in wanted)
    assert sum(sum(hits) >= 0.9 * len(hits) for hits in right.values()) >= 13
