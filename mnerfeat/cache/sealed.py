"""One sealed file, checked and mapped.

HDF5 reads the metadata once, at opening; everything after that is a bounds-checked view of a
memory map, so a reader holds no HDF5 handle and no lock.
"""

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.schema import (
    FEATURE_DTYPES,
    FORMAT,
    FORMAT_VERSION,
    ID_BYTES,
    RESERVED,
    TABLES,
    Bytes,
    Provenance,
)
from mnerfeat.errors import CacheError, CacheFormatError

_ATTRIBUTE_LIMIT = 1 << 20  # bytes; a longer one is not ours
_DIMENSIONS_LIMIT = 8


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
    """

    data: NDArray[Any]
    state: NDArray[np.uint8]
    crc32: NDArray[np.uint32]
    provenance: Provenance
    generation: int
    reason_row: NDArray[np.uint32]
    reason_text: TextColumn


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
        uuid: Its own name, unlike any other file's.
        sequence: When it was written, nanoseconds since 1970; orders parts.
        created_by: The program and version that wrote it.
        created_at: ISO 8601, UTC.
        absorbed: The parts that it was packed from.
        tables: By name; one without rows may be absent.
    """

    path: Path
    uuid: str
    sequence: int
    created_by: str
    created_at: str
    absorbed: frozenset[str]
    tables: Mapping[str, SealedTable]


def open_sealed(path: Path) -> SealedFile:
    """Open, check and map one file.

    Raises:
        FileNotFoundError: Where there is none (a part may be absorbed at any time).
        CacheFormatError: Where it is not a sealed file, is damaged, or is of another version.
    """
    try:
        with path.open("rb") as raw:
            # Reading through the one descriptor keeps metadata and map of the same file,
            # whatever happens to the name in between; no lock is taken.
            mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            with h5py.File(raw, "r") as file:
                return _Reader(mapped).file(path, file)
    except FileNotFoundError:
        raise
    except _UnfitError as fault:
        raise CacheFormatError(
            f"{path} cannot be read as a feature cache: {fault}", hint=fault.hint or _hint(path)
        ) from None
    except CacheError:
        raise
    # A damaged file makes HDF5 raise whatever it likes.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        raise CacheFormatError(
            f"{path} cannot be read as a feature cache: {error}", hint=_hint(path)
        ) from error


def _hint(path: Path) -> str:
    return (
        f"check that it is a cache (`mnerfeat cache verify {path}`); a damaged one can be moved "
        "away and made again by `mnerfeat extract`"
    )


