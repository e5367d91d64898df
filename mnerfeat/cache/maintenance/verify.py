"""Counting what a cache holds, and checking that all of it is sound."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from mnerfeat.cache.maintenance.checks import feature_faults, table_faults, wrong_sums
from mnerfeat.cache.reader import (
    FeatureCache,
    at_one_moment,
    candidates,
    no_cache,
    split_foreign,
)
from mnerfeat.cache.rows import join_ids
from mnerfeat.cache.schema import FAILED, MISSING, OK, Provenance
from mnerfeat.cache.sealed import SealedFile, open_sealed
from mnerfeat.cache.storage import located
from mnerfeat.cache.untrusted import run_untrusted
from mnerfeat.errors import CacheError

Progress = Callable[[int, int], None]
"""Called with the rows checked so far and the total."""

_UNTRUSTED_MEMORY = 2 << 30
_UNTRUSTED_SECONDS = 60.0
_UNTRUSTED_SPEED = 5e6  # bytes a second, at least


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """Counts of one feature.

    Attributes:
        name: In the cache.
        table: `images`, `texts` or `pairs`.
        row_shape: Of one row.
        dtype: As stored.
        ok: Rows that were extracted.
        failed: Rows that failed.
        missing: Rows that were not extracted yet.
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
    """Counts of a cache.

    Attributes:
        path: The `.h5` file.
        bytes: Size on the disk, parts included.
        cache_id: Its identity.
        parts: Number of parts that are not packed yet.
        foreign: Files in its folder of parts that belong to another cache.
        created_by: The program that wrote the newest file.
        created_at: When, ISO 8601, UTC.
        images: Rows.
        names: Number of names that lead to images.
        texts: Rows.
        pairs: Rows.
        features: Counts of each.
    """

    path: Path
    bytes: int
    cache_id: str
    parts: int
    foreign: tuple[Path, ...]
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
        CacheError: If there is none, or it cannot be read.
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
        cache_id=cache.cache_id,
        parts=len(cache.files) - (cache.files[0].path == cache.path),
        foreign=cache.foreign,
        created_by=newest.created_by,
        created_at=newest.created_at,
        images=len(cache.images),
        names=len(cache.images.index.joined_names().row),
        texts=len(cache.texts),
        pairs=len(cache.pairs),
        features=tuple(features),
    )


def verify(
    path: str | PathLike[str], progress: Progress | None = None, *, untrusted: bool = False
) -> list[str]:
    """Check every byte that can be checked: checksums, counts, order, names, pairs.

    Args:
        path: The `.h5` file; parts beside it are checked too.
        progress: Called with the rows checked so far and the total.
        untrusted: Read the files in a child process with limits on memory and time, so that a
            file that was made to do harm cannot reach this one. Progress is not reported.

    Returns:
        Every fault found, each with the file it lies in; none for a sound cache.

    Raises:
        CacheError: If there is no cache at all.
    """
    path = located(path)
    if untrusted:
        size = sum(file.stat().st_size for file in candidates(path) if file.is_file())
        found = run_untrusted(
            verify,
            path,
            memory_bytes=_UNTRUSTED_MEMORY + 2 * size,
            seconds=_UNTRUSTED_SECONDS + size / _UNTRUSTED_SPEED,
        )
        return [str(fault) for fault in found]
    files, faults = at_one_moment(path, lambda parts: _open_sound(path, parts))
    if not files and not faults:
        raise no_cache(path)
    total = sum(
        len(table) * len(table.features) for file in files for table in file.tables.values()
    )
    checked = 0
    for file in files:
        try:
            wrong = wrong_sums(file)
        except CacheError as error:
            faults.append(error.what)
            continue
        faults += [f"{file.path} {name} does not match its checksum" for name in wrong]
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
    """Open the files of a cache that can be opened, and say what is wrong with the others.

    Raises:
        FileNotFoundError: If a part is gone.
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
    base = files[0] if files and files[0].path == path else None
    others = [file for file in files if file is not base]
    own, foreign = split_foreign(base, others)
    absorbed = base.absorbed if base else frozenset[str]()
    own += [file for file in foreign if file.path.stem[5:] in absorbed]
    faults += [
        f"{file.path} belongs to another cache"
        for file in foreign
        if file.path.stem[5:] not in absorbed
    ]
    return [*([base] if base else []), *own], faults


def _contradictions(files: list[SealedFile]) -> Iterator[str]:
    """Yield features that are in two tables, or whose rows differ in shape or type."""
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
    """Yield pairs whose text or image is in none of the files."""
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
