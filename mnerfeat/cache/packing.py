"""Joining a sealed file and the parts beside it into a new sealed file."""

import contextlib
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.encoding import FeatureContent, NamesContent, TableContent, encode_file
from mnerfeat.cache.joining import JoinedFeature, JoinedNames
from mnerfeat.cache.layout import Array, write_sealed
from mnerfeat.cache.reader import FeatureCache, parts_folder
from mnerfeat.cache.storage import exclusive, fsync_folder, storage_error, sweep
from mnerfeat.cache.table import Table

PIECE_BYTES = 8 << 20
"""How much of a feature a pack holds in memory at once."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""


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
    folder = parts_folder(path)
    with exclusive(path.with_name(f".{path.name}.lock")):
        sweep(path.parent)
        sweep(folder)
        cache = FeatureCache(path, missing_ok=True)
        base = next((file for file in cache.files if file.path == path), None)
        if base:
            _remove([folder / f"part-{uuid}.h5" for uuid in base.absorbed])
        waiting = [file for file in cache.files if file is not base]
        if waiting:
            counted = _Counted(progress)
            attributes, arrays = encode_file(
                {
                    table.name: _table(table, counted)
                    for table in (cache.images, cache.texts, cache.pairs)
                    if len(table)
                },
                uuid=uuid4().hex,
                sequence=max(file.sequence for file in waiting),
                absorbed=[file.path.stem.removeprefix("part-") for file in waiting],
            )
            write_sealed(path, attributes, arrays)
            _remove([file.path for file in waiting])
        with contextlib.suppress(OSError):  # parts may be waiting again, or none ever were
            folder.rmdir()


def _remove(parts: list[Path]) -> None:
    try:
        for part in parts:
            part.unlink(missing_ok=True)
        if parts:
            with contextlib.suppress(FileNotFoundError):
                fsync_folder(parts[0].parent)
    except OSError as error:
        raise storage_error(parts[0], error) from error


class _Counted:
    """Adds up what is to be written and tells how far it has got."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._written = 0
        self.total = 0

    def add(self, count: int) -> None:
        self._written += count
        if self._progress:
            self._progress(self._written, self.total)


def _table(table: Table, counted: _Counted) -> TableContent:
    columns: dict[str, NDArray[Any]] = {}
    if table.name == "images":
        columns["size"] = table.sizes
    if table.name == "pairs":
        columns["text"], columns["image"] = table.pair_ids
    return TableContent(
        ids=table.ids,
        columns=columns,
        names=_names(table.joined_names()) if table.name == "images" else None,
        features={
            name: _joined_feature(feature.joined, counted)
            for name, feature in table.features.items()
        },
    )


def _names(joined: JoinedNames) -> NamesContent:
    return NamesContent(
        hash=joined.hash,
        row=joined.row.astype(np.uint32),
        length=joined.lengths(),
        texts=joined.texts(),
    )


def _joined_feature(joined: JoinedFeature, counted: _Counted) -> FeatureContent:
    n_rows = len(joined.state)
    row_bytes = joined.dtype.itemsize * int(np.prod(joined.row_shape))
    counted.total += n_rows * row_bytes

    def pieces() -> Iterator[NDArray[Any]]:
        step = max(1, PIECE_BYTES // max(row_bytes, 1))
        for start in range(0, n_rows, step):
            piece = joined.take(np.arange(start, min(start + step, n_rows)))
            yield piece
            counted.add(piece.nbytes)

    return FeatureContent(
        data=Array((n_rows, *joined.row_shape), joined.dtype, pieces()),
        crc32=Array.of(joined.take_crc32(np.arange(n_rows))),
        state=joined.state,
        reasons=joined.reasons(),
        provenance=joined.provenance,
        generation=joined.generation,
    )
