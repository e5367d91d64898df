"""Kills, full disks and power cuts, in short; `tools/cache_crash.py` is the long form.

Each function of that script raises where one of the five properties does not hold.
"""

import errno
import tempfile
from pathlib import Path

import pytest

from mnerfeat.cache import storage
from mnerfeat.cache.maintenance import pack as packing
from tests.scripts import load

crash = load("tools/cache_crash.py")

# The children do nothing but write, and need none of the threads that other tests have started.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def folder_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `fsync` costs nothing; the long form runs on a disk."""
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")


def test_killed_at_random_moments() -> None:
    done = crash.kill_at_random(12, seed=1)
    assert done["kills"] == 12
    assert done["rows acknowledged"] > 0


@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_killed_at_random_moments_of_one_act(scenario: str) -> None:
    assert 0 <= crash.kill_during(scenario, 2, seed=2) <= 2


@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_killed_at_every_fourth_call_to_the_system(scenario: str) -> None:
    moments = ("before", "in the middle of", "after")
    number = 1
    while crash.kill_at(scenario, number, moments[number % 3]):
        number += 4
    assert number > 20


@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_an_error_in_every_fourth_call_to_the_system(scenario: str) -> None:
    number = 2
    while crash.fail_at(scenario, number, (errno.EIO, errno.ENOSPC, errno.EACCES)[number % 3]):
        number += 4
    assert number > 20


@pytest.mark.parametrize("reserving", [True, False])
@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_files_that_may_not_grow(scenario: str, reserving: bool) -> None:
    """Every 211th byte budget, and the last two: only the very last is enough."""
    size = crash.largest(scenario)
    sizes = [*range(0, size - 8, 211), size - 8, size - 1, size]
    assert crash.budgets(scenario, sizes, reserving=reserving) == len(sizes) - 1


@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_a_full_disk(scenario: str) -> None:
    tried = [crash.full_disk(scenario, pages) for pages in (0, 1, 2, 3, 20)]
    if None in tried:
        pytest.skip("no file system may be mounted here")
    assert tried[0] is False
    assert tried[-1] is True


@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_power_cuts(scenario: str) -> None:
    assert crash.cut_power(scenario) > 1


@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_power_cuts_would_be_noticed(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder's `fsync` each scenario loses rows in some state of the disk."""

    def forget(_: Path) -> None:
        return

    monkeypatch.setattr(storage, "fsync_folder", forget)
    monkeypatch.setattr(packing, "fsync_folder", forget)
    with pytest.raises(Exception, match=r"no feature cache|does not contain|holds no feature"):
        crash.cut_power(scenario)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", crash.SCENARIOS)
def test_every_experiment_in_its_long_form(scenario: str) -> None:
    """200 kills, every call to the system, every byte budget."""
    assert len(crash.everything(scenario, 200, seed=0)) == 9
