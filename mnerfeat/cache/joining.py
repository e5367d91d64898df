"""Several sealed files seen as one table: whose rows, and which file's word counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.schema import FAILED, ID_BYTES, MISSING, OK, Bytes, Provenance, prefixes
from mnerfeat.cache.sealed import SealedFeature, SealedFile, SealedTable

Rows = NDArray[np.int64]


def merge_ids(tables: Sequence[SealedTable]) -> tuple[Bytes, NDArray[np.uint64], list[Rows]]:
    """The union of the tables' identities, sorted, and where each table's rows are in it.

    Returns:
        Identities (n, 32) uint8, their prefixes (n,) uint64, and for each table the row in the
        union of each of its own rows.
    """
    if not tables:
        return np.zeros((0, ID_BYTES), np.uint8), np.zeros(0, np.uint64), []
    if len(tables) == 1:
        return tables[0].id, tables[0].prefix, [np.arange(len(tables[0]))]
    ids = np.concatenate([table.id for table in tables])
    order, new = sort_ids(ids)
    position = np.cumsum(new) - 1
    union_row = np.empty(len(ids), np.int64)
    union_row[order] = position
    union = ids[order[new]]
    splits = np.cumsum([len(table) for table in tables])[:-1]
    return union, prefixes(union), np.split(union_row, splits)


def sort_ids(ids: Bytes) -> tuple[Rows, NDArray[np.bool_]]:
    """How to sort identities, and which of the sorted ones differ from the one before."""
    keys = [np.ascontiguousarray(ids[:, start : start + 8]).view(">u8")[:, 0].astype("<u8")
            for start in range(0, ID_BYTES, 8)]  # fmt: skip
    # Stable, and by the first eight bytes alone: SHA-256 makes ties there copies in practice …
    order = np.argsort(keys[0], kind="stable")
    tied = keys[0][order][1:] == keys[0][order][:-1]
    same = tied & (ids[order][1:] == ids[order][:-1]).all(axis=1)
    if (tied & ~same).any():  # … but a stranger's file need not be practice.
        order = np.lexsort(keys[::-1])
        same = (ids[order][1:] == ids[order][:-1]).all(axis=1)
    return order, np.concatenate([np.ones(min(len(ids), 1), bool), ~same])


def find_ids(union: Bytes, prefix: NDArray[np.uint64], wanted: Bytes) -> Rows:
    """The row of each wanted identity, or -1.

    Args:
        union: (n, 32) uint8, sorted.
        prefix: (n,) uint64, their first eight bytes.
        wanted: (k, 32) uint8.
    """
    start = np.searchsorted(prefix, prefixes(wanted))
    rows = np.full(len(wanted), -1, np.int64)
    open_ = np.arange(len(wanted))
    step = 0
    while len(open_):
        candidate = start[open_] + step
        inside = candidate < len(union)
        open_, candidate = open_[inside], candidate[inside]
        hit = (union[candidate] == wanted[open_]).all(axis=1)
        rows[open_[hit]] = candidate[hit]
        # Another row may share the prefix: go on only where it does.
        more = ~hit & (prefix[candidate] == prefixes(wanted[open_]))
        open_ = open_[more]
        step += 1
    return rows


@dataclass(frozen=True)
class JoinedFeature:
    """A feature over all rows of a joined table.

    Attributes:
        provenance: What made it.
        generation: See `SealedFeature.generation`.
        sources: The files that hold rows of it.
        state: (n,) uint8.
        source: (n,) int16: which of `sources` a row comes from; -1 for none. None where there is
            one source and its rows are the table's rows.
        local: (n,) int64: the row there. None together with `source`.
        row_shape: Of one row.
        dtype: Of the data.
    """

    provenance: Provenance
    generation: int
    sources: tuple[SealedFeature, ...]
    state: NDArray[np.uint8]
    source: NDArray[np.int16] | None
    local: Rows | None
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, rows: Rows) -> NDArray[Any]:
        """The data of some rows; zero where there are none."""
        if self.source is None or self.local is None:
            return self.sources[0].data[rows]
        data = np.zeros((len(rows), *self.row_shape), self.dtype)
        self._scatter(rows, data, [source.data for source in self.sources])
        return data

    def take_crc32(self, rows: Rows) -> NDArray[np.uint32]:
        """The checksums of some rows; zero where there are none."""
        crc32 = np.zeros(len(rows), np.uint32)
        if self.source is None or self.local is None:
            return self.sources[0].crc32[rows]
        self._scatter(rows, crc32, [source.crc32 for source in self.sources])
        return crc32

    def _scatter(self, rows: Rows, target: NDArray[Any], arrays: Sequence[NDArray[Any]]) -> None:
        assert self.source is not None
        assert self.local is not None
        source, local = self.source[rows], self.local[rows]
        for number, array in enumerate(arrays):
            here = np.flatnonzero(source == number)
            target[here] = array[local[here]]

    def reasons(self) -> dict[int, str]:
        """Why rows failed, by row."""
        found: dict[int, str] = {}
        failed = np.flatnonzero(self.state == FAILED)
        numbers = np.zeros(len(failed), np.int16) if self.source is None else self.source[failed]
        locals_ = failed if self.local is None else self.local[failed]
        for number, feature in enumerate(self.sources):
            texts = {
                int(row): feature.reason_text[i].decode("utf-8", "replace")
                for i, row in enumerate(feature.reason_row)
            }
            here = numbers == number
            for row, local in zip(failed[here].tolist(), locals_[here].tolist(), strict=True):
                found[row] = texts.get(local, "")
        return found


def join_feature(
    name: str,
    files: Sequence[SealedFile],
    tables: Sequence[SealedTable],
    rows: Sequence[Rows],
    n_rows: int,
) -> JoinedFeature:
    """Join one feature: the newest provenance wins, and in it OK wins over FAILED.

    Args:
        name: Of the feature; at least one table holds it.
        files: Oldest first.
        tables: The files' tables, in the same order.
        rows: As `merge_ids` gives them.
        n_rows: Of the union.
    """
    holders = [i for i, table in enumerate(tables) if name in table.features]
    newest = max(holders, key=lambda i: (tables[i].features[name].generation, files[i].sequence))
    winner = tables[newest].features[name]
    row_shape, dtype = winner.data.shape[1:], winner.data.dtype
    chosen = [
        i
        for i in holders
        if tables[i].features[name].provenance == winner.provenance
        and tables[i].features[name].data.shape[1:] == row_shape
        and tables[i].features[name].data.dtype == dtype
    ]
    sources = tuple(tables[i].features[name] for i in chosen)
    common = (winner.provenance, max(s.generation for s in sources), sources)
    if len(tables) == 1:
        return JoinedFeature(*common, winner.state, None, None, row_shape, dtype)
    state = np.full(n_rows, MISSING, np.uint8)
    source = np.full(n_rows, -1, np.int16)
    local = np.zeros(n_rows, np.int64)
    for number, i in enumerate(chosen):
        theirs = sources[number].state
        better = (theirs == OK) | ((theirs == FAILED) & (state[rows[i]] != OK))
        target = rows[i][better]
        state[target] = theirs[better]
        source[target] = number
        local[target] = np.flatnonzero(better)
    return JoinedFeature(*common, state, source, local, row_shape, dtype)
