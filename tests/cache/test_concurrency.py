"""Many readers, writers and packs at once: everybody always sees a whole cache."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mnerfeat.cache import FeatureCache, info, pack, verify
from mnerfeat.cache.maintenance import verify as inspecting
from mnerfeat.cache.sealed import SealedFile, open_sealed
from mnerfeat.errors import CacheError, StorageError
from tests.cache.builders import put_numbered
from tests.unprivileged import call_without_write_access

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from tests.cache.builders import put_numbered
path, start, parts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for first in range(start, start + 3 * parts, 3):
    put_numbered(path, range(first, first + 3))
    print(first, flush=True)
"""

PACKER = """
import sys
from pathlib import Path
from mnerfeat.cache import pack
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    pack(sys.argv[1])
"""

READER = """
import sys
import numpy as np
from pathlib import Path
from mnerfeat.cache import FeatureCache
print("ready", flush=True)
seen = 0
looks = 0
while not Path(sys.argv[2]).exists():
    cache = FeatureCache(sys.argv[1])
    names = {name: row for name, row in cache.images.names()}
    assert len(names) >= seen, "rows have vanished"
    assert len(names) % 3 == 0, "half a part"
    rows = cache.rows(list(names))
    assert rows.tolist() == list(names.values())
    wanted = np.array([int(name[:-4]) for name in names], np.float32)
    assert (cache["vit_cls"][rows] == wanted[:, None]).all(), "other rows"
    seen = len(names)
    looks += 1
print(looks)
"""


