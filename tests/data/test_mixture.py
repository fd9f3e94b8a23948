"""Weights, schedules, filters, emphasis and length bands, from lengths and labels alone."""

import numpy as np
import pytest

from qwen3.data.mixture import (
    LONG_CONTEXT,
    PERIOD,
    LengthBands,
    MixturePart,
    Schedule,
    Stage,
    apportion,
    emphasis_factors,
    label_filter,
    permutation,
)
from qwen3.data.stream import RowStream

LABELS = [
    {"language": "en", "quality": 0.9},
    {"language": "zh", "quality": 0.2},
    {"language": "en"},
    {"quality": 0.5},
]


def shown(stream, epoch):
    """Documents of an epoch, sorted."""
    return sorted(stream.plan(epoch).pieces.document.tolist())


def test_rows_are_shared_out_evenly_and_exactly():
    schedule = Schedule([0.5, 0.3, 0.2])
    assert [schedule[r][0] for r in range(10)] == [0, 1, 2, 0, 1, 0, 0, 2, 1, 0]
    for rows in (10, 1000, PERIOD, 3 * PERIOD + 17):
        assert np.abs(schedule.before(rows) - rows * np.array([0.5, 0.3, 0.2])).max() < 2.5
    seen = [0, 0, 0]
    for row in range(PERIOD - 50, PERIOD + 50):
        part, number = schedule[row]
        assert number == schedule.before(row)[part]
        seen[part] += 1
    assert seen == [50, 30, 20]


def test_apportion_gives_every_part_something_and_adds_up():
    assert apportion([3, 1], 8).tolist() == [6, 2]
    assert apportion([1e9, 1, 1], 10).tolist() == [8, 1, 1]
    assert apportion([1, 1, 1], PERIOD).sum() == PERIOD


def test_permutations_are_fixed_for_all_time():
    assert permutation([0, "s1", "web"], 8).tolist() == [2, 1, 3, 0, 5, 4, 6, 7]
    assert sorted(permutation([1], 1000).tolist()) == list(range(1000))
    assert permutation([1], 1000).tolist() != permutation([2], 1000).tolist()


def test_filters_keep_words_and_bounds_and_drop_what_lacks_the_label(make):
    corpus = make("c", [5, 5, 5, 5], LABELS)
    assert label_filter(corpus, {"language": ["en"]}).tolist() == [True, False, True, False]
    assert label_filter(corpus, {"quality": (0.5, None)}).tolist() == [True, False, False, True]
    assert label_filter(corpus, {"quality": (None, 0.5)}).tolist() == [False, True, False, True]
    both = label_filter(corpus, {"language": ["en", "zh"], "quality": (0.5, 1)})
    assert both.tolist() == [True, False, False, False]
    with pytest.raises(
        ValueError, match=r"no document has language 'fr'; choose from \['en', 'zh'\]"
    ):
        label_filter(corpus, {"language": ["fr"]})
    with pytest.raises(
        ValueError, match=r"no label 'domain'; choose from \['language', 'quality'\]"
    ):
        label_filter(corpus, {"domain": ["code"]})


def test_emphasis_multiplies_over_labels(make):
    corpus = make("c", [5, 5, 5, 5], LABELS)
    table = {"language": {"en": 2.0}, "quality": {0.1: 0.5, 0.6: 3.0}}
    assert emphasis_factors(corpus, table).tolist() == [6.0, 0.5, 2.0, 0.5]


def test_emphasis_shows_a_document_so_many_times_an_epoch(make):
    corpus = make("c", [5] * 40, [{"domain": "abcd"[d % 4]} for d in range(40)])
    part = MixturePart(corpus="c", emphasis={"domain": {"a": 2.0, "b": 0.5, "c": 0.0}})
    stream = RowStream(corpus, part, Stage("s", {"c": part}, 16, 1), [0])
    per_epoch = [np.bincount(shown(stream, e), minlength=40) for e in range(8)]
    total = np.sum(per_epoch, 0)
    for d, expected in ((0, 16), (1, 4), (2, 0), (3, 8)):
        assert np.abs(total[d::4] - expected).max() <= 2 and total[d::4].sum() == 10 * expected


def test_an_epoch_shows_every_document_once_in_another_order(make):
    corpus = make("c", list(range(2, 60)))
    stage = Stage("s", {"c": 1}, 64, 1)
    stream = RowStream(corpus, stage.parts()["c"], stage, [0])
    for epoch in (0, 1, 5):
        assert shown(stream, epoch) == list(range(58))
    assert stream.spans(0)[0].tolist() != stream.spans(len(stream.plan(0)))[0].tolist()


def test_a_stream_gives_the_same_row_whatever_was_asked_before(make):
    corpus = make("c", [3 + d % 20 for d in range(100)])
    part = MixturePart(corpus="c")
    bands = LengthBands(((12, 32, 0.6), (0, 12, 0.4)))
    stage = Stage("s", {"c": part}, 32, 1, lengths=bands)
    first, second = (RowStream(corpus, part, stage, [0]) for _ in range(2))
    late = [span.tolist() for span in second.spans(200)]
    for row in range(201):
        last = [span.tolist() for span in first.spans(row)]
    assert last == late
    assert [s.tolist() for s in second.spans(3)] == [s.tolist() for s in first.spans(3)]


@pytest.mark.parametrize("unit", ["tokens", "documents"])
def test_long_context_takes_three_quarters_from_long_documents(make, unit):
    lengths = np.random.default_rng(0).integers(2, 256, 3000)
    bands = LengthBands(LONG_CONTEXT.scaled(128).bands, unit)
    assert bands.bands == ((64, 128, 0.75), (16, 64, 0.25))
    corpus = make("c", lengths.tolist())
    stage = Stage("s3", {"c": 1}, 128, 1, lengths=bands)
    stream = RowStream(corpus, stage.parts()["c"], stage, [0])
    for epoch in range(3):
        length = stream.plan(epoch).pieces.length
        measure = length if unit == "tokens" else np.ones_like(length)
        assert length.min() >= 16
        assert measure[length >= 64].sum() / measure.sum() == pytest.approx(0.75, abs=0.003)
    spans = [stream.plan(e).pieces for e in range(3)]
    scarce = [
        set(zip(p.document[p.length < 64], p.start[p.length < 64], strict=True)) for p in spans
    ]
    plenty = [
        set(zip(p.document[p.length >= 64], p.start[p.length >= 64], strict=True)) for p in spans
    ]
    if scarce[0] != scarce[1]:
        scarce, plenty = plenty, scarce
    assert scarce[0] == scarce[1] == scarce[2]
    assert plenty[0] != plenty[1]


def test_wrong_mixtures_name_the_value(make):
    corpus = make("c", [5, 5])
    for mixture, message in (
        ({"a": -1}, "weight -1.0 of 'a'"),
        ({"a": float("nan")}, "weight nan of 'a'"),
        ({"a": 0}, "no part of the mixture"),
        ({}, "no part of the mixture"),
    ):
        with pytest.raises(ValueError, match=message):
            Stage("s", mixture, 16, 1)
    with pytest.raises(ValueError, match="rows of 1 tokens"):
        Stage("s", {"a": 1}, 1, 1)
    with pytest.raises(ValueError, match="length bands in 'words': choose from"):
        LengthBands(((0, 1, 1.0),), "words")
    stage = Stage("s3", {"c": 1}, 16, 1, lengths=LengthBands(((10, 16, 1.0),)))
    with pytest.raises(ValueError, match="no document of .* is 10 to 16 tokens long.*longest: 5"):
        RowStream(corpus, stage.parts()["c"], stage, [0])
