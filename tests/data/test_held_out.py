"""Held-out documents are never trained on."""

import pytest
from made_documents import Made

from qwen3.data import corpora
from qwen3.data.held_out import hold_out
from qwen3.data.sources import Document


def test_every_document_is_in_exactly_one_fold(tokenizer, tmp_path):
    made = Made([Document(f"the {i}", {}) for i in range(11)])
    train, held = hold_out(made, every=5)
    assert [d.content for d in held] == ["the 4", "the 9"]
    assert [d.content for d in train] == [f"the {i}" for i in range(11) if i not in (4, 9)]
    folds = [
        corpora.prepare(fold, tokenizer, tmp_path / n) for fold, n in ((train, "t"), (held, "h"))
    ]
    assert [len(fold) for fold in folds] == [9, 2]
    assert folds[0].manifest["key"] != folds[1].manifest["key"]
    with pytest.raises(ValueError, match="every 1 held out"):
        hold_out(made, every=1)
