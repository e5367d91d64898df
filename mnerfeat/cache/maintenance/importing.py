"""Import of features that another program wrote."""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.maintenance.formats import PIECE_BYTES, inspect_features, read_features
from mnerfeat.cache.maintenance.pack import Progress, pack
from mnerfeat.cache.names import Resolution, normalise_name, resolve_names
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.schema import FAILED, OK, RESERVED, Provenance, stack_ids, unreadable_id
from mnerfeat.cache.untrusted import MEMORY_BYTES, SECONDS, run_untrusted, stream_untrusted
from mnerfeat.cache.writer import CacheWriter, FeatureRows, TableRows
from mnerfeat.errors import CacheError, ConfigError, ProvenanceError

_PART_BYTES: Final = 8 * PIECE_BYTES  # rows written as one part


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What to import, and what it is in the cache.

    Attributes:
        feature: Name of the feature in the cache.
        provenance: What made it, as the user states it. It is recorded together with the files'
            SHA-256 and the settings of the import.
        data: Dataset (array, column) of the files that holds the rows, or group with a dataset for
            each image; `/` is the whole file. By default the one called like the feature.
        names: Dataset of the files with the images' names, or a text file with a name on each line.
            A group needs none.
        images: Folder of the images, whose bytes identify them. By default the images must be in
            the cache already.
        skip_missing: Leave out rows whose names lead to no image, instead of refusing.
        replace: Replace rows of the feature that another provenance made.
    """

    feature: str
    provenance: Mapping[str, Any]
    data: str | None = None
    names: str | None = None
    images: Path | None = None
    skip_missing: bool = False
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What was imported.

    Attributes:
        path: The cache.
        feature: The feature's name.
        rows: Number of images that have a row now, failed ones included.
        row_shape: Shape of a row.
        dtype: Type in the cache.
        stored: Type in the imported files.
        failed: Number of rows with numbers that are not finite.
        repeated: Number of rows left out because an earlier row is of an image with the same bytes.
        skipped: Names left out because they lead to no image.
        replaced: Number of rows of another provenance that the feature had before.
        notes: How names were found that are not there as they stand.
    """

    path: Path
    feature: str
    rows: int
    row_shape: tuple[int, ...]
    dtype: str
    stored: str
    failed: int
    repeated: int
    skipped: tuple[str, ...]
    replaced: int
    notes: tuple[str, ...]


