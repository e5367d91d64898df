"""What there is to do: which images are which, and what the cache lacks of each."""

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
    stack_ids,
    text_id,
    unreadable_id,
)
from mnerfeat.cache.names import normalise_name
from mnerfeat.errors import ProvenanceError
from mnerfeat.extractors.base import Extractor, TextExtractor
from mnerfeat.extractors.image_files import Identity, Listing, check_folder, identify, list_images

_FILES_A_TASK = 32

Progress = Callable[[int], None]
"""Called with how many more files have been looked at."""


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """An image that at least one extractor has to look at.

    Attributes:
        id: SHA-256 of its bytes.
        name: Under which it is read.
        names: All names it is known by in the folder and not yet in the cache, `name` included
            where that is new.
        extractors: By name, those that have to look at it.
        failures: By feature, why it could not be had when it was tried before.
    """

    id: bytes
    name: str
    names: tuple[str, ...]
    extractors: tuple[str, ...]
    failures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class UnreadableFile:
    """A file whose bytes cannot be had.

    Attributes:
        name: In the folder.
        reason: Why.
        record: Whether the cache does not say so yet, and holds nothing better for the name.
    """

    name: str
    reason: str
    record: bool


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """What there is to do with a folder of images.

    Attributes:
        names: Names of images looked for.
        copies: How many of them are copies of an image with another name.
        reused: How many images have everything already.
        jobs: The others.
        new_names: Names to be written of images with nothing else to do, with their identity.
        unreadable: Files that cannot be read.
        others: Files in the folder that are no images.
        closed: Folders that cannot be entered, with the reason.
    """

    names: int
    copies: int
    reused: int
    jobs: tuple[ImageJob, ...]
    new_names: tuple[tuple[str, bytes], ...]
    unreadable: tuple[UnreadableFile, ...]
    others: tuple[str, ...]
    closed: tuple[tuple[str, str], ...]


def plan_images(
    folder: Path,
    names: Iterable[str | PathLike[str]] | None,
    cache: FeatureCache,
    extractors: Sequence[Extractor],
    *,
    threads: int,
    progress: Progress | None = None,
) -> ImagePlan:
    """Read every image once for its identity, and compare with the cache.

    Args:
        folder: The images folder.
        names: Images to look for; everything in the folder by default.
        cache: As it is now.
        extractors: Those asked for.
        threads: That read files.
        progress: Told how many more files have been read.

    Raises:
        ConfigError: Where the folder is not there.
    """
    asked = names is not None
    if names is None:
        listing = list_images(folder)
    else:
        check_folder(folder)
        listing = Listing(names=tuple(dict.fromkeys(map(normalise_name, names))), closed=())
    images: dict[bytes, list[str]] = {}
    unreadable: list[tuple[str, str]] = []
    others: list[str] = []
    identities = _identify(folder, listing.names, threads, progress)
    for name, found in zip(listing.names, identities, strict=True):
        if found.sha256 is None and (found.image or asked):
            unreadable.append((name, found.reason or ""))
        elif found.sha256 is None or not (found.image or asked):
            others.append(name)
        else:
            images.setdefault(found.sha256, []).append(name)
    jobs, new_names = _compare(images, cache, extractors)
    return ImagePlan(
        names=sum(map(len, images.values())) + len(unreadable),
        copies=sum(len(same) - 1 for same in images.values()),
        reused=len(images) - len(jobs),
        jobs=tuple(jobs),
        new_names=tuple(new_names),
        unreadable=tuple(_unreadable(unreadable, cache, extractors)),
        others=tuple(others),
        closed=listing.closed,
    )


def _identify(
    folder: Path, names: Sequence[str], threads: int, progress: Progress | None
) -> Iterator[Identity]:
    def read(start: int) -> list[Identity]:
        return [identify(folder / name) for name in names[start : start + _FILES_A_TASK]]

    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(read, range(0, len(names), _FILES_A_TASK)):
            yield from found
            if progress:
                progress(len(found))


