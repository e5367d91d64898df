"""Writing a cache anew: all of it, or a selection, as one file."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.encoding import (
    FeatureContent,
    FileIdentity,
    NamesContent,
    TableContent,
    encode_file,
)
from mnerfeat.cache.feature import Feature
from mnerfeat.cache.files import Array, write_sealed
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.rows import JoinedNames, Rows
from mnerfeat.cache.schema import FORMAT_VERSION, OK
from mnerfeat.cache.sealed import SealedFile, read_version
from mnerfeat.cache.storage import (
    exclusive,
    fsync_folder,
    leftovers,
    located,
    lock_of,
    parts_folder,
    storage_error,
    sweep,
)
from mnerfeat.cache.table import Table

PIECE_BYTES = 8 << 20
"""How much of a feature is in memory at once."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the total."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows, names and features of a table to write; None means all.

    Attributes:
        rows: (n,) bool. Names that lead to other rows are left out, too.
        names: (p,) bool, over `Index.joined_names`.
        features: Their names.
    """

    rows: NDArray[np.bool_] | None = None
    names: NDArray[np.bool_] | None = None
    features: frozenset[str] | None = None


EVERYTHING = Selection()


def pack(path: str | PathLike[str], progress: Progress | None = None) -> None:
    """Join a cache's file and its parts into one new file; then remove the parts.

    Readers see a whole cache at every moment, several packs at once wait for each other, and a
    pack that is killed is done again by the next one. For a moment it needs the space twice. A
    cache of an older version is brought to the present one. If there is nothing to do, nothing is
    written, not even a lock.

    Args:
        path: The `.h5` file.
        progress: Called with the bytes written so far and the total.

    Raises:
        StorageError: If the disk is full; the cache is then as it was.
    """
    path = located(path)
    if not _needs_packing(path):
        return
    with locked(path):
        cache = FeatureCache(path, missing_ok=True)
        remove_absorbed(cache)
        if any(file.path != path or file.version < FORMAT_VERSION for file in cache.files):
            seal(cache, progress=progress)


def _needs_packing(path: Path) -> bool:
    folder = parts_folder(path)
    if os.access(path.parent, os.W_OK):
        if folder.exists() or leftovers(path):
            return True
        return path.exists() and read_version(path) < FORMAT_VERSION
    # What a killed process left behind, and an older version, do not matter to readers.
    return any(file.path != path for file in FeatureCache(path, missing_ok=True).files)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one who rewrites a cache, and tidy up what killed processes left there.

    Raises:
        StorageError: If the lock cannot be had.
    """
    folder = parts_folder(path)
    with exclusive(lock_of(path)):
        sweep(path.parent)
        sweep(folder)
        yield
        with contextlib.suppress(OSError):  # parts may be waiting again, or none ever were
            folder.rmdir()


