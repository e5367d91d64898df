"""Damage caches in every way we can think of, and see that reading them never ends badly.

    python tools/cache_fuzz.py --seconds 600 --record benchmarks/results/cache_hostile.md
    python tools/cache_fuzz.py --seconds 600 --libhdf5
    python tools/cache_fuzz.py --seconds 600 --step 997 --untrusted

Every case that leaves checksums as they fall must end in one of our errors or in a read; never in
another exception, a crash, a hang (10 s) or 2 GiB of memory. Files whose checksums were put right
are made to do harm, and may end the child process that reads them. A short form of this runs in
the tests. With `--libhdf5` the same files are opened by plain h5py instead.
"""

import argparse
import functools
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import (
    FAILED,
    MISSING,
    OK,
    CacheWriter,
    FeatureCache,
    FeatureRows,
    ImportConfig,
    Provenance,
    TableRows,
    content_id,
    import_features,
    info,
    pack,
    pair_id,
    repair,
    stack_ids,
    text_id,
    verify,
)
from mnerfeat.errors import MnerfeatError

GOLDEN = Path(__file__).parents[1] / "tests" / "cache" / "golden-v1.h5"
HANGS_AFTER = 10  # seconds
MEMORY = 2 << 30
BATCH = 200
JUNK = (0, 1, 2, 127, 128, 254, 255)


def exercise(path: Path) -> str:
    """Do everything that can be done with a cache; only our own errors may be raised.

    Returns:
        The digest of what was read, or the error's class.
    """
    outcome = "unread"
    for look in (info, verify, _read_all):
        try:
            outcome = str(look(path))
        except MnerfeatError as error:
            outcome = _told(error)
    return outcome


def exercise_writing(path: Path) -> None:
    """What rewrites a cache: only our own errors may be raised, and repairing must help."""
    for act in (pack, repair):
        try:
            act(path)
        except MnerfeatError as error:
            _told(error)
    if path.exists():
        assert verify(path) == []


def exercise_untrusted(path: Path) -> str:
    """Read a file as one from a stranger: only the child process that reads it may crash.

    Returns:
        What became of `verify --untrusted` and of an import from it.
    """
    signal.alarm(180)  # the child has a time limit of its own
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names.txt"
        names.write_text("nothing.jpg")
        config = ImportConfig(
            feature="theirs", provenance={"from": "a stranger"}, data="images", names=str(names)
        )
        for act in (
            lambda: "faults" if verify(path, untrusted=True) else "sound",
            lambda: import_features(Path(folder) / "ours.h5", [path], config, seconds=20).rows,
        ):
            try:
                ends.append(str(act()))
            except MnerfeatError as error:
                ends.append("child crashed" if "crashed" in error.what else _told(error))
    return f"verify {ends[0]}, import {ends[1]}"


def _told(error: MnerfeatError) -> str:
    assert str(error)
    return type(error).__name__


def _read_all(path: Path) -> str:
    cache = FeatureCache(path)
    names = [name for name, _ in cache.images.names()]
    cache.images.find_names([*names[:50], "nothing.jpg"])
    cache.images.describe(np.arange(min(len(cache.images), 50)))
    for table in cache.tables:
        table.find(table.ids[:50])
        for feature in table.features.values():
            data, fine = feature.read(slice(None))
            assert len(data) == len(fine) == len(feature)
            assert dict(feature.failures) is not None
    assert cache.images.sizes.shape == (len(cache.images), 2)
    assert len(cache.pairs.pair_ids[0]) == len(cache.pairs)
    return str(cache.digest())


