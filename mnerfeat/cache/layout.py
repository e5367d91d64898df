"""Writing a sealed file: everything is placed before a byte of it touches the disk.

HDF5 crashes the process when a file it holds open cannot grow. It holds none open here: the
metadata is made in memory, and plain writes put it and the datasets' bytes where they belong.
"""

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
    planned = plan(attributes, {name: Slot(a.shape, a.dtype) for name, a in arrays.items()})
    with replacing(path) as file:
        file.reserve(planned.size)
        file.write(planned.metadata, 0)
        for name, array in arrays.items():
            position = planned.offsets[name]
            end = position + Slot(array.shape, array.dtype).size
            for data in array.pieces:
                file.write(np.ascontiguousarray(data).data, position)
                position += data.nbytes
            assert position == end, f"{name}: {end - position} bytes were not given"
