"""Making one cache of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from uuid import uuid4

from mnerfeat.cache.encoding import NamesContent
from mnerfeat.cache.maintenance.pack import (
    Counter,
    Progress,
    locked,
    parts_of,
    remove_absorbed,
    remove_parts,
    rewrite,
    table_content,
)
from mnerfeat.cache.names import normalise_name
from mnerfeat.cache.reader import FeatureCache, candidates, check_features
from mnerfeat.cache.schema import encode_name, unreadable_id
from mnerfeat.cache.storage import located
from mnerfeat.errors import CacheError


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """The result of a merge.

    Attributes:
        path: The merged cache.
        sources: The caches it was made of, each with its rows by table.
        rows: Rows of the merged cache, by table. Images, texts and pairs that several sources
            held count once.
        names: Number of names that lead to its images.
        features: Its features.
    """

    path: Path
    sources: Mapping[Path, Mapping[str, int]]
    rows: Mapping[str, int]
    names: int
    features: tuple[str, ...]


def merge(
    path: str | PathLike[str],
    sources: Sequence[str | PathLike[str]],
    *,
    folders: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Make one packed cache of several, which stay as they are.

    The same image (text, pair) is one row, with the features of all sources. A row that failed
    in one source and is OK in another is OK. The merged cache has an identity of its own.

    Args:
        path: The merged cache. If it exists, it must be among the sources; it is then replaced.
        sources: At least one.
        folders: For each source, a folder to put before its names (`""` for none): how to keep
            projects apart that give the same name to different images.
        progress: Called with the bytes written so far and the total.

    Raises:
        ProvenanceError: If two sources hold a feature of different provenance; it names both.
        CacheError: If a feature differs in kind, or a name leads to different images; it lists
            all of them. If `path` exists and is not among the sources.
        StorageError: If the disk is full; everything is then as it was.
    """
    path, paths = located(path), [located(source) for source in sources]
    prefixes = [""] * len(paths) if folders is None else list(folders)
    if not paths or len(prefixes) != len(paths):
        raise CacheError(
            f"got {len(paths)} caches to merge and {len(prefixes)} folders; wanted at least one "
            "cache and a folder for each, or none at all"
        )
    absent = [str(source) for source in paths if not candidates(source)]
    if absent:
        raise CacheError(f"there is no feature cache at {', '.join(absent)}")
    with locked(path):
        caches = [FeatureCache(source) for source in paths]
        _check_target(path, paths)
        check_features(caches)
        remove_absorbed(FeatureCache(path, missing_ok=True))
        names = _merged_names(caches, prefixes)
        merged = FeatureCache.of_files(path, [file for cache in caches for file in cache.files])
        counter = Counter(progress)
        contents = {table.name: table_content(table, counter) for table in merged.tables}
        rows = merged.images.find([identity for identity, _ in names.values()]).tolist()
        contents["images"] = replace(
            contents["images"],
            names=NamesContent.of(
                {
                    name: (row, folder)
                    for row, (name, (_, folder)) in zip(rows, names.items(), strict=True)
                }
            ),
        )
        own = [
            part
            for source, cache in zip(paths, caches, strict=True)
            if _same(source, path)
            for part in parts_of(source, cache.files)
        ]
        rewrite(path, contents, cache_id=uuid4().hex, files=merged.files, absorbed=own)
        remove_parts([part.path for part in own])
    return MergeReport(
        path=path,
        sources={cache.path: _counts(cache) for cache in caches},
        rows=_counts(merged),
        names=len(names),
        features=tuple(merged.features),
    )


def _counts(cache: FeatureCache) -> dict[str, int]:
    return {table.name: len(table) for table in cache.tables}


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _check_target(path: Path, sources: Sequence[Path]) -> None:
    held = FeatureCache(path, missing_ok=True).files
    if held and not any(_same(path, source) for source in sources):
        raise CacheError(
            f"{path} exists and is not one of the caches to merge",
            hint=f"name it among them to keep what it holds: `mnerfeat cache merge {path} "
            f"{' '.join(map(str, sources))} --out {path}`, or write to another file",
        )


def _merged_names(
    caches: Sequence[FeatureCache], folders: Sequence[str]
) -> dict[bytes, tuple[bytes, int]]:
    """Return every name with the identity it leads to and the fingerprint of its folder.

    A fingerprint stays that of the source, since the merged cache knows the sources' identities;
    behind a folder that was put before the names it would mean something else.
    """
    leads: dict[str, tuple[bytes, int, Path]] = {}
    faults = []
    for cache, folder in zip(caches, folders, strict=True):
        fingerprints = cache.images.index.joined_names().folder.tolist()
        for (name, row), fingerprint in zip(cache.images.names(), fingerprints, strict=True):
            identity = cache.images.ids[row].tobytes()
            unreadable = identity == unreadable_id(name)
            if folder:
                name, fingerprint = normalise_name(f"{folder}/{name}"), 0  # noqa: PLW2901
            held = leads.get(name)
            if held is None or held[0] == identity or held[0] == unreadable_id(name):
                leads[name] = identity, fingerprint, cache.path
            elif not unreadable:
                faults.append(f"{name}: {held[2]} and {cache.path}")
    if faults:
        raise CacheError(
            f"names that lead to different images ({len(faults):,}):",
            faults=faults,
            hint="give each cache a folder to put before its names (`--folder NAME` for each)",
        )
    return {encode_name(name): (identity, folder) for name, (identity, folder, _) in leads.items()}
