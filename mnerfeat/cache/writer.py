"""Writing a cache: parts that are sealed one by one."""

import time
from os import PathLike
from pathlib import Path
from uuid import uuid4

import numpy as np

from mnerfeat.cache.encoding import FeatureContent, TableContent, checksums, encode_file
from mnerfeat.cache.incoming import FeatureRows, TableRows, check_rows
from mnerfeat.cache.joining import Rows, sort_ids
from mnerfeat.cache.layout import Array, write_sealed
from mnerfeat.cache.reader import FeatureCache, parts_folder
from mnerfeat.cache.schema import (
    OK,
    Provenance,
    encode_name,
    normalise_name,
)


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
        tables = {
            name: self._content(name, rows) for name, rows in given.items() if rows is not None
        }
        self._sequence = max(self._sequence + 1, time.time_ns())
        uuid = uuid4().hex
        path = parts_folder(self.path) / f"part-{uuid}.h5"
        write_sealed(path, *encode_file(tables, uuid=uuid, sequence=self._sequence))
        return path

    def _content(self, table: str, rows: TableRows) -> TableContent:
        check_rows(table, rows)
        order, _ = sort_ids(rows.ids)
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        columns = {name: values[order] for name, values in rows.columns.items()}
        if table == "images" and rows.size is None:
            columns["size"] = np.zeros((len(order), 2), np.int32)
        return TableContent(
            ids=rows.ids[order],
            columns=columns,
            names=[
                (encode_name(normalise_name(name)), int(position[row])) for name, row in rows.names
            ]
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
            generation=self._generation(name, feature.provenance),
        )

    def _generation(self, feature: str, provenance: Provenance) -> int:
        """That of the cache where it holds the feature from here; a newer one otherwise."""
        key = (feature, provenance)
        if key not in self._generations:
            cache = FeatureCache(self.path, missing_ok=True)
            generation = time.time_ns()
            if feature in cache and cache[feature].provenance == provenance:
                generation = cache[feature].generation
            self._generations[key] = generation
        return self._generations[key]
