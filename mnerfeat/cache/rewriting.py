"""Writing a cache anew: what joined tables hold, or a selection of it, as one sealed file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.encoding import FeatureContent, NamesContent, TableContent, encode_file
from mnerfeat.cache.feature import Feature
from mnerfeat.cache.joining import JoinedNames, Rows
from mnerfeat.cache.layout import Array, write_sealed
from mnerfeat.cache.schema import OK
from mnerfeat.cache.table import Table

PIECE_BYTES = 8 << 20
"""How much of a feature is in memory at once."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""


class Counted:
    """Adds up what is to be written and tells how far it has got."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._written = 0
        self.total = 0

    def add(self, count: int) -> None:
        """Say that so many more bytes are written."""
        self._written += count
        if self._progress:
            self._progress(self._written, self.total)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a table is written; None means everything.

    Attributes:
        rows: (n,) bool. Names that lead to other rows are left out, too.
        names: (p,) bool, over `Index.joined_names`.
        features: Their names.
    """

    rows: NDArray[np.bool_] | None = None
    names: NDArray[np.bool_] | None = None
    features: frozenset[str] | None = None


EVERYTHING = Selection()


def table_content(
    table: Table, counted: Counted, selection: Selection = EVERYTHING
) -> TableContent:
    """A table as it is about to be written; features are read piece by piece while it is."""
    kept = None if selection.rows is None else np.flatnonzero(selection.rows)
    columns: dict[str, NDArray[Any]] = {}
    if table.name == "images":
        columns["size"] = table.sizes
    if table.name == "pairs":
        columns["text"], columns["image"] = table.pair_ids
    if kept is not None:
        columns = {name: values[kept] for name, values in columns.items()}
    return TableContent(
        ids=table.ids if kept is None else table.ids[kept],
        columns=columns,
        names=_names(table.index.joined_names(), selection) if table.name == "images" else None,
        features={
            name: _feature(feature, np.arange(len(table)) if kept is None else kept, counted)
            for name, feature in table.features.items()
            if selection.features is None or name in selection.features
        },
    )


def rewrite(
    path: Path, tables: Mapping[str, TableContent], *, sequence: int, absorbed: Sequence[str] = ()
) -> None:
    """Seal tables as the file at `path`, in place of what is there.

    Args:
        path: The `.h5` file.
        tables: By name; those without rows are left out.
        sequence: Of the newest of the files that they are made from.
        absorbed: The parts among these.

    Raises:
        StorageError: Where it cannot be written; the file is then as it was.
    """
    filled = {name: content for name, content in tables.items() if len(content.ids)}
    attributes, arrays = encode_file(filled, uuid=uuid4().hex, sequence=sequence, absorbed=absorbed)
    write_sealed(path, attributes, arrays)


def _names(joined: JoinedNames, selection: Selection) -> NamesContent:
    keep = np.ones(len(joined.row), bool) if selection.names is None else selection.names
    row = joined.row
    if selection.rows is not None:
        keep = keep & selection.rows[joined.row]
        row = (np.cumsum(selection.rows) - 1)[joined.row]
    kept = joined.select(keep)
    return NamesContent(
        hash=kept.hash, row=row[keep].astype(np.uint32), length=kept.lengths(), texts=kept.texts()
    )


def _feature(feature: Feature, rows: Rows, counted: Counted) -> FeatureContent:
    row_bytes = feature.dtype.itemsize * int(np.prod(feature.row_shape))
    counted.total += len(rows) * row_bytes
    state = feature.state[rows]

    def pieces() -> Iterator[NDArray[Any]]:
        step = max(1, PIECE_BYTES // max(row_bytes, 1))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            piece = feature.joined.take(rows[part])
            piece[state[part] != OK] = 0
            yield piece
            counted.add(piece.nbytes)

    reasons = feature.failures
    return FeatureContent(
        data=Array((len(rows), *feature.row_shape), feature.dtype, pieces()),
        crc32=Array.of(feature.joined.take_crc32(rows)),
        state=state,
        reasons={new: reasons[old] for new, old in enumerate(rows.tolist()) if old in reasons}
        if reasons
        else {},
        provenance=feature.provenance,
        generation=feature.generation,
    )
