"""Held-out loss against sums counted by hand, on eight devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3 import hosts
from qwen3.data import corpora
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer
from qwen3.eval.perplexity import HeldOut
from qwen3.mesh import make_mesh

VOCAB, LENGTH = 290, 16
LENGTHS = (5, 16, 23, 9, 40)


class Made:
    skipped = ()

    def __iter__(self):
        return (Document(np.arange(1, n), {}) for n in LENGTHS)  # <|endoftext|> is added

    def describe(self):
        return {"made": list(LENGTHS)}


def apply(params, tokens, positions, segments):
    """A token's hidden state is its row of a table; the head is the identity."""
    return SimpleNamespace(hidden_BTD=params["table"][tokens], head_VD=params["head"], router=None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    tokenizer = Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], VOCAB)
    return corpora.prepare(Made(), tokenizer, tmp_path_factory.mktemp("held") / "corpus")


@pytest.fixture(scope="module")
def params():
    table = jax.random.normal(jax.random.key(0), (VOCAB, 8))
    return {"table": table, "head": jax.random.normal(jax.random.key(1), (VOCAB, 8))}


def by_hand(corpus, params):
    """{position in its piece: losses} over all documents cut to LENGTH tokens."""
    logp = np.asarray(jax.nn.log_softmax(params["table"] @ params["head"].T))
    found = {}
    for document in (corpus[i].content for i in range(len(corpus))):
        for at in range(len(document) - 1):
            found.setdefault(at % LENGTH, []).append(-logp[document[at], document[at + 1]])
    return found


def test_every_token_counts_once_in_the_bucket_of_its_position(corpus, params):
    expected = by_hand(corpus, params)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        held_out = HeldOut(
            apply, {"a": corpus}, mesh, length=LENGTH, batch=8, vocab=VOCAB, edges=(0, 4, 10)
        )
        found = held_out(params)["a"]
    everything = [loss for losses in expected.values() for loss in losses]
    assert found["tokens"] == len(everything) == sum(LENGTHS) - len(LENGTHS)
    assert found["loss"] == pytest.approx(np.mean(everything), rel=1e-5)
    assert list(found["by_position"]) == ["0-4", "4-10", "10-16"]
    for (low, high), loss in zip(
        [(0, 4), (4, 10), (10, 16)], found["by_position"].values(), strict=True
    ):
        losses = [x for position in range(low, high) for x in expected.get(position, [])]
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_fewer_rows_are_fewer_tokens_and_an_empty_bucket_is_left_out(corpus, params):
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        options = {"length": 64, "batch": 8, "vocab": VOCAB, "edges": (0, 50)}
        found = HeldOut(apply, {"a": corpus}, mesh, **options, rows=1)(params)["a"]
        whole = HeldOut(apply, {"a": corpus}, mesh, **options)(params)["a"]
    assert 0 < found["tokens"] < whole["tokens"] == sum(LENGTHS) - len(LENGTHS)
    assert list(found["by_position"]) == ["0-50"]
    assert jnp.isfinite(found["loss"])


def test_hosts_are_told_between_blocks(corpus, params, monkeypatch):
    """The watchdog's heartbeat is renewed, and a stop is noticed, within one batch of rows."""
    calls = []
    monkeypatch.setattr(hosts, "between_blocks", [lambda: calls.append(True)])
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        options = {"length": 4, "vocab": VOCAB, "rows": 16}
        HeldOut(apply, {"a": corpus}, mesh, **options, batch=8)(params)
    assert len(calls) == 2


@pytest.mark.parametrize("edges", [(), (1, 4), (0, 4, 4), (0, 16)])
def test_edges_that_do_not_rise_from_0_are_refused(corpus, edges):
    with pytest.raises(ValueError, match="do not rise from 0"):
        HeldOut(apply, {}, make_mesh(), length=LENGTH, batch=8, vocab=VOCAB, edges=edges)
