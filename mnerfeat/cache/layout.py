"""Where everything lies in a sealed file, planned before a byte of it touches the disk.

HDF5 crashes the process when a file it holds open cannot grow. So it never holds one open for
writing here: it lays out the datasets in a sparse file in memory, allocating their space but
never writing to it, and what it wrote (some kilobytes of metadata) is copied to the disk by
plain writes, and the datasets' bytes after it, each at the offset HDF5 gave it.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.storage import replacing

ALIGNMENT = 4096
"""Datasets of this many bytes or more start at a multiple of it, so that they can be mapped."""

Attributes = Mapping[str, str | int]


@dataclass(frozen=True)
class Array:
    """A dataset to be written: its shape, its type, and its rows in pieces, in order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        """An array that is there already."""
        little = array.dtype.newbyteorder("<")
        return cls(array.shape, little, [np.ascontiguousarray(array, dtype=little)])


def write_sealed(
    path: Path, attributes: Mapping[str, Attributes], arrays: Mapping[str, Array]
) -> None:
    """Write an HDF5 file whole or not at all.

    Args:
        path: The file; one that is there is replaced.
        attributes: By object (`""` is the root), the attributes it carries. Groups that are
            named here or contain an array are made.
        arrays: By full name.

    Raises:
        StorageError: Where it cannot be written; `path` is then as it was.
    """
    metadata, offsets = _plan(attributes, arrays)
    with replacing(path) as file:
        file.reserve(metadata.size)
        for offset, piece in metadata.pieces:
            file.write(piece, offset)
        for name, array in arrays.items():
            position = offsets[name]
            end = position + array.dtype.itemsize * int(np.prod(array.shape, dtype=object))
            for data in array.pieces:
                file.write(np.ascontiguousarray(data).data, position)
                position += data.nbytes
            assert position == end, f"{name}: {end - position} bytes were not given"


def _plan(
    attributes: Mapping[str, Attributes], arrays: Mapping[str, Array]
) -> tuple["_SparseFile", dict[str, int]]:
    sparse = _SparseFile()
    offsets: dict[str, int] = {}
    with h5py.File(
        sparse,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=ALIGNMENT,
        alignment_interval=ALIGNMENT,
    ) as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        linking = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        linking.set_create_intermediate_group(True)
        for name, array in arrays.items():
            dataset = h5py.h5d.create(
                file.id,
                name.encode(),
                h5py.h5t.py_create(array.dtype),
                h5py.h5s.create_simple(array.shape),
                creation,
                linking,
            )
            # An empty dataset has no place.
            offsets[name] = dataset.get_offset() or 0
        for owner, values in attributes.items():
            group = file.require_group(owner) if owner else file
            group.attrs.update(values)
    return sparse, offsets


class _SparseFile(io.RawIOBase):
    """A file in memory that holds only what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0
        self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pieces.append((self._position, piece))
        self._position += len(piece)
        self.size = max(self.size, self._position)
        return len(piece)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        target[:] = bytes(len(target))
        for offset, piece in self.pieces:
            start = max(offset, self._position)
            end = min(offset + len(piece), self._position + len(target))
            if start < end:
                target[start - self._position : end - self._position] = piece[
                    start - offset : end - offset
                ]
        self._position += len(target)
        return len(target)
