"""Joining a sealed file and the parts beside it into a new sealed file."""

import contextlib
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from mnerfeat.cache.reader import FeatureCache, parts_folder
from mnerfeat.cache.rewriting import Counted, Progress, Selection, rewrite, table_content
from mnerfeat.cache.sealed import SealedFile
from mnerfeat.cache.storage import exclusive, fsync_folder, storage_error, sweep


def pack(path: str | PathLike[str], progress: Progress | None = None) -> None:
    """Join the sealed file and its parts into one new sealed file; then remove the parts.

    Readers see a whole cache at every moment, several packs at once wait for each other, and a
    pack that is killed is done again by the next one. For a moment it needs the space twice.

    Args:
        path: The `.h5` file.
        progress: Called with the bytes written so far and the bytes in all.

    Raises:
        StorageError: Where the disk is full; the cache is then as it was.
    """
    path = Path(path)
    with locked(path):
        cache = FeatureCache(path, missing_ok=True)
        base = next((file for file in cache.files if file.path == path), None)
        if base:
            remove_parts([parts_folder(path) / f"part-{uuid}.h5" for uuid in base.absorbed])
        if any(file is not base for file in cache.files):
            seal(cache, progress=progress)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one who rewrites a cache, and tidy up what killed processes left there.

    Raises:
        StorageError: Where the lock cannot be had.
    """
    folder = parts_folder(path)
    with exclusive(path.with_name(f".{path.name}.lock")):
        sweep(path.parent)
        sweep(folder)
        yield
        with contextlib.suppress(OSError):  # parts may be waiting again, or none ever were
            folder.rmdir()


def seal(
    cache: FeatureCache,
    *,
    selections: dict[str, Selection] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write an open cache as one sealed file and remove its parts; `locked` must be held.

    Args:
        cache: With at least one file.
        selections: By table, where not everything is kept.
        progress: Called with the bytes written so far and the bytes in all.

    Raises:
        StorageError: Where it cannot be written; the cache is then as it was.
    """
    counted = Counted(progress)
    tables = {
        table.name: table_content(table, counted, (selections or {}).get(table.name, Selection()))
        for table in (cache.images, cache.texts, cache.pairs)
    }
    parts = parts_of(cache.path, cache.files)
    rewrite(
        cache.path,
        tables,
        sequence=max(file.sequence for file in cache.files),
        absorbed=[file.path.stem.removeprefix("part-") for file in parts],
    )
    remove_parts([file.path for file in parts])


def parts_of(path: Path, files: Sequence[SealedFile]) -> list[SealedFile]:
    """Those files that are parts of the cache at `path`."""
    return [file for file in files if file.path.parent == parts_folder(path)]


def remove_parts(parts: Sequence[Path]) -> None:
    """Remove parts that a sealed file names, for good.

    Raises:
        StorageError: Where that is not allowed.
    """
    try:
        for part in parts:
            part.unlink(missing_ok=True)
        if parts:
            with contextlib.suppress(FileNotFoundError):
                fsync_folder(parts[0].parent)
    except OSError as error:
        raise storage_error(parts[0], error) from error
