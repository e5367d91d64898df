"""The rows of several files as one table: by identity, by name, and which file counts for what."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.files import ChunkedRows, refusing
from mnerfeat.cache.names import normalise_name
from mnerfeat.cache.schema import (
    FAILED,
    ID_BYTES,
    MISSING,
    OK,
    Bytes,
    Provenance,
    decode_name,
    encode_name,
    folder_fingerprint,
    name_hash,
    prefixes,
    stack_ids,
    unreadable_id,
)
from mnerfeat.cache.sealed import SealedFeature, SealedFile, SealedNames, SealedTable
from mnerfeat.errors import CacheFormatError

Rows = NDArray[np.int64]

TIES_LIMIT = 64
"""Rows or names that may share the first eight bytes of their SHA-256: of honest ones, hardly two
among 10⁹ do, and a stranger's file must not make a reader compare for hours."""


@dataclass(frozen=True)
class Union:
    """The identities of some tables, each one once, in ascending order.

    Attributes:
        tables: Oldest first.
        prefix: (n,) uint64, the first eight bytes of each identity.
        rows: For each table, the row in the union of each of its rows; None if all are the
            same, as with a single table.
    """

    tables: Sequence[SealedTable]
    prefix: NDArray[np.uint64]
    rows: Sequence[NDArray[np.uint32] | None]

    def __len__(self) -> int:
        return len(self.prefix)

    @cached_property
    def ids(self) -> Bytes:
        """(n, 32) uint8."""
        if len(self.rows) == 1 and self.rows[0] is None:
            return self.tables[0].id
        ids = np.zeros((len(self), ID_BYTES), np.uint8)
        for table, rows in zip(self.tables, self.rows, strict=True):
            ids[slice(None) if rows is None else rows] = table.id
        return ids

    def place(self, number: int, local: NDArray[np.integer[Any]]) -> Rows:
        """Return the rows in the union of some rows of a table."""
        rows = self.rows[number]
        return local.astype(np.int64) if rows is None else rows[local].astype(np.int64)

    def find(self, wanted: Bytes) -> Rows:
        """Return the row of each wanted identity, or -1.

        Args:
            wanted: (k, 32) uint8.

        Raises:
            CacheFormatError: If more rows share a prefix than can be.
        """
        sought = prefixes(wanted)
        candidate = np.searchsorted(self.prefix, sought)
        found = np.full(len(wanted), -1, np.int64)
        open_ = np.arange(len(wanted))
        for _ in range(TIES_LIMIT):
            open_ = open_[candidate[open_] < len(self)]
            open_ = open_[self.prefix[candidate[open_]] == sought[open_]]
            if not len(open_):
                return found
            hit = (self.ids[candidate[open_]] == wanted[open_]).all(axis=1)
            found[open_[hit]] = candidate[open_[hit]]
            # Another row may share the prefix.
            open_ = open_[~hit]
            candidate[open_] += 1
        raise CacheFormatError(
            f"more than {TIES_LIMIT} rows of one table share a prefix: the file is damaged",
            hint="`mnerfeat cache verify` names it",
        )


def join_ids(tables: Sequence[SealedTable], *, trusted: bool = True) -> Union:
    """Unite the rows of tables, by identity.

    Args:
        tables: Oldest first.
        trusted: Take a single table as it is: in order, each identity once.
    """
    if len(tables) == 1 and trusted:
        return Union(tables, tables[0].prefix, [None])
    if not tables:
        return Union(tables, np.zeros(0, np.uint64), [])
    ids = np.concatenate([table.id for table in tables])
    order, new = sort_ids(ids)
    rows = np.empty(len(ids), np.uint32)
    rows[order] = np.cumsum(new) - 1
    splits = np.cumsum([len(table) for table in tables])[:-1]
    return Union(tables, prefixes(ids)[order[new]], np.split(rows, splits))


def sort_ids(ids: Bytes) -> tuple[Rows, NDArray[np.bool_]]:
    """Return the order that sorts identities, and which sorted ones differ from the one before."""
    keys = [prefixes(ids[:, start : start + 8]) for start in range(0, ID_BYTES, 8)]
    # Stable, and by the first eight bytes alone: SHA-256 makes ties there copies in practice …
    order = np.argsort(keys[0], kind="stable")
    tied = keys[0][order][1:] == keys[0][order][:-1]
    same = tied & (ids[order][1:] == ids[order][:-1]).all(axis=1)
    if (tied & ~same).any():  # … but a stranger's file need not be practice.
        order = np.lexsort(keys[::-1])
        same = (ids[order][1:] == ids[order][:-1]).all(axis=1)
    return order, np.concatenate([np.ones(min(len(ids), 1), bool), ~same])


