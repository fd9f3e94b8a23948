"""The tokenizer against the stored cases (with the official ranks, if they are there) and a tiny
one trained here."""

import argparse
import base64
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from qwen3.data import chat_template, tokenizer_cli, tokenizer_files
from qwen3.data.chat_template import CHAT_TEMPLATE
from qwen3.data.ranks import byte_alphabet, read_ranks, recover_merges
from qwen3.data.special_tokens import ADDED_TOKENS, SPLIT
from qwen3.data.tokenizer import SMALLEST, Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
RANKS = Path(__file__).parents[2].parent / "shared/data/qwen_tokenizer/qwen.tiktoken"
CASES = json.loads((GOLDEN / "tokenizer_cases.json").read_text())
FACTS = json.loads((GOLDEN / "tokenizer_facts.json").read_text())
TEXTS = ["the cat and the hat, the bat; one two three 1234\n" * 3, "naïve café, 你好世界 ﬁ\r\n\n x"]
HOSTILE = [
    "",
    "\x00\x01\ufeff\u200b\ufffd",
    "a\u0301\u0323e\u0308<think>\u0301x</think>\u0308",
    "<|im_<|im_end|>end|><<|im_start|>|>",
    "<tool_call></tool_call>\n\n \n<|endoftext|><|endoftext|>  ",
    "🧑🏽‍💻 한국어 ᄒ\u1161\u11ab مرحبا",
]


@pytest.fixture(scope="module")
def tiny():
    return Tokenizer.train(TEXTS, 320)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    if not RANKS.is_file():
        pytest.skip(f"needs the rank file at {RANKS}")
    tokenizer, folder = Tokenizer.from_ranks(RANKS), tmp_path_factory.mktemp("official")
    tokenizer.save(folder)
    return {"built": tokenizer, "saved and loaded": Tokenizer.load(folder)}


@pytest.fixture(params=["built", "saved and loaded"])
def released(official, request):
    return official[request.param]


def test_official_vocabulary_gives_every_stored_case(released):
    for case in CASES["cases"]:
        text, ids = case["text"], case["ids"]
        assert released.encode(text) == ids, text
        assert released.encode_spans(text)[0] == ids, text
        assert released.decode(ids) == case.get("decoded", text)
        skipped = case.get("decoded_skip_special", case.get("decoded", text))
        assert released.decode(ids, skip_special=True) == skipped
    texts, ids = zip(*((case["text"], case["ids"]) for case in CASES["cases"]), strict=True)
    assert released.encode_batch(texts) == list(ids)
    for case in CASES["decode_cases"]:
        assert released.decode(case["ids"]) == case["text"]
        assert released.decode(case["ids"], skip_special=True) == case["text_skip_special"]


def test_official_vocabulary_has_the_published_sizes_ids_and_flags(released):
    assert (released.vocab_size, released.vocab_rows) == (151_669, 151_936)
    assert (released.pad, released.im_start, released.eos) == (151_643, 151_644, 151_645)
    assert released.stop_ids == (151_645, 151_643)
    assert (released.think_open, released.think_close) == (151_667, 151_668)
    table = {row["id"]: row for row in FACTS["added_tokens_table"]}
    decoder = released.backend.get_added_tokens_decoder()
    assert sorted(decoder) == sorted(table)
    for i, token in decoder.items():
        flags = ("content", "special", "lstrip", "rstrip", "single_word", "normalized")
        assert {flag: getattr(token, flag) for flag in flags} == {f: table[i][f] for f in flags}
    mask = released.never_sampled(151_936)
    assert mask.sum() == 267 and mask[151_669:].all()
    for text, ids in FACTS["useful_ids"].items():
        written = text.replace("\\n", "\n")
        assert released.encode(written) == ([ids] if isinstance(ids, int) else ids)


def test_regex_is_the_published_one_and_splits_the_stored_cases(tiny):
    published = FACTS["pre_tokenizer"]["sequence"][0]["regex"]
    assert published == SPLIT
    alphabet = {char: byte for byte, char in enumerate(byte_alphabet())}
    with_pieces = [case for case in CASES["cases"] if "pretokens" in case]
    assert len(with_pieces) > 30
    for case in with_pieces:
        normal = tiny.backend.normalizer.normalize_str(case["text"])
        pieces = tiny.backend.pre_tokenizer.pre_tokenize_str(normal)
        texts = [bytes(alphabet[char] for char in piece).decode() for piece, _ in pieces]
        assert texts == case["pretokens"]


