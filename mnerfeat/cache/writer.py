"""Writing a cache: parts that are sealed one by one."""

import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from uuid import uuid4

import numpy as np

from mnerfeat.cache.encoding import (
    FeatureContent,
    NamesContent,
    TableContent,
    checksums,
    encode_file,
)
from mnerfeat.cache.incoming import FeatureRows, TableRows, check_rows
from mnerfeat.cache.joining import Rows, sort_ids
from mnerfeat.cache.layout import Array, write_sealed
from mnerfeat.cache.reader import FeatureCache, parts_folder
from mnerfeat.cache.schema import OK, Provenance, encode_name
from mnerfeat.errors import CacheError


class CacheWriter:
    """Adds rows to a cache; any number of processes may do so at once.

    Every `put` is one sealed part. When it returns, its rows are on the disk and every reader
    that opens the cache sees them; a process killed before that leaves no trace of them.

    Args:
        path: The `.h5` file; it need not be there yet.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._generations: dict[tuple[str, Provenance], int] = {}
        self._kinds: dict[tuple[str, Provenance | None], str] = {}
        self._sequence = 0

    def put(
        self,
        *,
        images: TableRows | None = None,
        texts: TableRows | None = None,
        pairs: TableRows | None = None,
    ) -> Path:
        """Write rows as one part.

        Returns:
            The part.

        Raises:
            CacheError: Where the rows contradict each other (shapes, types, values that are not
                finite); nothing is written.
            StorageError: Where the disk is full or the folder cannot be written.
        """
        given = {"images": images, "texts": texts, "pairs": pairs}
        filled = {name: rows for name, rows in given.items() if rows is not None}
        names = {name: check_rows(name, rows) for name, rows in filled.items()}
        self._look(filled)
        tables = {name: self._content(name, rows, names[name]) for name, rows in filled.items()}
        self._sequence = max(self._sequence + 1, time.time_ns())
        uuid = uuid4().hex
        path = parts_folder(self.path) / f"part-{uuid}.h5"
        write_sealed(path, *encode_file(tables, uuid=uuid, sequence=self._sequence))
        return path

    def _look(self, tables: Mapping[str, TableRows]) -> None:
        """Compare what is new to this writer with what the cache holds.

        Raises:
            CacheError: With every feature that stands in another table there, or has rows of
                another kind though the same thing has made them.
        """
        new = {
            (name, feature.provenance)
            for rows in tables.values()
            for name, feature in rows.features.items()
        } - set(self._generations)
        kinds = dict(self._kinds)
        generations = dict(self._generations)
        if new or not self._sequence:
            cache = FeatureCache(self.path, missing_ok=True)
            # A clock that was set back must not make new rows older than those that are there.
            self._sequence = max([self._sequence, *(file.sequence for file in cache.files)])
            for name, provenance in new:
                generations[name, provenance] = time.time_ns()
                if name in cache:
                    held = cache[name]
                    kinds[name, None] = f"one of {held.table}"
                    if held.provenance == provenance:
                        kinds[name, provenance] = f"rows of {held.row_shape} {held.dtype.name}"
                        generations[name, provenance] = held.generation
                    else:
                        generations[name, provenance] = max(time.time_ns(), held.generation + 1)
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
                f"these rows do not fit those in {self.path}:",
                faults=faults,
                hint="state the difference in the provenance, or give the feature another name",
            )
        self._kinds, self._generations = kinds, generations

    def _content(self, table: str, rows: TableRows, names: Mapping[str, int]) -> TableContent:
        order, _ = sort_ids(rows.ids)
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        columns = {name: values[order] for name, values in rows.columns.items()}
        if table == "images" and rows.size is None:
            columns["size"] = np.zeros((len(order), 2), np.int32)
        return TableContent(
            ids=rows.ids[order],
            columns=columns,
            names=_names(names, position) if table == "images" else None,
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


def _names(leads: Mapping[str, int], position: Rows) -> NamesContent:
    """Names with the rows they lead to, once these are in their `position`."""
    rows = position[np.fromiter(leads.values(), np.int64, len(leads))]
    return NamesContent.of(dict(zip(map(encode_name, leads), rows.tolist(), strict=True)))
