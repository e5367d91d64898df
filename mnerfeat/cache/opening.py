"""Opening one sealed file: it is checked and mapped.

The metadata is read once, at opening, and without libhdf5, which damaged metadata can crash.
Everything after that is a bounds-checked view of a memory map: no handle, no lock.
"""

import contextlib
import json
import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.hdf5 import Dataset, Group, read_root
from mnerfeat.cache.hdf5_blocks import Blocks, UnfitError
from mnerfeat.cache.mapping import map_file
from mnerfeat.cache.schema import (
    DIMENSIONS_LIMIT,
    FEATURE_DTYPES,
    FORMAT,
    FORMAT_VERSION,
    ID_BYTES,
    RESERVED,
    TABLES,
    Provenance,
)
from mnerfeat.cache.sealed import (
    SealedFeature,
    SealedFile,
    SealedNames,
    SealedTable,
    TextColumn,
)
from mnerfeat.errors import CacheError, CacheFormatError

_UUID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_LENGTH_LIMIT: Final = 1 << 48  # of one dimension; far beyond it, products no longer fit numpy


def open_sealed(path: Path) -> SealedFile:
    """Open, check and map one file.

    Raises:
        FileNotFoundError: Where there is none (a part may be absorbed at any time).
        CacheFormatError: Where it is not a sealed file, is damaged, or is of another version.
        CacheError: Where it may not be read.
    """
    data, inode = map_file(path)
    with refusing(path):
        return _Reader(data, (path, inode)).file()


