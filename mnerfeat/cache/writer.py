"""Writing a cache: every `put` adds a part."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.encoding import (
    FeatureContent,
    FileIdentity,
    NamesContent,
    TableContent,
    checksums,
    encode_file,
)
from mnerfeat.cache.files import Array, write_sealed
from mnerfeat.cache.maintenance.pack import pack
from mnerfeat.cache.names import normalise_name
from mnerfeat.cache.reader import FeatureCache, candidates
from mnerfeat.cache.rows import Rows, sort_ids
from mnerfeat.cache.schema import (
    DIMENSIONS_LIMIT,
    FAILED,
    FEATURE_DTYPES,
    FORMAT_VERSION,
    ID_BYTES,
    OK,
    RESERVED,
    TEXT_LIMIT,
    Bytes,
    Provenance,
    encode_name,
    folder_fingerprint,
)
from mnerfeat.cache.storage import located, parts_folder
from mnerfeat.errors import CacheError, ProvenanceError

_COLUMNS: Mapping[str, Mapping[str, tuple[int, type]]] = {
    "images": {"size": (2, np.int32)},
    "texts": {},
    "pairs": {"text": (ID_BYTES, np.uint8), "image": (ID_BYTES, np.uint8)},
}
"""Columns of a table besides its features: the width and type of a row."""


@dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """One feature of the rows to write.

    Attributes:
        data: (n, …), one of `FEATURE_DTYPES`; rows that are not OK count as zero.
        state: (n,) uint8: MISSING, OK or FAILED.
        reasons: Failure reasons by row.
        provenance: What made it.
    """

    data: NDArray[Any]
    state: NDArray[np.uint8]
    provenance: Provenance
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """Rows of one table to write, in any order.

    Attributes:
        ids: (n, 32) uint8, all different.
        features: By name.
        names: Images only: every name that leads to a row, as (name, position).
        size: Images only: (n, 2) int32, width and height in pixels after orientation, zero
            if unknown.
        folder: Images only: the folder that `names` are relative to, None if there is none to
            speak of. The cache keeps a fingerprint of it with each name, by which it tells an
            image that was replaced from another image of the same name elsewhere.
        text: Pairs only: (n, 32) uint8, the text's identity.
        image: Pairs only: (n, 32) uint8, the image's identity.
    """

    ids: Bytes
    features: Mapping[str, FeatureRows] = field(default_factory=dict)
    names: Sequence[tuple[str, int]] = ()
    size: NDArray[np.int32] | None = None
    folder: Path | None = None
    text: Bytes | None = None
    image: Bytes | None = None

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """`size`, `text` and `image`, if given."""
        given = {"size": self.size, "text": self.text, "image": self.image}
        return {name: values for name, values in given.items() if values is not None}


def check_rows(table: str, rows: TableRows) -> Mapping[str, int]:
    """Refuse rows that contradict each other.

    Args:
        table: `images`, `texts` or `pairs`.
        rows: To be written to it.

    Returns:
        The row that each name leads to, by the name as the cache keeps it.

    Raises:
        CacheError: If they do; it lists every fault.
    """
    names, wrong = _leads(rows)
    faults = [*_table_faults(table, rows), *wrong]
    for name, feature in rows.features.items():
        faults += _feature_faults(name, feature, len(rows.ids))
    if faults:
        raise CacheError(f"these rows of {table} cannot be written:", faults=faults)
    return names


def _table_faults(table: str, rows: TableRows) -> Iterator[str]:
    n_rows = len(rows.ids)
    if rows.ids.shape != (n_rows, ID_BYTES) or rows.ids.dtype != np.uint8:
        yield f"ids: wanted (n, {ID_BYTES}) uint8, got {rows.ids.shape} {rows.ids.dtype}"
    elif not sort_ids(rows.ids)[1].all():
        yield "ids: some stand more than once"
    for name, values in rows.columns.items():
        if name not in _COLUMNS[table]:
            yield f"{name}: {table} have none"
            continue
        width, dtype = _COLUMNS[table][name]
        if values.shape != (n_rows, width) or values.dtype != dtype:
            yield f"{name}: wanted ({n_rows}, {width}), got {values.shape} {values.dtype}"
    if table == "pairs" and set(rows.columns) != set(_COLUMNS[table]):
        yield "pairs need the identities of their texts and images"
    if (rows.names or rows.folder is not None) and table != "images":
        yield f"names: {table} have none"


def _leads(rows: TableRows) -> tuple[dict[str, int], list[str]]:
    """The row of each name as the cache keeps it, and what is wrong with them."""
    leads: dict[str, int] = {}
    faults = []
    n_rows = len(rows.ids)
    for name, row in rows.names:
        if not 0 <= row < n_rows:
            faults.append(f"name {name!r}: there is no row {row}")
        if leads.setdefault(normalise_name(name), row) != row:
            faults.append(f"name {name!r}: it leads to two rows")
    return leads, faults


def _feature_faults(name: str, feature: FeatureRows, n_rows: int) -> Iterator[str]:
    if name in RESERVED or not name.isidentifier():
        yield f"{name!r}: not a name for a feature"
    if feature.data.dtype not in FEATURE_DTYPES:
        yield f"{name}: type {feature.data.dtype} is not one the format holds"
    if len(feature.provenance.json.encode()) > TEXT_LIMIT:
        yield f"{name}: its provenance is longer than {TEXT_LIMIT:,} bytes"
    if feature.data.ndim > DIMENSIONS_LIMIT:
        yield f"{name}: a row has {feature.data.ndim - 1} dimensions; {DIMENSIONS_LIMIT - 1} fit"
    if feature.data.ndim < 1 or len(feature.data) != n_rows or feature.state.shape != (n_rows,):
        yield (
            f"{name}: wanted {n_rows} rows, got data {feature.data.shape}, "
            f"state {feature.state.shape}"
        )
        return
    yield from _state_faults(name, feature)
    if feature.data.dtype.kind == "f" and feature.data.size:
        endless = _endless(feature.data).reshape(n_rows, -1).any(axis=1)
        for row in np.flatnonzero(endless & (feature.state == OK)).tolist():
            yield f"{name}: row {row} is not finite; mark it as failed, with the reason"


def _endless(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers are infinite or NaN."""
    found: NDArray[np.bool_]
    if data.dtype == np.dtype("<f2"):
        # numpy is slow with halves. In these all bits of the exponent are set.
        found = (data.view(np.uint16) & np.uint16(0x7C00)) == 0x7C00
    else:
        found = ~np.isfinite(data)
    return found


