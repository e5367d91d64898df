"""Runs that are killed, stopped, out of disk, or two at once end in the same cache."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mnerfeat.cache import FeatureCache
from tests.extractors.pictures import encoded, picture

ROOT = Path(__file__).resolve().parents[2]
# Where the tests run in the background of a shell, Ctrl-C is ignored by all that they start.
START = """
import signal
from tests.extraction import fakes

signal.signal(signal.SIGINT, signal.default_int_handler)
fakes.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = tmp_path_factory.mktemp("images")
    for i in range(120):
        (images / f"{i:03}.png").write_bytes(encoded(picture(20 + i % 7, 20, seed=i)))
    (images / "copy.png").write_bytes((images / "007.png").read_bytes())
    (images / "bad.jpg").write_bytes(b"no image")
    (images / "loop.jpg").symlink_to(images / "loop.jpg")
    return images


def start(folder: Path, cache: Path, *options: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", START, folder, cache, *options],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, cache: Path, *options: str) -> str:
    process = start(folder, cache, *options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


TEXTS = 'texts=["a b", "c", "d e f g h i j"]'


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The digest of a run that nothing interrupted."""
    cache = tmp_path_factory.mktemp("whole") / "features.h5"
    finish(folder, cache, TEXTS, "workers=0")
    return FeatureCache(cache).digest()


def interrupt(
    process: "subprocess.Popen[str]",
    number: int,
    *,
    seconds: float = 0.0,
    parts: Path | None = None,
) -> int:
    """Send a signal after some seconds, and not before some parts are there; gives the code."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    while parts and len(list(parts.glob("part-*.h5"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def moments(count: int) -> list[float]:
    """Random ones in the half second or so that a run takes, the same in every run of tests."""
    return [random.Random(i).uniform(0.0, 0.7) for i in range(count)]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 20))]
)
def test_killed_at_random_moments_and_run_again(
    folder: Path, whole: Any, tmp_path: Path, seed: int
) -> None:
    cache = tmp_path / "features.h5"
    workers = f"workers={seed % 2}"
    for seconds in moments(4 * seed + 4)[4 * seed :]:
        interrupt(start(folder, cache, TEXTS, workers), signal.SIGKILL, seconds=seconds)
        FeatureCache(cache, missing_ok=True).digest()  # a reader always finds a whole cache
    finish(folder, cache, TEXTS, workers)
    assert FeatureCache(cache).digest() == whole
    assert leftovers(tmp_path) == ["features.h5"]


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, {-2, 130}), (signal.SIGTERM, {143})])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_by_a_signal_it_keeps_what_it_finished(
    folder: Path, whole: Any, tmp_path: Path, number: int, codes: set[int], workers: int
) -> None:
    cache = tmp_path / "features.h5"
    process = start(folder, cache, TEXTS, f"workers={workers}", "delay=0.01")
    assert interrupt(process, number, parts=tmp_path / "features.h5.d") in codes
    held = FeatureCache(cache)
    finished = int((held["vit_cls"].state == 1).sum())
    assert 0 < finished < 121
    again = finish(folder, cache, TEXTS, "workers=0")
    assert "reused" in again
    assert FeatureCache(cache).digest() == whole


def test_two_at_once_end_in_the_same_cache(folder: Path, whole: Any, tmp_path: Path) -> None:
    cache = tmp_path / "features.h5"
    processes = [start(folder, cache, TEXTS, "workers=0") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert FeatureCache(cache).digest() == whole
    assert leftovers(tmp_path) == ["features.h5"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("hit", ["a part", "the pack"])
def test_a_full_disk_is_an_error_and_what_was_finished_stays(
    folder: Path, whole: Any, tmp_path: Path, hit: str, workers: int
) -> None:
    """A limit on the size of files stands for the disk."""
    cache = tmp_path / "features.h5"
    finish(folder, tmp_path / "other.h5", TEXTS, "workers=0")
    limit = 3_000 if hit == "a part" else (tmp_path / "other.h5").stat().st_size - 1_000
    process = start(folder, cache, TEXTS, f"workers={workers}", f"file_limit={limit}")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "StorageError" in err
    assert "run the same command again" in err
    done = FeatureCache(cache, missing_ok=True)
    if hit == "the pack":
        assert (done["vit_cls"].state == 1).sum() == 120
    finish(folder, cache, TEXTS, "workers=0")
    assert FeatureCache(cache).digest() == whole
