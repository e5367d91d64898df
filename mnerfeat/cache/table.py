"""A table of a cache, joined from its files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.index import Index
from mnerfeat.cache.joining import Rows, join_feature
from mnerfeat.cache.schema import ID_BYTES, OK, Bytes, Provenance
from mnerfeat.cache.sealed import SealedFile


class Table:
    """The images, the texts or the pairs of a cache.

    Attributes:
        name: `images`, `texts` or `pairs`.
        path: Of the cache.
        index: Its rows.
    """

    def __init__(
        self, name: str, path: Path, files: Sequence[SealedFile], *, trusted: bool = True
    ) -> None:
        self.name = name
        self.path = path
        self.index = Index(name, path, files, trusted=trusted)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ids(self) -> Bytes:
        """(n, 32) uint8, in ascending order: what each row is."""
        return self.index.ids

    @cached_property
    def features(self) -> Mapping[str, Feature]:
        """By name, sorted."""
        union = self.index.union
        names = sorted({name for table in union.tables for name in table.features})
        return {
            name: Feature(name, join_feature(name, self.index.holders, union), self.index)
            for name in names
        }

    def find(self, ids: Bytes | Sequence[bytes]) -> Rows:
        """The row of each identity, or -1."""
        return self.index.find(ids)

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
        return self.index.find_names(names)

    def names(self) -> Iterator[tuple[str, int]]:
        """Every name that leads to a row, with the row (images only); the newest word counts."""
        return self.index.names()

    def describe(self, rows: Rows) -> list[str]:
        """What people call some rows: their first name, or the start of their identity."""
        return self.index.describe(rows)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2): width and height in pixels, zero where unknown (images only)."""
        return self._joined_column("size", 2, np.int32)

    @cached_property
    def pair_ids(self) -> tuple[Bytes, Bytes]:
        """The identities of each pair's text and image, (n, 32) each (pairs only)."""
        text, image = (self._joined_column(name, ID_BYTES, np.uint8) for name in ("text", "image"))
        return text, image

    def _joined_column(self, name: str, width: int, dtype: type) -> NDArray[Any]:
        union = self.index.union
        columns: list[NDArray[Any]] = [getattr(table, name) for table in union.tables]
        if len(columns) == 1 and union.rows[0] is None:
            return columns[0]
        joined: NDArray[Any] = np.zeros((len(self), width), dtype)
        for number, column in enumerate(columns):
            known = np.flatnonzero(column.any(axis=1))
            joined[union.place(number, known)] = column[known]
        return joined
