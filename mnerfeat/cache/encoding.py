"""A table as the datasets and attributes of a sealed file."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat import __version__
from mnerfeat.cache.hdf5_writing import Attributes
from mnerfeat.cache.layout import Array
from mnerfeat.cache.schema import FORMAT, FORMAT_VERSION, Bytes, Provenance, name_hash, prefixes


@dataclass(frozen=True, kw_only=True)
class FeatureContent:
    """A feature about to be written; rows in the order of the table's identities.

    Attributes:
        data: (n, …).
        crc32: (n,).
        state: (n,) uint8.
        reasons: Why a row failed, by row.
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
class TableContent:
    """A table about to be written.

    Attributes:
        ids: (n, 32) uint8, sorted, all different.
        columns: `size`, or `text` and `image`: whatever the table has besides.
        names: Images only: every name with its row.
        features: By name.
    """

    ids: Bytes
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    names: Sequence[tuple[bytes, int]] | None = None
    features: Mapping[str, FeatureContent] = field(default_factory=dict)


def encode_file(
    tables: Mapping[str, TableContent], *, uuid: str, sequence: int, absorbed: Sequence[str] = ()
) -> tuple[dict[str, Attributes], dict[str, Array]]:
    """What `write_sealed` needs to write these tables.

    Args:
        tables: By name.
        uuid: The file's own.
        sequence: Nanoseconds since 1970.
        absorbed: The parts that the file is packed from.
    """
    attributes: dict[str, Attributes] = {
        "": {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "created_by": f"mnerfeat {__version__}",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "uuid": uuid,
            "sequence": sequence,
            "n_rows": len(tables["images"].ids) if "images" in tables else 0,
        }
    }
    joined = "\n".join(sorted(absorbed)).encode()
    arrays = {"absorbed": Array.of(np.frombuffer(joined, np.uint8))}
    for table, content in tables.items():
        arrays[f"{table}/id"] = Array.of(content.ids)
        arrays[f"{table}/prefix"] = Array.of(prefixes(content.ids))
        for column, values in content.columns.items():
            arrays[f"{table}/{column}"] = Array.of(values)
        if content.names is not None:
            arrays |= _encode_names(f"{table}/path", content.names)
        for name, feature in content.features.items():
            where = f"{table}/{name}"
            rows = sorted(feature.reasons)
            arrays |= {
                f"{where}/data": feature.data,
                f"{where}/state": Array.of(feature.state),
                f"{where}/crc32": feature.crc32,
                f"{where}/reason/row": Array.of(np.array(rows, np.uint32)),
                **_encode_texts(f"{where}/reason", [feature.reasons[r].encode() for r in rows]),
            }
            attributes[where] = {
                "provenance": feature.provenance.json,
                "provenance_sha256": feature.provenance.digest,
                "generation": feature.generation,
            }
    return attributes, arrays


def checksums(ids: Bytes, data: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of each row's identity and bytes, (n,)."""
    rows = np.ascontiguousarray(data)
    return np.array(
        [zlib.crc32(row, zlib.crc32(id_)) for id_, row in zip(ids, rows, strict=True)], np.uint32
    )


def _encode_names(where: str, names: Sequence[tuple[bytes, int]]) -> dict[str, Array]:
    hashed = sorted((name_hash(name), name, row) for name, row in names)
    hashes = np.frombuffer(b"".join(hash_ for hash_, _, _ in hashed), ">u8")
    return {
        f"{where}/hash": Array.of(hashes),
        f"{where}/row": Array.of(np.array([row for _, _, row in hashed], np.uint32)),
        **_encode_texts(where, [name for _, name, _ in hashed]),
    }


def _encode_texts(where: str, texts: Sequence[bytes]) -> dict[str, Array]:
    offsets = np.zeros(len(texts) + 1, np.uint64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return {
        f"{where}/bytes": Array.of(np.frombuffer(b"".join(texts), np.uint8)),
        f"{where}/offset": Array.of(offsets),
    }