@dataclass(frozen=True)
class JoinedFeature:
    """A feature over all rows of a joined table.

    Attributes:
        provenance: What made it.
        generation: See `SealedFeature.generation`.
        sources: The files that hold rows of it, oldest first.
        rows: For each source, the rows of the table that it holds; None if all.
        n_rows: Of the table.
    """

    provenance: Provenance
    generation: int
    sources: Sequence[SealedFeature]
    rows: Sequence[NDArray[np.uint32] | None]
    n_rows: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.sources[0].data.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the data."""
        return self.sources[0].data.dtype

    @cached_property
    def whole(self) -> SealedFeature | None:
        """The one source whose rows are the table's rows, if it is so simple."""
        return self.sources[0] if len(self.rows) == 1 and self.rows[0] is None else None

    @cached_property
    def state(self) -> NDArray[np.uint8]:
        """(n,) uint8; OK counts before FAILED, and FAILED before MISSING."""
        return self.whole.state if self.whole else self._choice[0]

    @cached_property
    def _choice(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint32]]:
        """Each row's state, its source (-1: none) and its row there."""
        state = np.full(self.n_rows, MISSING, np.uint8)
        source = np.full(self.n_rows, -1, np.int32)
        local = np.zeros(self.n_rows, np.uint32)
        for number, (feature, rows) in enumerate(zip(self.sources, self.rows, strict=True)):
            target = np.arange(self.n_rows) if rows is None else rows
            theirs = feature.state
            better = (theirs == OK) | ((theirs == FAILED) & (state[target] != OK))
            target = target[better]
            state[target] = theirs[better]
            source[target] = number
            local[target] = np.flatnonzero(better)
        return state, source, local

    def take(self, rows: Rows) -> NDArray[Any]:
        """Return the data of some rows; zeros for missing ones."""
        if self.whole:
            return self.whole.data.take(rows, axis=0)
        data = np.zeros((len(rows), *self.row_shape), self.dtype)
        self._gather(rows, data, [source.data for source in self.sources])
        return data

    def take_crc32(self, rows: Rows) -> NDArray[np.uint32]:
        """Return the checksums of some rows; zero for missing ones."""
        if self.whole:
            return self.whole.crc32.take(rows)
        crc32 = np.zeros(len(rows), np.uint32)
        self._gather(rows, crc32, [source.crc32 for source in self.sources])
        return crc32

    def _gather(
        self, rows: Rows, target: NDArray[Any], arrays: Sequence[NDArray[Any] | ChunkedRows]
    ) -> None:
        _, source, local = self._choice
        source, local = source[rows], local[rows]
        for number in np.unique(source).tolist():
            if number >= 0:
                here = np.flatnonzero(source == number)
                target[here] = arrays[number][local[here]]

    def reasons(self) -> dict[int, str]:
        """Return failure reasons by row."""
        found: dict[int, str] = {}
        failed = np.flatnonzero(self.state == FAILED)
        if self.whole:
            numbers, locals_ = np.zeros(len(failed), np.int32), failed.astype(np.uint32)
        else:
            numbers, locals_ = self._choice[1][failed], self._choice[2][failed]
        for number in np.unique(numbers).tolist():
            feature = self.sources[number]
            texts = dict(zip(feature.reason_row.tolist(), feature.reason_text, strict=True))
            here = numbers == number
            for row, local in zip(failed[here].tolist(), locals_[here].tolist(), strict=True):
                found[row] = texts.get(local, b"").decode("utf-8", "replace")
        return found


def join_feature(name: str, files: Sequence[SealedFile], union: Union) -> JoinedFeature:
    """Join one feature: the newest provenance wins, and in it OK wins over FAILED.

    Args:
        name: Of the feature; at least one table holds it.
        files: Of the union's tables, in the same order.
        union: The table's rows.
    """
    tables = union.tables
    holders = [i for i, table in enumerate(tables) if name in table.features]
    newest = max(holders, key=lambda i: (tables[i].features[name].generation, files[i].sequence))
    winner = tables[newest].features[name]
    chosen = [
        i
        for i in holders
        if tables[i].features[name].provenance == winner.provenance
        and tables[i].features[name].data.shape[1:] == winner.data.shape[1:]
        and tables[i].features[name].data.dtype == winner.data.dtype
    ]
    sources = [tables[i].features[name] for i in chosen]
    return JoinedFeature(
        winner.provenance,
        max(source.generation for source in sources),
        sources,
        [union.rows[i] for i in chosen],
        len(union),
    )