def read_version(path: Path) -> int:
    """The format version of a cache's file, whatever it is.

    Raises:
        FileNotFoundError: Where there is none.
        CacheFormatError: Where it is not a file of a cache.
    """
    data, inode = map_file(path)
    with refusing(path):
        reader = _Reader(data, (path, inode))
        version = reader.version()
        reader.verify()
        return version


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Say of which file something is unfit.

    Raises:
        CacheFormatError: In place of everything that a damaged file can bring about.
    """
    hint = (
        f"check that it is a cache (`mnerfeat cache verify {path}`); `mnerfeat cache repair "
        f"{path}` keeps what is sound of a damaged one"
    )
    try:
        yield
    except UnfitError as fault:
        raise CacheFormatError(
            f"{path} cannot be read as a feature cache: {fault}", hint=fault.hint or hint
        ) from None
    # JSON and texts: too deep, too long, not UTF-8.
    except (ValueError, RecursionError, CacheError) as error:
        raise CacheFormatError(
            f"{path} cannot be read as a feature cache: {error}", hint=hint
        ) from error


def view(data: mmap.mmap | bytes, dataset: Dataset, where: str) -> NDArray[Any]:
    """A dataset as a view of its file: one block of plain numbers that lies inside it.

    Raises:
        UnfitError: Where it is anything else.
    """
    shape = dataset.shape
    if not dataset.plain or shape is None:
        raise UnfitError(f"{where} is not stored as one plain block")
    if dataset.dtype is None:
        raise UnfitError(f"{where} does not hold plain numbers")
    if not 1 <= len(shape) <= DIMENSIONS_LIMIT or max(shape) > _LENGTH_LIMIT:
        raise UnfitError(f"{where} has shape {shape}")
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, dataset.dtype)
    end = (dataset.address or 0) + count * dataset.dtype.itemsize
    if not dataset.address or end > len(data):
        raise UnfitError(f"{where} lies outside the file: it is truncated")
    return np.frombuffer(data, dataset.dtype, count, dataset.address).reshape(shape)


class _Reader:
    """Turns the datasets of a file into views of its map, trusting nothing it reads."""

    def __init__(self, data: mmap.mmap | bytes, place: tuple[Path, tuple[int, ...]]) -> None:
        self._data = data
        self._place = place
        self._blocks = Blocks(data)
        self._root = read_root(self._blocks)
        self._datasets: dict[str, tuple[NDArray[Any], Dataset]] = {}

    def version(self) -> int:
        if self._root.attribute("format") != FORMAT:
            raise UnfitError(f"its attribute `format` is not {FORMAT!r}")
        return self._number(self._root, "format_version")

    def file(self) -> SealedFile:
        path = self._place[0]
        version = self.version()
        if version != FORMAT_VERSION:
            self.verify()
            raise UnfitError(
                f"it has format version {version}, this program reads {FORMAT_VERSION}",
                f"`mnerfeat cache migrate {path}` rewrites it"
                if version < FORMAT_VERSION
                else "install the mnerfeat that wrote it, or a newer one",
            )
        root = self._root
        file = SealedFile(
            path=path,
            bytes=len(self._data),
            uuid=self._text(root, "uuid"),
            sequence=self._number(root, "sequence"),
            created_by=self._text(root, "created_by"),
            created_at=self._text(root, "created_at"),
            absorbed=self._absorbed(root),
            tables={
                name: self._table(self._group(root, name), name)
                for name in TABLES
                if name in root.members
            },
            datasets=self._datasets,
        )
        self.verify()
        return file

    def verify(self) -> None:
        self._blocks.verify()

    def _absorbed(self, root: Group) -> frozenset[str]:
        lines = self._array(root, "absorbed", ("|u1",), 1).tobytes().decode().split("\n")
        absorbed = frozenset(lines) - {""}
        # A pack removes the files of these names: they must not lead out of the folder.
        if not all(_UUID.fullmatch(uuid) for uuid in absorbed):
            raise UnfitError("/absorbed holds something else than UUIDs")
        return absorbed

    def _table(self, group: Group, name: str) -> SealedTable:
        ids = self._array(group, "id", ("|u1",), 2)
        n_rows = len(ids)
        self._expect(group, "id", ids.shape, (n_rows, ID_BYTES))
        prefix = self._array(group, "prefix", ("<u8",), 1, n_rows)
        features = {}
        for member in group.members:
            if member not in RESERVED:
                opened = group.open(member)
                if isinstance(opened, Group):
                    features[member] = self._feature(opened, n_rows)
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

    def _feature(self, group: Group, n_rows: int) -> SealedFeature:
        codes = tuple(dtype.str for dtype in FEATURE_DTYPES)
        reason = self._group(group, "reason")
        rows = self._array(reason, "row", ("<u4",), 1)
        if len(rows) and int(rows.max()) >= n_rows:
            raise UnfitError(f"{group.name}/reason names rows that are not there")
        texts = self._texts(reason, len(rows))
        texts.check("reasons")
        data = self._array(group, "data", codes, None, n_rows)
        _, header = self._datasets[group.where("data")]
        return SealedFeature(
            data=data,
            state=self._array(group, "state", ("|u1",), 1, n_rows),
            crc32=self._array(group, "crc32", ("<u4",), 1, n_rows),
            provenance=self._provenance(group),
            generation=self._number(group, "generation"),
            reason_row=rows,
            reason_text=texts,
            place=self._place,
            offset=header.address,
        )

    def _provenance(self, group: Group) -> Provenance:
        text = self._text(group, "provenance")
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise UnfitError(f"the provenance of {group.name} is not a JSON object")
        provenance = Provenance(facts)
        if provenance.json != text:
            raise UnfitError(f"the provenance of {group.name} is not canonical JSON")
        if provenance.digest != self._text(group, "provenance_sha256"):
            raise UnfitError(f"the provenance of {group.name} does not match its own hash")
        return provenance

    def _names(self, group: Group) -> SealedNames:
        hashes = self._array(group, "hash", ("<u8",), 1)
        return SealedNames(
            hash=hashes,
            row=self._array(group, "row", ("<u4",), 1, len(hashes)),
            text=self._texts(group, len(hashes)),
        )

    def _texts(self, group: Group, count: int) -> TextColumn:
        return TextColumn(
            data=self._array(group, "bytes", ("|u1",), 1),
            offset=self._array(group, "offset", ("<u8",), 1, count + 1),
        )

    def _shaped(self, group: Group, name: str, code: str, shape: tuple[int, ...]) -> NDArray[Any]:
        array = self._array(group, name, (code,), len(shape))
        self._expect(group, name, array.shape, shape)
        return array

    def _expect(
        self, group: Group, name: str, got: tuple[int, ...], wanted: tuple[int, ...]
    ) -> None:
        if got != wanted:
            raise UnfitError(f"{group.where(name)} has shape {got}, not {wanted}")

    def _array(
        self,
        group: Group,
        name: str,
        codes: tuple[str, ...],
        n_dimensions: int | None,
        n_rows: int | None = None,
    ) -> NDArray[Any]:
        """A dataset as a view of the map: one block of plain numbers inside the file."""
        where = group.where(name)
        dataset = group.open(name)
        if not isinstance(dataset, Dataset):
            raise UnfitError(f"{where} is missing")
        array = view(self._data, dataset, where)
        if array.dtype.str not in codes:
            raise UnfitError(f"{where} holds {array.dtype.str}, not {' or '.join(codes)}")
        if n_dimensions not in {None, array.ndim}:
            raise UnfitError(f"{where} has {array.ndim} dimensions")
        if n_rows is not None and len(array) != n_rows:
            raise UnfitError(f"{where} has {len(array)} rows, not {n_rows}")
        self._datasets[where] = array, dataset
        return array

    def _group(self, group: Group, name: str) -> Group:
        opened = group.open(name)
        if not isinstance(opened, Group):
            raise UnfitError(f"{group.where(name)} is missing")
        return opened

    def _text(self, owner: Group, name: str) -> str:
        value = owner.attribute(name)
        if not isinstance(value, str):
            raise UnfitError(f"the attribute `{name}` of {owner.name} is not a text")
        return value

    def _number(self, owner: Group, name: str) -> int:
        value = owner.attribute(name)
        if not isinstance(value, int):
            raise UnfitError(f"the attribute `{name}` of {owner.name} is not a whole number")
        return value