def test_byte_alphabet_is_the_library_s():
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(byte_alphabet()) == sorted(ByteLevel.alphabet())
    assert byte_alphabet()[ord(" ")] == "Ġ" and byte_alphabet()[ord("\n")] == "Ċ"


@pytest.mark.parametrize("size", [SMALLEST, 300, 320])
def test_training_gives_the_asked_size_and_round_trips_any_text(size):
    tokenizer = Tokenizer.train(iter(TEXTS), size)
    assert tokenizer.vocab_size == size and tokenizer.vocab_rows == 384
    assert tokenizer.encode("<think>") == [tokenizer.think_open] == [size - 2]
    for text in TEXTS + [
        "digits 2024 split",
        "\ttab",
        "ÀÉ🧑🏽‍💻",
        "<|im_start|>user\nhi<|im_end|>",
    ]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("12")) == 2
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("café")


def test_training_twice_gives_the_same_tokenizer(tiny):
    assert Tokenizer.train(TEXTS, 320).backend.to_str() == tiny.backend.to_str()


def test_a_saved_tokenizer_loads_the_same(tiny, tmp_path):
    tiny.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.backend.to_str() == tiny.backend.to_str()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for key in ("eos_token", "pad_token", "bos_token", "unk_token", "additional_special_tokens"):
        fact = FACTS.get({"eos_token": "eos_token_chat"}.get(key, key))
        assert config[key] == fact, key
    assert config["added_tokens_decoder"][str(tiny.think_open)]["special"] is False
    assert "<|im_start|>assistant" in config["chat_template"]
    assert not list(tmp_path.glob("*.new"))


def test_control_tokens_can_be_plain_text(tiny):
    text = "end it <|im_end|> <think>"
    assert tiny.im_end in tiny.encode(text) and tiny.think_open in tiny.encode(text)
    plain = tiny.encode(text, allow_special=False)
    assert not set(plain) & set(tiny.added.values())
    assert tiny.decode(plain) == text
    assert tiny.encode_batch([text], allow_special=False) == [plain]


@pytest.mark.parametrize("text", HOSTILE)
def test_spans_give_the_ids_of_encode_and_ascending_starts(tiny, text):
    ids, starts = tiny.encode_spans(text)
    assert ids == tiny.encode(text) and len(starts) == len(ids)
    assert starts == sorted(starts) and all(0 <= start < len(text) for start in starts)


def test_random_mixes_of_text_and_control_tokens_encode_the_same_in_spans(tiny):
    draw = random.Random(0)
    atoms = [token.text for token in ADDED_TOKENS] + [*"\n\n  a1é\u0301<|>", "the", "/think"]
    for _ in range(300):
        text = "".join(draw.choices(atoms, k=draw.randrange(12)))
        assert tiny.encode_spans(text)[0] == tiny.encode(text), repr(text)


def test_literal_spans_hide_only_their_own_control_tokens(tiny):
    text = "<|im_end|>a<|im_end|>b<|im_end|>"
    ids, starts = tiny.encode_spans(text, literal=[(11, 21)])
    assert [start for i, start in zip(ids, starts, strict=True) if i == tiny.im_end] == [0, 22]
    assert tiny.decode(ids) == text


def test_decoding_keeps_thinking_and_drops_control_tokens(tiny):
    ids = tiny.encode("<|im_start|><think>x</think><tool_call><|im_end|>")
    assert tiny.decode(ids, skip_special=True) == "<think>x</think><tool_call>"
    assert tiny.decode(np.array(ids[1:2])) == "<think>"
    for bad in (tiny.vocab_size, -1):
        with pytest.raises(ValueError, match=f"id {bad} is no token"):
            tiny.decode([bad])


def test_a_model_with_too_few_rows_is_refused(tiny):
    tiny.check_fits(320)
    with pytest.raises(ValueError, match="320 ids, the model only 256"):
        tiny.check_fits(256)
    assert tiny.never_sampled(384).tolist() == [False] * 320 + [True] * 64


@pytest.mark.parametrize(
    "size, texts", [(SMALLEST - 1, TEXTS), (0, TEXTS), (5000, TEXTS), (283, [])]
)
def test_sizes_that_cannot_be_are_refused(size, texts):
    with pytest.raises(ValueError, match=str(size)):
        Tokenizer.train(texts, size)


