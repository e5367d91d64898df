"""Making one cache of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from mnerfeat.cache.encoding import NamesContent
from mnerfeat.cache.names import normalise_name
from mnerfeat.cache.packing import locked, parts_of, remove_parts
from mnerfeat.cache.reader import FeatureCache, candidates
from mnerfeat.cache.rewriting import Counted, Progress, rewrite, table_content
from mnerfeat.cache.schema import encode_name, unreadable_id
from mnerfeat.errors import CacheError, ProvenanceError


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What a merge made.

    Attributes:
        path: The merged cache.
        sources: The caches it was made of, each with its rows by table.
        rows: Of the merged cache, by table. Images, texts and pairs that several sources held
            count once.
        names: That lead to its images.
        features: Of it.
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
    in one source and is OK in another is OK.

    Args:
        path: The merged cache. One that is there already must be among the sources; it is then
            replaced.
        sources: At least one.
        folders: For each source, what to put before its names (`""` for nothing): how to keep
            projects apart that give the same name to different images.
        progress: Called with the bytes written so far and the bytes in all.

    Raises:
        ProvenanceError: Where two sources hold a feature that different things have made; it
            names both.
        CacheError: Where a feature differs in kind, or a name leads to different images; it lists
            all of them. Where `path` is there and not among the sources.
        StorageError: Where the disk is full; everything is then as it was.
    """
    path, paths = Path(path), [Path(source) for source in sources]
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
        _check_features(caches)
        names = _merged_names(caches, prefixes)
        merged = FeatureCache.of_files(path, [file for cache in caches for file in cache.files])
        counted = Counted(progress)
        contents = {table.name: table_content(table, counted) for table in merged.tables}
        rows = merged.images.find([*names.values()]).tolist()
        contents["images"] = replace(
            contents["images"], names=NamesContent.of(dict(zip(names, rows, strict=True)))
        )
        own = [
            part
            for source, cache in zip(paths, caches, strict=True)
            if _same(source, path)
            for part in parts_of(source, cache.files)
        ]
        rewrite(
            path,
            contents,
            sequence=max(file.sequence for file in merged.files),
            absorbed=[part.path.stem.removeprefix("part-") for part in own],
        )
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
            f"{path} is there already and is not one of the caches to merge",
            hint=f"name it among them to keep what it holds: `mnerfeat cache merge {path} "
            f"{' '.join(map(str, sources))} --out {path}`, or write to another file",
        )


def _check_features(caches: Sequence[FeatureCache]) -> None:
    """Refuse features that cannot be one, all at once."""
    made: list[str] = []
    kinds: list[str] = []
    first: dict[str, FeatureCache] = {}
    for cache in caches:
        for name in cache.features:
            other = first.setdefault(name, cache)
            ours, theirs = cache[name], other[name]
            if ours.provenance != theirs.provenance:
                made += [
                    f"{name} in {other.path} and in {cache.path} (the first, not the second):",
                    *(f"  {line}" for line in theirs.provenance.differences(ours.provenance)),
                ]
            if (ours.table, ours.row_shape, ours.dtype) != (
                theirs.table,
                theirs.row_shape,
                theirs.dtype,
            ):
                kinds.append(
                    f"{name}: {theirs.table}, rows of {theirs.row_shape} {theirs.dtype} in "
                    f"{other.path}; {ours.table}, rows of {ours.row_shape} {ours.dtype} in "
                    f"{cache.path}"
                )
    if made:
        raise ProvenanceError(
            "these features were made by different things, so their rows cannot stand in one "
            "column:",
            faults=made,
            hint="extract the feature anew in one of the caches, or prune it there "
            "(`mnerfeat cache prune --features NAME`)",
        )
    if kinds:
        raise CacheError("these features differ in kind:", faults=kinds)


def _merged_names(caches: Sequence[FeatureCache], folders: Sequence[str]) -> dict[bytes, bytes]:
    """Every name with the identity it leads to."""
    leads: dict[str, tuple[bytes, Path]] = {}
    faults = []
    for cache, folder in zip(caches, folders, strict=True):
        for name, row in cache.images.names():
            identity = cache.images.ids[row].tobytes()
            unreadable = identity == unreadable_id(name)
            name = normalise_name(f"{folder}/{name}") if folder else name  # noqa: PLW2901
            held = leads.get(name)
            if held is None or held[0] == identity or held[0] == unreadable_id(name):
                leads[name] = identity, cache.path
            elif not unreadable:
                faults.append(f"{name}: {held[1]} and {cache.path}")
    if faults:
        raise CacheError(
            f"names that lead to different images ({len(faults):,}):",
            faults=faults,
            hint="give each cache a folder to put before its names (`--folder NAME` for each)",
        )
    return {encode_name(name): identity for name, (identity, _) in leads.items()}
