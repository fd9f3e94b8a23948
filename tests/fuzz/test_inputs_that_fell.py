"""What the fuzz brought down once: each is refused by name today, whatever the seeds hit."""

import json

import pytest
from etils import epath
from file_targets import CONVERSATION, IFEVAL, MBPP, SETTINGS, TEXTS, new_workdir

from qwen3.config import digest
from qwen3.curate import stored_logits
from qwen3.data import chat, corpora
from qwen3.data.chat_tools import read_tools
from qwen3.data.jsonl import write_rows
from qwen3.data.sources import open_source
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.chat_session import chat_request
from qwen3.rewards import coding_files, ifeval, maths
from qwen3.train import manifest, restoring
from qwen3.train.checkpoint import CheckpointError
from qwen3.train.workdir import Workdir


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 290)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


ROWS = {
    "an answer that is a number": (maths.read_gsm8k, {"question": "1?", "answer": 1}),
    "a solution that is an object": (maths.read_math, {"problem": "1?", "solution": {"a": 1}}),
    "tests that are a number": (coding_files.read_mbpp, MBPP | {"test_list": 1}),
    "code that is a number": (coding_files.read_mbpp, MBPP | {"code": 1}),
    "parameters that are a text": (ifeval.read_ifeval, IFEVAL | {"kwargs": ["a"]}),
    "an instruction that is a list": (
        ifeval.read_ifeval,
        IFEVAL | {"instruction_id_list": [["a"]]},
    ),
    "a frequency that is a text": (
        ifeval.read_ifeval,
        IFEVAL | {"kwargs": [{"keyword": "a", "relation": "at least", "frequency": "2"}]},
    ),
    "a paragraph beyond the last": (
        ifeval.read_ifeval,
        IFEVAL
        | {
            "instruction_id_list": ["length_constraints:nth_paragraph_first_word"],
            "kwargs": [{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}],
        },
    ),
}


@pytest.mark.parametrize("reader, row", ROWS.values(), ids=ROWS)
def test_a_row_of_other_types_is_named_with_its_line(reader, row, tmp_path):
    write_rows(tmp_path / "a.jsonl", [row])
    with pytest.raises(ValueError, match=r"a\.jsonl(, line |:)1: "):
        reader(tmp_path / "a.jsonl")


def test_an_assert_that_is_no_text_or_too_deep_is_left_out(tmp_path):
    deep = "assert f(" + "[" * 150 + "]" * 150 + ") == 1"
    tests = ([1], ["assert f(" + "(" * 9_000], [deep], MBPP["test_list"])
    write_rows(tmp_path / "a.jsonl", [MBPP | {"test_list": test} for test in tests])
    assert len(coding_files.read_mbpp(tmp_path / "a.jsonl")) == 1


