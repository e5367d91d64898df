"""Worker processes: what they send back, and what they survive."""

import importlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction import workers
from mnerfeat.extraction.decoding import DecodeJob, DecodeResult
from mnerfeat.extraction.workers import DecoderPool, decode_here
from tests.extraction import fakes
from tests.extractors.pictures import encoded, picture


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = []
    for i in range(12):
        made.append(tmp_path / f"{i}.png")
        made[-1].write_bytes(encoded(picture(20 + i, 20, seed=i)))
    return made


ROOT = Path(__file__).resolve().parents[2]

PREPARES = {"vit": fakes.FakePrepare("vit"), "quality": fakes.FakePrepare("quality")}


def look(paths: list[Path], *, count: int = 2, timeout: float = 60.0) -> list[DecodeResult]:
    """What came of each image, in order."""
    jobs = [DecodeJob(path=path, extractors=("vit", "quality")) for path in paths]
    with DecoderPool(PREPARES, workers=count, timeout=timeout) as pool:
        found = dict(pool.decode(jobs, Event()))
    assert sorted(found) == list(range(len(paths)))  # each once
    return [found[i] for i in range(len(paths))]


def processes(pool: DecoderPool) -> list[BaseProcess]:
    return [d._context.process for d in pool._decoders if d._context.process is not None]


def same(a: DecodeResult, b: DecodeResult) -> bool:
    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value
        return {k: (v.dtype, v.shape, v.tobytes()) for k, v in value.items()}

    prepared = [{k: plain(v) for k, v in look.prepared.items()} for look in (a, b)]
    return (a.id, a.size, a.reason, prepared[0]) == (b.id, b.size, b.reason, prepared[1])


def test_workers_see_what_the_main_process_sees(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "odd.png").write_bytes(encoded(picture(*fakes.REFUSED)))
    (tmp_path / "large.png").write_bytes(encoded(picture(2000, 1800)))  # more than a pipe holds
    paths = [*paths, tmp_path / "bad.jpg", tmp_path / "odd.png", tmp_path / "large.png",
             tmp_path / "gone.png"]  # fmt: skip
    jobs = [DecodeJob(path=path, extractors=("vit", "quality")) for path in paths]
    here = [found for _, found in decode_here(jobs, PREPARES, Event())]
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
    jobs = [DecodeJob(path=path, extractors=("vit",)) for path in paths]
    with DecoderPool(PREPARES, workers=1, timeout=60) as pool:
        stream = pool.decode(jobs, Event())
        found = [next(stream)]
        os.kill(processes(pool)[0].pid or 0, signal.SIGKILL)
        found += stream
    assert sorted(number for number, _ in found) == list(range(12))
    assert all(look.reason is None for _, look in found)


def test_no_process_is_left(paths: list[Path]) -> None:
    jobs = [DecodeJob(path=path, extractors=("vit",)) for path in paths]
    with DecoderPool(PREPARES, workers=2, timeout=60) as pool:
        next(pool.decode(jobs, Event()))
        started = processes(pool)
    assert [process.exitcode for process in started] == [-signal.SIGKILL] * 2


def test_it_stops_when_asked_to(paths: list[Path]) -> None:
    jobs = [DecodeJob(path=path, extractors=("vit",)) for path in paths]
    stop = Event()
    with DecoderPool(PREPARES, workers=1, timeout=60) as pool:
        stream = pool.decode(jobs, stop)
        next(stream)
        stop.set()
        assert len(list(stream)) < 11  # at most the rest of its batch
    assert list(decode_here(jobs, PREPARES, stop)) == []


def test_jobs_are_taken_as_workers_become_free(paths: list[Path]) -> None:
    taken: list[int] = []

    def jobs() -> Any:
        for i, path in enumerate(paths):
            taken.append(i)
            yield DecodeJob(path=path, extractors=("vit",))

    with DecoderPool(PREPARES, workers=1, timeout=60) as pool:
        stream = pool.decode(jobs(), Event())
        for done, _ in enumerate(stream):
            assert len(taken) <= done + workers.BATCH_IMAGES * (workers.BATCHES_PER_DECODER + 1)


