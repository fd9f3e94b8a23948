"""Laws of learning rate and batch, from tables whose optima are known."""

import importlib.util
import itertools
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3.model.sizes import count_parameters
from qwen3.pipeline.rate_laws import RateLaw, TrainedRun, fit, optimum, plot, read_runs

SIZES = [(n, n * ratio) for n in (1e7, 3e7, 1e8, 3e8) for ratio in (20, 60)]


def best_rate(params, tokens, active):
    return 1.8 * params**-0.7 * tokens**0.3 * (params / active) ** -0.25


def best_batch(params, tokens, active):
    return 0.6 * tokens**0.57


def runs(sizes=SIZES, sparsities=(1,), noise=0.0, seed=0):
    """A grid of six rates and four batches around the optimum of each size."""
    choose = random.Random(seed)
    table = []
    for (params, tokens), sparsity in itertools.product(sizes, sparsities):
        active = params / sparsity
        rate, batch = best_rate(params, tokens, active), best_batch(params, tokens, active)
        for i, j in itertools.product(range(-3, 3), range(-1, 3)):
            x, y = 0.35 * i + 0.1, 0.7 * j - 0.2
            loss = 3 + 0.05 * x * x + 0.03 * y * y - 0.02 * x * y + choose.gauss(0, noise)
            point = (rate * math.exp(x), batch * math.exp(y))
            table.append(TrainedRun(params, active, tokens, *point, loss))
    return table


def test_the_optimum_of_a_grid_lies_between_its_points():
    best = optimum(runs(SIZES[:1]))
    assert best.inside
    assert best.rate == pytest.approx(best_rate(*SIZES[0], SIZES[0][0]), rel=1e-3)
    assert best.batch == pytest.approx(best_batch(*SIZES[0], SIZES[0][0]), rel=1e-3)
    assert best.loss == pytest.approx(3, abs=1e-4)


def test_a_law_of_exact_runs_predicts_a_hundred_times_the_size():
    law = fit(runs())
    assert law.terms == ("one", "params", "tokens")
    prediction = law.predict(3e10, 6e11)
    assert prediction["rate"][0] == pytest.approx(best_rate(3e10, 6e11, 3e10), rel=0.01)
    assert prediction["batch"][0] == pytest.approx(best_batch(3e10, 6e11, 3e10), rel=0.01)
    assert law.formula("rate").startswith("rate = 1.8") and "params^-0.7" in law.formula("rate")


def test_a_mixture_of_experts_needs_total_and_active_parameters():
    law = fit(runs(sparsities=(1, 4, 16)))
    assert law.terms == ("one", "params", "tokens", "sparsity")
    rate = law.predict(3e10, 6e11, 3e9)["rate"][0]
    assert rate == pytest.approx(best_rate(3e10, 6e11, 3e9), rel=0.01)
    with pytest.raises(ValueError, match="the law knows dense models alone"):
        fit(runs()).predict(3e10, 6e11, 3e9)


def test_intervals_hold_the_truth_and_grow_with_noise_and_distance():
    law = fit(runs(noise=0.003))
    value, lower, upper = law.predict(1e9, 2e10)["rate"]
    assert lower < value < upper and lower < best_rate(1e9, 2e10, 1e9) < upper
    near = law.predict(1e8, 2e9)["rate"]
    assert upper / lower > near[2] / near[1] > 1
    quiet = fit(runs(noise=0.0005)).predict(1e9, 2e10)["rate"]
    assert quiet[2] / quiet[1] < upper / lower


def test_runs_of_one_batch_give_a_law_of_rates():
    table = [run for run in runs() if run.batch == min(r.batch for r in runs())]
    some = [TrainedRun(r.params, r.active, r.tokens, r.rate, 1e5, r.loss) for r in runs()]
    assert table and optimum(some[:24]).batch == pytest.approx(1e5)


def test_a_grid_that_misses_the_minimum_says_so():
    table = [TrainedRun(1e7, 1e7, 2e8, 10.0**-i, 1e5, 3.0 + 0.1 * i) for i in range(1, 8)]
    assert not optimum(table).inside


def test_a_law_is_written_read_and_drawn(tmp_path):
    law = fit(runs(noise=0.001))
    (tmp_path / "law.json").write_text(law.to_json())
    again = RateLaw.load(str(tmp_path / "law.json"))
    assert again.predict(1e9, 2e10) == law.predict(1e9, 2e10)
    plot(again, tmp_path / "law.png")
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not a law of rates"):
        RateLaw.load(str(tmp_path / "other.json"))