MANIFESTS = {
    "no list of files": {"files": "x"},
    "a file without facts": {"files": {"tokens.bin": {}, "offsets.npy": {}}},
    "a file too many": {"files": {"../x": {"bytes": 1, "sha256": ""}}},
    "words that are no list": {"labels": {"quality": 7}},
    "no vocabulary": {"vocab": None},
    "another dtype": {"dtype": "object"},
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_a_corpus_with_a_hostile_manifest_is_damaged(change, tokenizer, tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": "a text", "quality": 0.5}])
    corpora.prepare(open_source(tmp_path / "a.jsonl"), tokenizer, tmp_path / "c")
    path = tmp_path / "c" / corpora.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"corpus\.json: damaged \(.*\), prepare it again"):
        corpora.Corpus(tmp_path / "c")


@pytest.mark.parametrize("words", [["low", "high"], None])
def test_a_label_with_other_words_than_its_file_is_damaged(words, tokenizer, tmp_path):
    value = 0.5 if words else "low"
    write_rows(tmp_path / "a.jsonl", [{"text": "a text", "quality": value}])
    corpora.prepare(open_source(tmp_path / "a.jsonl"), tokenizer, tmp_path / "c")
    path = tmp_path / "c" / corpora.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": {"quality": words}}))
    with pytest.raises(ValueError, match="the label 'quality' has other words than its file"):
        _ = corpora.Corpus(tmp_path / "c")[0]


def test_a_rank_file_without_all_bytes_is_named(tmp_path):
    (tmp_path / "r.tiktoken").write_text("YQ== 0\n")
    with pytest.raises(ValueError, match=r"r\.tiktoken: 255 of the 256 single bytes"):
        Tokenizer.from_ranks(tmp_path / "r.tiktoken", expected=None)


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x05\x06" + b"\0" * 9])
def test_stored_logits_that_are_no_archive_are_named(data, tmp_path):
    (tmp_path / "t.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"t\.npz is no whole \.npz file"):
        stored_logits.read(tmp_path / "t.npz", temperature=1.0, vocab=9)


TOKENS = {
    "a token that is a number": ({"added_tokens_decoder": {"300": {"content": 5}}}, "is no text"),
    "a token without UTF-8": ({"added_tokens_decoder": {"300": {"content": "\ud800"}}}, "utf-8"),
    "special tokens that are a number": (
        {"additional_special_tokens": 1, "chat_template": "{{ messages }}"},
        "additional_special_tokens 1 is no list of tokens",
    ),
}


@pytest.mark.parametrize("change, message", TOKENS.values(), ids=TOKENS)
def test_added_tokens_that_are_no_text_are_refused(change, message, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: .*{message}"):
        Tokenizer.load(tmp_path)


def test_a_text_without_utf8_is_a_value_error(tokenizer):
    for encode in (tokenizer.encode, tokenizer.encode_spans, lambda t: tokenizer.encode_batch([t])):
        with pytest.raises(ValueError, match="without lone surrogates"):
            encode("a\ud800")


@pytest.mark.parametrize("depth", [101, 900])
def test_conversations_tools_and_options_nested_too_deep_are_refused(depth, tokenizer):
    messages, tools = CONVERSATION["messages"], CONVERSATION["tools"]
    with pytest.raises(ValueError, match="a conversation: nested deeper than 100 levels"):
        chat.validate([*messages, nested(depth)])
    with pytest.raises(ValueError, match="tools: nested deeper than 100 levels"):
        read_tools([*tools, {"name": "f", "parameters": nested(depth)}])
    with pytest.raises(ValueError, match="tool 0: nested deeper than 100 levels"):
        read_tools([json.dumps({"name": "f", "parameters": nested(depth)})])
    with pytest.raises(ValueError, match="the options: nested deeper than 100 levels"):
        chat_request(tokenizer, messages[:2], stop_ids=nested(depth))
    with pytest.raises(ValueError, match="the options: nested deeper than 100 levels"):
        chat_request(tokenizer, messages[:2], thinking_budget=nested(depth))


SMALL = {
    "schema": {"schema": [1]},
    "content": {"content": {"data": {"a": 1}}},
    "checkpoint": {"checkpoint": "2"},
}


@pytest.mark.parametrize("change", SMALL.values(), ids=SMALL)
def test_a_hostile_resume_file_is_written_anew(change, tmp_path):
    new_workdir(tmp_path / "run")
    path = tmp_path / "run" / "resume.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps(before | change))
    Workdir(tmp_path / "run", SETTINGS).close()
    # As after a crash: the step that was saved last stands in the checkpoints too.
    assert json.loads(path.read_text()) == before | {"checkpoint": None}


@pytest.mark.parametrize("files", [None, 5, {"a": None}, {"a": [float("inf"), 1]}])
def test_a_hostile_manifest_with_a_digest_that_fits_is_damaged(files, tmp_path):
    folder = new_workdir(tmp_path / "run")
    about = {**manifest.read_manifest(folder), "files": files}
    about.pop("digest")
    text = json.dumps({**about, "digest": digest(json.loads(json.dumps(about)))})
    (folder / manifest.MANIFEST).write_text(text)
    assert "cannot be read" in manifest.problem(folder)


def test_arrays_without_metadata_are_a_checkpoint_error(tmp_path):
    folder = new_workdir(tmp_path / "run")
    about = manifest.read_manifest(folder)
    (folder / "_METADATA").write_text("{}")
    known = {k: v for k, v in about.items() if k not in ("files", "digest")}
    manifest.write_manifest(epath.Path(folder), known)
    with pytest.raises(CheckpointError, match="the arrays of .* cannot be read"):
        restoring.load_params(folder)
