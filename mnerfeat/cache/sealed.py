"""One file of a cache, opened: its tables and features as views of its memory map."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.files import Buffer, ChunkedRows, Group, StructureError, open_root, refusing
from mnerfeat.cache.schema import (
    FEATURE_DTYPES,
    FORMAT,
    FORMAT_VERSION,
    ID_BYTES,
    READABLE_VERSIONS,
    RESERVED,
    TABLES,
    Bytes,
    Provenance,
)
from mnerfeat.cache.storage import map_file

_UUID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_CACHE_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class TextColumn:
    """Texts, one after the other: `data[offset[i]:offset[i + 1]]` is the i-th.

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
            StructureError: If they do not: reading all of them could take for ever.
        """
        if (
            self.offset[0] != 0
            or self.offset[-1] != len(self.data)
            or (self.offset[1:] < self.offset[:-1]).any()
        ):
            raise StructureError(f"the {what} are not laid out one after the other")


@dataclass(frozen=True)
class SealedFeature:
    """A feature in one file; arrays are views of its map.

    Attributes:
        data: (n, …).
        state: (n,) uint8.
        crc32: (n,) uint32, of identity and row.
        provenance: What made it.
        generation: Orders the provenances of one feature: the largest is the newest.
        reason_row: (failed,) uint32.
        reason_text: Failure reasons, for each of `reason_row`.
        place: The file, and what tells it from any other file of that name.
        offset: Where `data` starts in it; None if it is not there in one block.
    """

    data: NDArray[Any] | ChunkedRows
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
    """The names that lead to rows, sorted by their hashes.

    Attributes:
        hash: (p,) uint64, sorted.
        row: (p,) uint32.
        text: The names' bytes.
        folder: (p,) uint64: fingerprint of the folder of images that each name is relative to, 0
            if unknown.
    """

    hash: NDArray[np.uint64]
    row: NDArray[np.uint32]
    text: TextColumn
    folder: NDArray[np.uint64]


@dataclass(frozen=True)
class SealedTable:
    """A table in one file.

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
    """A file of a cache: the `.h5` file or a part.

    Attributes:
        path: Where it was found.
        version: Format version.
        uuid: Its own name, unlike any other file's.
        cache_id: The identity of the cache that it belongs to; of version 1, which has none, one
            that is derived from `uuid`.
        salts: The identities with which folders of images are fingerprinted: `cache_id`, and
            those of the caches that this one was merged from.
        sequence: When it was written, nanoseconds since 1970; orders parts.
        created_by: The program and version that wrote it.
        created_at: ISO 8601, UTC.
        absorbed: The parts that it was packed from.
        tables: By name; one without rows may be absent.
        buffer: The whole file.
        arrays: The datasets that were read from it, by full name.
    """

    path: Path
    version: int
    uuid: str
    cache_id: str
    salts: tuple[str, ...]
    sequence: int
    created_by: str
    created_at: str
    absorbed: frozenset[str]
    tables: Mapping[str, SealedTable]
    buffer: Buffer = field(repr=False)
    arrays: Mapping[str, NDArray[Any] | ChunkedRows] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Its size."""
        return len(self.buffer)

    def belongs_to(self, base: "SealedFile") -> bool:
        """Whether this part belongs to that cache, or to one that was merged into it."""
        if self.version == 1 or base.version == 1:
            return self.version == base.version
        return self.cache_id in base.salts


def open_sealed(path: Path) -> SealedFile:
    """Open, check and map one file.

    Raises:
        FileNotFoundError: If there is none (a part may be absorbed at any time).
        CacheFormatError: If it is not a file of a cache, is damaged, or is of another version.
        CacheError: If it may not be read.
    """
    buffer, inode = map_file(path)
    with refusing(path):
        root = open_root(buffer)
        version = _version(root)
        if version not in READABLE_VERSIONS:
            raise StructureError(
                f"it has format version {version}, this program reads up to {FORMAT_VERSION}",
                "install the mnerfeat that wrote it, or a newer one",
            )
        return _read(root, version, buffer, (path, inode))


def read_version(path: Path) -> int:
    """Return the format version of a cache's file, whatever it is.

    Raises:
        FileNotFoundError: If there is none.
        CacheFormatError: If it is not a file of a cache.
    """
    buffer, _ = map_file(path)
    with refusing(path):
        return _version(open_root(buffer))


def _version(root: Group) -> int:
    if root.text("format") != FORMAT:
        raise StructureError(f"its attribute `format` is not {FORMAT!r}")
    return root.number("format_version")


def _read(
    root: Group, version: int, buffer: Buffer, place: tuple[Path, tuple[int, ...]]
) -> SealedFile:
    uuid = root.text("uuid")
    cache_id = root.text("cache_id") if version > 1 else _derived_id(uuid)
    sources = _lines(root, "sources") if version > 1 else []
    if not all(_CACHE_ID.fullmatch(identity) for identity in [cache_id, *sources]):
        raise StructureError("the identity of its cache is not 32 hex digits")
    absorbed = _lines(root, "absorbed")
    # A pack removes the files of these names: they must not lead out of the folder.
    if not all(_UUID.fullmatch(name) for name in absorbed):
        raise StructureError("/absorbed holds something else than UUIDs")
    return SealedFile(
        path=place[0],
        version=version,
        uuid=uuid,
        cache_id=cache_id,
        salts=(cache_id, *sources),
        sequence=root.number("sequence"),
        created_by=root.text("created_by"),
        created_at=root.text("created_at"),
        absorbed=frozenset(absorbed),
        tables={
            name: _table(root.group(name), name, version, place) for name in TABLES if name in root
        },
        buffer=buffer,
        arrays=root.arrays,
    )


def _derived_id(uuid: str) -> str:
    return hashlib.sha256(b"mnerfeat version 1\0" + uuid.encode()).hexdigest()[:32]


def _lines(root: Group, name: str) -> list[str]:
    text = root.array(name, "|u1", (None,)).tobytes().decode()
    return text.split("\n") if text else []


def _table(
    group: Group, name: str, version: int, place: tuple[Path, tuple[int, ...]]
) -> SealedTable:
    ids = group.array("id", "|u1", (None, ID_BYTES))
    n_rows = len(ids)
    pair = name == "pairs"
    return SealedTable(
        id=ids,
        prefix=group.array("prefix", "<u8", (n_rows,)),
        features={
            member: _feature(feature, n_rows, place)
            for member in group.members()
            if member not in RESERVED and (feature := group.find_group(member))
        },
        names=_names(group.group("path"), version) if name == "images" else None,
        size=group.array("size", "<i4", (n_rows, 2)) if name == "images" else None,
        text=group.array("text", "|u1", (n_rows, ID_BYTES)) if pair else None,
        image=group.array("image", "|u1", (n_rows, ID_BYTES)) if pair else None,
    )


def _feature(group: Group, n_rows: int, place: tuple[Path, tuple[int, ...]]) -> SealedFeature:
    reason = group.group("reason")
    rows = reason.array("row", "<u4", (None,))
    if len(rows) and int(rows.max()) >= n_rows:
        raise StructureError(f"{group.name}/reason names rows that are not there")
    texts = _texts(reason, len(rows))
    texts.check("reasons")
    data, offset = group.rows("data", tuple(dtype.str for dtype in FEATURE_DTYPES), n_rows)
    return SealedFeature(
        data=data,
        state=group.array("state", "|u1", (n_rows,)),
        crc32=group.array("crc32", "<u4", (n_rows,)),
        provenance=_provenance(group),
        generation=group.number("generation"),
        reason_row=rows,
        reason_text=texts,
        place=place,
        offset=offset,
    )


def _provenance(group: Group) -> Provenance:
    text = group.text("provenance")
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise StructureError(f"the provenance of {group.name} is not a JSON object")
    provenance = Provenance(facts)
    if provenance.json != text:
        raise StructureError(f"the provenance of {group.name} is not canonical JSON")
    if provenance.digest != group.text("provenance_sha256"):
        raise StructureError(f"the provenance of {group.name} does not match its own hash")
    return provenance


def _names(group: Group, version: int) -> SealedNames:
    hashes = group.array("hash", "<u8", (None,))
    count = len(hashes)
    return SealedNames(
        hash=hashes,
        row=group.array("row", "<u4", (count,)),
        text=_texts(group, count),
        folder=group.array("folder", "<u8", (count,))
        if version > 1
        else np.zeros(count, np.uint64),
    )


def _texts(group: Group, count: int) -> TextColumn:
    return TextColumn(
        data=group.array("bytes", "|u1", (None,)),
        offset=group.array("offset", "<u8", (count + 1,)),
    )