@dataclass(frozen=True)
class JoinedNames:
    """The names that lead to rows of a joined table; of equal ones the newest file's counts.

    Attributes:
        hash: (p,) uint64, ascending.
        row: (p,) int64, in the union.
        folder: (p,) uint64: see `SealedNames.folder`.
        source: (p,) int32: which of `names` holds a name.
        local: (p,) int64: which name there.
        names: Newest first.
    """

    hash: NDArray[np.uint64]
    row: Rows
    folder: NDArray[np.uint64]
    source: NDArray[np.int32]
    local: Rows
    names: Sequence[SealedNames]

    def texts(self) -> Iterator[bytes]:
        """The names' bytes, in order."""
        whole = [names.text.data.data for names in self.names]
        start, end = self._ends()
        for source, first, last in zip(self.source.tolist(), start, end, strict=True):
            yield bytes(whole[source][first:last])

    def lengths(self) -> Rows:
        """(p,), in bytes."""
        start, end = self._ends()
        return np.array(end, np.int64) - np.array(start, np.int64)

    def select(self, keep: NDArray[np.bool_]) -> "JoinedNames":
        """Some of the names."""
        return JoinedNames(
            self.hash[keep],
            self.row[keep],
            self.folder[keep],
            self.source[keep],
            self.local[keep],
            self.names,
        )

    def _ends(self) -> tuple[list[int], list[int]]:
        start = np.zeros(len(self.local), np.uint64)
        end = np.zeros(len(self.local), np.uint64)
        for number, names in enumerate(self.names):
            here = np.flatnonzero(self.source == number)
            start[here] = names.text.offset[self.local[here]]
            end[here] = names.text.offset[self.local[here] + 1]
        return start.tolist(), end.tolist()


