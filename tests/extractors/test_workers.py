"""Worker processes: what they send back, and what they survive."""

import importlib
import os
import signal
import sys
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction import workers
from mnerfeat.extraction.looking import Look
from mnerfeat.extraction.workers import Job, WorkerPool, look_here
from tests.extractors import fakes
from tests.extractors.pictures import encoded, picture


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = []
    for i in range(12):
        made.append(tmp_path / f"{i}.png")
        made[-1].write_bytes(encoded(picture(20 + i, 20, seed=i)))
    return made


PREPARES = {"vit": fakes.FakePrepare("vit"), "quality": fakes.FakePrepare("quality")}


def look(paths: list[Path], *, count: int = 2, timeout: float = 60.0) -> list[Look]:
    """What came of each image, in order."""
    jobs = [Job(path=path, extractors=("vit", "quality")) for path in paths]
    with WorkerPool(PREPARES, workers=count, timeout=timeout) as pool:
        found = dict(pool.look(jobs, Event()))
    assert sorted(found) == list(range(len(paths)))  # each once
    return [found[i] for i in range(len(paths))]


def same(a: Look, b: Look) -> bool:
    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value
        return {k: (v.dtype, v.shape, v.tobytes()) for k, v in value.items()}

    prepared = [{k: plain(v) for k, v in look.prepared.items()} for look in (a, b)]
    return (a.id, a.size, a.reason, prepared[0]) == (b.id, b.size, b.reason, prepared[1])


def test_workers_see_what_the_main_process_sees(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "odd.png").write_bytes(encoded(picture(*fakes.REFUSED)))
    (tmp_path / "large.png").write_bytes(encoded(picture(2000, 1800)))  # more than a slot
    paths = [*paths, tmp_path / "bad.jpg", tmp_path / "odd.png", tmp_path / "large.png",
             tmp_path / "gone.png"]  # fmt: skip
    assert np.asarray(picture(2000, 1800)).nbytes > workers.SLOT_BYTES
    jobs = [Job(path=path, extractors=("vit", "quality")) for path in paths]
    here = [found for _, found in look_here(jobs, PREPARES, Event())]
    for ours, theirs in zip(here, look(paths), strict=True):
        assert same(ours, theirs)


def test_an_image_that_kills_its_worker_costs_no_other(paths: list[Path]) -> None:
    paths[3].write_bytes(encoded(picture(*fakes.KILLER)))
    found = look(paths)
    assert found[3].reason == "the process that decoded it was killed by SIGKILL, 2 times"
    assert all(found[i].reason is None for i in range(12) if i != 3)


def test_an_image_that_hangs_its_worker_costs_no_other(paths: list[Path]) -> None:
    paths[0].write_bytes(encoded(picture(*fakes.HANGER)))
    found = look(paths[:6], timeout=1.5)
    assert found[0].reason == "decoding took more than 1.5 seconds, 2 times"
    assert all(look.reason is None for look in found[1:])


def test_a_worker_that_was_killed_for_another_is_no_harm(paths: list[Path]) -> None:
    jobs = [Job(path=path, extractors=("vit",)) for path in paths]
    with WorkerPool(PREPARES, workers=1, timeout=60) as pool:
        stream = pool.look(jobs, Event())
        found = [next(stream)]
        os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
        found += stream
    assert sorted(number for number, _ in found) == list(range(12))
    assert all(look.reason is None for _, look in found)


def test_no_process_is_left(paths: list[Path]) -> None:
    jobs = [Job(path=path, extractors=("vit",)) for path in paths]
    with WorkerPool(PREPARES, workers=2, timeout=60) as pool:
        next(pool.look(jobs, Event()))
        processes = [worker._process for worker in pool._workers]
    assert all(process.returncode is not None for process in processes)


def test_it_stops_when_asked_to(paths: list[Path]) -> None:
    jobs = [Job(path=path, extractors=("vit",)) for path in paths]
    stop = Event()
    with WorkerPool(PREPARES, workers=1, timeout=60) as pool:
        stream = pool.look(jobs, stop)
        next(stream)
        stop.set()
        assert len(list(stream)) < 11
    assert list(look_here(jobs, PREPARES, stop)) == []


def test_jobs_are_taken_as_workers_become_free(paths: list[Path]) -> None:
    taken: list[int] = []

    def jobs() -> Any:
        for i, path in enumerate(paths):
            taken.append(i)
            yield Job(path=path, extractors=("vit",))

    with WorkerPool(PREPARES, workers=1, timeout=60) as pool:
        stream = pool.look(jobs(), Event())
        for done, _ in enumerate(stream):
            assert len(taken) <= done + workers.SLOTS + 1


def test_a_worker_that_cannot_start_is_an_error(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text("class Prepare:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    prepare = importlib.import_module("elsewhere").Prepare()
    sys.path.remove(str(tmp_path))
    with (
        WorkerPool({"vit": prepare}, workers=1, timeout=60) as pool,
        pytest.raises(ExtractionError, match="elsewhere"),
    ):
        next(pool.look([Job(path=paths[0], extractors=("vit",))], Event()))
    monkeypatch.setattr(workers, "_START", "import sys; sys.exit(7)")
    with (
        WorkerPool(PREPARES, workers=1, timeout=60) as pool,
        pytest.raises(ExtractionError, match="ended with 7 before it could look"),
    ):
        next(pool.look([Job(path=paths[0], extractors=("vit",))], Event()))


class NotesPriority:
    """Notes the priority of its process when it gets there, and when it is used."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.at_first = os.nice(0)

    def __getstate__(self) -> dict[str, Any]:
        return {"not": "empty"}

    def __call__(self, image: Any) -> Any:
        return {"niceness": np.array([self.at_first, os.nice(0)])}


@pytest.mark.parametrize("yielding", [False, True])
def test_a_worker_begins_before_it_lets_others_go_first(paths: list[Path], yielding: bool) -> None:
    job = Job(path=paths[0], extractors=("vit",))
    with WorkerPool({"vit": NotesPriority()}, workers=1, timeout=60, yielding=yielding) as pool:
        ((_, found),) = pool.look([job], Event())
    prepared = found.prepared["vit"]
    assert not isinstance(prepared, str)
    here = os.nice(0)
    assert prepared["niceness"].tolist() == [here, min(19, here + 10) if yielding else here]