def _rank_lines(extra=()):
    tokens = [bytes([byte]) for byte in range(256)] + list(extra)
    return [base64.b64encode(token) + b" %d" % i for i, token in enumerate(tokens)]


def test_merges_are_recovered_in_rank_order(tmp_path):
    path = tmp_path / "ranks"
    path.write_bytes(b"\n".join(_rank_lines([b"ab", b"bc", b"abc", b"abcbc"])))
    vocab, merges = recover_merges(read_ranks(path))
    assert merges == [("a", "b"), ("b", "c"), ("ab", "c"), ("abc", "bc")]
    assert len(vocab) == 260 and vocab["abcbc"] == 259
    tokenizer = Tokenizer.from_ranks(path, expected=None)
    assert tokenizer.encode("abcbcab") == [259, 256]


BROKEN_RANKS = {
    "no base64": ([*_rank_lines(), b"?? 256"], ":257: not"),
    "no rank": ([*_rank_lines(), b"YWI="], ":257: not"),
    "binary": ([b"\x00\xff\xfe binary rubbish"], ":1: not"),
    "a gap": ([*_rank_lines(), b"YWI= 300"], "wanted a new token of rank 256"),
    "a token twice": ([*_rank_lines(), b"YQ== 256"], "wanted a new token"),
    "a byte missing": (_rank_lines()[:255], "no rank, first 255"),
    "no pair": (_rank_lines([b"abc"]), "no pair of lower ranks"),
    "empty": ([], "256 of the 256 single bytes"),
}


@pytest.mark.parametrize("lines, message", BROKEN_RANKS.values(), ids=BROKEN_RANKS)
def test_a_broken_rank_file_is_named(tmp_path, lines, message):
    path = tmp_path / "ranks"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_ranks(path, expected=None)


def test_a_missing_or_cut_rank_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no rank file"):
        Tokenizer.from_ranks(tmp_path / "none")
    path = tmp_path / "ranks"
    path.write_bytes(b"\n".join(_rank_lines()))
    with pytest.raises(ValueError, match="256 ranks, wanted 151643"):
        Tokenizer.from_ranks(path)


def _edit(stored, change):
    change(stored)
    return json.dumps(stored)


def _edit_model(stored, **changes):
    stored["model"].update(changes)
    return json.dumps(stored)


BROKEN_FOLDERS = {
    "truncated": (lambda s: json.dumps(s)[:500], "not a readable tokenizer"),
    "empty": (lambda s: "", "not a readable tokenizer"),
    "other json": (lambda s: "[1]", "not a readable tokenizer"),
    "lacks think": (
        lambda s: _edit(s, lambda s: s["added_tokens"].pop()),
        "lacks 1 of Qwen3's tokens: \\['</think>'\\]",
    ),
    "other normaliser": (lambda s: _edit(s, lambda s: s.update(normalizer=None)), "wanted NFC"),
    "other split": (
        lambda s: _edit(s, lambda s: s["pre_tokenizer"]["pretokenizers"].pop(0)),
        "wanted Split, ByteLevel",
    ),
    "other pattern": (
        lambda s: _edit(
            s, lambda s: s["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="a")
        ),
        "split pattern",
    ),
    "no model": (lambda s: _edit(s, lambda s: s.pop("model")), "not a readable tokenizer"),
    "deep": (lambda s: "[" * 100_000, "not a readable tokenizer"),
    "dropout": (lambda s: _edit_model(s, dropout=0.5), "model.dropout is 0.5, wanted None"),
    "byte fallback": (lambda s: _edit_model(s, byte_fallback=True), "model.byte_fallback is True"),
    "unknown token": (lambda s: _edit_model(s, unk_token="a"), "model.unk_token is 'a'"),
    "prefix of pieces": (
        lambda s: _edit_model(s, continuing_subword_prefix="##"),
        "model.continuing_subword_prefix is '##'",
    ),
    "suffix of words": (
        lambda s: _edit_model(s, end_of_word_suffix="</w>"),
        "model.end_of_word_suffix is '</w>'",
    ),
    "merges ignored": (lambda s: _edit_model(s, ignore_merges=True), "model.ignore_merges is True"),
    "Unigram": (
        lambda s: _edit_model(s, type="Unigram", vocab=[["a", 0.0]]),
        "model.type is 'Unigram', wanted 'BPE'",
    ),
    "a letter that is no byte": (
        lambda s: _edit_model(s, vocab={**s["model"]["vocab"], "a語": len(s["model"]["vocab"])}),
        "the piece 'a語' has '語', which stands for no byte",
    ),
    "two pieces of one id": (
        lambda s: _edit_model(s, vocab={**s["model"]["vocab"], "qq": 5}),
        "do not have the ids 0 to .*, once each",
    ),
    "an id left out": (
        lambda s: _edit_model(s, vocab={**s["model"]["vocab"], "qq": 5_000_000}),
        "do not have the ids 0 to .*, once each",
    ),
    "a piece twice": (
        lambda s: json.dumps(s).replace('"vocab": {', '"vocab": {"a": 7, '),
        "'a' stands there 2 times",
    ),
    "a byte missing": (
        lambda s: _edit_model(s, vocab={k: v for k, v in s["model"]["vocab"].items() if k != "Ā"}),
        "1 of the 256 single bytes are not in the vocabulary",
    ),
    "a merge of no pieces": (
        lambda s: _edit_model(s, merges=[["語", "a"]]),
        "not a readable tokenizer",
    ),
    "greedy token": (
        lambda s: _edit(s, lambda s: s["added_tokens"][0].update(lstrip=True)),
        "has flags \\['lstrip'\\]",
    ),
}


@pytest.mark.parametrize("change, message", BROKEN_FOLDERS.values(), ids=BROKEN_FOLDERS)
def test_a_folder_that_is_no_qwen3_tokenizer_is_refused(tiny, tmp_path, change, message):
    (tmp_path / "tokenizer.json").write_text(change(json.loads(tiny.backend.to_str())))
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)