def _state_faults(name: str, feature: FeatureRows) -> Iterator[str]:
    if feature.state.dtype != np.uint8 or (len(feature.state) and feature.state.max() > FAILED):
        yield f"{name}: a state is 0, 1 or 2 (uint8)"
    for row in feature.reasons:
        if not 0 <= row < len(feature.state) or feature.state[row] != FAILED:
            yield f"{name}: a reason is given for row {row}, which did not fail"


class CacheWriter:
    """Adds rows to a cache; any number of processes may do so at once.

    Every `put` is one part. When it returns, its rows are on the disk and every reader that opens
    the cache sees them; a process killed before that leaves no trace of them.

    Args:
        path: The `.h5` file; it need not exist yet.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = located(path)
        self._cache: FeatureCache | None = None
        self._stamp: tuple[int, int] | None = None
        self._folder: Path | None = None
        self._parts: set[Path] = set()
        self._generations: dict[tuple[str, Provenance], int] = {}
        self._kinds: dict[tuple[str, Provenance | None], str] = {}
        self._sequence = 0

    def put(
        self,
        *,
        images: TableRows | None = None,
        texts: TableRows | None = None,
        pairs: TableRows | None = None,
        replace: bool = False,
        rename: bool = False,
    ) -> Path:
        """Write rows as one part.

        Args:
            images: Rows of images.
            texts: Rows of texts.
            pairs: Rows of pairs.
            replace: Allow features of another provenance than the cache holds. All rows of the
                feature that it holds are then missing.
            rename: Allow names that belong to other images in another folder. They then lead to
                the new images.

        Returns:
            The part.

        Raises:
            ProvenanceError: If the cache holds a feature of another provenance.
            CacheError: If the rows contradict each other or the cache (shapes, types, values that
                are not finite, names of other images); nothing is written.
            StorageError: If the disk is full or the folder cannot be written.
        """
        given = {"images": images, "texts": texts, "pairs": pairs}
        filled = {name: rows for name, rows in given.items() if rows is not None}
        names = {name: check_rows(name, rows) for name, rows in filled.items()}
        cache = self._look(filled, images.folder if images else None, replace=replace)
        if images is not None and images.folder is not None and not rename:
            _refuse_conflicts(cache, images, names["images"])
        tables = {
            name: self._content(name, rows, names[name], cache.cache_id)
            for name, rows in filled.items()
        }
        self._sequence = max(self._sequence + 1, time.time_ns())
        identity = FileIdentity(cache_id=cache.cache_id, sequence=self._sequence)
        path = parts_folder(self.path) / f"part-{identity.uuid}.h5"
        write_sealed(path, *encode_file(tables, identity))
        self._parts.add(path)
        return path

    def _look(
        self, tables: Mapping[str, TableRows], folder: Path | None, *, replace: bool
    ) -> FeatureCache:
        """Compare features that are new to this writer with those in the cache.

        Returns:
            The cache as it was when it was last opened: anew if something may have changed there
            that matters for these rows.

        Raises:
            ProvenanceError: If the cache holds a feature of another provenance.
            CacheError: If it holds a feature in another table, or rows of another shape or type.
        """
        new = {
            (name, feature.provenance)
            for rows in tables.values()
            for name, feature in rows.features.items()
        } - set(self._generations)
        kinds, generations = dict(self._kinds), dict(self._generations)
        cache = self._cache
        moved = folder is not None and folder != self._folder
        # Parts of other writers may hold the same names.
        parts = set(candidates(self.path)) - {self.path} if folder is not None else set()
        others = not parts <= self._parts
        if cache is None or new or moved or others or _stamp(self.path) != self._stamp:
            cache = self._open()
            self._parts |= parts
            # A clock that was set back must not make new rows older than those that are there.
            self._sequence = max([self._sequence, *(file.sequence for file in cache.files)])
            changed = []
            for name, provenance in new:
                generations[name, provenance] = time.time_ns()
                if name not in cache:
                    continue
                held = cache[name]
                kinds[name, None] = f"one of {held.table}"
                if held.provenance == provenance:
                    kinds[name, provenance] = f"rows of {held.row_shape} {held.dtype.name}"
                    generations[name, provenance] = held.generation
                else:
                    generations[name, provenance] = max(time.time_ns(), held.generation + 1)
                    changed += [
                        f"{name}: {line}"
                        for line in held.provenance.differences(
                            provenance, "in the cache", "in these rows"
                        )
                    ]
            if changed and not replace:
                raise ProvenanceError(
                    f"{self.path} holds features of another provenance:",
                    faults=changed,
                    hint="`put(..., replace=True)` drops the rows that it holds; or give the "
                    "feature another name",
                )
        _refuse_other_kinds(self.path, tables, kinds)
        self._cache, self._kinds, self._generations = cache, kinds, generations
        self._folder = folder or self._folder
        return cache

    def _open(self) -> FeatureCache:
        """Open the cache, which has an identity and is of the present version from now on."""
        cache = FeatureCache(self.path, missing_ok=True)
        if any(file.version < FORMAT_VERSION for file in cache.files):
            pack(self.path)
        elif not cache.files or cache.files[0].path != self.path:
            _create(self.path, cache.cache_id or uuid4().hex)
        self._stamp = _stamp(self.path)
        return FeatureCache(self.path)

    def _content(
        self, table: str, rows: TableRows, names: Mapping[str, int], cache_id: str
    ) -> TableContent:
        order, _ = sort_ids(rows.ids)
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        columns = {name: values[order] for name, values in rows.columns.items()}
        if table == "images" and rows.size is None:
            columns["size"] = np.zeros((len(order), 2), np.int32)
        return TableContent(
            ids=rows.ids[order],
            columns=columns,
            names=_names(
                names,
                position,
                folder_fingerprint(rows.folder, cache_id) if rows.folder is not None else 0,
            )
            if table == "images"
            else None,
            features={
                name: self._feature(name, rows, feature, order, position)
                for name, feature in rows.features.items()
            },
        )

    def _feature(
        self, name: str, rows: TableRows, feature: FeatureRows, order: Rows, position: Rows
    ) -> FeatureContent:
        state = feature.state[order]
        data = feature.data[order]
        data[state != OK] = 0
        return FeatureContent(
            data=Array.of(data),
            crc32=Array.of(checksums(rows.ids[order], data)),
            state=state,
            reasons={int(position[row]): reason for row, reason in feature.reasons.items()},
            provenance=feature.provenance,
            generation=self._generations[name, feature.provenance],
        )


def _names(leads: Mapping[str, int], position: Rows, folder: int) -> NamesContent:
    """Names with the rows that they lead to, once these are in their `position`."""
    rows = position[np.fromiter(leads.values(), np.int64, len(leads))].tolist()
    encoded = map(encode_name, leads)
    return NamesContent.of({name: (row, folder) for name, row in zip(encoded, rows, strict=True)})


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that replaces it; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _create(path: Path, cache_id: str) -> None:
    """Create a cache without rows; if another process was faster, its identity counts."""
    with contextlib.suppress(FileExistsError):
        write_sealed(path, *encode_file({}, FileIdentity(cache_id=cache_id, sequence=0)), new=True)


def _refuse_other_kinds(
    path: Path, tables: Mapping[str, TableRows], kinds: dict[tuple[str, Provenance | None], str]
) -> None:
    faults = []
    for table, rows in tables.items():
        for name, feature in rows.features.items():
            shape, dtype = feature.data.shape[1:], feature.data.dtype
            for maker, kind in (
                (None, f"one of {table}"),
                (feature.provenance, f"rows of {shape} {dtype.name}"),
            ):
                before = kinds.setdefault((name, maker), kind)
                if before != kind:
                    faults.append(f"{name}: got {kind}, but the cache holds {before}")
    if faults:
        raise CacheError(
            f"these rows do not fit those in {path}:",
            faults=faults,
            hint="state the difference in the provenance, or give the feature another name",
        )


def _refuse_conflicts(cache: FeatureCache, rows: TableRows, names: Mapping[str, int]) -> None:
    ids = {name: rows.ids[row].tobytes() for name, row in names.items()}
    conflicting = cache.compare_names(ids, rows.folder).conflicting
    if conflicting:
        raise CacheError(
            f"{cache.path} has these names from another folder, for other images:",
            faults=conflicting,
            hint="give this folder a cache of its own and merge the two, each with a folder before "
            "its names (`mnerfeat cache merge A B --out C --folder a --folder b`)",
        )
