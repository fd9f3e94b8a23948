"""The recipe is killed, or its disk fails, and goes on: it ends with the same report."""

import signal
import time

import first_stages
import pytest
from broken_disk import TROUBLES, Disk
from killed_recipe import (
    Recipe,
    assert_same_report,
    at_work,
    between_stages,
    differences,
    kill_all,
    kills,
    random_moments,
    random_ways,
    results,
    stop_parent,
)

from qwen3.recipe import seed_run
from qwen3.recipe.budgets import BUDGETS
from qwen3.recipe.stage_table import STAGES
from qwen3.train.stop_signals import STOPPED

MADE_UP = "recipe with made-up scores"
REPORT = "report"  # where waiting_recipe.py waits last


def test_results_are_compared_but_for_their_times():
    one = {"seeds": [{"exam": {"accuracy": [0.5, 0.4]}, "wall": {"exam": 2.0}, "seconds": 1.0}]}
    two = {"seeds": [{"exam": {"accuracy": [0.5, 0.4]}, "wall": {"exam": 3.0}, "seconds": 2.0}]}
    assert not list(differences(one, two))
    two["seeds"][0]["exam"]["accuracy"][1] = 0.41
    two["seeds"][0]["more"] = 0
    assert list(differences(one, two)) == [
        "/seeds[0]/exam/accuracy[1]: 0.4, 0.41",
        "/seeds[0]/more: None, 0",
    ]
    assert list(differences(1, True)) and list(differences([1], [1, 2]))


def test_a_kill_and_a_stop_in_the_first_stages_change_nothing(tmp_path):
    moments = {"a stage has ended": between_stages(), "at work": at_work(0.5)}
    ways = iter((kill_all, stop_parent))
    met = kills("first stages", tmp_path / "run", moments, ways, told=tmp_path / "told.txt")
    assert [kill.code for kill in met] == [-signal.SIGKILL, STOPPED] and met[0].stages == 1
    run = seed_run.SeedRun(tmp_path / "undisturbed", BUDGETS[0], 0)
    by_hand = {stage.name: stage.run(run) for stage in first_stages.FIRST}
    assert not list(differences(results(tmp_path / "run"), {"seeds": [by_hand]}))
    for file in (run.path / "documents").rglob("*.jsonl"):
        again = tmp_path / "run" / "seed0" / file.relative_to(run.path)
        assert again.read_bytes() == file.read_bytes()


@pytest.fixture(scope="module", params=["recipe", MADE_UP])
def whole(request, tmp_path_factory):
    """A program of the recipe, and the workdir that it leaves when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = Recipe(request.param, folder / "run", told=folder / "told.txt")
    assert recipe.wait() == 0, recipe.said()
    return request.param, folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_recipe_killed_ten_times_ends_with_the_same_report(whole, tmp_path, seed):
    program, undisturbed = whole
    moments = random_moments(10, seed)
    ways = random_ways(seed)
    met = kills(program, tmp_path / "run", moments, ways, told=tmp_path / "told.txt")
    assert len(met) == 10
    assert_same_report(tmp_path / "run", undisturbed)


@pytest.fixture
def disk(tmp_path):
    mounted = Disk(tmp_path)
    yield mounted
    mounted.close()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_disk_that_fails_in_every_stage_costs_one_start_each(whole, disk, tmp_path, trouble):
    program, _ = whole
    if program != MADE_UP:
        pytest.skip("once is enough, where RL trains too")
    undisturbed = tmp_path / "undisturbed"  # by one worker too: threads change the last digits
    recipe = Recipe(program, undisturbed, "--workers", "1", told=tmp_path / "told.txt")
    assert recipe.wait() == 0, recipe.said()
    seconds = in_trouble_everywhere(disk, tmp_path, trouble)
    assert {*seconds} == {REPORT, *(stage.name for stage in STAGES)}
    assert_same_report(disk.path / "run", undisturbed)


def in_trouble_everywhere(disk, folder, trouble):
    """Break the disk in the middle of each stage; {place: seconds until the recipe was gone}."""
    break_it, mend_it, words = TROUBLES[trouble]
    places, seconds = folder / "places", {}
    places.mkdir()
    options = {"told": folder / "told.txt", "PLACES": str(places)}
    while True:
        recipe = Recipe("waiting recipe", disk.path / "run", "--workers", "1", **options)
        while not (new := {path.stem for path in places.glob("*.begun")} - {*seconds}):
            if recipe.process.poll() is not None:
                assert recipe.wait() == 0, recipe.said()
                return seconds
            time.sleep(0.05)
        (place,) = new
        break_it(disk)
        began = time.monotonic()
        (places / f"{place}.go").touch()
        code = recipe.wait()
        seconds[place] = time.monotonic() - began
        print(f"{trouble} in {place}: gone with {code} after {seconds[place]:.1f} s", flush=True)
        last = recipe.said().splitlines()[-1]
        print(last, flush=True)
        assert code in (1, 2) and all(word in last for word in words), (place, recipe.said())
        assert "Traceback" not in recipe.said(), (place, recipe.said())
        mend_it(disk)
