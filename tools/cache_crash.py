"""Kill writers, fill disks and cut the power, and see that no cache is ever worse for it.

    python tools/cache_crash.py --record benchmarks/results/cache_crash.md

After every case five things must hold: every row that was acknowledged is there, and passes its
checksum; every file opens with plain `h5py`; the next run completes; nothing is left behind. The
tests run a short form of each experiment. `TMPDIR` says where; in memory it takes a third of the
time, and only the kills at random moments gain from a real disk.
"""

import argparse
import contextlib
import errno
import fcntl
import itertools
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    merge,
    pack,
    stack_ids,
    verify,
)
from mnerfeat.errors import MnerfeatError, StorageError

MADE_BY = Provenance({"model": "vit", "revision": "1"})
ROWS = 3  # in a part
WIDTH = 40  # numbers in a row

Act = Callable[[Path], None]


# Writing and checking. Row n is the image `n.jpg`, whose feature is n, WIDTH times.


def put(path: Path, first: int) -> None:
    """One part with the rows from `first` on."""
    numbers = range(first, first + ROWS)
    CacheWriter(path).put(
        images=TableRows(
            ids=stack_ids([content_id(str(n).encode()) for n in numbers]),
            names=[(f"{n}.jpg", i) for i, n in enumerate(numbers)],
            features={
                "vit_cls": FeatureRows(
                    data=np.repeat(np.array(numbers, np.float32)[:, None], WIDTH, axis=1),
                    state=np.ones(ROWS, np.uint8),
                    provenance=MADE_BY,
                )
            },
        )
    )


def check(path: Path, acknowledged: Iterable[int], act: Act | None = None) -> None:
    """The five properties.

    Args:
        path: The cache.
        acknowledged: The rows that must be in it.
        act: What was interrupted; the next run does it again, then writes a part and packs.
    """
    acknowledged = sorted(acknowledged)
    _check_rows(path, acknowledged)
    for file in [path, *path.with_name(f"{path.name}.d").glob("part-*.h5")]:
        if file.exists():
            with h5py.File(file) as plain:  # one without rows is made first, for its identity
                assert (
                    plain["images/vit_cls/data"].shape[1:] == (WIDTH,)
                    if "images" in plain
                    else True
                )
    if act:
        act(path)
        acknowledged = sorted({*acknowledged, *ADDED.get(act, ())})
    new = 10**6 + random.randrange(10**6)
    put(path, new)
    pack(path)
    _check_rows(path, [*acknowledged, *range(new, new + ROWS)])
    with h5py.File(path) as plain:
        assert len(plain["images/id"]) >= len(acknowledged) + ROWS
    left = sorted(found.name for found in path.parent.iterdir())
    assert left == [path.name], left


def _check_rows(path: Path, acknowledged: list[int]) -> None:
    if not acknowledged:
        assert FeatureCache(path, missing_ok=True) is not None
        return
    assert verify(path) == []
    cache = FeatureCache(path)
    rows = cache["vit_cls"][cache.rows([f"{n}.jpg" for n in acknowledged])]
    assert (rows == np.array(acknowledged, np.float32)[:, None]).all()


# What is interrupted: each makes a cache ready, and then acts on it.


def nothing(path: Path) -> None:
    """No cache yet."""
    path.parent.mkdir(parents=True, exist_ok=True)


def parts(path: Path) -> None:
    """Two parts, no packed file."""
    nothing(path)
    put(path, 0)
    put(path, 3)


def packed_and_parts(path: Path) -> None:
    """A packed file and two parts."""
    parts(path)
    pack(path)
    put(path, 6)
    put(path, 9)


def put_more(path: Path) -> None:
    """Write a part."""
    put(path, 100)


def two_caches(path: Path) -> None:
    """A packed file and two parts, and another cache, packed, in another folder."""
    packed_and_parts(path)
    other = _other(path)
    nothing(other)
    put(other, 200)
    pack(other)


def merge_other(path: Path) -> None:
    """Merge the other cache into this one."""
    merge(path, [path, _other(path)])


def _other(path: Path) -> Path:
    return path.parent.with_name("other") / path.name


SCENARIOS: dict[str, tuple[Act, Act, int]] = {
    "first creation": (nothing, put_more, 0),
    "a part": (packed_and_parts, put_more, 12),
    "first pack": (parts, pack, 6),
    "pack": (packed_and_parts, pack, 12),
    "merge": (two_caches, merge_other, 12),
}
"""By name: how to get ready, what to interrupt, and how many rows are acknowledged by then."""


