"""The plan of a run: which files are which images, and what the cache lacks for each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import (
    FAILED,
    OK,
    FeatureCache,
    Provenance,
    Table,
    stack_ids,
    text_id,
    unreadable_id,
)
from mnerfeat.cache.names import normalise_name
from mnerfeat.errors import ProvenanceError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extractors.base import Extractor, TextExtractor
from mnerfeat.extractors.image_files import Identity, Listing, check_folder, identify, list_images

_FILES_PER_TASK = 32


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """An image that at least one extractor has to process.

    Attributes:
        id: SHA-256 of its bytes.
        name: File that it is read from.
        names: Its names in the folder that the cache does not have yet.
        extractors: Names of the extractors that have to process it.
        failures: By feature, why it failed the last time.
    """

    id: bytes
    name: str
    names: tuple[str, ...]
    extractors: tuple[str, ...]
    failures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class UnreadableFile:
    """A file whose bytes cannot be read.

    Attributes:
        name: Name in the folder.
        reason: Why it cannot be read.
        record: Whether to record it: neither this failure nor anything better is in the cache.
    """

    name: str
    reason: str
    record: bool


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """What to do with a folder of images.

    Attributes:
        ids: Identity of every image file by name, unreadable ones included.
        copies: Number of files that are copies of another file.
        reused: Number of images that need nothing.
        jobs: The other images.
        new_names: New names of images that need nothing else, with their identity.
        unreadable: Files that cannot be read.
        others: Files in the folder that are not images.
        closed: Folders that cannot be entered, with the reason.
    """

    ids: Mapping[str, bytes]
    copies: int
    reused: int
    jobs: tuple[ImageJob, ...]
    new_names: tuple[tuple[str, bytes], ...]
    unreadable: tuple[UnreadableFile, ...]
    others: tuple[str, ...]
    closed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """What to do with texts.

    Attributes:
        texts: Number of distinct texts.
        todo: Texts that need their embeddings.
    """

    texts: int = 0
    todo: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything an engine needs to know about a run.

    Attributes:
        config: Configuration of the run.
        extractors: Requested extractors by name.
        make: Makes the same extractors again, for another device or machine.
        images: What to do with images.
        texts: What to do with texts.
        reader: The extractor that embeds texts, if any.
    """

    config: ExtractConfig
    extractors: Mapping[str, Extractor]
    make: Callable[[], Sequence[Extractor]]
    images: ImagePlan
    texts: TextPlan
    reader: TextExtractor | None

    @property
    def is_empty(self) -> bool:
        """Whether no model has to run."""
        return not self.images.jobs and not self.texts.todo


def _lacking(
    tables: Sequence[Table], ids: NDArray[np.uint8], provenance: Mapping[str, Provenance]
) -> NDArray[np.bool_]:
    """Tell which identities lack one of some features in all tables, (k,) bool."""
    lacking = np.zeros(len(ids), bool)
    for feature, wanted in provenance.items():
        done = np.zeros(len(ids), bool)
        for table in tables:
            done |= table.done(feature, ids, wanted)
        lacking |= ~done
    return lacking


def plan_images(
    folder: Path,
    names: Iterable[str | PathLike[str]] | None,
    cache: FeatureCache,
    extractors: Sequence[Extractor],
    *,
    known: FeatureCache | None = None,
    threads: int,
    progress: Callable[[int], object] = lambda _: None,
) -> ImagePlan:
    """Read every image once for its identity, and compare with the cache.

    Args:
        folder: Images folder.
        names: Images to look for; None for all in the folder.
        cache: Cache to be written, as it is now.
        extractors: Requested extractors.
        known: Cache to be read only, whose images are not extracted again.
        threads: Number of threads that read files.
        progress: Called with the number of files read since the last call.

    Raises:
        ConfigError: If the folder does not exist.
    """
    if names is None:
        listing = list_images(folder)
    else:
        check_folder(folder)
        listing = Listing(names=tuple(dict.fromkeys(map(normalise_name, names))), closed=())
    images: dict[bytes, list[str]] = {}
    unreadable: list[tuple[str, str]] = []
    others: list[str] = []
    identities = _identify(folder, listing.names, threads, progress)
    for name, file in zip(listing.names, identities, strict=True):
        if not (file.image or names is not None):
            others.append(name)
        elif file.sha256 is None:
            unreadable.append((name, file.reason or ""))
        else:
            images.setdefault(file.sha256, []).append(name)
    jobs, new_names = _compare(images, cache, extractors, known)
    return ImagePlan(
        ids={name: id_ for id_, same in images.items() for name in same}
        | {name: unreadable_id(name) for name, _ in unreadable},
        copies=sum(len(same) - 1 for same in images.values()),
        reused=len(images) - len(jobs),
        jobs=tuple(jobs),
        new_names=tuple(new_names),
        unreadable=tuple(_unreadable(unreadable, cache, extractors)),
        others=tuple(others),
        closed=listing.closed,
    )


