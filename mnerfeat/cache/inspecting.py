"""What a cache holds, and whether all of it is sound."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from mnerfeat.cache.checking import feature_faults, table_faults, wrong_sums
from mnerfeat.cache.joining import join_ids
from mnerfeat.cache.opening import open_sealed
from mnerfeat.cache.reader import FeatureCache, at_one_moment, no_cache
from mnerfeat.cache.schema import FAILED, MISSING, OK, Provenance
from mnerfeat.cache.sealed import SealedFile
from mnerfeat.errors import CacheError

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
        bytes=sum(file.bytes for file in cache.files),
        parts=len(cache.files) - (cache.files[0].path == cache.path),
        created_by=newest.created_by,
        created_at=newest.created_at,
        images=len(cache.images),
        names=len(cache.images.index.joined_names().row),
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
    files, faults = at_one_moment(path, lambda parts: _open_sound(path, parts))
    if not files and not faults:
        raise no_cache(path)
    total = sum(
        len(table) * len(table.features) for file in files for table in file.tables.values()
    )
    checked = 0
    for file in files:
        faults += [f"{file.path} {name} does not match its checksum" for name in wrong_sums(file)]
        for name, table in file.tables.items():
            where = f"{file.path} /{name}"
            faults += [f"{where}: {fault}" for fault in table_faults(table)]
            for feature_name, feature in table.features.items():
                for count, found in feature_faults(table, feature):
                    faults += [f"{where}/{feature_name}: {fault}" for fault in found]
                    checked += count
                    if progress:
                        progress(checked, total)
    return [*faults, *_contradictions(files), *_dangling(files)]


def _open_sound(path: Path, parts: list[Path]) -> tuple[list[SealedFile], list[str]]:
    """The files that can be opened, and what is wrong with the others.

    Raises:
        FileNotFoundError: Where a part is gone.
    """
    files: list[SealedFile] = []
    faults: list[str] = []
    for candidate in [path, *parts]:
        try:
            files.append(open_sealed(candidate))
        except FileNotFoundError:
            if candidate != path:
                raise
        except CacheError as error:
            faults.append(error.what)
    return files, faults


def _contradictions(files: list[SealedFile]) -> Iterator[str]:
    """Features that stand in two tables, or whose rows differ in kind."""
    kinds: dict[tuple[str, str], tuple[str, Path]] = {}
    for file in files:
        for table_name, table in file.tables.items():
            for name, feature in table.features.items():
                rows = f"rows of {feature.data.shape[1:]} {feature.data.dtype}"
                for maker, kind in (
                    ("", f"in /{table_name}"),
                    (feature.provenance.digest, rows),
                ):
                    before, where = kinds.setdefault((name, maker), (kind, file.path))
                    if kind != before:
                        yield f"{file.path} {name}: {kind}, but {before} in {where}"


def _dangling(files: list[SealedFile]) -> Iterator[str]:
    """Pairs whose text or image is in none of the files."""
    for name, column in (("texts", "text"), ("images", "image")):
        union = join_ids([file.tables[name] for file in files if name in file.tables])
        for file in files:
            pairs = file.tables.get("pairs")
            if pairs is not None:
                try:
                    lost = int((union.find(getattr(pairs, column)) < 0).sum())
                except CacheError as error:
                    yield error.what
                    return
                if lost:
                    yield f"{file.path} /pairs: {lost} pairs point to {name} that are not there"