class _UnfitError(Exception):
    """Something in the file that must not be there."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


class _Reader:
    """Turns HDF5 objects into views of the map, trusting nothing it reads."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped

    def file(self, path: Path, file: h5py.File) -> SealedFile:
        if self._text(file, "format") != FORMAT:
            raise _UnfitError(f"its attribute `format` is not {FORMAT!r}")
        version = self._number(file, "format_version")
        if version != FORMAT_VERSION:
            raise _UnfitError(
                f"it has format version {version}, this program reads {FORMAT_VERSION}",
                "install the mnerfeat that wrote it, or a newer one",
            )
        absorbed = self._array(file, "absorbed", ("|u1",), 1)
        return SealedFile(
            path=path,
            uuid=self._text(file, "uuid"),
            sequence=self._number(file, "sequence"),
            created_by=self._text(file, "created_by"),
            created_at=self._text(file, "created_at"),
            absorbed=frozenset(absorbed.tobytes().decode().split()),
            tables={
                name: self._table(self._group(file, name), name)
                for name in TABLES
                if self._kind(file, name)
            },
        )

    def _table(self, group: h5py.Group, name: str) -> SealedTable:
        ids = self._array(group, "id", ("|u1",), 2)
        n_rows = len(ids)
        self._expect(group, "id", ids.shape, (n_rows, ID_BYTES))
        prefix = self._array(group, "prefix", ("<u8",), 1, n_rows)
        features = {}
        for member in group:
            if member not in RESERVED and self._kind(group, member) is h5py.Group:
                features[member] = self._feature(self._group(group, member), n_rows)
        pair = name == "pairs"
        return SealedTable(
            id=ids,
            prefix=prefix,
            features=features,
            names=self._names(self._group(group, "path")) if name == "images" else None,
            size=self._shaped(group, "size", "<i4", (n_rows, 2)) if name == "images" else None,
            text=self._shaped(group, "text", "|u1", (n_rows, ID_BYTES)) if pair else None,
            image=self._shaped(group, "image", "|u1", (n_rows, ID_BYTES)) if pair else None,
        )

    def _feature(self, group: h5py.Group, n_rows: int) -> SealedFeature:
        codes = tuple(dtype.str for dtype in FEATURE_DTYPES)
        data = self._array(group, "data", codes, None, n_rows)
        reason = self._group(group, "reason")
        rows = self._array(reason, "row", ("<u4",), 1)
        if len(rows) and int(rows.max()) >= n_rows:
            raise _UnfitError(f"{group.name}/reason names rows that are not there")
        return SealedFeature(
            data=data,
            state=self._array(group, "state", ("|u1",), 1, n_rows),
            crc32=self._array(group, "crc32", ("<u4",), 1, n_rows),
            provenance=self._provenance(group),
            generation=self._number(group, "generation"),
            reason_row=rows,
            reason_text=self._texts(reason, len(rows)),
        )

    def _provenance(self, group: h5py.Group) -> Provenance:
        facts = json.loads(self._text(group, "provenance"))
        if not isinstance(facts, dict):
            raise _UnfitError(f"the provenance of {group.name} is not a JSON object")
        provenance = Provenance(facts)
        if provenance.digest != self._text(group, "provenance_sha256"):
            raise _UnfitError(f"the provenance of {group.name} does not match its own hash")
        return provenance

    def _names(self, group: h5py.Group) -> SealedNames:
        hashes = self._array(group, "hash", ("<u8",), 1)
        return SealedNames(
            hash=hashes,
            row=self._array(group, "row", ("<u4",), 1, len(hashes)),
            text=self._texts(group, len(hashes)),
        )

    def _texts(self, group: h5py.Group, count: int) -> TextColumn:
        # Offsets are checked where they are used: slicing is bounded by the array's own length.
        return TextColumn(
            data=self._array(group, "bytes", ("|u1",), 1),
            offset=self._array(group, "offset", ("<u8",), 1, count + 1),
        )

    def _shaped(
        self, group: h5py.Group, name: str, code: str, shape: tuple[int, ...]
    ) -> NDArray[Any]:
        array = self._array(group, name, (code,), len(shape))
        self._expect(group, name, array.shape, shape)
        return array

    def _expect(
        self, group: h5py.Group, name: str, got: tuple[int, ...], wanted: tuple[int, ...]
    ) -> None:
        if got != wanted:
            raise _UnfitError(f"{group.name}/{name} has shape {got}, not {wanted}")

    def _array(
        self,
        group: h5py.Group,
        name: str,
        codes: tuple[str, ...],
        n_dimensions: int | None,
        n_rows: int | None = None,
    ) -> NDArray[Any]:
        """A dataset as a view of the map: contiguous, plain numbers, inside the file."""
        where = f"{group.name.rstrip('/')}/{name}"
        if self._kind(group, name) is not h5py.Dataset:
            raise _UnfitError(f"{where} is missing")
        dataset = group[name]
        kind = dataset.id.get_type()
        if kind.get_class() not in {h5py.h5t.INTEGER, h5py.h5t.FLOAT} or kind.get_size() > 8:
            raise _UnfitError(f"{where} does not hold plain numbers")
        if dataset.dtype.str not in codes:
            raise _UnfitError(f"{where} has type {dataset.dtype.str}, not {' or '.join(codes)}")
        creation = dataset.id.get_create_plist()
        if (
            creation.get_layout() != h5py.h5d.CONTIGUOUS
            or creation.get_external_count()
            or creation.get_nfilters()
            or dataset.shape is None
        ):
            raise _UnfitError(f"{where} is not stored as one plain block")
        shape = dataset.shape
        if not 1 <= len(shape) <= _DIMENSIONS_LIMIT or n_dimensions not in {None, len(shape)}:
            raise _UnfitError(f"{where} has {len(shape)} dimensions")
        if n_rows is not None and shape[0] != n_rows:
            raise _UnfitError(f"{where} has {shape[0]} rows, not {n_rows}")
        count = 1
        for length in shape:
            count *= int(length)
        if count == 0:
            return np.zeros(shape, dataset.dtype)
        offset = dataset.id.get_offset()
        if offset is None or offset + count * dataset.dtype.itemsize > len(self._map):
            raise _UnfitError(f"{where} lies outside the file: it is truncated")
        return np.frombuffer(self._map, dataset.dtype, count, offset).reshape(shape)

    def _group(self, group: h5py.Group, name: str) -> h5py.Group:
        if self._kind(group, name) is not h5py.Group:
            raise _UnfitError(f"{group.name.rstrip('/')}/{name} is missing")
        return group[name]

    def _kind(self, group: h5py.Group, name: str) -> type | None:
        """The kind of an object that lies in this very file; None where there is none."""
        link = group.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise _UnfitError(
                f"{group.name.rstrip('/')}/{name} points elsewhere, which no cache does"
            )
        kind: type = group.get(name, getclass=True)
        return kind

    def _text(self, owner: h5py.Group, name: str) -> str:
        value = self._attribute(owner, name, h5py.h5t.STRING, "text")
        return value.decode() if isinstance(value, bytes) else str(value)

    def _number(self, owner: h5py.Group, name: str) -> int:
        return int(self._attribute(owner, name, h5py.h5t.INTEGER, "a whole number"))

    def _attribute(self, owner: h5py.Group, name: str, kind: int, described: str) -> Any:
        where = f"the attribute `{name}` of {owner.name}"
        if name not in owner.attrs:
            raise _UnfitError(f"{where} is missing")
        attribute = owner.attrs.get_id(name)
        if attribute.shape != () or attribute.get_storage_size() > _ATTRIBUTE_LIMIT:
            raise _UnfitError(f"{where} is not a plain value")
        if attribute.get_type().get_class() != kind:
            raise _UnfitError(f"{where} is not {described}")
        return owner.attrs[name]
