"""Removing rows, names and features from a cache."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.maintenance.pack import Progress, Selection, locked, seal, set_aside
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.schema import decode_name, text_id
from mnerfeat.cache.storage import located
from mnerfeat.errors import CacheError, CacheLookupError


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """What a prune removed, or would remove.

    Attributes:
        path: The `.h5` file.
        done: Whether anything was changed; False for a dry run, and if there was nothing to do.
        names: Names whose files are gone.
        images: Number of rows that no name leads to.
        texts: Number of texts that no post has.
        pairs: Number of pairs whose text or image is gone.
        features: Removed whole.
        foreign: Parts of other caches, set aside under these names.
        bytes: Size of the data and identities that go.
    """

    path: Path
    done: bool
    names: tuple[str, ...]
    images: int
    texts: int
    pairs: int
    features: tuple[str, ...]
    foreign: tuple[Path, ...]
    bytes: int


def prune(
    path: str | PathLike[str],
    *,
    folder: str | PathLike[str] | None = None,
    texts: Iterable[str] | None = None,
    features: Iterable[str] = (),
    dry_run: bool = True,
    progress: Progress | None = None,
) -> PruneReport:
    """Remove images that no name leads to, and whatever else is asked for.

    Pairs go with their texts and images. Parts of other caches are set aside. The rest is packed.

    Args:
        path: The `.h5` file.
        folder: The folder of images; names go whose files are not in it.
        texts: Texts to keep, as posts have them (words joined by single spaces).
        features: Features to remove whole.
        dry_run: Only report what would be removed.
        progress: Called with the bytes written so far and the total.

    Raises:
        CacheLookupError: If the cache does not hold a feature.
        CacheError: If `folder` does not exist, or none of the names is in it, or the cache holds
            none of `texts`: most likely it is the wrong one.
        StorageError: If the disk is full; the cache is then as it was.
    """
    path, wanted = located(path), frozenset(features)
    if dry_run:
        return _plan(FeatureCache(path), folder, texts, wanted)[0]
    with locked(path):
        cache = FeatureCache(path)
        report, selections = _plan(cache, folder, texts, wanted)
        removed = any((report.names, report.images, report.texts, report.pairs, report.features))
        foreign = tuple(set_aside(path, part, "foreign") for part in report.foreign)
        if removed:
            seal(cache, selections=selections, progress=progress)
        return replace(report, done=removed or bool(foreign), foreign=foreign)


def _plan(
    cache: FeatureCache,
    folder: str | PathLike[str] | None,
    texts: Iterable[str] | None,
    features: frozenset[str],
) -> tuple[PruneReport, dict[str, Selection]]:
    unknown = sorted(features - set(cache.features))
    if unknown:
        raise CacheLookupError(
            f"{cache.path} holds no feature {', '.join(unknown)}; it holds "
            f"{', '.join(cache.features) or 'none'}"
        )
    joined = cache.images.index.joined_names()
    all_names = [decode_name(text) for text in joined.texts()]
    names = _names_in(Path(folder), all_names) if folder is not None else None
    named = joined.row if names is None else joined.row[names]
    keep = {
        "images": np.isin(np.arange(len(cache.images)), named),
        "texts": _texts_among(cache, texts),
        "pairs": np.ones(len(cache.pairs), bool),
    }
    for table, ids in zip((cache.texts, cache.images), cache.pairs.pair_ids, strict=True):
        found = table.find(ids)
        # A pair that pointed nowhere before is none of this function's business.
        keep["pairs"][found >= 0] &= keep[table.name][found[found >= 0]]
    selections = {
        table.name: Selection(
            rows=keep[table.name],
            names=names if table.name == "images" else None,
            features=frozenset(table.features) - features,
        )
        for table in cache.tables
    }
    gone = [] if names is None else [all_names[i] for i in np.flatnonzero(~names).tolist()]
    return PruneReport(
        path=cache.path,
        done=False,
        names=tuple(sorted(gone)),
        images=int((~keep["images"]).sum()),
        texts=int((~keep["texts"]).sum()),
        pairs=int((~keep["pairs"]).sum()),
        features=tuple(sorted(features)),
        foreign=cache.foreign,
        bytes=_bytes_gone(cache, keep, features),
    ), selections


def _names_in(folder: Path, names: list[str]) -> NDArray[np.bool_]:
    if not folder.is_dir():
        raise CacheError(
            f"there is no folder {folder}, so every image would count as gone",
            hint="name the folder that was given to `mnerfeat extract --images`",
        )
    there = np.array([(folder / name).is_file() for name in names], bool)
    if len(names) and not there.any():
        raise CacheError(
            f"none of the {len(names):,} names is a file in {folder}: it is the wrong folder",
            hint="name the folder that was given to `mnerfeat extract --images`",
        )
    return there


def _texts_among(cache: FeatureCache, texts: Iterable[str] | None) -> NDArray[np.bool_]:
    keep = np.full(len(cache.texts), texts is None, bool)
    if texts is not None and len(keep):
        rows = cache.texts.find([text_id(text) for text in texts])
        keep[rows[rows >= 0]] = True
        if not keep.any():
            raise CacheError(
                f"{cache.path} holds none of the texts that are to be kept: they are wrong",
                hint="give the posts that `mnerfeat extract` was given",
            )
    return keep


def _bytes_gone(
    cache: FeatureCache, keep: dict[str, NDArray[np.bool_]], features: frozenset[str]
) -> int:
    total = 0
    for table in cache.tables:
        rows = int((~keep[table.name]).sum())
        total += 32 * rows
        for name, feature in table.features.items():
            size = feature.dtype.itemsize * int(np.prod(feature.row_shape))
            total += size * (len(table) if name in features else rows)
    return total