@functools.lru_cache(4)
def blocks(data: bytes) -> list[tuple[int, int]]:
    """Where the checksummed blocks of metadata begin and end (the checksum follows)."""
    found = [(0, 44)]
    start = data.find(b"OHDR")
    while start >= 0:
        flags = data[start + 5]
        at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        found.append((start, at + width + int.from_bytes(data[at : at + width], "little")))
        start = data.find(b"OHDR", start + 4)
    for signature in (b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN"):
        start = data.find(signature)
        while start >= 0:
            ends = range(start + 8, min(start + 2048, len(data) - 4))
            sums = lookup3([data[start:end] for end in ends]).tolist()
            match = [e for e, s in zip(ends, sums, strict=True) if _sum_at(data, e) == s]
            found += [(start, end) for end in match[:1]]
            start = data.find(signature, start + 4)
    sound = lookup3([data[start:end] for start, end in found]).tolist()
    return [(s, e) for (s, e), sum_ in zip(found, sound, strict=True) if _sum_at(data, e) == sum_]


def lookup3(blocks: Sequence[bytes]) -> NDArray[np.uint32]:
    """The checksums that HDF5 gives to blocks of metadata.

    This is the hash of Jenkins (2006), lookup3, function `hashlittle`, with start value 0.

    Args:
        blocks: None of them empty.

    Returns:
        (n,) uint32.
    """
    lengths = np.array([len(block) for block in blocks], np.int64)
    # Longest first: those that still have words to mix are then always the first few.
    order = np.argsort(-lengths, kind="stable")
    padded = [block + bytes(-len(block) % 12) for block in blocks]
    words = np.frombuffer(b"".join(padded), "<u4").astype(np.uint32)
    sizes = np.array([len(block) // 4 for block in padded], np.int64)
    start = (np.cumsum(sizes) - sizes)[order]
    rounds = ((lengths - 1) // 12)[order]
    a, b, c = (lengths[order].astype(np.uint32) + np.uint32(0xDEADBEEF) for _ in range(3))
    for number in range(int(rounds[0]) if len(rounds) else 0):
        live = int(np.searchsorted(-rounds, -number))
        at = start[:live] + 3 * number
        mixed = _mix(a[:live] + words[at], b[:live] + words[at + 1], c[:live] + words[at + 2])
        a[:live], b[:live], c[:live] = mixed
    last = start + 3 * rounds
    sums = np.empty(len(blocks), np.uint32)
    sums[order] = _finish(a + words[last], b + words[last + 1], c + words[last + 2])
    return sums


def _turn(value: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    turned: NDArray[np.uint32] = value << np.uint32(bits) | value >> np.uint32(32 - bits)
    return turned


def _mix(
    a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
    for bits in ((4, 6, 8), (16, 19, 4)):
        a = (a - c) ^ _turn(c, bits[0])
        c = c + b
        b = (b - a) ^ _turn(a, bits[1])
        a = a + c
        c = (c - b) ^ _turn(b, bits[2])
        b = b + a
    return a, b, c


def _finish(
    a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    c = (c ^ b) - _turn(b, 14)
    a = (a ^ c) - _turn(c, 11)
    b = (b ^ a) - _turn(a, 25)
    c = (c ^ b) - _turn(b, 16)
    a = (a ^ c) - _turn(c, 4)
    b = (b ^ a) - _turn(a, 14)
    return (c ^ b) - _turn(b, 24)


def _sum_at(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "little")


def metadata_end(data: bytes) -> int:
    """Where the metadata of a file that we wrote ends."""
    heap = data.rfind(b"GCOL")
    return max(heap + 4096 if heap >= 0 else 0, *(end for _, end in blocks(data)))


def damaged(data: bytes, generator: random.Random) -> bytes:
    """One to six bytes of metadata changed, and the checksums put right."""
    changed = bytearray(data)
    places = blocks(data)
    heap = data.find(b"GCOL")
    anywhere = [*places, (heap, heap + 4096)] if heap >= 0 else places
    touched = set()
    for _ in range(generator.choice((1, 1, 2, 3, 6))):
        start, end = generator.choice(anywhere)
        at = generator.randrange(start, end)
        changed[at] = generator.choice(
            (*JUNK, generator.randrange(256), changed[at] ^ (1 << generator.randrange(8)))
        )
        touched.add((start, end))
    for start, end in touched & set(places):
        struct.pack_into("<I", changed, end, int(lookup3([bytes(changed[start:end])])[0]))
    return bytes(changed)


def write_dense(path: Path) -> None:
    """A cache whose groups have so many members that libhdf5 keeps them in heaps."""
    writer = CacheWriter(path.with_suffix(".ours.h5"))
    made_by = Provenance({"model": "x"})
    text, image = text_id("a"), content_id(b"a")
    column = FeatureRows(
        data=np.ones((3, 2), np.float32),
        state=np.array([OK, FAILED, MISSING], np.uint8),
        reasons={1: "broken"},
        provenance=made_by,
    )
    one = FeatureRows(data=np.ones(1, np.float16), state=np.ones(1, np.uint8), provenance=made_by)
    writer.put(
        images=TableRows(
            ids=stack_ids([image, content_id(b"b"), content_id(b"c")]),
            names=[("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 2)],
            features={f"feature_{number}": column for number in range(12)},
        ),
        texts=TableRows(ids=stack_ids([text]), features={"clip_text": one}),
        pairs=TableRows(
            ids=stack_ids([pair_id(text, image)]),
            text=stack_ids([text]),
            image=stack_ids([image]),
            features={"reward": one},
        ),
    )
    pack(writer.path)
    with (
        h5py.File(writer.path) as ours,
        h5py.File(path, "w", libver=("v110", "v110")) as theirs,
    ):
        for name in ours:
            ours.copy(name, theirs)
        theirs.attrs.update(ours.attrs)
    writer.path.unlink()


def open_with_libhdf5(path: Path) -> str:
    """What `h5py.File` and a walk through the file make of it."""

    def walk(thing: h5py.Group | h5py.Dataset, depth: int) -> None:
        for name in thing.attrs:
            _tolerated(functools.partial(thing.attrs.__getitem__, name))
        if isinstance(thing, h5py.Dataset):
            _tolerated(lambda: (thing.dtype, thing.shape, thing.id.get_offset()))
        elif depth < 5:
            for name in thing:
                if isinstance(thing.get(name, getlink=True), h5py.HardLink):
                    _tolerated(functools.partial(member, thing, name, depth))

    def member(group: h5py.Group, name: str, depth: int) -> None:
        walk(group[name], depth + 1)

    def whole() -> None:
        with path.open("rb") as raw, h5py.File(raw, "r") as file:
            walk(file, 0)

    return _tolerated(whole)


def _tolerated(act: Callable[[], object]) -> str:
    try:
        act()
    except Exception as error:  # noqa: BLE001  (whatever h5py makes of damage is fine here)
        return type(error).__name__
    return "read"


def cases(seconds: float, step: int, generator: random.Random) -> Iterator[tuple[str, bytes]]:
    """Files with the way each was damaged: at every `step`-th byte first, then at random ones."""
    data = GOLDEN.read_bytes()
    for length in range(0, len(data), step):
        yield "cut off", data[:length]
    for at in range(0, metadata_end(data), step):
        for junk in (0, 255, data[at] ^ 1, data[at] ^ 128):
            if junk != data[at]:
                yield "one byte", data[:at] + bytes([junk]) + data[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.h5"
        write_dense(dense)
        sources = [data, dense.read_bytes()]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield "checksums put right", damaged(generator.choice(sources), generator)


def run(all_cases: Iterator[tuple[str, bytes]], act: Callable[[Path], str]) -> Counter[str]:
    """Do something with every case, in child processes that may die.

    Returns:
        How often each kind of damage had each end.
    """
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as tmp:
        journal = Path(tmp) / "journal"
        batch: list[tuple[str, bytes]] = []
        for case in all_cases:
            batch.append(case)
            if len(batch) == BATCH:
                _run_batch(batch, act, journal, ends)
                batch = []
        _run_batch(batch, act, journal, ends)
    return ends


def _run_batch(
    batch: list[tuple[str, bytes]], act: Callable[[Path], str], journal: Path, ends: Counter[str]
) -> None:
    while batch:
        journal.write_text("")
        child = os.fork()
        if child == 0:
            try:
                _child(batch, act, journal)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        done = journal.read_text().splitlines()
        ends.update(done)
        batch = batch[len(done) :]
        if batch and (os.WIFSIGNALED(status) or status):
            kind, data = batch[0]
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            end = "HANG" if number == signal.SIGALRM else f"DIED {number}"
            ends[f"{kind}: {end}"] += 1
            keep = Path(tempfile.gettempdir()) / f"cache-fuzz-{end.replace(' ', '-')}.h5"
            keep.write_bytes(data)
            batch = batch[1:]


def _child(batch: list[tuple[str, bytes]], act: Callable[[Path], str], journal: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path = journal.with_name("case.h5")
    with journal.open("a") as file:
        for kind, data in batch:
            path.write_bytes(data)
            signal.alarm(HANGS_AFTER)
            try:
                end = act(path)
            except BaseException:  # noqa: BLE001
                end = f"WRONG {traceback.format_exc().splitlines()[-1][:80]}"
            signal.alarm(0)
            end = "read" if end.startswith("{") else end
            file.write(f"{kind}: {end}\n")
            file.flush()


def main() -> None:
    """Parse the command line, run, and say or record what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for the random cases")
    parser.add_argument("--step", type=int, default=1, help="of the bytes that are damaged in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--libhdf5", action="store_true", help="open them with libhdf5 instead")
    parser.add_argument(
        "--untrusted", action="store_true", help="read them by verify --untrusted and import"
    )
    parser.add_argument("--record", type=Path, help="append the table to this file")
    chosen = parser.parse_args()
    start = time.monotonic()
    act = exercise_untrusted if chosen.untrusted else exercise
    act = open_with_libhdf5 if chosen.libhdf5 else act
    ends = run(cases(chosen.seconds, chosen.step, random.Random(chosen.seed)), act)
    reader = f"libhdf5 {h5py.version.hdf5_version}" if chosen.libhdf5 else "mnerfeat.cache"
    reader += ", files from strangers" if chosen.untrusted else ""
    counted = f"{sum(ends.values()):,} files in {time.monotonic() - start:,.0f} s"
    lines = [
        f"## {reader}",
        "",
        f"{counted}, step {chosen.step}, seed {chosen.seed}.",
        "",
        "| damage: end | files |",
        "|---|---|",
        *(f"| {end} | {count:,} |" for end, count in sorted(ends.items())),
        "",
    ]
    print("\n".join(lines))
    if chosen.record:
        with chosen.record.open("a") as file:
            file.write("\n" + "\n".join(lines))
    if not chosen.libhdf5 and any(bad in end for end in ends for bad in ("HANG", "DIED", "WRONG")):
        sys.exit(1)


if __name__ == "__main__":
    main()
