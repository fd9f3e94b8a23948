"""Which experts a domain's tokens choose, and how far domains differ (report, 3.3; arXiv
2501.11873)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def shares(apply: Callable, params: Any, batches: Mapping[str, dict]) -> dict[str, np.ndarray]:
    """{domain: [L, E], rows summing to 1}: how often each expert was selected.

    apply(params, tokens, positions, segment_ids) -> Output with a router. batches: domain -> batch.
    """

    @jax.jit
    def count(params, tokens, positions, segments):
        return apply(params, tokens, positions, segments).router.counts_BE

    found = {}
    for domain, batch in batches.items():
        counts = count(params, *(batch[k] for k in ("tokens", "positions", "segment_ids")))
        counts_LE = np.asarray(counts, np.float64).sum(1)
        found[domain] = counts_LE / counts_LE.sum(1, keepdims=True)
    return found


def specialisation(found: Mapping[str, np.ndarray]) -> float:
    """Mean over layers and pairs of domains of the total variation distance, 0 (all domains use
    all experts alike) to 1. ValueError for fewer than two domains."""
    if len(found) < 2:
        raise ValueError(f"domains {list(found)}: at least two are needed")
    tables = list(found.values())
    pairs = [(a, b) for i, a in enumerate(tables) for b in tables[i + 1 :]]
    return float(np.mean([np.abs(a - b).sum(1).mean() / 2 for a, b in pairs]))
