"""TensorFlow Datasets without TensorFlow: public sets as sources of documents, and a builder that
stores tokenised corpora.

Both use the ArrayRecord format, which `tfds.data_source` reads by index. Its library opens local
files only (it fails to write to gs:// and never returns from reading it), so a remote set is
copied into a temporary folder before it is read, and written there before it is uploaded. Needs
`tensorflow-datasets` (extra `data`).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.data.corpora import Corpus
from qwen3.data.document import Document, RowSource, leave_out
from qwen3.data.unpacked import BadData, filesystem, optional

INFO = "dataset_info.json"


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
        self._copy: tempfile.TemporaryDirectory | None = None
        self._records = self._opened(tfds).as_data_source(split=self.split)

    def _opened(self, tfds: Any) -> Any:
        """The builder, or one of a local copy of a set that lies on an object store."""
        folder = os.fspath(self._builder.data_dir)
        if "://" not in folder:
            return self._builder
        self._copy = tempfile.TemporaryDirectory(prefix="qwen3-tfds-")
        system, path = filesystem(folder)
        for name in system.find(path):
            inside = name.removeprefix(path).lstrip("/")
            # Of the records those of the split alone.
            if ".array_record" not in inside or f"-{self.split}." in inside:
                target = Path(self._copy.name, inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(name, os.fspath(target))
        return tfds.builder_from_directory(self._copy.name)

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
    return str(folder) if (folder / INFO).exists() else None


def store(corpus: Corpus, name: str, data_dir: str | os.PathLike, *, version: str = "1.0.0") -> str:
    """Write a tokenised corpus as a set to <data_dir>/<name>/<version>, local or gs://; returns
    that folder.

    A remote set is written into a temporary folder and uploaded, dataset_info.json last, without
    which no reader takes it for a set.
    """
    place = os.fspath(data_dir).rstrip("/")
    if "://" not in place:
        local = builder(corpus, name, place, version=version)
        local.download_and_prepare()
        return os.fspath(local.data_dir)
    with tempfile.TemporaryDirectory(prefix="qwen3-tfds-") as folder:
        local = builder(corpus, name, folder, version=version)
        local.download_and_prepare()
        system, path = filesystem(f"{place}/{name}/{version}")
        files = [file for file in Path(local.data_dir).rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == INFO):
            system.put_file(os.fspath(file), f"{path}/{file.relative_to(local.data_dir)}")
    return f"{place}/{name}/{version}"


def builder(
    corpus: Corpus, name: str, data_dir: str | os.PathLike, *, version: str = "1.0.0"
) -> Any:
    """A tfds DatasetBuilder of a tokenised corpus: tokens int32 [n] and its labels, in order.

    `.download_and_prepare()` writes split "train" to <data_dir>/<name>/<version> without
    TensorFlow; any host reads it with `Tfds(that folder, text="tokens")`. A missing label is "" or
    NaN. Raises ValueError for a URL, to which `store` writes.
    """
    if "://" in os.fspath(data_dir):
        raise ValueError(f"{data_dir}: ArrayRecord files are written locally: use `store`")
    tfds = optional("tensorflow_datasets")

    words = {label: corpus.words(label) is not None for label in corpus.manifest["labels"]}

    # Not in tfds's global registry, which refuses a second class of one name in a process.
    class TokenisedCorpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore
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
