"""Rows on their way into a cache, and what is wrong with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.joining import sort_ids
from mnerfeat.cache.names import normalise_name
from mnerfeat.cache.schema import (
    DIMENSIONS_LIMIT,
    FAILED,
    FEATURE_DTYPES,
    ID_BYTES,
    OK,
    RESERVED,
    TEXT_LIMIT,
    Bytes,
    Provenance,
)
from mnerfeat.errors import CacheError

_COLUMNS: Mapping[str, Mapping[str, tuple[int, type]]] = {
    "images": {"size": (2, np.int32)},
    "texts": {},
    "pairs": {"text": (ID_BYTES, np.uint8), "image": (ID_BYTES, np.uint8)},
}
"""What a table has besides its features: the width and type of a row."""


@dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """One feature of some rows, on its way into a cache.

    Attributes:
        data: (n, …), one of `FEATURE_DTYPES`; rows that are not OK count as zero.
        state: (n,) uint8: MISSING, OK or FAILED.
        reasons: Why a row failed, by its position.
        provenance: What made it.
    """

    data: NDArray[Any]
    state: NDArray[np.uint8]
    provenance: Provenance
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """Rows of one table, on their way into a cache; the order does not matter.

    Attributes:
        ids: (n, 32) uint8, all different.
        features: By name.
        names: Images only: every name that leads to a row, as (name, position).
        size: Images only: (n, 2) int32, width and height in pixels after orientation, zero
            where unknown.
        text: Pairs only: (n, 32) uint8, the text's identity.
        image: Pairs only: (n, 32) uint8, the image's identity.
    """

    ids: Bytes
    features: Mapping[str, FeatureRows] = field(default_factory=dict)
    names: Sequence[tuple[str, int]] = ()
    size: NDArray[np.int32] | None = None
    text: Bytes | None = None
    image: Bytes | None = None

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """Those of `size`, `text` and `image` that are given."""
        given = {"size": self.size, "text": self.text, "image": self.image}
        return {name: values for name, values in given.items() if values is not None}


def check_rows(table: str, rows: TableRows) -> Mapping[str, int]:
    """Refuse rows that contradict each other.

    Args:
        table: `images`, `texts` or `pairs`.
        rows: To be written to it.

    Returns:
        The position that each name leads to, by the name as the cache keeps it.

    Raises:
        CacheError: With every fault.
    """
    names, wrong = _names(rows)
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
    if rows.names and table != "images":
        yield f"names: {table} have none"


def _names(rows: TableRows) -> tuple[dict[str, int], list[str]]:
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
    """Where numbers are infinite or NaN."""
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
