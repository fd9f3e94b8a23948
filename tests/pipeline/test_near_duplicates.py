"""Duplicates: every planted pair is found, nothing else is dropped, and order does not matter."""

import random

import numpy as np
import pytest

from qwen3.pipeline.near_duplicates import (
    DuplicateSettings,
    exact_key,
    find,
    jaccard,
    shingles,
    survivors,
)

SETTINGS = DuplicateSettings()


def texts(count, seed=0, length=120):
    """(id, text) of random words: any two share next to no run of five."""
    choose = random.Random(seed)
    words = [f"w{i}" for i in range(2000)]
    return [(f"{i:032x}", " ".join(choose.choices(words, k=length))) for i in range(count)]


def edited(text, share, seed):
    """The text with `share` of its words replaced."""
    choose, words = random.Random(seed), text.split()
    for i in choose.sample(range(len(words)), round(share * len(words))):
        words[i] = f"new{choose.randrange(10**6)}"
    return " ".join(words)


def planted(count):
    """Texts, and one near copy of each: 1 to 4 words of 120 are others."""
    originals = texts(count)
    copies = [
        (f"{i + count:032x}", edited(text, (1 + i % 4) / 120, i))
        for i, (_, text) in enumerate(originals)
    ]
    return originals, copies


def true_pairs(originals, copies):
    """(original, copy) with a Jaccard index of at least .8, by comparing the sets."""
    pairs = []
    for (first, text), (second, copy) in zip(originals, copies, strict=True):
        a, b = shingles(text, 5), shingles(copy, 5)
        if len(np.intersect1d(a, b)) / len(np.union1d(a, b)) >= 0.8:
            pairs.append((first, second))
    return pairs


def test_planted_copies_are_found_and_nothing_else():
    originals, copies = planted(60)
    truth = true_pairs(originals, copies)
    assert 20 <= len(truth) < 60  # the shares reach over the threshold
    dropped = find(originals + copies, SETTINGS)
    pairs = {tuple(sorted((loser, keeper))) for loser, (keeper, _) in dropped.items()}
    assert pairs == set(truth)


@pytest.mark.slow
def test_recall_of_2000_planted_copies_is_995_in_1000_and_precision_is_1():
    originals, copies = planted(2000)
    truth = set(true_pairs(originals, copies))
    dropped = find(originals + copies, SETTINGS)
    pairs = {tuple(sorted((loser, keeper))) for loser, (keeper, _) in dropped.items()}
    assert len(pairs & truth) >= 0.995 * len(truth)
    assert pairs <= truth


def test_survivors_do_not_depend_on_the_order():
    originals, copies = planted(30)
    everything = originals + copies
    expected = find(everything, SETTINGS)
    for seed in range(3):
        random.Random(seed).shuffle(everything)
        assert find(everything, SETTINGS) == expected


def test_a_chain_drops_only_neighbours_of_what_stays():
    a, b, c = (-30, "a"), (-20, "b"), (-10, "c")
    edges = [((a, b), 0.85), ((b, c), 0.85)]
    # c resembles b, which goes; it does not resemble a, which stays: so c stays.
    assert survivors(edges) == {"b": ("a", 0.85)}
    assert survivors(reversed(edges)) == survivors(edges)


def test_the_longest_of_a_group_survives():
    text = texts(1)[0][1]
    group = [("c" * 32, text), ("a" * 32, text + " end"), ("b" * 32, text)]
    assert {loser: keeper for loser, (keeper, _) in find(group, SETTINGS).items()} == {
        "b" * 32: "a" * 32,
        "c" * 32: "a" * 32,
    }


def test_scripts_without_blanks_are_compared_by_character():
    chinese = (
        "他们在村里住了很多年每天早上都去河边散步看看水有没有涨起来磨坊的主人告诉安娜桥已经被冲走了"
    )
    assert len(shingles(chinese, 5)) == len(chinese) - 4
    assert jaccard(shingles(chinese, 5), shingles(chinese[:-1] + "吗", 5)) > 0.9


def test_case_and_blanks_do_not_hide_an_exact_copy():
    assert exact_key("Ein  Straßenschild\n") == exact_key("ein strassenschild")
    assert exact_key("one two") != exact_key("onetwo")


@pytest.mark.parametrize("option, value", [("jaccard", 0), ("bands", 0), ("rows", 1.5)])
def test_settings_that_cannot_be_are_named(option, value):
    with pytest.raises(ValueError, match=f"duplicates: {option} {value}"):
        DuplicateSettings(**{option: value})
