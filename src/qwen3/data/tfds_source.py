"""TensorFlow Datasets without TensorFlow: public sets as sources of documents, and a builder that
stores tokenised corpora.

Both use the ArrayRecord format, which `tfds.data_source` reads by index. Needs
`tensorflow-datasets` (extra `data`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3.data.corpora import Corpus
from qwen3.data.document import Document, RowSource, leave_out
from qwen3.data.unpacked import BadData, optional


@dataclasses.dataclass
class Tfds(RowSource):
    """A split of a set. `paths` is a name such as "wikipedia/20230601.en:1.0.0", or a folder that
    holds a prepared set; `text` is the feature with the text, or with int token ids [n].

    Only ArrayRecord sets can be read by index; prepare a public one once with
    `tfds.builder(name, file_format="array_record").download_and_prepare()`.
    """

    _: dataclasses.KW_ONLY
    split: str = "train"
    data_dir: str | None = None  # where prepared sets lie; None: the default of TFDS

    def __post_init__(self) -> None:
        super().__post_init__()
        tfds = optional("tensorflow_datasets")
        name = str(self.paths)
        if self.data_dir is None and (folder := _prepared(name)) is not None:
            self._builder = tfds.builder_from_directory(folder)
        else:
            self._builder = tfds.builder(name, data_dir=self.data_dir)
        splits = list(self._builder.info.splits)
        if not splits:
            raise ValueError(
                f"{name}: not prepared in {self._builder.data_dir}; run its download_and_prepare"
            )
        if self.split not in splits:
            raise ValueError(f"{name} has no split {self.split!r}; choose from {splits}")
        self._records = self._builder.as_data_source(split=self.split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Document:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        where = f"{self.paths}, {self.split}, record {index}"
        try:
            fields = self._records[index]
        except (RuntimeError, ValueError) as error:
            raise BadData(f"{where}: unreadable ({error})") from error
        return self.row(fields, where)

    def __iter__(self) -> Iterator[Document]:
        self.skipped.clear()
        for i in range(len(self)):
            try:
                document = self[i]
            except BadData as error:
                leave_out(self, error)
            else:
                yield document

    def describe(self) -> dict[str, Any]:
        info = self._builder.info
        split = info.splits[self.split]
        return {
            "source": "Tfds",
            "name": info.full_name,
            "split": self.split,
            "text": self.text,
            "label_fields": dict(self.label_fields),
            "labels": dict(self.labels),
            "size": [split.num_examples, list(split.shard_lengths), split.num_bytes],
        }


def _prepared(path: str) -> str | None:
    """The folder, if it holds a prepared set; else None."""
    from etils import epath

    folder = epath.Path(path)
    return str(folder) if (folder / "dataset_info.json").exists() else None


def builder(
    corpus: Corpus, name: str, data_dir: str | os.PathLike, *, version: str = "1.0.0"
) -> Any:
    """A tfds DatasetBuilder of a tokenised corpus: tokens int32 [n] and its labels, in order.

    `.download_and_prepare()` writes split "train" to <data_dir>/<name>/<version> (local or gs://)
    without TensorFlow; any host reads it with `Tfds(that folder, text="tokens")`. A missing label
    is "" or NaN.
    """
    tfds = optional("tensorflow_datasets")

    words = {label: corpus.words(label) is not None for label in corpus.manifest["labels"]}

    class TokenisedCorpus(tfds.core.GeneratorBasedBuilder):  # type: ignore[name-defined]  # no types
        VERSION = tfds.core.Version(version)
        pkg_dir_path = data_dir

        def _info(self) -> Any:
            features = {"tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32)} | {
                label: tfds.features.Text() if is_word else tfds.features.Scalar(np.float32)
                for label, is_word in words.items()
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Tokenised corpus {name} (tokenizer {corpus.manifest['tokenizer']}).",
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for i in range(len(corpus)):
                document = corpus[i]
                labels = {
                    label: ("" if is_word else np.float32(np.nan)) if value is None else value
                    for (label, is_word) in words.items()
                    for value in [document.labels[label]]
                }
                yield i, {"tokens": np.asarray(document.content, np.int32)} | labels

    TokenisedCorpus.name = name
    return TokenisedCorpus(data_dir=data_dir, file_format="array_record")
