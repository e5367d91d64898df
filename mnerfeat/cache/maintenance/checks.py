"""Checks of one file of a cache: which rows are sound, and what is wrong with the others."""

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.encoding import checksums
from mnerfeat.cache.files import StructureError, has_sum, open_root, refusing
from mnerfeat.cache.rows import sort_ids
from mnerfeat.cache.schema import FAILED, MISSING, OK, name_hash, pair_id, prefixes
from mnerfeat.cache.sealed import SealedFeature, SealedFile, SealedNames, SealedTable

ROWS_AT_ONCE = 4096


def sound_rows(table: SealedTable, feature: SealedFeature) -> Iterator[NDArray[np.bool_]]:
    """Yield whether each row is what was written, some rows at a time.

    It is not if its state is unknown or, for a row that is OK, if it does not match its checksum
    or is not finite. The checksum covers the identity, too.
    """
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        state, data = feature.state[rows], feature.data[rows]
        sound = state <= FAILED
        ok = np.flatnonzero(state == OK)
        sound[ok] = checksums(table.id[rows][ok], data[ok]) == feature.crc32[rows][ok]
        if data.dtype.kind == "f" and len(ok):
            sound[ok] &= np.isfinite(data[ok].reshape(len(ok), data[0].size)).all(axis=1)
        yield sound


def sound_names(table: SealedTable, names: SealedNames) -> NDArray[np.bool_]:
    """Return which names match their hash and lead to a row that exists, (p,)."""
    start, end = names.text.offset[:-1], names.text.offset[1:]
    sound = (start <= end) & (end <= len(names.text.data)) & (names.row < len(table))
    # Names that overlap could take for ever to read.
    sound[1:] &= start[1:] >= np.maximum.accumulate(end)[:-1]
    for i in np.flatnonzero(sound).tolist():
        sound[i] = int.from_bytes(name_hash(names.text[i])) == int(names.hash[i])
    return sound


def wrong_sums(file: SealedFile) -> list[str]:
    """Return the datasets, by full name, that do not match the checksum in their header.

    Raises:
        CacheFormatError: If a header is damaged.
    """
    with refusing(file.path):
        root = open_root(file.buffer)
        return [
            name
            for name, array in file.arrays.items()
            if has_sum(name)
            and root.sum_of(name) != zlib.crc32(np.ascontiguousarray(array).tobytes())
        ]


def wrong_pairs(table: SealedTable) -> NDArray[np.bool_]:
    """Return which pairs do not join what their identity says, (n,)."""
    assert table.text is not None
    assert table.image is not None
    return np.array(
        [
            pair_id(text.tobytes(), image.tobytes()) != id_.tobytes()
            for text, image, id_ in zip(table.text, table.image, table.id, strict=True)
        ],
        bool,
    )


def table_faults(table: SealedTable) -> Iterator[str]:
    """Yield what is wrong with a table besides its features."""
    order, new = sort_ids(table.id)
    if not new.all() or (order != np.arange(len(order))).any():
        yield "identities are out of order or double"
    wrong = int((prefixes(table.id) != table.prefix).sum())
    if wrong:
        yield f"{wrong} of {len(table)} entries of the look-up table are wrong"
    if table.text is not None and (count := int(wrong_pairs(table).sum())):
        yield f"{count} pairs join something else than their identities say"
    if table.names is not None:
        yield from _names_faults(table, table.names)


def _names_faults(table: SealedTable, names: SealedNames) -> Iterator[str]:
    try:
        names.text.check("names")
    except StructureError as fault:
        yield str(fault)
    wrong = int((~sound_names(table, names)).sum())
    if wrong:
        yield f"{wrong} of {len(names.row)} names are damaged or lead to rows that are not there"
    if (names.hash[1:] < names.hash[:-1]).any():
        yield "the look-up table of names is out of order"


def feature_faults(table: SealedTable, feature: SealedFeature) -> Iterator[tuple[int, list[str]]]:
    """Yield what is wrong with some rows at a time, with the number of rows checked."""
    yield 0, [*needless(feature)]
    start = 0
    for sound in sound_rows(table, feature):
        wrong = np.flatnonzero(~sound)
        found = []
        if len(wrong):
            ids = [table.id[start + i].tobytes().hex()[:16] for i in wrong[:3]]
            found.append(
                f"{len(wrong)} rows do not match their checksums, are not finite, or have an "
                f"unknown state ({', '.join(ids)}{', …' if len(wrong) > 3 else ''})"
            )
        yield len(sound), found
        start += len(sound)


def needless(feature: SealedFeature) -> Iterator[str]:
    """Yield what a feature holds for rows that have no use for it; rewriting it drops that."""
    if not np.isin(feature.reason_row, np.flatnonzero(feature.state == FAILED)).all():
        yield "reasons are given for rows that did not fail"
    empty = np.flatnonzero(feature.state != OK)
    pieces = (empty[at : at + ROWS_AT_ONCE] for at in range(0, len(empty), ROWS_AT_ONCE))
    if any(feature.data[piece].any() for piece in pieces):
        yield "rows that are not OK hold data"


def without_unsound(table: SealedTable, feature: SealedFeature) -> NDArray[np.uint8]:
    """Return the feature's states, MISSING for rows that are not sound."""
    sound = [*sound_rows(table, feature)]
    state = feature.state.copy()
    state[~np.concatenate([np.zeros(0, bool), *sound])] = MISSING
    return state