HEADER = "params,tokens,rate,batch,loss\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("params,rate\n1,2\n", "no column \\['tokens', 'batch', 'loss'\\]"),
        (HEADER + "1e7,2e8,fast,1e5,3\n", "line 2: could not convert"),
        (HEADER + "1e7,2e8,0,1e5,3\n", "line 2: a value that is not above 0"),
        ("active," + HEADER + "2e7,1e7,2e8,1e-3,1e5,3\n", "more active parameters"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(text, message, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs(str(tmp_path / "runs.csv"))


def test_one_size_is_no_law(tmp_path):
    (tmp_path / "runs.csv").write_text(HEADER + "1e7,2e8,1e-3,1e5,3\n1e7,2e8,2e-3,1e5,nan\n")
    table = read_runs(str(tmp_path / "runs.csv"))
    assert len(table) == 1  # the one that diverged is left out
    with pytest.raises(ValueError, match="1 sizes and token counts"):
        fit(table)
    always_20 = [(n, 20 * n) for n in (1e7, 3e7, 1e8)]
    with pytest.raises(ValueError, match="do not tell \\['params', 'tokens'\\] apart"):
        fit(runs(always_20))


def pretrain_full():
    path = Path(__file__).parents[2] / "experiments" / "pretrain_full.py"
    spec = importlib.util.spec_from_file_location("experiment_by_law", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_full_pretraining_takes_its_rates_from_a_law(tmp_path):
    module, path = pretrain_full(), tmp_path / "law.json"
    dense = RateLaw(
        ("one", "params", "tokens"),
        {"rate": (math.log(20), -0.5, 0.0), "batch": (math.log(0.9), 0.0, 0.55)},
        {target: ((0.0, 0.0, 0.0),) for target in ("rate", "batch")},
        (),
    )
    path.write_text(dense.to_json())
    given = replace(module.CONFIGS["8b"], law=str(path))
    config = module.by_law(given)
    params = count_parameters(given.model).non_embedding
    rows = [stage.data.batch for stage in config.stages]
    assert config.stages[0].optim.peak == pytest.approx(20 * params**-0.5)
    predicted = 0.9 * 30e12**0.55 / 4096
    assert rows[0] == 2 ** round(math.log2(predicted)) and rows[0] != given.stages[0].data.batch
    for before, after in zip(given.stages, config.stages, strict=True):
        assert after.data.batch / before.data.batch == rows[0] / 2048
        assert after.optim.peak / before.optim.peak == pytest.approx(
            config.stages[0].optim.peak / given.stages[0].optim.peak
        )
        ways = before.data.batch // before.microbatches
        assert after.data.batch // after.microbatches == ways
        tokens = [s.steps * s.data.batch * s.data.length for s in (before, after)]
        assert tokens[1] == pytest.approx(tokens[0], rel=1e-3)
    with pytest.raises(ValueError, match="the law knows dense models alone"):
        module.by_law(replace(module.CONFIGS["30b-a3b"], law=str(path)))
    small = replace(dense, coefficients=dense.coefficients | {"batch": (math.log(1e5), 0, 0)})
    path.write_text(small.to_json())
    with pytest.raises(ValueError, match="rows in s1, but the slice takes 1024 at a time"):
        module.by_law(given)


def test_a_share_of_active_parameters_that_hardly_differs_has_no_power():
    """Widths of one form of experts: N / n is 2.8 to 2.9 of all of them."""
    runs = [
        TrainedRun(n, n / (2.8 + 0.05 * i), d * n, rate, batch, (rate / 2e-3 - 1) ** 2 + batch / d)
        for i, n in enumerate((8e3, 14e3, 22e3))
        for d in (5, 10)
        for rate in (1e-3, 2e-3, 4e-3)
        for batch in (64.0, 128.0)
    ]
    law = fit(runs)
    assert law.terms == ("one", "params", "tokens")
    assert law.predict(50e3, 500e3, 50e3 / 2.9)["rate"][0] == pytest.approx(2e-3, rel=0.5)
    with pytest.raises(ValueError, match=r"active 50000 of 50000: the law knows 0.357 of them"):
        law.predict(50e3, 500e3)