ADDED: dict[Act, range] = {
    put_more: range(100, 100 + ROWS),
    merge_other: range(200, 200 + ROWS),
}
"""Rows that are there when an act has ended."""


@contextlib.contextmanager
def ready(scenario: str) -> Iterator[tuple[Path, Act, range]]:
    """A cache in a folder of its own, what to do to it, and the rows in it."""
    prepare, act, rows = SCENARIOS[scenario]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sub" / "features.h5"
        prepare(path)
        yield path, act, range(rows)


# The calls by which the cache touches the disk.

CALLS = (
    (os, "open"), (os, "pwrite"), (os, "fsync"), (os, "ftruncate"), (os, "posix_fallocate"),
    (os, "replace"), (os, "link"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (os, "close"),
    (fcntl, "flock"),
)  # fmt: skip


@contextlib.contextmanager
def intercepted(
    around: Callable[[str, Callable[..., Any], tuple[Any, ...]], Any],
) -> Iterator[None]:
    """Have every such call go through `around(name, call, arguments)`."""
    originals = [(module, name, getattr(module, name)) for module, name in CALLS]

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: around(name, lambda *a: call(*a, **options), args)

    try:
        for module, name, call in originals:
            setattr(module, name, wrap(name, call))
        yield
    finally:
        for module, name, call in originals:
            setattr(module, name, call)


def kill_at(scenario: str, number: int, moment: str) -> bool:
    """Kill a process before, in the middle of or after its `number`-th call.

    Returns:
        Whether there were so many.
    """
    with ready(scenario) as (path, act, rows):
        child = os.fork()
        if child == 0:
            count = 0

            def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    with contextlib.suppress(OSError):
                        if moment == "in the middle of" and name == "pwrite":
                            call(args[0], args[1][: len(args[1]) // 2], args[2])
                        elif moment != "before":
                            call(*args)
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args)

            try:
                with intercepted(around):
                    act(path)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status == 0 or os.WIFSIGNALED(status), "the writer failed by itself"
        check(path, rows, act)
        return status != 0


def fail_at(scenario: str, number: int, code: int) -> bool:
    """Have the `number`-th call fail; whether there were so many."""
    count = 0

    def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        nonlocal count
        count += 1
        if count == number and name != "close":
            raise OSError(code, os.strerror(code))
        return call(*args)

    with ready(scenario) as (path, act, rows):
        with intercepted(around), contextlib.suppress(MnerfeatError):
            act(path)
        check(path, rows, act)
    return count >= number


def _seconds_to_write_and_pack() -> float:
    """How long it takes now: the machine may be a busy one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        start = time.perf_counter()
        for part in range(3):
            put(path, part * ROWS)
        pack(path)
        return time.perf_counter() - start


def kill_at_random(kills: int, seed: int) -> dict[str, int]:
    """Kill a process that writes and packs, again and again, over one growing cache.

    Returns:
        Kills, and rows acknowledged before one of them.
    """
    generator = random.Random(seed)
    acknowledged: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        usual = _seconds_to_write_and_pack()
        for trial in range(kills):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                first = 1000 * trial
                try:
                    while True:
                        for _ in range(3):
                            put(path, first)
                            os.write(writing, first.to_bytes(8, "little"))
                            first += ROWS
                        pack(path)
                finally:
                    os._exit(1)
            os.close(writing)
            time.sleep(generator.uniform(0, 4 * usual))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), "the writer failed by itself"
            with os.fdopen(reading, "rb") as pipe:
                written = pipe.read()
            for at in range(0, len(written) - 7, 8):
                first = int.from_bytes(written[at : at + 8], "little")
                acknowledged += range(first, first + ROWS)
            check(path, acknowledged)
    return {"kills": kills, "rows acknowledged": len(acknowledged)}


def kill_during(scenario: str, kills: int, seed: int) -> int:
    """Kill a process at random moments of a scenario, each time over a cache of its own.

    Returns:
        How many were killed before they had finished.
    """
    generator = random.Random(seed)
    with ready(scenario) as (path, act, _):
        start = time.perf_counter()
        act(path)
        usual = time.perf_counter() - start
    interrupted = 0
    for _ in range(kills):
        with ready(scenario) as (path, act, rows):
            child = os.fork()
            if child == 0:
                try:
                    act(path)
                    os._exit(0)
                finally:
                    os._exit(1)
            time.sleep(generator.uniform(0, usual))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert status == 0 or os.WIFSIGNALED(status), "the writer failed by itself"
            interrupted += status != 0
            check(path, rows, act)
    return interrupted


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def no_reserving() -> Iterator[None]:
    """As on a file system that cannot set space aside: full disks then show while writing."""
    original = os.posix_fallocate

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    try:
        os.posix_fallocate = refuse
        yield
    finally:
        os.posix_fallocate = original


def budgets(scenario: str, sizes: Iterable[int], *, reserving: bool) -> int:
    """Allow files of so many bytes, one budget after the other, until one is enough.

    A write that fails must leave the folder as it was, byte for byte, so all are tried on the
    same cache: what one of them left behind would be noticed by the next.

    Args:
        scenario: What to do.
        sizes: In ascending order.
        reserving: Whether the file system can set space aside.

    Returns:
        How many were not enough.
    """
    refused = 0
    with ready(scenario) as (path, act, rows):
        before = _files(path.parent)
        for size in sizes:
            with file_size_limit(size), contextlib.nullcontext() if reserving else no_reserving():
                enough = _fits(act, path)
            if enough:
                check(path, [*rows, *ADDED.get(act, ())])
                return refused
            refused += 1
            left = _files(path.parent)
            if path not in before and left.pop(path, b""):  # it has an identity already, no rows
                assert len(FeatureCache(path).images) == len(rows)
            assert left == before, "a write that failed changed something"
        check(path, rows, act)
    return refused


def _fits(act: Act, path: Path) -> bool:
    """Whether there was space for it; what is said where there was not is part of the test."""
    try:
        act(path)
    except StorageError as error:
        told = str(error)
    else:
        return True
    assert "no space left" in told
    return False


def _files(folder: Path) -> dict[Path, bytes]:
    return {found: found.read_bytes() for found in folder.rglob("*") if found.is_file()}


def full_disk(scenario: str, free_pages: int) -> bool | None:
    """Work on a file system with so many pages of 4 KiB free.

    Returns:
        Whether that was enough; None where nothing may be mounted here.
    """
    prepare, act, rows = SCENARIOS[scenario]
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return None
        try:
            path = Path(folder) / "cache" / "features.h5"
            prepare(path)
            ballast = Path(folder) / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            size = ballast.stat().st_size
            os.truncate(ballast, max(size - 4096 * free_pages, 0))
            enough = _fits(act, path)
            assert not list(path.parent.rglob("*.tmp"))
            ballast.unlink()
            check(path, range(rows), act)
        finally:
            subprocess.run(["umount", folder], check=True)
        return enough


# Power cuts: what the disk holds is what was synced, and perhaps more.


_Change = tuple[str, Path, Path]  # the call, the path, and where a file is renamed to


class Disk:
    """A disk that forgets: contents until `fsync` of the file, names until that of the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[int, Path] = {}
        self._contents: dict[Path, bytes] = {}
        self._files = {found: found.read_bytes() for found in root.rglob("*") if found.is_file()}
        self._folders = {root, *(found for found in root.rglob("*") if found.is_dir())}
        self._pending: list[_Change] = []
        self.states: list[dict[Path, bytes]] = [dict(self._files)]

    def around(self, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Do a call and remember what a power cut after it could leave."""
        result = call(*args)
        if name == "open":
            self._paths[result] = Path(args[0])
        elif name == "fsync":
            path = self._paths[args[0]]
            if path.is_dir():
                self._sync_folder(path)
            else:
                self._contents[path] = path.read_bytes()
        elif name in {"replace", "link", "unlink", "mkdir", "rmdir"}:
            target = Path(args[1] if name in {"replace", "link"} else args[0])
            self._pending.append((name, Path(args[0]), target))
        # Any of what is pending may have reached the disk; the last state has none of it.
        for size in reversed(range(len(self._pending) + 1)):
            for changes in itertools.combinations(self._pending, size):
                files, folders = self._after(changes)
                self.states.append({p: data for p, data in files.items() if p.parent in folders})
        return result

    def _sync_folder(self, folder: Path) -> None:
        there = [change for change in self._pending if change[1].parent == folder]
        self._files, self._folders = self._after(there)
        self._pending = [change for change in self._pending if change not in there]

    def _after(
        self, changes: Iterable[tuple[str, Path, Path]]
    ) -> tuple[dict[Path, bytes], set[Path]]:
        files, folders = dict(self._files), set(self._folders)
        for name, path, target in changes:
            if name in {"replace", "link"}:
                # What was never synced is lost, though its name may not be.
                files[target] = self._contents.get(path, b"")
            elif name == "unlink":
                files.pop(path, None)
            elif name == "mkdir":
                folders.add(path)
            else:
                folders.discard(path)
        return files, folders


def cut_power(scenario: str) -> int:
    """Cut the power after every call; the number of different states of the disk."""
    with ready(scenario) as (path, act, rows):
        disk = Disk(path.parent)
        with intercepted(disk.around):
            act(path)
        acknowledged = [*rows, *ADDED.get(act, ())]
        after = disk.states[-1]
        states = {tuple(sorted(state.items())) for state in disk.states}
        for state in states:
            known = acknowledged if dict(state) == after else rows
            _restore(path.parent, dict(state))
            check(path, known, act)
        return len(states)


def _restore(folder: Path, files: dict[Path, bytes]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def largest(scenario: str) -> int:
    """The size of the largest file that a scenario writes."""
    with ready(scenario) as (path, act, _):
        before = _files(path.parent)
        act(path)
        return max(len(new) for _, new in _files(path.parent).items() - before.items())


def everything(scenario: str, kills: int, seed: int) -> list[str]:
    """Every experiment with one scenario, in its long form, as rows of a table."""
    lines = []

    def tell(what: str, cases: int, more: str = "") -> None:
        lines.append(f"| {scenario} | {what} | {cases:,} | {more} |")
        print(lines[-1], flush=True)

    interrupted = kill_during(scenario, kills, seed)
    tell("SIGKILL at a random moment", kills, f"{interrupted:,} before it had finished")
    for moment in ("before", "in the middle of", "after"):
        number = 1
        while kill_at(scenario, number, moment):
            number += 1
        tell(f"SIGKILL {moment} every call to the system", number - 1)
    number = 1
    while fail_at(scenario, number, errno.EIO):
        number += 1
    tell("an I/O error in every call to the system", number - 1)
    size = largest(scenario)
    refused = budgets(scenario, range(size + 1), reserving=False)
    tell(f"files that may not grow beyond 0, 1, 2, … {size:,} bytes", refused + 1)
    # One call sets the space aside or fails, before a byte is written.
    refused = budgets(scenario, [*range(0, size, 64), size], reserving=True)
    tell("the same where space can be set aside, every 64 bytes", refused + 1)
    pages = [full_disk(scenario, free) for free in range(24)]
    tell(
        "a tmpfs with 0 to 23 pages free",
        len(pages) - pages.count(None),
        f"{pages.count(False)} refused" if None not in pages else "may not be mounted here",
    )
    tell("power cut after every call to the system: states of the disk", cut_power(scenario))
    return lines


def main() -> None:
    """Run everything in its long form and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--record", type=Path)
    chosen = parser.parse_args()
    with ProcessPoolExecutor(chosen.jobs) as pool:
        growing = pool.submit(kill_at_random, chosen.kills, chosen.seed)
        all_lines = [
            pool.submit(everything, scenario, chosen.kills, chosen.seed) for scenario in SCENARIOS
        ]
        killed = growing.result()
        rows = f"{killed['rows acknowledged']:,} rows acknowledged, none lost"
        first = (
            f"| parts and packs without end | SIGKILL at random | {killed['kills']:,} | {rows} |"
        )
        lines = [first, *(line for lines in all_lines for line in lines.result())]
    if chosen.record:
        chosen.record.write_text(_record(lines, chosen))


def _record(lines: list[str], chosen: argparse.Namespace) -> str:
    command = f"--kills {chosen.kills} --seed {chosen.seed}"
    return f"""# Caches after kills, full disks and power cuts

`python tools/cache_crash.py {command}`, {time.strftime("%Y-%m-%d")}: {platform.system()}
{platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, in
`{tempfile.gettempdir()}`.

After every case: acknowledged rows are there and pass their checksums, every file opens with
plain `h5py`, what was interrupted succeeds when it is done again, so do the next part and the next
pack, and then the folder holds `features.h5` and nothing else.

| interrupted | how | cases | |
|---|---|---|---|
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