def join_names(files: Sequence[SealedFile], union: Union) -> JoinedNames:
    """Join the names of some tables of images.

    Raises:
        CacheFormatError: If names are not laid out one after the other.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    all_names: list[SealedNames] = []
    for number in reversed(range(len(union.tables))):
        table = union.tables[number]
        assert table.names is not None, "only images have names"
        with refusing(files[number].path):
            table.names.text.check("names")
        # A row number that is not there comes from a damaged file.
        local = np.flatnonzero(table.names.row < len(table))
        rows = union.place(number, table.names.row[local])
        which = np.full(len(local), len(all_names), np.int32)
        parts.append((table.names.hash[local], rows, table.names.folder[local], which, local))
        all_names.append(table.names)
    if not parts:
        none, rows = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        return JoinedNames(none, rows, none, rows.astype(np.int32), rows, [])
    hash_, rows, folder, source, local = (np.concatenate(some) for some in zip(*parts, strict=True))
    order = np.argsort(hash_, kind="stable")
    joined = JoinedNames(
        hash_[order], rows[order], folder[order], source[order], local[order], all_names
    )
    return joined.select(_first_of_each(joined))


def _first_of_each(names: JoinedNames) -> NDArray[np.bool_]:
    """Which names differ from all those before them (equal ones have equal hashes)."""
    keep = np.ones(len(names.hash), bool)
    tied = np.flatnonzero(names.hash[1:] == names.hash[:-1]) + 1
    seen: set[bytes] = set()
    before = -2
    for position in tied.tolist():
        if position != before + 1:
            seen = {_text(names, position - 1)}
        text = _text(names, position)
        keep[position] = text not in seen
        seen.add(text)
        before = position
    return keep


def _text(names: JoinedNames, position: int) -> bytes:
    return names.names[int(names.source[position])].text[int(names.local[position])]


@dataclass(frozen=True, kw_only=True)
class NameComparison:
    """Names whose files have other bytes than those that the cache knows under the names.

    Attributes:
        updated: The file was replaced in the same folder of images, or the cache does not know
            the folder.
        repaired: The cache could not read the file before, or every feature failed.
        conflicting: The name belongs to a file in another folder of images.
    """

    updated: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    conflicting: tuple[str, ...] = ()


class Index:
    """The rows of a table. Features refer to it, and it refers to none of them.

    Attributes:
        name: `images`, `texts` or `pairs`.
        path: Of the cache.
        files: Of the cache, oldest first.
        holders: Those of them that have the table.
        union: Their rows.
        reopen: Opens the cache again, as it is now, in another process.
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
        self.files = files
        self.holders = [file for file in files if name in file.tables]
        self.union = join_ids([file.tables[name] for file in self.holders], trusted=trusted)
        self.reopen = reopen

    def __len__(self) -> int:
        return len(self.union)

    @property
    def ids(self) -> Bytes:
        """(n, 32) uint8, in ascending order: the identity of each row."""
        return self.union.ids

    def find(self, ids: Bytes | Sequence[bytes]) -> Rows:
        """Return the row of each identity, or -1."""
        return self.union.find(ids if isinstance(ids, np.ndarray) else stack_ids(ids))

    def find_names(self, names: Iterable[str | PathLike[str]]) -> Rows:
        """Return the row that each name leads to, or -1 (images only)."""
        return self._look_up([encode_name(normalise_name(name)) for name in names])[0]

    def names(self) -> Iterator[tuple[str, int]]:
        """Yield every name that leads to a row, with the row (images only)."""
        joined = self.joined_names()
        return (
            (decode_name(text), row)
            for text, row in zip(joined.texts(), joined.row.tolist(), strict=True)
        )

    def joined_names(self) -> JoinedNames:
        """Return the same as arrays, ordered by the names' hashes."""
        return join_names(self.holders, self.union)

    def compare_names(
        self, ids: Mapping[str, bytes], folder: Path | None, bad: NDArray[np.bool_]
    ) -> NameComparison:
        """Compare the identities of files with those that the cache knows under their names.

        Args:
            ids: The identity of each file, by name.
            folder: The folder that the names are relative to; None if there is none to speak of.
            bad: (n,): rows of which no feature could be extracted.
        """
        names = [normalise_name(name) for name in ids]
        rows, folders = self._look_up([encode_name(name) for name in names])
        other = np.flatnonzero(rows >= 0)
        given = stack_ids([*ids.values()])
        other = other[(self.ids[rows[other]] != given[other]).any(axis=1)]
        salts = dict.fromkeys(salt for file in self.files for salt in file.salts)
        same = {0} | ({folder_fingerprint(folder, salt) for salt in salts} if folder else set())
        found: dict[str, list[str]] = {"updated": [], "repaired": [], "conflicting": []}
        for position in other.tolist():
            name, row = names[position], int(rows[position])
            if bad[row] or self.ids[row].tobytes() == unreadable_id(name):
                kind = "repaired"
            elif folder is None or int(folders[position]) in same:
                kind = "updated"
            else:
                kind = "conflicting"
            found[kind].append(name)
        return NameComparison(**{kind: tuple(names) for kind, names in found.items()})

    def describe(self, rows: Rows) -> list[str]:
        """Return what people call some rows: a name, or the start of the identity."""
        names: dict[int, str] = {}
        if self.name == "images":
            wanted = set(rows.tolist())
            for name, row in self.names():
                if row in wanted:
                    names.setdefault(row, name)
        return [names.get(row, self.ids[row].tobytes().hex()[:16]) for row in rows.tolist()]

    def _look_up(self, encoded: list[bytes]) -> tuple[Rows, NDArray[np.uint64]]:
        """The row that each name leads to, or -1, and the fingerprint of its folder."""
        hashes = np.frombuffer(b"".join(map(name_hash, encoded)), ">u8").astype("<u8")
        found = np.full(len(encoded), -1, np.int64)
        folders = np.zeros(len(encoded), np.uint64)
        for number in reversed(range(len(self.holders))):
            table = self.union.tables[number]
            assert table.names is not None, "only images have names"
            unknown = np.flatnonzero(found < 0)
            if not len(unknown):
                break
            entry = _find_hashed(table.names, hashes[unknown], [encoded[i] for i in unknown])
            unknown, entry = unknown[entry >= 0], entry[entry >= 0]
            local = table.names.row[entry]
            # A row number that is not there comes from a damaged file.
            there = local < len(table)
            found[unknown[there]] = self.union.place(number, local[there])
            folders[unknown[there]] = table.names.folder[entry[there]]
        return found, folders


def _find_hashed(names: SealedNames, hashes: NDArray[np.uint64], encoded: list[bytes]) -> Rows:
    """Which entry of `names` each name is, or -1."""
    entries = np.full(len(encoded), -1, np.int64)
    count = len(names.hash)
    position = np.searchsorted(names.hash, hashes)
    open_ = np.arange(len(encoded))
    texts = names.text.data.data
    for _ in range(TIES_LIMIT):
        open_ = open_[position[open_] < count]
        open_ = open_[names.hash[position[open_]] == hashes[open_]]
        if not len(open_):
            return entries
        here = position[open_]
        start, end = names.text.offset[here].tolist(), names.text.offset[here + 1].tolist()
        hit = np.array(
            [
                last - first == len(encoded[i]) and texts[first:last] == encoded[i]
                for i, first, last in zip(open_.tolist(), start, end, strict=True)
            ]
        )
        entries[open_[hit]] = here[hit]
        open_ = open_[~hit]
        position[open_] += 1  # names that share a hash follow each other
    raise CacheFormatError(
        f"more than {TIES_LIMIT} names share a hash: the file is damaged",
        hint="`mnerfeat cache verify` names it",
    )
