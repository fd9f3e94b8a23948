"""The made corpus, written and read once."""

import pytest
from made_corpus import write_corpus

from qwen3.research.source_files import read_folder


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(folder, what was read of it, rows of planted facts)"""
    folder = tmp_path_factory.mktemp("corpus")
    rows = write_corpus(folder)
    return folder, read_folder(folder), rows