FOLDER = """
import os, sys
from pathlib import Path
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    for _ in range(100):
        os.mkdir(sys.argv[1] + ".d")
        os.rmdir(sys.argv[1] + ".d")
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def finished(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    return output.splitlines()


@contextlib.contextmanager
def until(stop: Path, *commands: tuple[str, Path]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have begun, and are told to end; none is left, whatever happens."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(start(code, path, stop)) for code, path in commands]
        stack.callback(stop.touch)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes


def test_writers_packs_and_readers_at_once(path: Path, tmp_path: Path) -> None:
    """Three processes write, two pack, two read."""
    put_numbered(path, range(3))
    stop = tmp_path / "stop"
    with (
        until(stop, *((code, path) for code in (PACKER, PACKER, READER, READER))) as others,
        contextlib.ExitStack() as stack,
    ):
        starts = [1000, 2000, 3000]
        writers = [stack.enter_context(start(WRITER, path, first, 20)) for first in starts]
        acknowledged = [int(line) for writer in writers for line in finished(writer)]
        stop.touch()
        looks = [int(lines[-1]) for lines in map(finished, others) if lines]
    assert len(looks) == 2
    assert min(looks) > 0
    assert len(acknowledged) == 60
    pack(path)
    assert verify(path) == []
    cache = FeatureCache(path)
    numbers = [0, 1, 2, *(n for first in acknowledged for n in range(first, first + 3))]
    assert len(cache.images) == len(numbers)
    rows = cache.rows([f"{n}.jpg" for n in numbers])
    assert cache["vit_cls"][rows][:, 0].tolist() == numbers
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "stop"]


def test_reading_while_the_folder_of_parts_comes_and_goes(path: Path, tmp_path: Path) -> None:
    put_numbered(path, range(3))
    pack(path)
    stop = tmp_path / "stop"
    with until(stop, (FOLDER, path)) as (process,):
        for _ in range(2000):
            assert len(FeatureCache(path).images) == 3
        stop.touch()
        finished(process)


def test_a_part_is_packed_before_its_writer_is_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def rename_and_pack(self: Path, target: Path) -> None:
        rename(self, target)
        if target.parent != path.parent:
            pack(path)

    monkeypatch.setattr(Path, "replace", rename_and_pack)
    put_numbered(path, range(3))
    assert not path.with_name("features.h5.d").exists()
    assert sorted(FeatureCache(path)["vit_cls"][:][:, 0].tolist()) == [0, 1, 2]


def test_verify_looks_again_where_a_part_is_packed_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_numbered(path, [1])
    opened = []

    def open_and_pack(file: Path) -> SealedFile:
        opened.append(file)
        if len(opened) == 2:
            pack(path)
        return open_sealed(file)

    pack(path)
    put_numbered(path, [2])
    monkeypatch.setattr(inspecting, "open_sealed", open_and_pack)
    rows = []
    assert verify(path, lambda done, _: rows.append(done)) == []
    assert rows[-1] == 2
    assert len(opened) == 3


def test_info_of_a_cache_that_is_packed_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_numbered(path, range(3))
    size = sum(file.stat().st_size for file in path.parent.rglob("*.h5"))

    def open_and_pack(file: Path) -> FeatureCache:
        cache = FeatureCache(file)
        pack(file)
        return cache

    monkeypatch.setattr(inspecting, "FeatureCache", open_and_pack)
    found = info(path)
    assert (found.parts, found.bytes) == (1, size)


def test_a_folder_of_parts_that_may_not_be_read_hides_no_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_numbered(path, range(3))
    pack(path)
    put_numbered(path, range(3, 6))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    for look in (FeatureCache, verify, info):
        with pytest.raises(CacheError, match=r"features\.h5\.d cannot be read: Permission denied"):
            look(path)


def test_a_map_outlives_the_file_it_shows(path: Path) -> None:
    put_numbered(path, range(100))
    pack(path)
    cache = FeatureCache(path)
    view = cache["vit_cls"][:]
    rows = cache.rows([f"{n}.jpg" for n in range(100)])
    put_numbered(path, range(100, 200))
    pack(path)
    path.write_bytes(b"")
    path.unlink()
    assert view[rows][:, 0].tolist() == [*range(100)]
    assert cache["vit_cls"][rows][:, 0].tolist() == [*range(100)]
    assert cache["vit_cls"].tensor()[rows][:, 0].tolist() == [*range(100)]


def test_a_pack_waits_for_another(path: Path) -> None:
    put_numbered(path, range(3))
    with path.with_name(".features.h5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start("import sys; from mnerfeat.cache import pack; pack(sys.argv[1])", path)
        time.sleep(1)
        assert process.poll() is None
        assert len(FeatureCache(path).images.index.files) == 2
    finished(process)
    assert len(FeatureCache(path).images.index.files) == 1


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_reading_and_writing_parts_needs_no_locks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system that is mounted without them."""
    put_numbered(path, range(3))
    pack(path)
    without_locks(monkeypatch)
    put_numbered(path, range(3, 6))
    cache = FeatureCache(path)
    assert cache["vit_cls"][cache.rows(["1.jpg", "4.jpg"])][:, 0].tolist() == [1, 4]
    assert verify(path) == []
    with pytest.raises(StorageError, match="has no locks") as caught:
        pack(path)
    assert "local disk" in str(caught.value)
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.h5", "features.h5.d"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_reading_needs_no_right_to_write(path: Path) -> None:
    put_numbered(path, range(3))
    pack(path)
    put_numbered(path, range(3, 6))

    def read() -> None:
        cache = FeatureCache(path)
        rows = cache.rows(["1.jpg", "4.jpg"])
        assert cache["vit_cls"][rows][:, 0].tolist() == [1, 4]
        with pytest.raises(StorageError, match="permissions"):
            pack(path)
        assert verify(path) == []

    call_without_write_access(path.parent, read)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_packing_a_packed_cache_needs_no_right_to_write(path: Path) -> None:
    put_numbered(path, range(3))
    pack(path)
    call_without_write_access(path.parent, lambda: pack(path))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
def test_workers_of_a_torch_loader_read_the_same(path: Path, method: str) -> None:
    torch = pytest.importorskip("torch")
    put_numbered(path, range(40))
    pack(path)
    put_numbered(path, range(40, 60))
    vit = FeatureCache(path)["vit_cls"]
    loader = torch.utils.data.DataLoader(
        vit, batch_size=16, num_workers=2, multiprocessing_context=method
    )
    read = torch.cat(list(loader))
    assert read.dtype == torch.float32
    assert (read.numpy() == vit[:]).all()


def test_a_cache_may_be_moved_and_its_parts_with_it(path: Path, tmp_path: Path) -> None:
    put_numbered(path, range(3))
    pack(path)
    put_numbered(path, range(3, 6))
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "mine.h5"
    shutil.move(path, other)
    shutil.move(path.with_name("features.h5.d"), other.with_name("mine.h5.d"))
    cache = FeatureCache(other)
    assert sorted(cache["vit_cls"][np.arange(6)][:, 0].tolist()) == [*range(6)]
