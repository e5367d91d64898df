"""What a cache holds, and whether all of it is sound."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from mnerfeat.cache.encoding import checksums
from mnerfeat.cache.joining import join_ids, sort_ids
from mnerfeat.cache.reader import FeatureCache, parts_folder
from mnerfeat.cache.schema import FAILED, MISSING, OK, Provenance, name_hash, prefixes
from mnerfeat.cache.sealed import SealedFeature, SealedFile, SealedTable, TextColumn, open_sealed
from mnerfeat.errors import CacheError

_ROWS_AT_ONCE = 4096

Progress = Callable[[int, int], None]
"""Called with the rows checked so far and the rows in all."""


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """One feature, counted.

    Attributes:
        name: In the cache.
        table: `images`, `texts` or `pairs`.
        row_shape: Of one row.
        dtype: As stored.
        ok: Rows that are there.
        failed: Rows that were tried and could not be had.
        missing: Rows never tried.
        bytes: Of the data.
        provenance: What made it.
    """

    name: str
    table: str
    row_shape: tuple[int, ...]
    dtype: str
    ok: int
    failed: int
    missing: int
    bytes: int
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """A cache, counted.

    Attributes:
        path: The `.h5` file.
        bytes: On the disk, parts included.
        parts: Waiting beside the file to be packed into it.
        created_by: The program that wrote the newest file.
        created_at: When, ISO 8601, UTC.
        images: Rows.
        names: That lead to images.
        texts: Rows.
        pairs: Rows.
        features: All of them.
    """

    path: Path
    bytes: int
    parts: int
    created_by: str
    created_at: str
    images: int
    names: int
    texts: int
    pairs: int
    features: tuple[FeatureInfo, ...]


def info(path: str | PathLike[str]) -> CacheInfo:
    """Count what a cache holds.

    Raises:
        CacheError: Where there is none, or it cannot be read.
    """
    cache = FeatureCache(path)
    features = [
        FeatureInfo(
            name=name,
            table=table.name,
            row_shape=feature.row_shape,
            dtype=str(feature.dtype),
            ok=int((feature.state == OK).sum()),
            failed=int((feature.state == FAILED).sum()),
            missing=int((feature.state == MISSING).sum()),
            bytes=int(np.prod(feature.shape)) * feature.dtype.itemsize,
            provenance=feature.provenance,
        )
        for table in (cache.images, cache.texts, cache.pairs)
        for name, feature in table.features.items()
    ]
    newest = cache.files[-1]
    return CacheInfo(
        path=cache.path,
        bytes=sum(file.path.stat().st_size for file in cache.files),
        parts=len(cache.files) - (cache.files[0].path == cache.path),
        created_by=newest.created_by,
        created_at=newest.created_at,
        images=len(cache.images),
        names=len(cache.images.joined_names().row),
        texts=len(cache.texts),
        pairs=len(cache.pairs),
        features=tuple(features),
    )


def verify(path: str | PathLike[str], progress: Progress | None = None) -> list[str]:
    """Check every byte that can be checked: checksums, counts, order, names, pairs.

    Args:
        path: The `.h5` file; parts beside it are checked too.
        progress: Called with the rows checked so far and the rows in all.

    Returns:
        Every fault found, each with the file it lies in; none for a sound cache.

    Raises:
        CacheError: Where there is no cache at all.
    """
    path = Path(path)
    files: list[SealedFile] = []
    faults: list[str] = []
    candidates = [path] if path.exists() else []
    for candidate in [*candidates, *sorted(parts_folder(path).glob("part-*.h5"))]:
        try:
            files.append(open_sealed(candidate))
        except FileNotFoundError:
            continue  # packed in between
        except CacheError as error:
            faults.append(error.what)
    if not files and not faults:
        raise CacheError(
            f"there is no feature cache at {path}",
            hint="make one with `mnerfeat extract --images DIR`, or name another",
        )
    total = sum(
        len(table) * len(table.features) for file in files for table in file.tables.values()
    )
    checked = 0
    for file in files:
        for name, table in file.tables.items():
            where = f"{file.path} /{name}"
            faults += [f"{where}: {fault}" for fault in _table_faults(table)]
            for feature_name, feature in table.features.items():
                for count, found in _feature_faults(table, feature):
                    faults += [f"{where}/{feature_name}: {fault}" for fault in found]
                    checked += count
                    if progress:
                        progress(checked, total)
    faults += _dangling(files)
    return faults


def _table_faults(table: SealedTable) -> Iterator[str]:
    order, new = sort_ids(table.id)
    if not new.all() or (order != np.arange(len(order))).any():
        yield "identities are out of order or double"
    wrong = int((prefixes(table.id) != table.prefix).sum())
    if wrong:
        yield f"{wrong} of {len(table)} entries of the look-up table are wrong"
    if table.names is not None:
        yield from _texts_faults("names", table.names.text)
        if len(table.names.row) and int(table.names.row.max()) >= len(table):
            yield "names lead to rows that are not there"
        names = [table.names.text[i] for i in range(len(table.names.row))]
        hashes = [int.from_bytes(name_hash(name)) for name in names]
        if hashes != table.names.hash.tolist() or hashes != sorted(hashes):
            yield "the look-up table of names is wrong"


def _texts_faults(what: str, texts: TextColumn) -> Iterator[str]:
    offsets = texts.offset.astype(object)
    if len(offsets) and (
        offsets[0] != 0 or offsets[-1] != len(texts.data) or (offsets[1:] < offsets[:-1]).any()
    ):
        yield f"the {what} are not laid out one after the other"


def _feature_faults(table: SealedTable, feature: SealedFeature) -> Iterator[tuple[int, list[str]]]:
    """Faults of some rows at a time, with the number of rows looked at."""
    faults = []
    unknown = int((feature.state > FAILED).sum())
    if unknown:
        faults.append(f"{unknown} rows have an unknown state")
    failed = np.flatnonzero(feature.state == FAILED)
    if not np.isin(feature.reason_row, failed).all():
        faults.append("reasons are given for rows that did not fail")
    faults += _texts_faults("reasons", feature.reason_text)
    yield 0, faults
    for start in range(0, len(table), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        fine = feature.state[rows] == OK
        data = feature.data[rows]
        wrong = fine & (checksums(table.id[rows], data) != feature.crc32[rows])
        found = []
        if wrong.any():
            ids = [table.id[start + i].tobytes().hex()[:16] for i in np.flatnonzero(wrong)[:3]]
            found.append(
                f"{int(wrong.sum())} rows do not match their checksums ({', '.join(ids)}, …)"
            )
        if data.dtype.kind == "f" and not np.isfinite(data[fine]).all():
            found.append("rows that count as OK are not finite")
        yield len(fine), found


def _dangling(files: list[SealedFile]) -> Iterator[str]:
    """Pairs whose text or image is in none of the files."""
    for name, column in (("texts", "text"), ("images", "image")):
        union = join_ids([file.tables[name] for file in files if name in file.tables])
        for file in files:
            pairs = file.tables.get("pairs")
            if pairs is not None:
                lost = int((union.find(getattr(pairs, column)) < 0).sum())
                if lost:
                    yield f"{file.path} /pairs: {lost} pairs point to {name} that are not there"
