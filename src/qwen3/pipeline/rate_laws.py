"""Learning rate and batch size of a large run, from a table of small ones.

Near its minimum the loss is a quadratic of the logarithms of learning rate and batch (Step Law,
arXiv 2503.04715), so that each size and token count has an optimum; the optima follow power laws

    log rate  = a + b log N + c log D [+ d log(N / n)]
    log batch = the same form

with N parameters outside the embeddings, n of them active for a token, and D training tokens. The
last term is there for mixtures of experts of several N / n: neither N nor n alone predicts them. A
power is only fitted to what differs between the runs: of values that are nearly equal it would be
any, and large.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qwen3.data.unpacked import chunks

COLUMNS = ("params", "tokens", "rate", "batch", "loss")  # and "active", where it differs
TARGETS = ("rate", "batch")
NEAREST = 12  # runs of a size, by loss, that the quadratic is fitted to
SPREAD = 1.2  # between the largest and the least value that a power can be told from
RESAMPLES = 500  # of the residuals, for intervals
SEED = 17


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A row of the table."""

    params: float  # N, outside the embeddings
    active: float  # n, of a token
    tokens: float  # D
    rate: float  # peak learning rate
    batch: float  # tokens
    loss: float  # held-out, nats a token


@dataclasses.dataclass(frozen=True)
class BestRate:
    """The optimum of one size and token count."""

    params: float
    active: float
    tokens: float
    rate: float
    batch: float
    loss: float
    inside: bool  # whether it lies within the grid of runs


@dataclasses.dataclass(frozen=True)
class RateLaw:
    """Power laws of rate and batch."""

    terms: tuple[str, ...]  # of "one", "params", "tokens", "sparsity"
    coefficients: Mapping[str, tuple[float, ...]]  # by target, one for each term
    draws: Mapping[str, tuple[tuple[float, ...], ...]]  # coefficients of resampled optima
    optima: tuple[BestRate, ...]  # what they were fitted to

    def predict(
        self, params: float, tokens: float, active: float | None = None, level: float = 0.9
    ) -> dict[str, tuple[float, float, float]]:
        """{target: (value, lower, upper bound of the interval of `level`)}.

        Raises ValueError for another share of active parameters than that of all fitted runs, if
        they had but one.
        """
        active = active or params
        sparsity = params / active
        known = [best.params / best.active for best in self.optima] or [1.0]
        is_known = min(known) / SPREAD <= sparsity <= max(known) * SPREAD
        if "sparsity" not in self.terms and not is_known:
            only = "dense models" if max(known) == 1 else f"{1 / known[0]:.3g} of them active"
            raise ValueError(f"active {active:g} of {params:g}: the law knows {only} alone")
        row = _features(self.terms, params, tokens, sparsity)
        result = {}
        for target in TARGETS:
            value = math.exp(float(row @ np.array(self.coefficients[target])))
            draws = np.exp(np.array(self.draws[target]) @ row)
            lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
            result[target] = (value, float(lower), float(upper))
        return result

    def formula(self, target: str) -> str:
        """The law in words, such as rate = 0.0179 params^-0.71 tokens^0.31."""
        values = dict(zip(self.terms, self.coefficients[target], strict=True))
        powers = [f"{name}^{value:.3f}" for name, value in values.items() if name != "one"]
        return f"{target} = {math.exp(values['one']):.4g} {' '.join(powers)}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def load(cls, path: str) -> RateLaw:
        """Read a law that `to_json` wrote. Raises ValueError for another file."""
        try:
            stored = json.loads(b"".join(chunks(path)))
            optima = tuple(BestRate(**row) for row in stored["optima"])
            return cls(tuple(stored["terms"]), stored["coefficients"], stored["draws"], optima)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a law of rates ({error!r})") from error