def _compare(
    images: Mapping[bytes, Sequence[str]], cache: FeatureCache, extractors: Sequence[Extractor]
) -> tuple[list[ImageJob], list[tuple[str, bytes]]]:
    ids = stack_ids(list(images))
    todo = {extractor.name: _todo(ids, cache, extractor) for extractor in extractors}
    rows = cache.images.find(ids).tolist()
    names = [name for same in images.values() for name in same]
    known = dict(zip(names, cache.images.find_names(names).tolist(), strict=True))
    failures = _failures(cache, extractors)
    jobs: list[ImageJob] = []
    new_names: list[tuple[str, bytes]] = []
    for i, (id_, same) in enumerate(images.items()):
        new = tuple(name for name in same if rows[i] < 0 or known[name] != rows[i])
        lacking = tuple(name for name, open_ in todo.items() if open_[i])
        if lacking:
            jobs.append(
                ImageJob(
                    id=id_,
                    name=same[0],
                    names=new,
                    extractors=lacking,
                    failures={f: why[rows[i]] for f, why in failures.items() if rows[i] in why},
                )
            )
        else:
            new_names += [(name, id_) for name in new]
    return jobs, new_names


def _failures(
    cache: FeatureCache, extractors: Sequence[Extractor]
) -> Mapping[str, Mapping[int, str]]:
    """Why rows failed, by row, for each feature that the cache holds from what is asked for."""
    return {
        name: held.failures
        for extractor in extractors
        for name in extractor.features
        if (held := cache.images.features.get(name))
        and held.provenance == extractor.provenance[name]
    }


def _todo(ids: NDArray[np.uint8], cache: FeatureCache, extractor: Extractor) -> NDArray[np.bool_]:
    """Which images lack a feature of an extractor, (k,) bool."""
    open_ = np.zeros(len(ids), bool)
    for feature in extractor.features:
        open_ |= ~cache.images.done(feature, ids, extractor.provenance[feature])
    return open_


def _unreadable(
    files: Sequence[tuple[str, str]], cache: FeatureCache, extractors: Sequence[Extractor]
) -> Iterator[UnreadableFile]:
    """Whether each has to be recorded: not where the cache says so, nor where it knows better."""
    rows = cache.images.find_names([name for name, _ in files]).tolist()
    ids = cache.images.find([unreadable_id(name) for name, _ in files]).tolist()
    held = [
        (extractor.provenance[feature], cache.images.features.get(feature))
        for extractor in extractors
        for feature in extractor.features
    ]
    for (name, reason), row, own in zip(files, rows, ids, strict=True):
        if row >= 0 and row != own:  # the name leads to an image that was read once
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


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """What there is to do with texts.

    Attributes:
        texts: How many different ones there are.
        todo: Those that the cache lacks.
    """

    texts: int
    todo: tuple[str, ...]


def plan_texts(texts: Iterable[str], cache: FeatureCache, extractor: TextExtractor) -> TextPlan:
    """Compare texts with the cache.

    Args:
        texts: Of posts; repeated ones count once.
        cache: As it is now.
        extractor: That looks at texts.
    """
    unique = {text_id(text): text for text in texts}
    ids = stack_ids(list(unique))
    done = np.ones(len(ids), bool)
    for feature in extractor.text_features:
        done &= cache.texts.done(feature, ids, extractor.provenance[feature])
    todo = [text for text, fine in zip(unique.values(), done, strict=True) if not fine]
    return TextPlan(texts=len(unique), todo=tuple(todo))


def check_provenance(cache: FeatureCache, extractors: Sequence[Extractor]) -> None:
    """Refuse to mix rows of different models under one name.

    Raises:
        ProvenanceError: Where the cache holds a feature that was made by something else than is
            asked for; it shows every fact that differs.
    """
    faults: list[str] = []
    stale: list[str] = []
    for extractor in extractors:
        for feature, provenance in extractor.provenance.items():
            if feature in cache and cache[feature].provenance != provenance:
                stale.append(extractor.name)
                faults += [
                    f"{feature}: {line}"
                    for line in _differences(cache[feature].provenance, provenance)
                ]
    if stale:
        names = ",".join(dict.fromkeys(stale))
        raise ProvenanceError(
            f"{cache.path} holds features that were made by something else than is asked for "
            "(what it holds, not what is asked for):",
            faults=faults,
            hint=f"`mnerfeat extract --features {names} --replace` makes them anew, for the "
            "images named then; or ask for what it holds, or name another file with --cache",
        )


def _differences(held: Provenance, asked: Provenance) -> list[str]:
    """As `Provenance.differences`, one level deeper where both hold a mapping."""
    lines: list[str] = []
    for key in sorted({*held.facts, *asked.facts}):
        ours, theirs = held.facts.get(key), asked.facts.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            inner = Provenance(ours).differences(Provenance(theirs))
            lines += [f"{key}.{line}" for line in inner]
        else:
            both = (Provenance({} if f is None else {key: f}) for f in (ours, theirs))
            lines += next(both).differences(next(both))
    return lines
