"""What a sealed file holds: its tables and features, as views of its map."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.hdf5 import Dataset
from mnerfeat.cache.hdf5_blocks import UnfitError
from mnerfeat.cache.schema import Bytes, Provenance


@dataclass(frozen=True)
class TextColumn:
    """Some texts, one after the other: `data[offset[i]:offset[i + 1]]` is the i-th.

    Attributes:
        data: (total,) uint8.
        offset: (n + 1,) uint64.
    """

    data: Bytes
    offset: NDArray[np.uint64]

    def __len__(self) -> int:
        return max(len(self.offset) - 1, 0)

    def __getitem__(self, index: int) -> bytes:
        start, end = int(self.offset[index]), int(self.offset[index + 1])
        return self.data[start:end].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def check(self, what: str) -> None:
        """Make sure that the texts follow each other and fill `data`.

        Raises:
            UnfitError: Where they do not: reading all of them could take for ever.
        """
        if (
            self.offset[0] != 0
            or self.offset[-1] != len(self.data)
            or (self.offset[1:] < self.offset[:-1]).any()
        ):
            raise UnfitError(f"the {what} are not laid out one after the other")


@dataclass(frozen=True)
class SealedFeature:
    """A feature as it lies in one file; the arrays are views of the map.

    Attributes:
        data: (n, …).
        state: (n,) uint8.
        crc32: (n,) uint32, of identity and row.
        provenance: What made it.
        generation: Which of two provenances of one feature is the newer: the larger.
        reason_row: (failed,) uint32.
        reason_text: Why, for each of `reason_row`.
        place: The file, and what tells it from any other file of that name.
        offset: Of `data` in it; None where there is no data.
    """

    data: NDArray[Any]
    state: NDArray[np.uint8]
    crc32: NDArray[np.uint32]
    provenance: Provenance
    generation: int
    reason_row: NDArray[np.uint32]
    reason_text: TextColumn
    place: tuple[Path, tuple[int, ...]]
    offset: int | None


@dataclass(frozen=True)
class SealedNames:
    """Every name that leads to a row, sorted by the names' hashes.

    Attributes:
        hash: (p,) uint64, sorted.
        row: (p,) uint32.
        text: The names' bytes.
    """

    hash: NDArray[np.uint64]
    row: NDArray[np.uint32]
    text: TextColumn


@dataclass(frozen=True)
class SealedTable:
    """A table as it lies in one file.

    Attributes:
        id: (n, 32) uint8, sorted.
        prefix: (n,) uint64: the first eight bytes of `id`, as numbers.
        features: By name.
        names: Images only.
        size: Images only: (n, 2) int32, pixels.
        text: Pairs only: (n, 32) uint8.
        image: Pairs only: (n, 32) uint8.
    """

    id: Bytes
    prefix: NDArray[np.uint64]
    features: Mapping[str, SealedFeature]
    names: SealedNames | None
    size: NDArray[np.int32] | None
    text: Bytes | None
    image: Bytes | None

    def __len__(self) -> int:
        return len(self.prefix)


@dataclass(frozen=True)
class SealedFile:
    """A sealed file: a cache, or a part of one.

    Attributes:
        path: Where it was found.
        bytes: Its size.
        uuid: Its own name, unlike any other file's.
        sequence: When it was written, nanoseconds since 1970; orders parts.
        created_by: The program and version that wrote it.
        created_at: ISO 8601, UTC.
        absorbed: The parts that it was packed from.
        tables: By name; one without rows may be absent.
        datasets: What was read of it, by full name, with the headers.
    """

    path: Path
    bytes: int
    uuid: str
    sequence: int
    created_by: str
    created_at: str
    absorbed: frozenset[str]
    tables: Mapping[str, SealedTable]
    datasets: Mapping[str, tuple[NDArray[Any], Dataset]]
