"""Packing changes nothing that a reader can see, whatever happens on the way."""

import fcntl
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mnerfeat.cache import FeatureCache, pack, verify
from mnerfeat.errors import StorageError
from tests.cache.builders import put_numbered
from tests.unprivileged import call_without_write_access

WRITER = """
import sys
from pathlib import Path
from mnerfeat.cache import pack
from tests.cache.builders import put_numbered
path, start = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for step in range(10_000):
    first = start + 3 * step
    put_numbered(path, range(first, first + 3))
    print(first, flush=True)
    if step % 5 == 4:
        pack(path)
"""


def assert_tidy(path: Path) -> None:
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.h5"]


def test_packing_is_canonical(path: Path, tmp_path: Path) -> None:
    put_numbered(path, range(20))
    pack(path)
    other = tmp_path / "other" / "features.h5"
    for numbers in ([5, 19, 2], range(10, 18), [0, 1], [3, 4, 6, 7, 8, 9, 18, 2]):
        put_numbered(other, numbers)
    unpacked = FeatureCache(other).digest()
    pack(other)
    assert FeatureCache(path).digest() == FeatureCache(other).digest() == unpacked
    before = path.read_bytes()
    pack(path)
    assert path.read_bytes() == before
    assert not (tmp_path / "other" / "features.h5.d").exists()


def test_a_part_left_behind_by_a_killed_pack_is_not_new(path: Path, tmp_path: Path) -> None:
    put_numbered(path, [1])
    put_numbered(path, [2])
    saved = tmp_path / "saved"
    shutil.copytree(tmp_path / "features.h5.d", saved)
    pack(path)
    digest = FeatureCache(path).digest()
    shutil.copytree(saved, tmp_path / "features.h5.d")
    assert len(FeatureCache(path).files) == 1
    shutil.rmtree(saved)
    pack(path)
    assert FeatureCache(path).digest() == digest
    assert_tidy(path)


def test_what_a_killed_writer_left_is_swept_but_a_living_one_is_not(path: Path) -> None:
    put_numbered(path, [1])
    folder = path.parent / "features.h5.d"
    dead = folder / ".part-0.h5.1.tmp"
    dead.write_bytes(b"half a part")
    with (folder / ".part-1.h5.2.tmp").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        pack(path)
        assert not dead.exists()
        assert Path(living.name).exists()
    pack(path)
    assert_tidy(path)


def test_a_full_disk_during_a_pack_leaves_the_cache_as_it_was(path: Path) -> None:
    put_numbered(path, range(2000))
    put_numbered(path, [2000])
    digest = FeatureCache(path).digest()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(StorageError, match="no space left"):
            pack(path)
        with pytest.raises(StorageError, match="no space left"):
            put_numbered(path, range(5000, 7000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert FeatureCache(path).digest() == digest
    assert not [p for p in path.parent.rglob("*") if p.name.endswith((".tmp", ".lock"))]
    pack(path)
    assert FeatureCache(path).digest() == digest
    assert_tidy(path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_folder_that_cannot_be_written_says_so(path: Path) -> None:
    def write() -> None:
        with pytest.raises(StorageError, match="permissions"):
            put_numbered(path, [1])

    call_without_write_access(path.parent, write)


def test_no_acknowledged_row_is_lost_when_two_writers_are_killed(path: Path) -> None:
    """Two processes write and pack; one is killed at a random moment and started again."""
    rng = np.random.default_rng(7)
    acknowledged: set[int] = set()
    starts = {0: 0, 1: 1_000_000}
    for _ in range(4):
        running = [
            (
                who,
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(path), str(starts[who])],
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=Path(__file__).parents[2],
                ),
            )
            for who in starts
        ]
        for _, process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        time.sleep(float(rng.uniform(0.05, 0.4)))
        for who, process in running:
            process.kill()
            firsts = [int(line) for line in process.communicate()[0].splitlines()]
            acknowledged.update(n for first in firsts for n in range(first, first + 3))
            starts[who] += 3 * len(firsts)
        assert verify(path) == []
        cache = FeatureCache(path)
        rows = cache.rows([f"{n}.jpg" for n in sorted(acknowledged)])
        assert cache["vit_cls"][rows][:, 0].tolist() == sorted(acknowledged)
    assert acknowledged
    pack(path)
    assert verify(path) == []
    assert_tidy(path)
