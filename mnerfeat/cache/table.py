"""A table of a cache, joined from its files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.joining import (
    TIES_LIMIT,
    JoinedNames,
    Rows,
    join_feature,
    join_ids,
    join_names,
)
from mnerfeat.cache.schema import (
    OK,
    Bytes,
    Provenance,
    decode_name,
    encode_name,
    name_hash,
    normalise_name,
    stack_ids,
)
from mnerfeat.cache.sealed import SealedFile, SealedNames
from mnerfeat.errors import CacheFormatError


class Table:
    """The images, the texts or the pairs of a cache.

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

    @cached_property
    def features(self) -> Mapping[str, Feature]:
        """By name, sorted."""
        names = sorted({name for table in self.union.tables for name in table.features})
        return {
            name: Feature(name, join_feature(name, self.holders, self.union), self)
            for name in names
        }

    def find(self, ids: Bytes | Sequence[bytes]) -> Rows:
        """The row of each identity, or -1."""
        return self.union.find(ids if isinstance(ids, np.ndarray) else stack_ids(ids))

    def done(self, feature: str, ids: Bytes, provenance: Provenance) -> NDArray[np.bool_]:
        """Which identities have this feature from this provenance: there is nothing to do.

        Args:
            feature: By name; one that is not there has nothing done.
            ids: (k, 32) uint8.
            provenance: What the run asks for.

        Returns:
            (k,) bool.
        """
        held = self.features.get(feature)
        if held is None or held.provenance != provenance or not len(self):
            return np.zeros(len(ids), bool)
        rows = self.find(ids)
        done: NDArray[np.bool_] = (rows >= 0) & (held.state[rows] == OK)
        return done

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

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2): width and height in pixels, zero where unknown (images only)."""
        return self._joined_column([table.size for table in self.union.tables], (2,), np.int32)

    @cached_property
    def pair_ids(self) -> tuple[Bytes, Bytes]:
        """The identities of each pair's text and image, (n, 32) each (pairs only)."""
        text = self._joined_column([table.text for table in self.union.tables], (32,), np.uint8)
        image = self._joined_column([table.image for table in self.union.tables], (32,), np.uint8)
        return text, image

    def describe(self, rows: Rows) -> list[str]:
        """What people call some rows: their first name, or the start of their identity."""
        names: dict[int, str] = {}
        if self.name == "images":
            wanted = set(rows.tolist())
            for name, row in self.names():
                if row in wanted:
                    names.setdefault(row, name)
        return [names.get(row, self.ids[row].tobytes().hex()[:16]) for row in rows.tolist()]

    def _joined_column(
        self, columns: Sequence[NDArray[Any] | None], shape: tuple[int, ...], dtype: type
    ) -> NDArray[Any]:
        if len(columns) == 1 and columns[0] is not None and self.union.rows[0] is None:
            return columns[0]
        joined: NDArray[Any] = np.zeros((len(self), *shape), dtype)
        for number, column in enumerate(columns):
            assert column is not None
            known = np.flatnonzero(column.any(axis=1))
            joined[self.union.place(number, known)] = column[known]
        return joined


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
