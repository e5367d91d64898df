"""Where the images that posts name are found, and whether they can be read."""

import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mnerfeat.errors import ConfigError

FOLDERS = ("images", "new_images", "twitter2015_images", "twitter2017_images")
"""Folders of images inside the published data sets' own folders."""

TWITTER_2017 = "twitter2017-"
"""What MNER-MI-Plus puts before the names of Twitter-2017's images."""

Progress = Callable[[int, int], None]
"""Told from time to time how much is done, and of how much."""


def stored_names(name: str) -> tuple[str, ...]:
    """The names under which the image that a post names may be stored, likeliest first.

    The archives of the data sets disagree with their own texts: MNER-MI-Plus names
    `twitter2017-O_538.jpg` what lies in `twitter2017_images/O_538.jpg`, and an images folder may
    be the data set's own folder, which holds those of `FOLDERS`.

    Args:
        name: As in `Post.images`.

    Returns:
        Names relative to the images folder, `name` itself first, each once.
    """
    names = (name, name.removeprefix(TWITTER_2017))
    inside = (f"{folder}/{name}" for folder in FOLDERS for name in names)
    return tuple(dict.fromkeys((*names, *inside)))


@dataclass(frozen=True, kw_only=True)
class ImageFaults:
    """What is wrong with the images of a data set.

    Attributes:
        folder: The images folder.
        named: Different images that the posts name.
        readable: How many of them could be decoded in full.
        missing: Names for which there is no file.
        unreadable: Names and reasons of files that cannot be decoded.
        unused: Files in the folder that no post names.
    """

    folder: str
    named: int
    readable: int
    missing: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    unused: int


def check_images(
    names: Iterable[str], folder: Path, progress: Progress | None = None
) -> ImageFaults:
    """Finds and decodes every image, in as many threads as there are processors.

    Args:
        names: As in `Post.images`; repeated ones are opened once.
        folder: The images folder.
        progress: Called after each image.

    Raises:
        ConfigError: The folder is not there, or Pillow is not installed.
    """
    if not folder.is_dir():
        raise ConfigError(f"the images folder {folder} is not there")
    try:
        from PIL import Image  # noqa: PLC0415  (an extra; most checks do without)
    except ImportError as error:
        raise ConfigError(
            "opening images needs Pillow, which is not installed",
            hint="pip install 'mnerfeat[extract]'",
        ) from error

    names = tuple(dict.fromkeys(names))
    files = {name: _file(folder, name) for name in names}
    found = {name: file for name, file in files.items() if file is not None}
    reasons: dict[str, str] = {}
    # Warnings are a setting of the whole process, so it is made here and not in the threads.
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
        missing=tuple(name for name in names if name not in found),
        unreadable=tuple(sorted(reasons.items())),
        unused=sum(1 for file in _files(folder) if file not in used),
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((file for n in stored_names(name) if _is_file(file := folder / n)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _files(folder: Path) -> Iterable[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _reason(file: Path) -> str | None:
    """Why an image cannot be decoded, or None where it can."""
    from PIL import Image  # noqa: PLC0415

    try:
        with Image.open(file) as image:
            image.load()
    except Image.DecompressionBombWarning as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (decoders raise nearly anything on hostile files)
        return f"{type(error).__name__}: {error}".replace(str(file), file.name)
    return None