def _identify(
    folder: Path, names: Sequence[str], threads: int, progress: Callable[[int], object]
) -> Iterator[Identity]:
    def read(start: int) -> list[Identity]:
        return [identify(folder / name) for name in names[start : start + _FILES_PER_TASK]]

    with ThreadPoolExecutor(threads) as pool:
        for some in pool.map(read, range(0, len(names), _FILES_PER_TASK)):
            yield from some
            progress(len(some))


def _compare(
    images: Mapping[bytes, Sequence[str]],
    cache: FeatureCache,
    extractors: Sequence[Extractor],
    known: FeatureCache | None,
) -> tuple[list[ImageJob], list[tuple[str, bytes]]]:
    """Return the images to process, and new names of the others."""
    ids = stack_ids(list(images))
    tables = [cache.images, *([known.images] if known else [])]
    lacking = {
        extractor.name: _lacking(
            tables, ids, {name: extractor.provenance[name] for name in extractor.features}
        )
        for extractor in extractors
    }
    rows = cache.images.find(ids).tolist()
    names = [name for same in images.values() for name in same]
    row_by_name = dict(zip(names, cache.images.find_names(names).tolist(), strict=True))
    failures = _failures(cache, extractors)
    jobs: list[ImageJob] = []
    new_names: list[tuple[str, bytes]] = []
    for i, (id_, same) in enumerate(images.items()):
        new = tuple(name for name in same if rows[i] < 0 or row_by_name[name] != rows[i])
        needed_by = tuple(name for name, lacks in lacking.items() if lacks[i])
        if needed_by:
            jobs.append(
                ImageJob(
                    id=id_,
                    name=same[0],
                    names=new,
                    extractors=needed_by,
                    failures={f: why[rows[i]] for f, why in failures.items() if rows[i] in why},
                )
            )
        elif rows[i] >= 0:  # not one that only the other cache knows
            new_names += [(name, id_) for name in new]
    return jobs, new_names


def _failures(
    cache: FeatureCache, extractors: Sequence[Extractor]
) -> Mapping[str, Mapping[int, str]]:
    """Return the reasons of failed rows, by feature, as far as the provenance is the same."""
    return {
        name: held.failures
        for extractor in extractors
        for name in extractor.features
        if (held := cache.images.features.get(name))
        and held.provenance == extractor.provenance[name]
    }


def _unreadable(
    files: Sequence[tuple[str, str]], cache: FeatureCache, extractors: Sequence[Extractor]
) -> Iterator[UnreadableFile]:
    """Decide which unreadable files to record."""
    rows = cache.images.find_names([name for name, _ in files]).tolist()
    own_rows = cache.images.find([unreadable_id(name) for name, _ in files]).tolist()
    held = [
        (extractor.provenance[feature], cache.images.features.get(feature))
        for extractor in extractors
        for feature in extractor.features
    ]
    for (name, reason), row, own_row in zip(files, rows, own_rows, strict=True):
        if row >= 0 and row != own_row:  # the name leads to an image that could be read once
            record = not any(
                feature is not None and feature.state[row] == OK for _, feature in held
            )
        else:
            record = row < 0 or not all(
                feature is not None
                and feature.provenance == provenance
                and feature.state[row] == FAILED
                and feature.failures.get(row) == reason
                for provenance, feature in held
            )
        yield UnreadableFile(name=name, reason=reason, record=record)


def plan_texts(
    texts: Iterable[str],
    cache: FeatureCache,
    reader: TextExtractor | None,
    known: FeatureCache | None = None,
) -> TextPlan:
    """Compare texts with the cache.

    Args:
        texts: Texts of posts; repeated ones count once.
        cache: Cache to be written, as it is now.
        reader: The extractor that embeds texts; None if there is nothing to do with them.
        known: Cache to be read only, whose texts are not embedded again.
    """
    if reader is None:
        return TextPlan()
    unique = {text_id(text): text for text in texts}
    wanted = {feature: reader.provenance[feature] for feature in reader.text_features}
    tables = [cache.texts, *([known.texts] if known else [])]
    lacking = _lacking(tables, stack_ids(list(unique)), wanted)
    todo = [text for text, lacks in zip(unique.values(), lacking, strict=True) if lacks]
    return TextPlan(texts=len(unique), todo=tuple(todo))


def check_provenance(cache: FeatureCache, extractors: Sequence[Extractor]) -> None:
    """Refuse to mix rows of different models under one name.

    Raises:
        ProvenanceError: If the cache holds a requested feature with another provenance; it lists
            every fact that differs.
    """
    faults: list[str] = []
    stale: list[str] = []
    for extractor in extractors:
        for feature, wanted in extractor.provenance.items():
            if feature in cache and cache[feature].provenance != wanted:
                stale.append(extractor.name)
                held = cache[feature].provenance
                lines = held.differences(wanted, "in the cache", "requested")
                faults += [f"{feature}: {line}" for line in lines]
    if stale:
        names = ",".join(dict.fromkeys(stale))
        raise ProvenanceError(
            f"{cache.path} holds features that another model or other settings made:",
            faults=faults,
            hint=f"`mnerfeat extract --features {names} --replace` computes them again, for the "
            "images named then; or request what the cache holds, or name another file with --cache",
        )