def test_a_worker_that_cannot_start_is_an_error(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text("class Prepare:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    prepare = importlib.import_module("elsewhere").Prepare()
    sys.path.remove(str(tmp_path))
    with (
        DecoderPool({"vit": prepare}, workers=1, timeout=60) as pool,
        pytest.raises(ExtractionError, match="elsewhere"),
    ):
        next(pool.decode([DecodeJob(path=paths[0], extractors=("vit",))], Event()))
    with (
        DecoderPool({"vit": EndsItsProcess()}, workers=1, timeout=60) as pool,
        pytest.raises(ExtractionError, match="ended with 7 before it could decode"),
    ):
        next(pool.decode([DecodeJob(path=paths[0], extractors=("vit",))], Event()))


class EndsItsProcess:
    def __reduce__(self) -> Any:
        return os._exit, (7,)

    def __call__(self, image: Any) -> Any:
        raise AssertionError


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
    job = DecodeJob(path=paths[0], extractors=("vit",))
    with DecoderPool({"vit": NotesPriority()}, workers=1, timeout=60, yielding=yielding) as pool:
        ((_, found),) = pool.decode([job], Event())
    prepared = found.prepared["vit"]
    assert not isinstance(prepared, str)
    here = os.nice(0)
    assert prepared["niceness"].tolist() == [here, min(19, here + 10) if yielding else here]


def test_decoders_import_neither_torch_nor_the_callers_script(
    paths: list[Path], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
from pathlib import Path
from threading import Event
from mnerfeat.extraction.decoding import DecodeJob
from mnerfeat.extraction.workers import DecoderPool
from tests.extraction.prepares import ListsModules
print("the script runs")
job = DecodeJob(path=Path({str(paths[0])!r}), extractors=("vit",))
with DecoderPool({{"vit": ListsModules()}}, workers=1, timeout=60) as pool:
    ((_, found),) = pool.decode([job], Event())
print(found.prepared["vit"]["torch"])
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.splitlines() == ["the script runs", "False"]


def test_decoders_end_with_a_run_that_is_killed(paths: list[Path]) -> None:
    """Also in the middle of an image, and while their server lives."""
    paths[0].write_bytes(encoded(picture(*fakes.HANGER)))
    script = f"""
from pathlib import Path
from threading import Event
from mnerfeat.extraction.decoding import DecodeJob
from mnerfeat.extraction.workers import DecoderPool
from tests.extraction.fakes import FakePrepare
jobs = [DecodeJob(path=Path({str(paths[0])!r}), extractors=("vit",))]
with DecoderPool({{"vit": FakePrepare("vit")}}, workers=2, timeout=600) as pool:
    stop = Event()
    pool._submit(enumerate(jobs))
    while not all(decoder.ready for decoder in pool._decoders):
        stop.wait(0.01)
    print(*[d._context.process.pid for d in pool._decoders], flush=True)
    stop.wait(600)
"""
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    run.kill()
    run.communicate()
    patience = time.monotonic() + 30
    while any(map(is_alive, pids)) and time.monotonic() < patience:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("limit", [512, 1 << 20])
def test_a_limit_on_the_size_of_files_does_not_concern_decoders(
    paths: list[Path], limit: int
) -> None:
    script = f"""
import resource
from pathlib import Path
from threading import Event
from mnerfeat.extraction.decoding import DecodeJob
from mnerfeat.extraction.workers import DecoderPool
from tests.extraction.fakes import FakePrepare
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
jobs = [DecodeJob(path=Path({str(paths[0])!r}), extractors=("vit",))]
with DecoderPool({{"vit": FakePrepare("vit")}}, workers=2, timeout=600) as pool:
    print([result.reason for _, result in pool.decode(jobs, Event())])
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (run.stdout, run.stderr) == ("[None]\n", "")
