"""Tables as the datasets and attributes of a file."""

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mnerfeat import __version__
from mnerfeat.cache.files import Array, Attributes
from mnerfeat.cache.schema import FORMAT, FORMAT_VERSION, Bytes, Provenance, name_hash, prefixes

_TEXTS_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FeatureContent:
    """A feature about to be written; rows in the order of the table's identities.

    Attributes:
        data: (n, …).
        crc32: (n,).
        state: (n,) uint8.
        reasons: Failure reasons by row.
        provenance: What made it.
        generation: See `mnerfeat.cache.sealed.SealedFeature`.
    """

    data: Array
    crc32: Array
    state: NDArray[np.uint8]
    reasons: Mapping[int, str]
    provenance: Provenance
    generation: int


@dataclass(frozen=True, kw_only=True)
class NamesContent:
    """Names about to be written, in ascending order of their hashes.

    Attributes:
        hash: (p,) uint64.
        row: (p,) uint32.
        folder: (p,) uint64: see `mnerfeat.cache.sealed.SealedNames`.
        length: (p,), size of each name in bytes.
        texts: The names, in order.
    """

    hash: NDArray[np.uint64]
    row: NDArray[np.uint32]
    folder: NDArray[np.uint64]
    length: NDArray[np.int64]
    texts: Iterable[bytes]

    @classmethod
    def of(cls, names: Mapping[bytes, tuple[int, int]]) -> "NamesContent":
        """Sort names, each given with its row and the fingerprint of its folder."""
        given = sorted(names)  # equal hashes keep the order of their names
        hashes = np.frombuffer(b"".join(map(name_hash, given)), ">u8").astype("<u8")
        order = np.argsort(hashes, kind="stable")
        texts = [given[place] for place in order.tolist()]
        return cls(
            hash=hashes[order],
            row=np.array([names[text][0] for text in texts], np.uint32),
            folder=np.array([names[text][1] for text in texts], np.uint64),
            length=np.array([len(text) for text in texts], np.int64),
            texts=texts,
        )


@dataclass(frozen=True, kw_only=True)
class TableContent:
    """A table about to be written.

    Attributes:
        ids: (n, 32) uint8, sorted, all different.
        columns: `size`, or `text` and `image`: whatever the table has besides.
        names: Images only.
        features: By name.
    """

    ids: Bytes
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    names: NamesContent | None = None
    features: Mapping[str, FeatureContent] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """What a file says of itself.

    Attributes:
        cache_id: The cache that it belongs to.
        sources: The identities of the caches that this cache was merged from.
        sequence: Nanoseconds since 1970.
        absorbed: The parts that the file is packed from.
        uuid: The file's own name.
    """

    cache_id: str
    sources: Sequence[str] = ()
    sequence: int
    absorbed: Sequence[str] = ()
    uuid: str = field(default_factory=lambda: uuid4().hex)


def encode_file(
    tables: Mapping[str, TableContent], identity: FileIdentity
) -> tuple[dict[str, Attributes], dict[str, Array]]:
    """Return the attributes and datasets of a file with these tables, for `write_sealed`."""
    attributes: dict[str, Attributes] = {
        "": {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "created_by": f"mnerfeat {__version__}",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cache_id": identity.cache_id,
            "uuid": identity.uuid,
            "sequence": identity.sequence,
            "n_rows": len(tables["images"].ids) if "images" in tables else 0,
        }
    }
    arrays = {
        "absorbed": _encode_lines(identity.absorbed),
        "sources": _encode_lines(identity.sources),
    }
    for table, content in tables.items():
        arrays[f"{table}/id"] = Array.of(content.ids)
        arrays[f"{table}/prefix"] = Array.of(prefixes(content.ids))
        for column, values in content.columns.items():
            arrays[f"{table}/{column}"] = Array.of(values)
        if content.names is not None:
            where = f"{table}/path"
            arrays |= {
                f"{where}/hash": Array.of(content.names.hash),
                f"{where}/row": Array.of(content.names.row),
                f"{where}/folder": Array.of(content.names.folder),
                **_encode_texts(where, content.names.length, content.names.texts),
            }
        for name, feature in content.features.items():
            where = f"{table}/{name}"
            rows = sorted(feature.reasons)
            reasons = [feature.reasons[row].encode("utf-8", "backslashreplace") for row in rows]
            arrays |= {
                f"{where}/data": feature.data,
                f"{where}/state": Array.of(feature.state),
                f"{where}/crc32": feature.crc32,
                f"{where}/reason/row": Array.of(np.array(rows, np.uint32)),
                **_encode_texts(
                    f"{where}/reason", np.array([len(text) for text in reasons], np.int64), reasons
                ),
            }
            attributes[where] = {
                "provenance": feature.provenance.json,
                "provenance_sha256": feature.provenance.digest,
                "generation": feature.generation,
            }
    return attributes, arrays


def _encode_lines(lines: Sequence[str]) -> Array:
    return Array.of(np.frombuffer("\n".join(sorted(lines)).encode(), np.uint8))


def checksums(ids: Bytes, data: NDArray[Any]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row's identity and bytes, (n,)."""
    rows = np.ascontiguousarray(data)
    return np.array(
        [zlib.crc32(row, zlib.crc32(id_)) for id_, row in zip(ids, rows, strict=True)], np.uint32
    )


def _encode_texts(
    where: str, length: NDArray[np.int64], texts: Iterable[bytes]
) -> dict[str, Array]:
    offsets = np.zeros(len(length) + 1, np.uint64)
    np.cumsum(length, out=offsets[1:])
    pieces = (np.frombuffer(b"".join(some), np.uint8) for some in _some_at_a_time(texts))
    return {
        f"{where}/bytes": Array((int(offsets[-1]),), np.dtype(np.uint8), pieces),
        f"{where}/offset": Array.of(offsets),
    }


def _some_at_a_time(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(texts)
    while some := list(itertools.islice(iterator, _TEXTS_AT_ONCE)):
        yield some