def read_runs(path: str) -> list[TrainedRun]:
    """The runs of a CSV file with the columns COLUMNS and, for experts, active."""
    rows = csv.DictReader(io.StringIO(b"".join(chunks(path)).decode()))
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise ValueError(f"{path}: no column {missing}; there are {rows.fieldnames}")
    runs = []
    for number, row in enumerate(rows, 2):
        try:
            values = {name: float(row[name]) for name in COLUMNS}
            run = TrainedRun(active=float(row.get("active") or values["params"]), **values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if not all(v > 0 and math.isfinite(v) for v in dataclasses.astuple(run)[:-1]):
            raise ValueError(f"{path}, line {number}: a value that is not above 0 in {row}")
        if run.active > run.params:
            raise ValueError(f"{path}, line {number}: more active parameters than there are")
        if math.isfinite(run.loss):  # a run that diverged says nothing about the minimum's form
            runs.append(run)
    return runs


def optimum(runs: Sequence[TrainedRun]) -> BestRate:
    """The minimum of the log-quadratic through the best runs of one size and token count.

    A direction that all runs share (one batch size, say) keeps its value. Where the quadratic has
    no minimum near the grid, the best run itself is given, and `inside` is false.
    """
    near = sorted(runs, key=lambda run: run.loss)[:NEAREST]
    best = near[0]
    points = np.log([[run.rate, run.batch] for run in near])
    losses = np.array([run.loss for run in near])
    moving = np.flatnonzero(np.ptp(np.log([[r.rate, r.batch] for r in runs]), axis=0) > 1e-9)
    centre, place, inside = points[0], points[0].copy(), False
    x = (points - centre)[:, moving]
    solution = _minimum(x, losses)
    if solution is not None:
        span = np.log([[run.rate, run.batch] for run in runs])[:, moving] - centre[moving]
        offset, loss = solution
        reach = 0.5 * np.ptp(span, axis=0)
        if np.all(offset > span.min(0) - reach) and np.all(offset < span.max(0) + reach):
            place[moving] += offset
            inside = bool(np.all(offset >= span.min(0)) and np.all(offset <= span.max(0)))
            return _best(best, place, loss, inside)
    return _best(best, place, best.loss, False)


def _best(run: TrainedRun, place: np.ndarray, loss: float, inside: bool) -> BestRate:
    rate, batch = map(float, np.exp(place))
    return BestRate(run.params, run.active, run.tokens, rate, batch, float(loss), inside)


def _minimum(x: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, float] | None:
    """(offset, value) of the minimum of a quadratic through losses [n] at x [n, dims]."""
    dims = x.shape[1]
    pairs = [(i, j) for i in range(dims) for j in range(i, dims)]
    columns = [np.ones(len(x)), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)]
    if dims == 0 or len(x) < len(columns):
        return None
    # The runs nearest to the minimum say most about it.
    weights = np.exp(-(losses - losses.min()) / (2 * (np.ptp(losses) + 1e-12)))
    matrix = np.stack(columns, 1) * weights[:, None]
    solution = np.linalg.lstsq(matrix, losses * weights, rcond=None)[0]
    slope, hessian = solution[1 : 1 + dims], np.zeros((dims, dims))
    for (i, j), value in zip(pairs, solution[1 + dims :], strict=True):
        hessian[i, j] += value
        hessian[j, i] += value
    if np.linalg.eigvalsh(hessian).min() <= 1e-9:
        return None
    offset = -np.linalg.solve(hessian, slope)
    return offset, float(solution[0] + slope @ offset / 2)


def fit(runs: Iterable[TrainedRun]) -> RateLaw:
    """Fit the laws. Raises ValueError for too few sizes to tell the terms apart."""
    groups: dict[tuple[float, float, float], list[TrainedRun]] = defaultdict(list)
    for run in runs:
        groups[run.params, run.active, run.tokens].append(run)
    optima = tuple(optimum(group) for _, group in sorted(groups.items()))
    terms = ["one", *(name for name in ("params", "tokens", "sparsity") if _varies(name, optima))]
    matrix = np.stack([_row(terms, best) for best in optima]) if optima else np.zeros((0, 1))
    if len(optima) < 2 or np.linalg.matrix_rank(matrix) < len(terms):
        raise ValueError(
            f"{len(optima)} sizes and token counts do not tell {terms[1:] or 'anything'} apart; "
            "give runs of more sizes, with tokens that are not always as many a parameter"
        )
    coefficients, draws = {}, {}
    generator = np.random.default_rng(SEED)
    for target in TARGETS:
        values = np.log([getattr(best, target) for best in optima])
        solution = np.linalg.lstsq(matrix, values, rcond=None)[0]
        residuals = values - matrix @ solution
        # Residuals of a fit are smaller than its errors, by the degrees of freedom it used.
        free = max(len(optima) - len(terms), 1)
        residuals *= math.sqrt(len(optima) / free)
        noise = generator.choice(residuals, (RESAMPLES, len(optima)))
        fitted = matrix @ solution
        draws[target] = np.linalg.lstsq(matrix, (fitted + noise).T, rcond=None)[0].T
        coefficients[target] = tuple(solution.tolist())
    listed = {target: tuple(map(tuple, rows.tolist())) for target, rows in draws.items()}
    return RateLaw(tuple(terms), coefficients, listed, optima)


def _varies(name: str, optima: Sequence[BestRate]) -> bool:
    values = [_value(name, best) for best in optima]
    return len(values) > 1 and max(values) > SPREAD * min(values)


def _value(name: str, best: BestRate) -> float:
    return best.params / best.active if name == "sparsity" else getattr(best, name)


def _row(terms: Sequence[str], best: BestRate) -> np.ndarray:
    return _features(terms, best.params, best.tokens, best.params / best.active)


def _features(terms: Sequence[str], params: float, tokens: float, sparsity: float) -> np.ndarray:
    logs = {"params": math.log(params), "tokens": math.log(tokens), "sparsity": math.log(sparsity)}
    return np.array([logs.get(name, 1.0) for name in terms])


def plot(law: RateLaw, path: Any) -> None:
    """Draw the optima over what the law says of them, with their intervals, into a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, target in zip(figure.subplots(1, 2), TARGETS, strict=True):
        predicted = [
            law.predict(best.params, best.tokens, best.active)[target] for best in law.optima
        ]
        values = np.array(predicted)
        fitted = [getattr(best, target) for best in law.optima]
        axes.errorbar(
            fitted, values[:, 0], np.abs(values[:, 1:] - values[:, :1]).T, fmt="o", capsize=3
        )
        axes.axline((fitted[0], fitted[0]), (fitted[0] * 2, fitted[0] * 2), color="gray", lw=1)
        axes.set(xscale="log", yscale="log", xlabel=f"best {target} of a size", title=target)
        axes.set_ylabel(f"{target} by the law")
    figure.savefig(path)
