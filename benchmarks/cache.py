"""How fast a cache is read and written, beside everything else one might use.

    python benchmarks/cache.py

takes about ten minutes and 6 GB below `--folder`, and writes its record to
`benchmarks/results/cache.md`. All figures of a table come from one run, in which the candidates
take turns, so that a busy moment of the machine hits all of them. `--only` runs one of the four
parts and leaves the others in the record as they are; `--folder` keeps the files for another run.
On a machine that others use, too, `--clock processor` counts what the process works instead of
what passes: all that is timed by it lies in memory. `--toy` only shows that it runs.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cache_readers import READERS, Candidate
from numpy.typing import NDArray
from recording import CLOCKS, RESULTS, add_clock, machine, publish

from mnerfeat.cache import CacheWriter, FeatureCache, FeatureRows, Provenance, TableRows, pack
from mnerfeat.cache.encoding import FeatureContent, NamesContent, TableContent, checksums
from mnerfeat.cache.files import Array
from mnerfeat.cache.maintenance.pack import rewrite

RECORD = RESULTS / "cache.md"
MADE_BY = Provenance({"model": "random numbers"})
BATCH = 64
SCAN = 1024


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is."""

    rows: int = 100_000
    width: int = 768
    many_rows: int = 1_000_000
    most_rows: int = 10_000_000
    names: int = 10_000
    parts: int = 64
    part_rows: int = 6_000
    repetitions: int = 17
    seconds: float = 0.02


TOY = Size(
    rows=300, width=8, many_rows=500, most_rows=700, names=50, parts=3, part_rows=20,
    repetitions=2, seconds=0.001,
)  # fmt: skip


# Making caches.


def random_rows(rows: int, width: int, seed: int = 0) -> TableRows:
    """Images with random identities and one feature."""
    generator = np.random.default_rng(seed)
    data = generator.standard_normal((rows, width), np.float32).astype(np.float16)
    ids = generator.integers(0, 256, (rows, 32), np.uint8)
    vit = FeatureRows(data=data, state=np.ones(rows, np.uint8), provenance=MADE_BY)
    names = [(f"images/{seed:03d}/{row:08d}.jpg", row) for row in range(rows)]
    return TableRows(ids=ids, names=names, features={"vit_cls": vit})


def write_large(path: Path, rows: int, width: int) -> None:
    """A packed cache with so many rows that it is written piece by piece."""
    generator = np.random.default_rng(1)
    ids = generator.integers(0, 256, (rows, 32), np.uint8)
    ids[:, :8] = (
        np.sort(generator.integers(0, 2**63, rows, np.uint64))
        .astype(">u8")
        .view(np.uint8)
        .reshape(-1, 8)
    )
    names = NamesContent.of({large_name(row): (row, 0) for row in range(rows)})
    zeros = np.zeros((min(rows, 1 << 16), width), np.float16)

    def pieces() -> Iterator[NDArray[Any]]:
        for start in range(0, rows, len(zeros)):
            yield zeros[: rows - start]

    feature = FeatureContent(
        data=Array((rows, width), zeros.dtype, pieces()),
        crc32=Array.of(checksums(ids, np.broadcast_to(zeros[:1], (rows, width)))),
        state=np.ones(rows, np.uint8),
        reasons={},
        provenance=MADE_BY,
        generation=1,
    )
    table = TableContent(
        ids=ids,
        columns={"size": np.zeros((rows, 2), np.int32)},
        names=names,
        features={"vit_cls": feature},
    )
    rewrite(path, {"images": table}, cache_id="0" * 32)


def large_name(row: int) -> bytes:
    return b"images/%010d.jpg" % row


# Measuring.


