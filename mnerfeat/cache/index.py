"""Which rows a table has, and what leads to them: identities and names."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.joining import TIES_LIMIT, JoinedNames, Rows, join_ids, join_names
from mnerfeat.cache.names import normalise_name
from mnerfeat.cache.schema import (
    Bytes,
    decode_name,
    encode_name,
    name_hash,
    stack_ids,
)
from mnerfeat.cache.sealed import SealedFile, SealedNames
from mnerfeat.errors import CacheFormatError


class Index:
    """The rows of a table. Features refer to it, and it refers to none of them.

    Attributes:
        name: `images`, `texts` or `pairs`.
        path: Of the cache.
        files: Of the cache, oldest first.
        holders: Those of them that have the table.
        union: Their rows.
    """

    def __init__(
        self, name: str, path: Path, files: Sequence[SealedFile], *, trusted: bool = True
    ) -> None:
        self.name = name
        self.path = path
        self.files = files
        self.holders = [file for file in files if name in file.tables]
        self.union = join_ids([file.tables[name] for file in self.holders], trusted=trusted)

    def __len__(self) -> int:
        return len(self.union)

    @property
    def ids(self) -> Bytes:
        """(n, 32) uint8, in ascending order: what each row is."""
        return self.union.ids

    def find(self, ids: Bytes | Sequence[bytes]) -> Rows:
        """The row of each identity, or -1."""
        return self.union.find(ids if isinstance(ids, np.ndarray) else stack_ids(ids))

    def find_names(self, names: Iterable[str | PathLike[str]]) -> Rows:
        """The row each name leads to, or -1 (images only)."""
        encoded = [encode_name(normalise_name(name)) for name in names]
        hashes = np.frombuffer(b"".join(map(name_hash, encoded)), ">u8").astype("<u8")
        found = np.full(len(encoded), -1, np.int64)
        for number in reversed(range(len(self.holders))):
            table = self.union.tables[number]
            assert table.names is not None, "only images have names"
            unknown = np.flatnonzero(found < 0)
            if not len(unknown):
                break
            local = _find_hashed(table.names, hashes[unknown], [encoded[i] for i in unknown])
            # A row number that is not there comes from a damaged file.
            there = (local >= 0) & (local < len(table))
            found[unknown[there]] = self.union.place(number, local[there])
        return found

    def names(self) -> Iterator[tuple[str, int]]:
        """Every name that leads to a row, with the row (images only); the newest word counts."""
        joined = self.joined_names()
        return (
            (decode_name(text), row)
            for text, row in zip(joined.texts(), joined.row.tolist(), strict=True)
        )

    def joined_names(self) -> JoinedNames:
        """The same as arrays, ordered by the names' hashes."""
        return join_names(self.holders, self.union)

    def describe(self, rows: Rows) -> list[str]:
        """What people call some rows: their first name, or the start of their identity."""
        names: dict[int, str] = {}
        if self.name == "images":
            wanted = set(rows.tolist())
            for name, row in self.names():
                if row in wanted:
                    names.setdefault(row, name)
        return [names.get(row, self.ids[row].tobytes().hex()[:16]) for row in rows.tolist()]


def _find_hashed(names: SealedNames, hashes: NDArray[np.uint64], encoded: list[bytes]) -> Rows:
    """The row in its file that each name leads to, or -1."""
    rows = np.full(len(encoded), -1, np.int64)
    count = len(names.hash)
    position = np.searchsorted(names.hash, hashes)
    open_ = np.arange(len(encoded))
    texts = names.text.data.data
    for _ in range(TIES_LIMIT):
        open_ = open_[position[open_] < count]
        open_ = open_[names.hash[position[open_]] == hashes[open_]]
        if not len(open_):
            return rows
        here = position[open_]
        start, end = names.text.offset[here].tolist(), names.text.offset[here + 1].tolist()
        hit = np.array(
            [
                last - first == len(encoded[i]) and texts[first:last] == encoded[i]
                for i, first, last in zip(open_.tolist(), start, end, strict=True)
            ]
        )
        rows[open_[hit]] = names.row[here[hit]]
        open_ = open_[~hit]
        position[open_] += 1  # names that share a hash follow each other
    raise CacheFormatError(
        f"more than {TIES_LIMIT} names share a hash: the file is damaged",
        hint="`mnerfeat cache verify` names it",
    )
