"""Finding the images of posts in folders, and checking that they can be read."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mnerfeat.errors import ConfigError

if TYPE_CHECKING:
    from mnerfeat.cache.names import Resolution

TWITTER_2017 = "twitter2017-"
"""Prefix of the names of Twitter-2017's images in MNER-MI-Plus."""

Progress = Callable[[int, int], None]
"""Called from time to time with the number of items done, and of all items."""


def archive_names(name: str) -> tuple[str, ...]:
    """Return the other names under which the published archives store an image.

    MNER-MI-Plus names `twitter2017-O_538.jpg` what its archive stores as `O_538.jpg`.
    """
    other = name.removeprefix(TWITTER_2017)
    return () if other == name else (other,)


def find_files(folder: Path, names: Iterable[str]) -> "Resolution":
    """Find the files of images in a folder by the rule of `mnerfeat.cache.names`.

    The folder is listed only if some names are not there as they stand.

    Returns:
        With file names relative to the folder.
    """
    from mnerfeat.cache.names import normalise_name, resolve_names  # noqa: PLC0415 - needs numpy

    names = tuple(dict.fromkeys(names))
    exact = {
        name: inside
        for name in names
        if not (inside := normalise_name(name)).startswith(("/", ".."))
        and _is_file(folder / inside)
    }
    lost = [name for name in names if name not in exact]
    resolution = resolve_names(
        lost,
        (name for name in _listing(folder) if _is_file(folder / name)) if lost else (),
        folder=folder,
        other_names=archive_names,
        same=lambda several: _same_bytes(folder / name for name in several),
    )
    return replace(resolution, found={**exact, **resolution.found})


def images_by_id(ids: Iterable[str], folders: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Find the images of posts by their names: all files `<id>_*`.

    Args:
        ids: Ids of posts. If `a` and `a_b` are both ids, `a_b_1.jpg` belongs to the longer one.
        folders: Folders, in which sub-folders are searched, too.

    Returns:
        By id, names sorted by their last part; relative to the folder, or to the folder that
        contains all of them if there are several. Ids without images are left out.
    """
    wanted = set(ids)
    root = Path(os.path.commonpath([folder.absolute() for folder in folders] or [Path.cwd()]))
    found: dict[str, list[str]] = {}
    for folder in folders:
        inside = folder.absolute().relative_to(root)
        for name in _listing(folder):
            parts = PurePosixPath(name).name.split("_")
            starts = ("_".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
            owner = next((start for start in starts if start in wanted), None)
            if owner is not None:
                found.setdefault(owner, []).append((inside / name).as_posix())
    return {id_: tuple(sorted(names, key=by_base_name)) for id_, names in found.items()}


def by_base_name(name: str) -> tuple[str, str]:
    """Return the key that sorts names by their last part."""
    return PurePosixPath(name).name, name


@dataclass(frozen=True, kw_only=True)
class ImageFaults:
    """What is wrong with the images of a data set.

    Attributes:
        folder: The images folder.
        named: Different images that the posts name.
        readable: Number of them that can be decoded completely.
        missing: Names without a file.
        ambiguous: Names that fit several files with different bytes, with these files.
        notes: How names were found that are not there as they stand.
        unreadable: Names and reasons of files that cannot be decoded.
        unused: Files in the folder that no post names.
    """

    folder: str
    named: int
    readable: int
    missing: tuple[str, ...]
    ambiguous: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    unused: int


def check_images(
    names: Iterable[str], folder: Path, progress: Progress | None = None
) -> ImageFaults:
    """Find and decode every image, in as many threads as there are processors.

    Args:
        names: As in `Post.images`; repeated ones are opened once.
        folder: The images folder.
        progress: Called after each image.

    Raises:
        ConfigError: The folder does not exist, or Pillow is not installed.
    """
    if not folder.is_dir():
        raise ConfigError(f"the images folder {folder} does not exist")
    try:
        from PIL import Image  # noqa: PLC0415 - an extra that most checks do not need
    except ImportError as error:
        raise ConfigError(
            "opening images needs Pillow, which is not installed",
            hint="pip install 'mnerfeat[extract]'",
        ) from error

    names = tuple(dict.fromkeys(names))
    resolution = find_files(folder, names)
    found = {name: folder / file for name, file in resolution.found.items()}
    reasons: dict[str, str] = {}
    # Warnings are filtered for the whole process, so not in the threads.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        outcomes = pool.map(_reason, found.values())
        try:
            for done, (name, reason) in enumerate(zip(found, outcomes, strict=True), start=1):
                if reason is not None:
                    reasons[name] = reason
                if progress is not None:
                    progress(done, len(found))
        except BaseException:  # Ctrl-C must not wait for the images still in the queue
            pool.shutdown(cancel_futures=True)
            raise
    used = set(found.values())
    return ImageFaults(
        folder=str(folder),
        named=len(names),
        readable=len(found) - len(reasons),
        missing=resolution.missing,
        ambiguous=tuple(sorted(resolution.ambiguous.items())),
        notes=tuple(resolution.notes()),
        unreadable=tuple(sorted(reasons.items())),
        unused=sum(folder / file not in used for file in _listing(folder)),
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _listing(folder: Path) -> Iterator[str]:
    """Yield the names of all files in a folder; links to folders are followed, once each."""
    entered: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        try:
            found = Path(root).stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) in entered:
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        inside = Path(root).relative_to(folder)
        yield from ((inside / name).as_posix() for name in names if not name.startswith("."))


def _same_bytes(files: Iterable[Path]) -> bool:
    try:
        return len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 1
    except OSError:
        return False


def _reason(file: Path) -> str | None:
    """Return why an image cannot be decoded, or None if it can."""
    from PIL import Image  # noqa: PLC0415

    try:
        with Image.open(file) as image:
            image.load()
    except Image.DecompressionBombWarning as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - decoders raise nearly anything on hostile files
        return f"{type(error).__name__}: {error}".replace(str(file), file.name)
    return None