@dataclass(frozen=True)
class Stopwatch:
    """How times are taken: `clock` of `CLOCKS`, and so often as `size` says."""

    clock: str
    size: Size

    def once(self, act: Callable[[], object], seconds: float = 0.0) -> float:
        """Seconds that one call takes: the mean of as many as fit into `seconds`."""
        clock, calls = CLOCKS[self.clock], 0
        start, passing = clock(), time.perf_counter()
        while not calls or time.perf_counter() - passing < seconds:
            act()
            calls += 1
        return (clock() - start) / calls

    def in_turns(self, acts: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """The best of many rounds, in each of which every act has its turn.

        Whatever else runs on the machine only adds to a time, so the least is what an act takes.
        Slow acts sit out most of the rounds.
        """
        found: dict[str, list[float]] = {name: [] for name in acts}
        for number in range(self.size.repetitions):
            for name, act in acts.items():
                slow = found[name] and found[name][0] > 2 * self.size.seconds
                if not slow or number % 8 == 0:
                    found[name].append(self.once(act, self.size.seconds))
        return {name: min(times) for name, times in found.items()}

    @property
    def told(self) -> str:
        """For the record."""
        of = {"wall": "", "processor": " of processor time"}[self.clock]
        return f"The least{of} in {self.size.repetitions} rounds, in which all take turns."


def write_packed(path: Path, size: Size) -> None:
    if not path.exists():
        CacheWriter(path).put(images=random_rows(size.rows, size.width))
        pack(path)


def measure_reading(folder: Path, watch: Stopwatch) -> list[str]:
    size = watch.size
    write_packed(folder / "features.h5", size)
    generator = np.random.default_rng(2)
    missing = [
        name for name, (module, _) in READERS.items() if importlib.util.find_spec(module) is None
    ]
    with ExitStack() as stack:
        opened = {
            name: opener(folder, stack)
            for name, (_, opener) in READERS.items()
            if name not in missing
        }
        wanted = generator.integers(0, size.rows, BATCH)
        expected = opened["numpy.memmap"].take(wanted)
        first = opened["numpy.memmap"].scan(5, 9)
        for name, candidate in opened.items():
            assert (candidate.take(wanted) == expected).all(), name
            assert (candidate.scan(5, 9) == first).all(), name

        def one(candidate: Candidate) -> Callable[[], object]:
            return lambda: candidate.take(generator.integers(0, size.rows, 1))

        def some(candidate: Candidate) -> Callable[[], object]:
            return lambda: candidate.take(generator.integers(0, size.rows, BATCH))

        def every(candidate: Candidate) -> Callable[[], object]:
            def scan() -> None:
                for start in range(0, size.rows, SCAN):
                    rows = candidate.scan(start, min(start + SCAN, size.rows))
                    np.ascontiguousarray(rows).view(np.uint16).max()

            return scan

        columns = {
            "one random row": (one, 1e6, "µs"),
            f"{BATCH} random rows": (some, 1e6, "µs"),
            "full scan": (every, 1e3, "ms"),
        }
        results = {
            title: watch.in_turns({name: act(c) for name, c in opened.items()})
            for title, (act, _, _) in columns.items()
        }
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in opened:
        cells = []
        for title, (_, factor, unit) in columns.items():
            times = results[title]
            ratio = times[name] / times["numpy.memmap"]
            cells.append(f"{times[name] * factor:,.1f} {unit} ({ratio:,.2f}×)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ours = {title: times["mnerfeat.cache"] for title, times in results.items()}
    title = f"{BATCH} random rows"
    rows = [
        target("random batches of 64, against numpy.memmap",
               ours[title] / results[title]["numpy.memmap"], "×", at_most=1.15),
        target("full scan, against numpy.memmap",
               ours["full scan"] / results["full scan"]["numpy.memmap"], "×", at_most=1.1),
        target("random batches of 64, plain h5py against us",
               results[title]["h5py, contiguous"] / ours[title], "×", at_least=10),
    ]  # fmt: skip
    if missing:
        lines.append(f"\nNot installed: {', '.join(missing)}.")
    return [
        f"## Reading {size.rows:,} × {size.width} float16, warm",
        "",
        f"{watch.told} In brackets the ratio to `numpy.memmap`.",
        f"All give rows as one array; a scan takes {SCAN:,} at a time and looks at each number.",
        "",
        *lines,
        "",
        *TARGETS_HEAD,
        *rows,
    ]


TARGETS_HEAD = ["| | measured | wanted | |", "|---|---|---|---|"]


def target(
    what: str, got: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
) -> str:
    """A row of a table of targets."""
    wanted = f"≤ {at_most:g}" if at_most is not None else f"≥ {at_least:g}"
    fine = got <= at_most if at_most is not None else got >= (at_least or 0)
    return f"| {what} | {got:,.3g}{unit} | {wanted}{unit} | {'yes' if fine else '**no**'} |"


def measure_size(folder: Path, watch: Stopwatch) -> list[str]:
    size = watch.size
    path, most = folder / "many.h5", folder / "most.h5"
    for large, rows, width in ((path, size.many_rows, 16), (most, size.most_rows, 4)):
        if not large.exists():
            write_large(large, rows, width)
    generator = np.random.default_rng(3)
    cache = FeatureCache(path)
    wanted = [large_name(row).decode() for row in generator.integers(0, size.many_rows, size.names)]
    ids = cache.images.ids[generator.integers(0, size.many_rows, size.names)]
    plain = watch.in_turns(
        {
            "open": lambda: FeatureCache(path)["vit_cls"],
            "names": lambda: FeatureCache(path).rows(wanted),
            "ids": lambda: cache.images.find(ids),
        }
    )
    listing = watch.once(lambda: sum(1 for _ in cache.images.names()))
    for part in range(size.parts):
        CacheWriter(path).put(images=random_rows(32, 16, seed=part + 1))
    parts = watch.in_turns({"open": lambda: FeatureCache(path)["vit_cls"].state})["open"]
    shutil.rmtree(path.with_name(f"{path.name}.d"))
    memory, resident = memory_of(most, size)
    milliseconds = {name: 1e3 * seconds for name, seconds in plain.items()}
    return [
        f"## {size.many_rows:,} and {size.most_rows:,} rows",
        "",
        *TARGETS_HEAD,
        target(f"open, {size.many_rows:,} rows", milliseconds["open"], " ms", at_most=100),
        target(f"open and resolve {size.names:,} paths", milliseconds["names"], " ms", at_most=50),
        target(f"memory of an opened cache, {size.most_rows:,} rows", memory, " MB", at_most=200),
        "",
        (
            f"Also: {size.names:,} identities are found in {milliseconds['ids']:.1f} ms; all "
            f"{size.many_rows:,} names are listed in {listing:.2f} s; with {size.parts} parts "
            f"beside it the cache opens in {parts * 1e3:.0f} ms. The "
            "memory is what the process takes for itself after opening, resolving names and "
            f"reading random rows; with the pages of the file, which it shares, it is "
            f"{resident:,.0f} MB."
        ),
    ]


MEMORY = """
import sys
import numpy as np
from mnerfeat.cache import FeatureCache

def memory():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return [int(fields[name].split()[0]) / 1e3 for name in ("RssAnon", "VmRSS")]

before = memory()
cache = FeatureCache(sys.argv[1])
names = [f"images/{row:010d}.jpg" for row in range(0, int(sys.argv[2]), 997)]
rows = cache.rows(names)
for _ in range(100):
    cache["vit_cls"][np.random.default_rng(0).integers(0, len(cache.images), 64)]
print(*(after - start for after, start in zip(memory(), before)))
"""


def memory_of(path: Path, size: Size) -> tuple[float, float]:
    """Megabytes that an opened and used cache takes, alone and with the file's pages."""
    if not Path("/proc/self/status").exists():
        return float("nan"), float("nan")
    command = [sys.executable, "-c", MEMORY, str(path), str(size.most_rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    alone, resident = map(float, done.stdout.split())
    return alone, resident


def measure_writing(folder: Path, watch: Stopwatch) -> list[str]:
    size = watch.size
    rounds = min(5, size.repetitions)
    rows = [random_rows(size.part_rows, size.width, seed) for seed in range(size.parts)]
    total = size.parts * size.part_rows * size.width * 2
    disk, packing, putting = [], [], []
    for number in range(rounds):
        path = folder / f"writing-{number}.h5"
        start = time.perf_counter()
        for part in rows:
            CacheWriter(path).put(images=part)
        putting.append(total / (time.perf_counter() - start))
        os.sync()
        disk.append(total / sequential(folder / "sequential", total))
        start = time.perf_counter()
        pack(path)
        packing.append(total / (time.perf_counter() - start))
        path.unlink()
    ratios = np.array(packing) / np.array(disk)
    return [
        f"## Writing {size.parts} parts of {size.part_rows:,} × {size.width} float16, and packing",
        "",
        *TARGETS_HEAD,
        target("pack, against a plain sequential write of as many bytes",
               float(np.median(ratios)), "×", at_least=0.5),
        "",
        (f"Medians of {rounds} rounds: parts {np.median(putting) / 1e6:,.0f} MB/s (checksums and "
        f"`fsync` included), pack {np.median(packing) / 1e6:,.0f} MB/s, sequential write with "
        f"`fsync` {np.median(disk) / 1e6:,.0f} MB/s."),
    ]  # fmt: skip


def sequential(path: Path, total: int) -> float:
    """Seconds to write so many bytes one after the other and have them on the disk."""
    block = os.urandom(min(total, 8 << 20))
    start = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for offset in range(0, total, len(block)):
        os.pwrite(descriptor, block[: total - offset], offset)
    os.fsync(descriptor)
    os.close(descriptor)
    passed = time.perf_counter() - start
    path.unlink()
    return passed


IMPORTING = """
import sys, time
start = time.perf_counter(), time.process_time()
__import__(sys.argv[1])
print(time.perf_counter() - start[0], time.process_time() - start[1])
sys.exit("torch" in sys.modules)
"""


def measure_import(_: Path, watch: Stopwatch) -> list[str]:
    found: dict[str, list[float]] = {"mnerfeat.cache": [], "numpy": [], "h5py": []}
    for _round in range(min(15, watch.size.repetitions)):
        for module, times in found.items():
            command = [sys.executable, "-c", IMPORTING, module]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            times.append(float(done.stdout.split()[watch.clock == "processor"]))
    seconds = {module: min(times) for module, times in found.items()}
    return [
        "## Importing",
        "",
        *TARGETS_HEAD,
        target("`import mnerfeat.cache`, without torch",
               seconds["mnerfeat.cache"], " s", at_most=0.25),
        "",
        (
            f"Of it `import numpy` takes {seconds['numpy']:.2f} s. `import h5py`, which reading "
            f"and writing do without, takes {seconds['h5py']:.2f} s."
        ),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="as small as can be")
    parser.add_argument("--folder", type=Path, default=None, help="where to work")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--only", choices=MEASURED, default=None)
    add_clock(parser)
    chosen = parser.parse_args(argv)
    watch = Stopwatch(chosen.clock, TOY if chosen.toy else Size())
    sections = {} if chosen.only is None else recorded(chosen.record)
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in MEASURED if chosen.only is None else [chosen.only]:
            sections[name] = "\n".join(MEASURED[name](folder, watch))
    libraries = ("numpy", "h5py", "lmdb", "safetensors", "pyarrow", "datasets", "zarr")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    head = [
        "# The cache: speed",
        "",
        f"`python benchmarks/cache.py{' --toy' if chosen.toy else ''} --clock {chosen.clock}`, "
        f"{time.strftime('%Y-%m-%d')}: {machine()}, {platform.system()} {platform.release()}, "
        f"{load}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in libraries)
        + ".",
    ]
    written = [sections[name] for name in MEASURED if name in sections]
    text = "\n\n".join(["\n".join(head), *written]) + "\n"
    publish(text, chosen.record)
    return text


MEASURED: Mapping[str, Callable[[Path, Stopwatch], list[str]]] = {
    "reading": measure_reading,
    "size": measure_size,
    "writing": measure_writing,
    "import": measure_import,
}


def recorded(record: Path) -> dict[str, str]:
    """The sections of a record."""
    if not record.exists():
        return {}
    sections = [f"## {text.strip()}" for text in record.read_text().split("\n## ")[1:]]
    starts = {"Reading": "reading", "Writing": "writing", "Importing": "import"}
    return {starts.get(text.split()[1], "size"): text for text in sections}


def version(package: str) -> str:
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(none)"


if __name__ == "__main__":
    main()