def test_a_panic_of_the_library_is_an_error_like_others(tiny, tmp_path, monkeypatch):
    class Panic(BaseException):
        pass

    class Backend:
        @staticmethod
        def from_str(text):
            raise Panic("index out of bounds")

    tiny.save(tmp_path)
    monkeypatch.setattr(tokenizer_files.tokenizers, "Tokenizer", Backend)
    with pytest.raises(ValueError, match="not a readable tokenizer: index out of bounds"):
        tokenizer_files.read(tmp_path)
    monkeypatch.setattr(Backend, "from_str", lambda text: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tokenizer_files.read(tmp_path)


def test_stored_truncation_and_padding_are_switched_off_with_a_warning(tiny, tmp_path):
    text = "a text of forty characters, to be precise"
    cut = tokenizers.Tokenizer.from_str(tiny.backend.to_str())
    cut.enable_truncation(8)
    cut.enable_padding(length=16)
    tiny.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(cut.to_str())
    with pytest.warns(UserWarning, match="its truncation and padding is switched off") as told:
        loaded = Tokenizer.load(tmp_path)
    assert len(told) == 1
    assert loaded.encode(text) == tiny.encode(text)
    assert loaded.encode_batch([text, "a"]) == tiny.encode_batch([text, "a"])
    loaded.save(tmp_path / "again")
    stored = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    assert stored["truncation"] is None and stored["padding"] is None


def _as_slow_tokenizers_store_it(tokenizer, folder, added="both"):
    """vocab.json, merges.txt, and the added tokens in either file or in both."""
    stored = json.loads(tokenizer.backend.to_str())["model"]
    tokenizer.save(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(stored["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    if added != "config":
        (folder / "added_tokens.json").write_text(json.dumps(tokenizer.added))
    if added == "file":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        del config["added_tokens_decoder"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("added", ["both", "file", "config"])
def test_vocab_and_merges_give_the_same_ids(tiny, tmp_path, added):
    _as_slow_tokenizers_store_it(tiny, tmp_path, added)
    loaded = Tokenizer.load(tmp_path)
    for text in [*TEXTS, *HOSTILE]:
        assert loaded.encode(text) == tiny.encode(text)
    assert loaded.added == tiny.added
    assert loaded.control_pattern == tiny.control_pattern
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").backend.to_str() == loaded.backend.to_str()


def test_vocab_and_merges_that_do_not_fit_are_named(tiny, tmp_path):
    _as_slow_tokenizers_store_it(tiny, tmp_path)
    merges = (tmp_path / "merges.txt").read_text()
    (tmp_path / "merges.txt").write_text(merges + "zzz q\n")
    with pytest.raises(ValueError, match="vocab.json and merges.txt are not a readable tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "merges.txt").write_text(merges)
    moved = {text: i + 1 for text, i in tiny.added.items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps({**moved, "<more>": 400}))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    with pytest.raises(
        ValueError, match="'<.endoftext.>' has id 295 in added_tokens.json or .*294"
    ):
        Tokenizer.load(tmp_path)


def test_added_tokens_of_the_other_files_are_added(tiny, tmp_path):
    tiny.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    mine = {"content": "<mine>", "normalized": True, "special": False}
    config["added_tokens_decoder"]["321"] = mine
    path.write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|file|>": 320}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("<mine><|file|>") == [321, 320] and loaded.vocab_size == 322
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").added == loaded.added
    config["added_tokens_decoder"]["321"] = mine | {"rstrip": True}
    path.write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="tokenizer_config.json: added tokens .*has flags .'rstrip'"
    ):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "name, advice",
    [
        ("qwen.tiktoken", "build it with `qwen3 tokenizer import`"),
        ("tokenizer.model", "load it with transformers .* and save it again, which writes it"),
        ("vocab.json", "merges.txt is missing beside vocab.json"),
    ],
)
def test_a_tokenizer_in_another_form_ends_in_what_to_do(tmp_path, name, advice):
    assert not tokenizer_files.holds_tokenizer(tmp_path)
    (tmp_path / name).write_text("{}")
    assert tokenizer_files.holds_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=f"wanted tokenizer.json, or vocab.json .*; {advice}$"):
        Tokenizer.load(tmp_path)


def test_further_end_tokens_of_the_folder_end_an_answer(tiny, tmp_path):
    tiny.save(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [tiny.im_end, tiny.file_sep]}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.stop_ids == (tiny.im_end, tiny.endoftext, tiny.file_sep)
    path.write_text(json.dumps({"eos_token_id": [*range(8), 10_000]}))
    with pytest.warns(UserWarning, match=r"end tokens \[6, 7, 10000\] are not followed"):
        assert Tokenizer.load(tmp_path).stop_ids == (tiny.im_end, tiny.endoftext, *range(6))


def test_the_official_template_is_known_by_its_hash(monkeypatch):
    monkeypatch.setattr(chat_template, "OFFICIAL", hashlib.sha256(b"official\n").hexdigest())
    assert chat_template.is_built_in("official\r\n")
    assert not chat_template.is_built_in("official") and not chat_template.is_built_in(None)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer at"):
        Tokenizer.load(tmp_path / "none")


def _command(*words):
    parser = argparse.ArgumentParser()
    tokenizer_cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["tokenizer", *map(str, words)])
    args.run(args)


def test_commands_train_import_and_show(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXTS[0])
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": TEXTS[1]}) + "\n")
    out = tmp_path / "trained"
    _command("train", tmp_path / "a.txt", tmp_path / "b.jsonl", "--size", 300, "--out", out)
    assert "300 ids (26 added), 384 vocabulary rows" in capsys.readouterr().out
    _command("show", out)
    assert "299  </think>" in capsys.readouterr().out
    _command("show", out, "--text", "<think>")
    assert "1 tokens, 7 characters" in capsys.readouterr().out
    _command("show", out, "--text", "<think>", "--plain")
    assert "1 tokens" not in capsys.readouterr().out
    ranks = tmp_path / "ranks"
    ranks.write_bytes(b"\n".join(_rank_lines([b"ab"])))
    with pytest.raises(ValueError, match="257 ranks"):
        _command("import", ranks, "--out", tmp_path / "imported")
    _command("import", ranks, "--any-size", "--out", tmp_path / "imported")
    assert Tokenizer.load(tmp_path / "imported").vocab_size == 283


def test_training_on_a_broken_row_names_it_and_skips_it_only_if_asked(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps({"text": TEXTS[0]}), "{broken", ""]))
    with pytest.raises(ValueError, match="rows.jsonl"):
        _command("train", path, "--size", 290, "--out", tmp_path / "t")
    assert not (tmp_path / "t").exists()
    _command("train", path, "--size", 290, "--out", tmp_path / "t", "--skip-broken")
    assert "skipped" in capsys.readouterr().err
