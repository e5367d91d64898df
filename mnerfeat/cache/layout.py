"""Writing a sealed file: everything is placed before a byte of it touches the disk.

HDF5 crashes the process when a file it holds open cannot grow. It holds none open here: the
metadata is made in memory, and plain writes put it and the datasets' bytes where they belong.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.hdf5_writing import Attributes, Slot, plan
from mnerfeat.cache.storage import replacing


@dataclass(frozen=True)
class Array:
    """A dataset to be written.

    Attributes:
        shape: Its own.
        dtype: Little-endian.
        pieces: Its rows, in order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        """An array that is there already."""
        little = array.dtype.newbyteorder("<")
        return cls(array.shape, little, [np.ascontiguousarray(array, dtype=little)])


def has_sum(name: str) -> bool:
    """Whether a dataset has an attribute `crc32`; not if its rows have checksums of their own."""
    return name.rpartition("/")[2] != "data"


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
    slots = {name: Slot(array.shape, array.dtype) for name, array in arrays.items()}
    sums = {name: {"crc32": 0} for name in arrays if has_sum(name)}
    planned = plan({**attributes, **sums}, slots)
    with replacing(path) as file:
        file.reserve(planned.size)
        for name, array in arrays.items():
            position = planned.offsets[name]
            end = position + slots[name].size
            for data in array.pieces:
                piece = np.ascontiguousarray(data).data.cast("B") if data.size else b""
                if name in sums:
                    sums[name]["crc32"] = zlib.crc32(piece, sums[name]["crc32"])
                file.write(piece, position)
                position += data.nbytes
            assert position == end, f"{name}: {end - position} bytes were not given"
        # The sums are known by now; they take as much room as the zeros did.
        file.write(plan({**attributes, **sums}, slots).metadata, 0)