def seal(
    cache: FeatureCache,
    *,
    selections: Mapping[str, Selection] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write an open cache as one file and remove its parts; `locked` must be held.

    Args:
        cache: With at least one file.
        selections: By table; a table without one is written whole.
        progress: Called with the bytes written so far and the total.

    Raises:
        StorageError: If it cannot be written; the cache is then as it was.
    """
    remove_absorbed(cache)
    counter = Counter(progress)
    parts = parts_of(cache.path, cache.files)
    rewrite(
        cache.path,
        {
            table.name: table_content(
                table, counter, (selections or {}).get(table.name, EVERYTHING)
            )
            for table in cache.tables
        },
        cache_id=cache.cache_id,
        files=cache.files,
        absorbed=parts,
    )
    remove_parts([file.path for file in parts])


def rewrite(
    path: Path,
    tables: Mapping[str, TableContent],
    *,
    cache_id: str,
    files: Sequence[SealedFile] = (),
    absorbed: Sequence[SealedFile] = (),
) -> None:
    """Write tables as the file at `path`, in place of what is there.

    Args:
        path: The `.h5` file.
        tables: By name; those without rows are left out.
        cache_id: The identity of the cache.
        files: What the tables are made from.
        absorbed: The parts of this cache among these.

    Raises:
        StorageError: If it cannot be written; the file is then as it was.
    """
    filled = {name: content for name, content in tables.items() if len(content.ids)}
    identity = FileIdentity(
        cache_id=cache_id,
        sources=sorted({salt for file in files for salt in file.salts} - {cache_id}),
        sequence=max((file.sequence for file in files), default=0),
        absorbed=[file.path.stem.removeprefix("part-") for file in absorbed],
    )
    write_sealed(path, *encode_file(filled, identity))


class Counter:
    """Adds up what is to be written and reports progress."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._written = 0
        self.total = 0

    def add(self, count: int) -> None:
        """Count bytes as written."""
        self._written += count
        if self._progress:
            self._progress(self._written, self.total)


def table_content(
    table: Table, counter: Counter, selection: Selection = EVERYTHING
) -> TableContent:
    """Return a table as it is about to be written; features are read piece by piece meanwhile."""
    kept = None if selection.rows is None else np.flatnonzero(selection.rows)
    columns: dict[str, NDArray[Any]] = {}
    if table.name == "images":
        columns["size"] = table.sizes
    if table.name == "pairs":
        columns["text"], columns["image"] = table.pair_ids
    if kept is not None:
        columns = {name: values[kept] for name, values in columns.items()}
    return TableContent(
        ids=table.ids if kept is None else table.ids[kept],
        columns=columns,
        names=_names(table.index.joined_names(), selection) if table.name == "images" else None,
        features={
            name: _feature(feature, np.arange(len(table)) if kept is None else kept, counter)
            for name, feature in table.features.items()
            if selection.features is None or name in selection.features
        },
    )


def _names(joined: JoinedNames, selection: Selection) -> NamesContent:
    keep = np.ones(len(joined.row), bool) if selection.names is None else selection.names
    row = joined.row
    if selection.rows is not None:
        keep = keep & selection.rows[joined.row]
        row = (np.cumsum(selection.rows) - 1)[joined.row]
    kept = joined.select(keep)
    return NamesContent(
        hash=kept.hash,
        row=row[keep].astype(np.uint32),
        folder=kept.folder,
        length=kept.lengths(),
        texts=kept.texts(),
    )


def _feature(feature: Feature, rows: Rows, counter: Counter) -> FeatureContent:
    row_bytes = feature.dtype.itemsize * int(np.prod(feature.row_shape))
    counter.total += len(rows) * row_bytes
    state = feature.state[rows]

    def pieces() -> Iterator[NDArray[Any]]:
        step = max(1, PIECE_BYTES // max(row_bytes, 1))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            piece = feature.joined.take(rows[part])
            piece[state[part] != OK] = 0
            yield piece
            counter.add(piece.nbytes)

    reasons = feature.failures
    return FeatureContent(
        data=Array((len(rows), *feature.row_shape), feature.dtype, pieces()),
        crc32=Array.of(feature.joined.take_crc32(rows)),
        state=state,
        reasons={new: reasons[old] for new, old in enumerate(rows.tolist()) if old in reasons}
        if reasons
        else {},
        provenance=feature.provenance,
        generation=feature.generation,
    )


def parts_of(path: Path, files: Sequence[SealedFile]) -> list[SealedFile]:
    """Return those files that are parts of the cache at `path`."""
    return [file for file in files if file.path.parent == parts_folder(path)]


def remove_absorbed(cache: FeatureCache) -> None:
    """Remove parts that a killed pack left behind; `locked` must be held.

    A file that is written next does not name them, and they would count as new.

    Raises:
        StorageError: If that is not allowed.
    """
    folder = parts_folder(cache.path)
    for file in cache.files:
        if file.path == cache.path:
            remove_parts([folder / f"part-{uuid}.h5" for uuid in file.absorbed])


def remove_parts(parts: Sequence[Path]) -> None:
    """Remove parts that the cache's file holds, for good.

    Raises:
        StorageError: If that is not allowed.
    """
    try:
        for part in parts:
            part.unlink(missing_ok=True)
        if parts:
            with contextlib.suppress(FileNotFoundError):
                fsync_folder(parts[0].parent)
    except OSError as error:
        raise storage_error(parts[0], error) from error


def set_aside(path: Path, file: Path, why: str) -> Path:
    """Rename a file so that no reader takes it for a part of the cache at `path`.

    Returns:
        Its new place, beside the cache: `<name>.<why>`.

    Raises:
        StorageError: If that is not allowed.
    """
    number = 0
    while (target := path.with_name(f"{file.name}.{why}{number or ''}")).exists():
        number += 1
    try:
        file.rename(target)
        fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    return target
