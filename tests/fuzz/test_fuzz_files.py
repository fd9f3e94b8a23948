"""Damaged files of every kind: one documented error that names the file, in bounded time."""

import pytest
from bounds import attack
from file_targets import FILES

EVERY = pytest.mark.parametrize("target", FILES, ids=[target.name for target in FILES])


@EVERY
def test_damaged_files_are_refused_by_name_and_soon(target, tmp_path):
    if not target.share:
        pytest.skip("in the long run alone")
    attack(target, tmp_path, target.share)


@EVERY
@pytest.mark.slow
def test_thousands_of_damaged_files_are_refused_by_name_and_soon(target, tmp_path):
    outcome = attack(target, tmp_path, target.full, "long")
    print(f"{target.name}: {dict(outcome.ends)}, slowest {outcome.slowest:.3f} s")
