"""A tiny tokenizer and corpora whose lengths and labels are known."""

import numpy as np
import pytest
from made_documents import Made

from qwen3.data import corpora
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290)


@pytest.fixture
def make(tokenizer, tmp_path):
    """make(name, lengths, labels) -> Corpus; document d is the ids d % 200 and then 0, 1, 2, ..."""

    def corpus(name, lengths, labels=None):
        labels = labels or [{}] * len(lengths)
        contents = [np.append(d % 200, np.arange(n - 2) % 250) for d, n in enumerate(lengths)]
        documents = [Document(c, facts) for c, facts in zip(contents, labels, strict=True)]
        return corpora.prepare(Made(documents), tokenizer, tmp_path / name)

    return corpus
