"""A table of a cache, joined from its files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.rows import Index, NameComparison, Rows, join_feature
from mnerfeat.cache.schema import FAILED, ID_BYTES, OK, Bytes, Provenance
from mnerfeat.cache.sealed import SealedFile


class Table:
    """The images, the texts or the pairs of a cache.

    Attributes:
        name: `images`, `texts` or `pairs`.
        path: Of the cache.
        index: Its rows.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        files: Sequence[SealedFile],
        *,
        reopen: Callable[[], Any],
        trusted: bool = True,
    ) -> None:
        self.name = name
        self.path = path
        self.index = Index(name, path, files, reopen=reopen, trusted=trusted)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ids(self) -> Bytes:
        """(n, 32) uint8, in ascending order: the identity of each row."""
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
        """Return the row of each identity, or -1."""
        return self.index.find(ids)

    def done(self, feature: str, ids: Bytes, provenance: Provenance) -> NDArray[np.bool_]:
        """Return which identities have a feature of this provenance, so that nothing is to do.

        Args:
            feature: Its name; the cache need not hold it.
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
        """Return the row that each name leads to, or -1 (images only)."""
        return self.index.find_names(names)

    def names(self) -> Iterator[tuple[str, int]]:
        """Yield every name that leads to a row, with the row (images only)."""
        return self.index.names()

    def compare_names(self, ids: Mapping[str, bytes], folder: Path | None) -> NameComparison:
        """Compare files with what the cache knows under their names (images only)."""
        return self.index.compare_names(ids, folder, self._bad)

    @cached_property
    def _bad(self) -> NDArray[np.bool_]:
        """(n,): rows of which features failed and none could be extracted."""
        failed, ok = np.zeros((2, len(self)), bool)
        for feature in self.features.values():
            failed |= feature.state == FAILED
            ok |= feature.state == OK
        bad: NDArray[np.bool_] = failed & ~ok
        return bad

    def describe(self, rows: Rows) -> list[str]:
        """Return what people call some rows: a name, or the start of the identity."""
        return self.index.describe(rows)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2): width and height in pixels, zero if unknown (images only)."""
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
