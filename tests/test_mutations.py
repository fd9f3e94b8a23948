"""The table of faults fits the code it is about, and (slow) every fault in it is caught."""

import mutations
import pytest

MUTANTS = mutations.mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_row_of_the_table_fits_the_code(mutant):
    compile(mutant.planted(), mutant.file, "exec")
    assert (mutations.ROOT / "tests" / mutant.tests.split()[0]).exists()


def test_the_table_covers_the_rooms_and_names_are_unique():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 80
    rooms = {mutant.file.split("/")[0] for mutant in MUTANTS}
    assert rooms >= {
        "ops",
        "losses",
        "data",
        "stages",
        "infer",
        "rewards",
        "eval",
        "curate",
        "recipe",
    }


@pytest.mark.slow
def test_at_most_two_faults_survive():
    results = {mutant.name: mutations.outcome(mutant) for mutant in MUTANTS}
    missed = {name: result for name, result in results.items() if result != mutations.CAUGHT}
    assert len(missed) <= 2, missed
