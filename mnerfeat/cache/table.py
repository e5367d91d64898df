"""A table of a cache, joined from its files, and the features in it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnerfeat.cache.joining import JoinedFeature, Rows, find_ids, join_feature, merge_ids
from mnerfeat.cache.schema import (
    FAILED,
    OK,
    Bytes,
    Provenance,
    decode_name,
    encode_name,
    name_hash,
    normalise_name,
    stack_ids,
)
from mnerfeat.cache.sealed import SealedFile, SealedNames, SealedTable
from mnerfeat.errors import CacheLookupError, ProvenanceError


class Feature:
    """One feature of one table: `feature[rows]` gives its rows.

    Attributes:
        name: In the cache.
        provenance: What made it.
        state: (n,) uint8, of every row of the table: MISSING, OK or FAILED.
        row_shape: Of one row, for example `(768,)`; `()` for a number.
        dtype: As stored.
    """

    def __init__(self, name: str, table: "Table", joined: JoinedFeature) -> None:
        self.name = name
        self._table = table
        self.joined = joined
        self.provenance = joined.provenance
        self.state = joined.state
        self.row_shape = joined.row_shape
        self.dtype = joined.dtype
        self.generation = joined.generation

    def __len__(self) -> int:
        return len(self.state)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, …)."""
        return (len(self), *self.row_shape)

    def __getitem__(self, rows: int | slice | ArrayLike) -> NDArray[Any]:
        """The data of some rows, all of which must be OK.

        Args:
            rows: A row number, a slice, or (k,) row numbers.

        Returns:
            (…) for one row, (k, …) otherwise.

        Raises:
            CacheLookupError: Where a row is missing or failed; it names every one.
        """
        wanted = self._rows(rows)
        if not self.complete:
            self._check(wanted)
        data = self.joined.take(wanted)
        return data[0] if isinstance(rows, int | np.integer) else data

    def read(self, rows: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The data of some rows, zero where a row is not OK, and which rows are.

        Returns:
            (k, …), and (k,) bool.
        """
        wanted = self._rows(rows)
        fine = self.state[wanted] == OK
        data = self.joined.take(wanted)
        if not fine.all():
            data[~fine] = 0
        return data, fine

    @cached_property
    def complete(self) -> bool:
        """Whether every row of the table is OK."""
        return bool((self.state == OK).all())

    @cached_property
    def failures(self) -> Mapping[int, str]:
        """Why rows failed, by row."""
        return self.joined.reasons()

    def require(self, provenance: Provenance, *, command: str) -> None:
        """Make sure that this feature was made by what the run asks for.

        Args:
            provenance: What the run asks for.
            command: What makes the feature anew.

        Raises:
            ProvenanceError: Where it was not; the error shows every fact that differs.
        """
        if provenance != self.provenance:
            raise ProvenanceError(
                f"{self.name} in {self._table.path} was made by something else than this run "
                "asks for (what it holds, not what is asked for):",
                faults=self.provenance.differences(provenance),
                hint=command,
            )

    def fingerprint(self, rows: ArrayLike | None = None) -> str:
        """SHA-256, in hex, of what some rows hold and of what made them.

        Args:
            rows: (k,) row numbers, in any order; all rows by default. Rows that are not OK
                count as absent.
        """
        wanted = np.unique(self._rows(slice(None) if rows is None else rows))
        wanted = wanted[self.state[wanted] == OK]
        digest = hashlib.sha256(self.provenance.digest.encode())
        digest.update(self._table.ids[wanted].tobytes())
        digest.update(self.joined.take_crc32(wanted).astype("<u4").tobytes())
        return digest.hexdigest()

    def digest(self) -> str:
        """SHA-256, in hex, of all rows: data, states, reasons and provenance."""
        digest = hashlib.sha256(self.fingerprint().encode())
        digest.update(self._table.ids.tobytes() + self.state.tobytes())
        for row, reason in sorted(self.failures.items()):
            digest.update(f"{row} {reason}\n".encode())
        return digest.hexdigest()

    def _rows(self, rows: int | slice | ArrayLike) -> Rows:
        if isinstance(rows, slice):
            return np.arange(len(self))[rows]
        wanted = np.atleast_1d(np.asarray(rows))
        if wanted.dtype == bool:
            wanted = np.flatnonzero(wanted)
        wanted = wanted.astype(np.int64, copy=False)
        if wanted.ndim != 1 or (len(wanted) and not -1 < wanted.min() <= wanted.max() < len(self)):
            raise CacheLookupError(
                f"rows of {self.name} are numbers from 0 to {len(self) - 1} in one dimension; "
                f"got shape {wanted.shape}, from {wanted.min()} to {wanted.max()}"
            )
        return wanted

    def _check(self, rows: Rows) -> None:
        unfit = np.unique(rows[self.state[rows] != OK])
        if not len(unfit):
            return
        names = self._table.describe(unfit)
        raise CacheLookupError(
            f"{self.name} in {self._table.path} lacks {len(unfit):,} of the rows asked for:",
            faults=[
                f"{name}: {self.failures[row] if self.state[row] == FAILED else 'not extracted'}"
                for name, row in zip(names, unfit.tolist(), strict=True)
            ],
            hint="run `mnerfeat extract` for these, or use `read`, which says which rows it has",
        )


class Table:
    """The images, the texts or the pairs of a cache.

    Attributes:
        name: `images`, `texts` or `pairs`.
        path: Of the cache.
        ids: (n, 32) uint8, sorted: what each row is.
    """

    def __init__(self, name: str, path: Path, files: Sequence[SealedFile]) -> None:
        self.name = name
        self.path = path
        self._files = [file for file in files if name in file.tables]
        self._tables: list[SealedTable] = [file.tables[name] for file in self._files]
        self.ids, self._prefix, self._union_rows = merge_ids(self._tables)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def features(self) -> Mapping[str, Feature]:
        """By name, sorted."""
        names = sorted({name for table in self._tables for name in table.features})
        return {
            name: Feature(
                name,
                self,
                join_feature(name, self._files, self._tables, self._union_rows, len(self)),
            )
            for name in names
        }

    def find(self, ids: Bytes | Sequence[bytes]) -> Rows:
        """The row of each identity, or -1."""
        wanted = ids if isinstance(ids, np.ndarray) else stack_ids(ids)
        return find_ids(self.ids, self._prefix, wanted)

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
        for table, union_row in zip(self._tables[::-1], self._union_rows[::-1], strict=True):
            assert table.names is not None, "only images have names"
            unknown = np.flatnonzero(found < 0)
            local = _find_hashed(table.names, hashes[unknown], [encoded[i] for i in unknown])
            # A row number that is not there comes from a damaged file.
            local[local >= len(union_row)] = -1
            found[unknown[local >= 0]] = union_row[local[local >= 0]]
        return found

    def names(self) -> Iterator[tuple[str, int]]:
        """Every name that leads to a row, with the row (images only); the newest word counts."""
        seen: set[bytes] = set()
        several = len(self._tables) > 1
        for table, union_row in zip(self._tables[::-1], self._union_rows[::-1], strict=True):
            assert table.names is not None, "only images have names"
            for i, row in enumerate(table.names.row.tolist()):
                name = table.names.text[i]
                if row < len(union_row) and name not in seen:
                    if several:
                        seen.add(name)
                    yield decode_name(name), int(union_row[row])

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(n, 2): width and height in pixels, zero where unknown (images only)."""
        return self._joined_column([table.size for table in self._tables], (2,), np.int32)

    @cached_property
    def pair_ids(self) -> tuple[Bytes, Bytes]:
        """The identities of each pair's text and image, (n, 32) each (pairs only)."""
        text = self._joined_column([table.text for table in self._tables], (32,), np.uint8)
        image = self._joined_column([table.image for table in self._tables], (32,), np.uint8)
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
        if len(columns) == 1 and columns[0] is not None:
            return columns[0]
        joined: NDArray[Any] = np.zeros((len(self), *shape), dtype)
        for column, rows in zip(columns, self._union_rows, strict=True):
            assert column is not None
            known = column.any(axis=1)
            joined[rows[known]] = column[known]
        return joined


def _find_hashed(names: SealedNames, hashes: NDArray[np.uint64], encoded: list[bytes]) -> Rows:
    rows = np.full(len(encoded), -1, np.int64)
    start = np.searchsorted(names.hash, hashes).tolist()
    count = len(names.hash)
    for i, (position, name) in enumerate(zip(start, encoded, strict=True)):
        while position < count and names.hash[position] == hashes[i]:
            if names.text[position] == name:
                rows[i] = names.row[position]
                break
            position += 1  # noqa: PLW2901  (names that share a hash follow each other)
    return rows
