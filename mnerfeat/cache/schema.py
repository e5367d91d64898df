"""The terms of the format: tables, states, identities, names and provenance."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.errors import CacheError

FORMAT: Final = "mnerfeat-cache"
FORMAT_VERSION: Final = 2
READABLE_VERSIONS: Final = (1, 2)

TABLES: Final = ("images", "texts", "pairs")
"""`images` and `texts` hold features of one thing, `pairs` of a text with an image."""

RESERVED: Final = frozenset({"id", "prefix", "size", "path", "text", "image"})
"""Names inside a table that are not features."""

ID_BYTES: Final = 32
MISSING: Final = 0
OK: Final = 1
FAILED: Final = 2
"""State of a row in a feature: not extracted yet, extracted, or failed (with a reason)."""

FEATURE_DTYPES: Final = tuple(
    np.dtype(code) for code in ("<f2", "<f4", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4")
)

DIMENSIONS_LIMIT: Final = 8
"""Maximum number of dimensions of a feature's data, rows included."""

TEXT_LIMIT: Final = (1 << 20) - 64
"""Maximum size in bytes of a text in an attribute."""

Bytes = NDArray[np.uint8]


def content_id(content: bytes) -> bytes:
    """The identity of an image: the SHA-256 of its file's bytes (32 bytes)."""
    return hashlib.sha256(content).digest()


def text_id(text: str) -> bytes:
    """The identity of a text: the SHA-256 of its UTF-8 bytes (32 bytes)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def unreadable_id(name: str) -> bytes:
    """The identity of a file that cannot be read: it depends on the name alone (32 bytes)."""
    return hashlib.sha256(b"mnerfeat unreadable\0" + encode_name(name)).digest()


def pair_id(text: bytes, image: bytes) -> bytes:
    """The identity of a text with an image: the SHA-256 of both identities (32 bytes)."""
    return hashlib.sha256(text + image).digest()


def stack_ids(ids: Sequence[bytes]) -> Bytes:
    """Stack identities into the array that the format holds, (n, 32) uint8."""
    return np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, ID_BYTES)


def prefixes(ids: Bytes) -> NDArray[np.uint64]:
    """Return the first eight bytes of each identity as a number, which sorts as the identity does.

    Args:
        ids: (n, 32) uint8.

    Returns:
        (n,) uint64.
    """
    return np.ascontiguousarray(ids[:, :8]).view(">u8")[:, 0].astype("<u8")


def encode_name(name: str) -> bytes:
    """Encode a name for the cache; names that are not valid UTF-8 survive the round trip."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """Invert `encode_name`."""
    return name.decode("utf-8", "surrogateescape")


def name_hash(name: bytes) -> bytes:
    """Return the eight bytes by which names are looked up, a big-endian number."""
    return hashlib.sha256(name).digest()[:8]


def folder_fingerprint(folder: str | PathLike[str], salt: str) -> int:
    """Return a number that stands for a folder of images in one cache, never 0.

    A cache keeps this instead of the path: caches are mailed.

    Args:
        folder: The folder that names are relative to; symbolic links are followed.
        salt: The identity of the cache.
    """
    path = os.fsencode(os.path.realpath(folder))
    digest = hashlib.sha256(b"mnerfeat folder\0" + salt.encode() + b"\0" + path).digest()
    return int.from_bytes(digest[:8]) or 1


@dataclass(frozen=True)
class Provenance:
    """What made a feature: model, revision, hash of the weights, preprocessing, versions.

    Two provenances are equal if their canonical JSON is.

    Attributes:
        facts: A mapping that JSON can hold, with strings as keys.

    Raises:
        CacheError: If `facts` cannot be written as JSON.
    """

    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        try:
            self.json  # noqa: B018  (computed once, kept)
        except (TypeError, ValueError) as error:
            raise CacheError(f"a provenance must be plain JSON: {error}") from error

    @cached_property
    def json(self) -> str:
        """Canonical JSON: sorted keys, no blanks, no NaN."""
        return json.dumps(
            self.facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Provenance) and self.json == other.json

    def __hash__(self) -> int:
        return hash(self.json)

    def differences(self, other: "Provenance", ours: str, theirs: str) -> list[str]:
        """Return a line for each fact that differs, hashes last.

        Args:
            other: The provenance to compare with.
            ours: Says whose facts these are: `in the cache`.
            theirs: Says whose the other's are: `requested`.
        """
        mine, others = _flat(self.facts), _flat(other.facts)
        keys = [key for key in {*mine, *others} if mine.get(key) != others.get(key)]
        return [
            f"{key}: {mine.get(key, 'nothing')} {ours}, {others.get(key, 'nothing')} {theirs}"
            for key in sorted(keys, key=lambda key: ("sha" in key or "hash" in key, key))
        ]


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with those of nested mappings as `outer.inner`."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": fact for inner, fact in _flat(value).items()}
        else:
            flat[key] = value
    return flat
