"""The words of the format: tables, states, identities, provenance, and rows on their way in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.errors import CacheError

FORMAT: Final = "mnerfeat-cache"
FORMAT_VERSION: Final = 1

TABLES: Final = ("images", "texts", "pairs")
"""`images` and `texts` hold features of one thing, `pairs` of a text with an image."""

RESERVED: Final = frozenset({"id", "prefix", "size", "path", "text", "image"})
"""Names inside a table that are not features."""

ID_BYTES: Final = 32
MISSING: Final = 0
OK: Final = 1
FAILED: Final = 2
"""A row's state in a feature: never tried, there, or tried and impossible (with a reason)."""

FEATURE_DTYPES: Final = tuple(
    np.dtype(code) for code in ("<f2", "<f4", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4")
)

DIMENSIONS_LIMIT: Final = 8
"""Of a feature's data, the rows counted as one."""

TEXT_LIMIT: Final = (1 << 20) - 64
"""Bytes of a text in an attribute: a mebibyte, less what HDF5 puts around it."""

Bytes = NDArray[np.uint8]


def content_id(content: bytes) -> bytes:
    """The identity of an image: the SHA-256 of its file's bytes (32 bytes)."""
    return hashlib.sha256(content).digest()


def text_id(text: str) -> bytes:
    """The identity of a text: the SHA-256 of its UTF-8 bytes (32 bytes)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def unreadable_id(name: str) -> bytes:
    """The identity of a file whose bytes cannot be had: it hangs on the name alone (32 bytes)."""
    return hashlib.sha256(b"mnerfeat unreadable\0" + encode_name(name)).digest()


def pair_id(text: bytes, image: bytes) -> bytes:
    """The identity of a text with an image: the SHA-256 of both identities (32 bytes)."""
    return hashlib.sha256(text + image).digest()


def stack_ids(ids: Sequence[bytes]) -> Bytes:
    """Identities as the array the format holds, (n, 32) uint8."""
    return np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, ID_BYTES)


def prefixes(ids: Bytes) -> NDArray[np.uint64]:
    """The first eight bytes of each identity as a number that sorts as the identity does.

    Args:
        ids: (n, 32) uint8.

    Returns:
        (n,) uint64.
    """
    return np.ascontiguousarray(ids[:, :8]).view(">u8")[:, 0].astype("<u8")


def encode_name(name: str) -> bytes:
    """A name as the bytes the cache keeps; names that are not valid UTF-8 survive the way back."""
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """The inverse of `encode_name`."""
    return name.decode("utf-8", "surrogateescape")


def name_hash(name: bytes) -> bytes:
    """Eight bytes by which names are looked up, read as a big-endian number."""
    return hashlib.sha256(name).digest()[:8]


@dataclass(frozen=True)
class Provenance:
    """What made a feature: model, revision, hash of the weights, preprocessing, versions.

    Two provenances are the same when their canonical JSON is.

    Attributes:
        facts: A mapping that JSON can hold, keys being strings.

    Raises:
        CacheError: Where `facts` cannot be written as JSON.
    """

    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        try:
            self.json  # noqa: B018  (computed once, kept)
        except (TypeError, ValueError) as error:
            raise CacheError(f"a provenance must be plain JSON: {error}") from error

    @cached_property
    def json(self) -> str:
        """Canonical: sorted keys, no blanks, no NaN."""
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

    def differences(self, other: "Provenance") -> list[str]:
        """One line a fact that differs: `model: a, not b` (this, not the other)."""
        keys = sorted({*self.facts, *other.facts})
        absent = "nothing"
        return [
            f"{key}: {self.facts.get(key, absent)}, not {other.facts.get(key, absent)}"
            for key in keys
            if self.facts.get(key, absent) != other.facts.get(key, absent)
        ]
