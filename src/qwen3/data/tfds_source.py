"""TensorFlow Datasets, without TensorFlow: public sets as sources, and a builder that stores
tokenised corpora.

Both use the ArrayRecord format, which `tfds.data_source` reads by index. Needs
`tensorflow-datasets` (extra `data`).
"""

import dataclasses

import numpy as np

from qwen3.data.sources import FileSource
from qwen3.data.unpacked import optional


@dataclasses.dataclass
class Tfds(FileSource):
    """A split of a set: `paths` is a name such as "wikipedia/20230601.en:1.0.0", or a folder that
    holds a prepared set.

    text: the feature with the text, or with int token ids [n]. Only ArrayRecord sets can be read by
        index; prepare a public one once with `tfds.builder(name,
        file_format="array_record").download_and_prepare()`.
    """

    _: dataclasses.KW_ONLY
    split: str = "train"
    data_dir: str | None = None

    def __post_init__(self):
        tfds = optional("tensorflow_datasets")

        self.files, self.skipped = [str(self.paths)], []
        if self.data_dir is None and (folder := _prepared(self.paths)) is not None:
            self._builder = tfds.builder_from_directory(folder)
        else:
            self._builder = tfds.builder(str(self.paths), data_dir=self.data_dir)
        splits = list(self._builder.info.splits)
        if not splits:
            raise ValueError(
                f"{self.paths}: not prepared in {self._builder.data_dir}; run its "
                f"download_and_prepare"
            )
        if self.split not in splits:
            raise ValueError(f"{self.paths} has no split {self.split!r}; choose from {splits}")
        self._records = self._builder.as_data_source(split=self.split)

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        return self.row(self._records[index], f"{self.paths}, {self.split}, record {index}")

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def describe(self):
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


def _prepared(path):
    """The folder, if it holds a prepared set; else None."""
    from etils import epath

    folder = epath.Path(path)
    if (folder / "dataset_info.json").exists():
        return str(folder)
    return None


def builder(corpus, name, data_dir, *, version="1.0.0"):
    """A tfds DatasetBuilder of a tokenised `Corpus`: tokens int32 [n] and its labels, in order.

    `.download_and_prepare()` writes split "train" to <data_dir>/<name>/<version> (local or gs://)
    without TensorFlow; any host reads it with `Tfds(that folder, text="tokens")`. A missing label
    is "" or NaN.
    """
    tfds = optional("tensorflow_datasets")

    words = {label: corpus.words(label) is not None for label in corpus.manifest["labels"]}

    class TokenisedCorpus(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version(version)
        pkg_dir_path = data_dir

        def _info(self):
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

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, document in enumerate(corpus):
                labels = {
                    label: ("" if is_word else np.float32(np.nan)) if value is None else value
                    for (label, is_word) in words.items()
                    for value in [document.labels[label]]
                }
                yield i, {"tokens": document.content.astype(np.int32)} | labels

    TokenisedCorpus.name = name
    return TokenisedCorpus(data_dir=data_dir, file_format="array_record")