def import_features(
    path: str | PathLike[str],
    sources: Sequence[str | PathLike[str]],
    config: ImportConfig,
    *,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> ImportReport:
    """Write image features from HDF5, npy, npz, safetensors or parquet files into a cache.

    The files are read in a child process with limits on memory and time, in pieces, and nothing is
    unpickled. A row belongs to the image that its name leads to. Rows that are not finite are
    recorded as failed, with the reason.

    Args:
        path: The cache; it is made if it does not exist.
        sources: The files. Several are read as one, in the order given.
        config: What to import.
        memory_bytes: Memory limit of the child process.
        seconds: Time limit of each piece.
        progress: Called with the bytes read so far and the bytes in all.

    Raises:
        ProvenanceError: If the cache holds the feature with another provenance.
        CacheError: If names, rows or settings do not fit; with every fault, and nothing is written.
        CacheFormatError: If a file is damaged.
        StorageError: If the cache cannot be written.
    """
    path, files = Path(path), [Path(source) for source in sources]
    _check_request(files, config)
    data, names_file, inside = config.data or config.feature, None, config.names
    if inside is not None and Path(inside).is_file():
        names_file, inside = Path(inside), None
    limits: dict[str, Any] = {"memory_bytes": memory_bytes, "seconds": seconds}
    found = [run_untrusted(inspect_features, file, data, inside, **limits) for file in files]
    row_shape, dtype, stored = _common_kind(files, found)
    names = _names(files, found, names_file)
    provenance = Provenance(
        {
            "stated by the user": dict(config.provenance),
            "imported from": [{"file": file.name, "sha256": _sha256(file)} for file in files],
            "dataset": data,
            "names": names_file.name if names_file else inside,
            "stored as": stored,
        }
    )
    cache = FeatureCache(path, missing_ok=True)
    replaced = _check_feature(cache, config, provenance)
    target = _find_images(cache, config, names)
    writer = CacheWriter(path)
    if target.names:
        writer.put(images=target.named_rows())
    first = _first_of_each(target.ids)
    row_bytes = dtype.itemsize * max(1, math.prod(row_shape))
    pieces = (
        piece for file in files for piece in stream_untrusted(read_features, file, data, **limits)
    )
    failed = 0
    for start, rows in _parts(pieces, len(names), max(1, _PART_BYTES // row_bytes)):
        keep = np.flatnonzero(first[start : start + len(rows)])
        if len(keep):
            written = _feature_rows(rows[keep], provenance)
            failed += len(written.reasons)
            ids = [target.ids[row] for row in (keep + start).tolist()]
            table = TableRows(ids=_stacked(ids), features={config.feature: written})
            writer.put(images=table, replace=config.replace)
        if progress:
            progress((start + len(rows)) * row_bytes, len(names) * row_bytes)
    pack(path)
    return ImportReport(
        path=path,
        feature=config.feature,
        rows=int(first.sum()),
        row_shape=row_shape,
        dtype=dtype.name,
        stored=stored,
        failed=failed,
        repeated=len(names) - len(target.skipped) - int(first.sum()),
        skipped=target.skipped,
        replaced=replaced,
        notes=tuple(target.notes),
    )


def read_provenance(stated: Sequence[str]) -> dict[str, Any]:
    """Read what a user states about what made some features.

    Args:
        stated: Facts as `key=value`, or JSON files with an object.

    Raises:
        ConfigError: With everything that is neither.
    """
    facts: dict[str, Any] = {}
    faults = []
    for each in stated:
        key, equals, value = each.partition("=")
        if equals and key.strip():
            facts[key.strip()] = value.strip()
            continue
        try:
            read = json.loads(Path(each).read_bytes())
        except OSError as error:
            faults.append(f"{each}: {error.strerror or error}")
        except ValueError as error:
            faults.append(f"{each}: not JSON ({error})")
        else:
            if isinstance(read, dict):
                facts |= read
            else:
                faults.append(f"{each}: wanted a JSON object, got {type(read).__name__}")
    if faults:
        raise ConfigError(
            "a provenance is given as key=value or as a JSON file:",
            faults=faults,
            hint="for example `--provenance model=google/vit-base-patch16-224`",
        )
    return facts


def _check_request(files: Sequence[Path], config: ImportConfig) -> None:
    faults = [f"there is no file {file}" for file in files if not file.is_file()]
    if not files:
        faults.append("no file to import is named")
    if config.feature in RESERVED or not config.feature.isidentifier():
        faults.append(
            f"{config.feature!r} is no name for a feature: wanted letters, digits and underscores, "
            f"and none of {', '.join(sorted(RESERVED))}; `--data` takes the dataset's own name"
        )
    if not config.provenance:
        faults.append(
            "nothing is stated about what made the features: `--provenance model=NAME`, or a JSON "
            "file, as precisely as you know it"
        )
    if config.images is not None and not config.images.is_dir():
        faults.append(f"there is no folder {config.images}")
    if faults:
        raise CacheError("these features cannot be imported:", faults=faults)


def _common_kind(
    files: Sequence[Path], found: Sequence[Mapping[str, Any]]
) -> tuple[tuple[int, ...], np.dtype[Any], str]:
    kinds = {(tuple(each["row_shape"]), each["dtype"], each["stored"]) for each in found}
    if len(kinds) > 1:
        raise CacheError(
            "the files hold different features:",
            faults=[
                f"{file}: rows of {tuple(each['row_shape'])} {each['stored']}"
                for file, each in zip(files, found, strict=True)
            ],
        )
    ((row_shape, dtype, stored),) = kinds
    return row_shape, np.dtype(dtype).newbyteorder("<"), stored


def _names(
    files: Sequence[Path], found: Sequence[Mapping[str, Any]], names_file: Path | None
) -> list[str]:
    """Return the name of each row.

    Raises:
        CacheError: If rows and names do not match, or names are empty or repeated.
    """
    counts = [each["rows"] for each in found]
    if names_file is not None:
        names = names_file.read_text("utf-8", "surrogateescape").removesuffix("\n").split("\n")
        names = [name.removesuffix("\r") for name in names] if names != [""] else []
        pairs = [(str(names_file), len(names), sum(counts))]
    elif any(each["names"] is None for each in found):
        raise CacheError(
            "the images' names are not given",
            hint="`--names DATASET` names the dataset that holds them, or a text file with a name "
            "on each line",
        )
    else:
        names = [name for each in found for name in each["names"]]
        pairs = [
            (str(file), len(each["names"]), each["rows"])
            for file, each in zip(files, found, strict=True)
        ]
    faults = [f"{where}: {a:,} names for {b:,} rows" for where, a, b in pairs if a != b]
    places = defaultdict(list)
    for row, name in enumerate(names):
        places[normalise_name(name) if name else ""].append(row)
    for name, rows in places.items():
        if not name:
            faults.append(f"rows without a name: {_some(rows)}")
        elif len(rows) > 1:
            faults.append(f"{name} is the name of several rows: {_some(rows)}")
    if faults:
        raise CacheError("names and rows do not match:", faults=faults)
    return names


def _some(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    return ", ".join(f"{row:,}" for row in rows[:5]) + more


def _check_feature(cache: FeatureCache, config: ImportConfig, provenance: Provenance) -> int:
    """Compare with the feature that the cache holds under that name.

    Returns:
        The number of rows that the import replaces.

    Raises:
        ProvenanceError: If its provenance is another one, unless `replace`.
        CacheError: If it is not one of images.
    """
    name = config.feature
    if name not in cache:
        return 0
    held = cache[name]
    if held.table != "images":
        raise CacheError(
            f"{name} is a feature of {held.table} in {cache.path}, not of images",
            hint="choose another name: `--feature NAME --data DATASET`",
        )
    if held.provenance == provenance:
        return 0
    if not config.replace:
        raise ProvenanceError(
            f"{cache.path} holds {name} already, of another provenance:",
            faults=held.provenance.differences(provenance, "in the cache", "in the import"),
            hint="choose another name (`--feature NAME --data DATASET`), or replace all its rows "
            "(`--replace`)",
        )
    return int((held.state == OK).sum())


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The images that rows belong to.

    Attributes:
        ids: The identity of each row's image; None if it has none.
        names: The image that each name in `folder` leads to; empty if the cache has them already.
        folder: Folder of the images.
        skipped: Names that lead to no image.
        notes: How names were found.
    """

    ids: Sequence[bytes | None]
    names: Mapping[str, bytes]
    folder: Path | None
    skipped: tuple[str, ...]
    notes: Sequence[str]

    def named_rows(self) -> TableRows:
        """Return the images with their names, without features."""
        position = {identity: row for row, identity in enumerate(set(self.names.values()))}
        return TableRows(
            ids=_stacked(list(position)),
            names=[(name, position[identity]) for name, identity in self.names.items()],
            folder=self.folder,
        )


def _stacked(ids: Sequence[bytes | None]) -> NDArray[np.uint8]:
    return stack_ids([identity for identity in ids if identity is not None])


def _find_images(cache: FeatureCache, config: ImportConfig, names: Sequence[str]) -> _Target:
    """Find the image of each name: in a folder, or among the names that the cache knows.

    Raises:
        CacheError: If names lead to no image, unless they may be left out.
    """
    folder = config.images
    if folder is None:
        ids, lost, resolution = _find_in_cache(cache, names)
        what = f"{cache.path} does not know {len(lost):,} of {len(names):,} names:"
        hint = "name the folder that the names are relative to: `--images DIR`"
    else:
        ids, lost, resolution = _find_in_folder(folder, names)
        what = f"{folder} does not hold {len(lost):,} of {len(names):,} images:"
        hint = "names must be relative to that folder, with their suffix"
    some = len(lost) < len(names)
    if lost and not (some and config.skip_missing):
        leave_out = "; `--skip-missing` leaves their rows out" if some else ""
        raise CacheError(what, faults=lost.values(), hint=hint + leave_out)
    return _Target(
        ids=[ids.get(name) for name in names],
        names={} if folder is None else {resolution.found[name]: ids[name] for name in ids},
        folder=folder,
        skipped=tuple(lost.values()),
        notes=resolution.notes(),
    )


_Found = tuple[Mapping[str, bytes], Mapping[str, str], Resolution]
"""Identities by name, a line for each name that has none, and how names were found."""


def _find_in_cache(cache: FeatureCache, names: Sequence[str]) -> _Found:
    rows, resolution = cache.find_images(names)
    ids, lost = {}, {}
    for name, row in zip(names, rows.tolist(), strict=True):
        if row < 0:
            lost[name] = _missing(name, resolution)
            continue
        stored = resolution.found.get(name, normalise_name(name))
        identity = cache.images.ids[row].tobytes()
        if identity == unreadable_id(stored):
            lost[name] = f"{name} (its file could not be read)"
        else:
            ids[name] = identity
    return ids, lost, resolution


def _find_in_folder(folder: Path, names: Sequence[str]) -> _Found:
    stored = list(_files_in(folder))
    resolution = resolve_names(names, stored, folder=folder)
    stems = {str(Path(name).with_suffix("")): name for name in stored}
    ids, lost = {}, {}
    for name in names:
        near = stems.get(normalise_name(name))
        if name not in resolution.found:
            lost[name] = f"{name} (there is {near})" if near else _missing(name, resolution)
            continue
        try:
            ids[name] = bytes.fromhex(_sha256(folder / resolution.found[name]))
        except CacheError as error:
            lost[name] = error.what
    return ids, lost, resolution


def _missing(name: str, resolution: Resolution) -> str:
    several = resolution.ambiguous.get(name)
    return f"{name} (several fit: {', '.join(several)})" if several else name


def _files_in(folder: Path) -> Iterator[str]:
    for parent, _, files in os.walk(folder):
        inside = Path(parent).relative_to(folder).as_posix()
        for file in files:
            yield normalise_name(f"{inside}/{file}")


def _first_of_each(ids: Sequence[bytes | None]) -> NDArray[np.bool_]:
    """Whether each row is the first of its image; False if it has no image."""
    seen: set[bytes | None] = {None}
    first = np.zeros(len(ids), bool)
    for row, identity in enumerate(ids):
        first[row] = identity not in seen
        seen.add(identity)
    return first


def _parts(
    pieces: Iterator[NDArray[Any]], n_rows: int, step: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Join pieces to parts of at least `step` rows, each with the number of its first row."""
    start = done = 0
    waiting: list[NDArray[Any]] = []
    for piece in pieces:
        waiting.append(piece)
        done += len(piece)
        if done - start >= step:
            yield start, np.concatenate(waiting)
            start, waiting = done, []
    if waiting:
        yield start, np.concatenate(waiting)
    if done != n_rows:
        raise CacheError(f"the files changed while they were read: {done:,} of {n_rows:,} rows")


def _feature_rows(data: NDArray[Any], provenance: Provenance) -> FeatureRows:
    """Mark rows that are not finite as failed."""
    reasons = {}
    if data.dtype.kind == "f":
        odd = ~np.isfinite(data).reshape(len(data), -1)
        for row, count in enumerate(odd.sum(1).tolist()):
            if count:
                reasons[row] = f"imported with {count:,} of {odd.shape[1]:,} numbers not finite"
    state = np.full(len(data), OK, np.uint8)
    state[list(reasons)] = FAILED
    return FeatureRows(data=data, state=state, reasons=reasons, provenance=provenance)


def _sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Raises:
        CacheError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror or error}") from error
