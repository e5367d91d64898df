"""Data sets in a folder: splits are found by file name, formats by content."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from mnerfeat.datasets.formats import FORMATS, parse, write_posts
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.source import Source, refuse
from mnerfeat.datasets.tags import TagSet
from mnerfeat.errors import ConfigError, DataError

SplitName = Literal["train", "dev", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")
"""The splits, by the names that the package uses."""

FILE_NAMES: Mapping[str, SplitName] = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "val": "dev",
    "test": "test",
}
"""Names of a split's file, without the suffix."""

SUFFIXES = (".txt", ".json", ".jsonl", ".conll", ".csv", ".tsv")
"""Suffixes of files of posts; the format is recognised by content."""

PREFIXES = ("MNER-MI", "MNER-UNI")
"""Prefixes of the published files of MNER-MI and MNER-MI-Plus, before `_` and the split."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The posts of one split.

    Attributes:
        name: train, dev or test.
        path: Its file.
        posts: In the file's order, labelled, with unique ids.
        renamed: Number of posts that got a new id because an earlier post has theirs.
        type_names: How often each entity type occurs in tags, by its name in the file.
    """

    name: SplitName
    path: Path
    posts: tuple[Post, ...]
    renamed: int = 0
    type_names: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.posts)

    @property
    def images(self) -> tuple[str, ...]:
        """The names of all images, each once, in order."""
        return tuple(dict.fromkeys(name for post in self.posts for name in post.images))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Splits of a data set.

    Attributes:
        folder: Its folder.
        splits: The splits that were asked for, by name.
    """

    folder: Path
    splits: Mapping[SplitName, Split]

    def __getitem__(self, split: SplitName) -> Split:
        return self.splits[split]

    def __iter__(self) -> Iterator[Split]:
        return iter(self.splits.values())

    @property
    def tag_set(self) -> TagSet:
        """The types of all splits together."""
        return TagSet.of(post for split in self for post in split.posts)


def fingerprint(posts: Iterable[Post]) -> str:
    """Return the SHA-256, in hexadecimal, of posts' ids, words, tags and images, in order.

    Two files with the same posts have the same fingerprint whatever their format, line ends or
    names of types.
    """
    digest = hashlib.sha256()
    for post in posts:
        line = json.dumps([post.id, post.words, post.tags, post.images])
        digest.update(f"{line}\n".encode("ascii"))
    return digest.hexdigest()


def split_name(name: str) -> SplitName:
    """Return the package's name of a split, given any of `FILE_NAMES`.

    Raises:
        ConfigError: It is none of them.
    """
    try:
        return FILE_NAMES[name.lower()]
    except KeyError:
        raise ConfigError(f"unknown split {name!r}; choose from: {', '.join(SPLITS)}") from None


def find_splits(folder: Path) -> dict[SplitName, Path]:
    """Find the files of the splits.

    Files are called `train`, `dev` (or `valid`, `val`) and `test`, with a suffix of `SUFFIXES`,
    and may all have one prefix of `PREFIXES` (`MNER-MI_train.txt`); case does not matter.

    Args:
        folder: The folder. If it contains files with several prefixes, or with a prefix of the
            user's own, `folder/prefix` picks those with that prefix.

    Returns:
        The files found, in the order train, dev, test.

    Raises:
        DataError: There is no such folder, or several files fit a split.
    """
    prefixes: tuple[str, ...] = ("", *PREFIXES)
    asked = folder
    if not folder.is_dir():
        folder, prefixes = asked.parent, (asked.name,)
    if not folder.is_dir():
        raise DataError(
            f"the data folder {asked} does not exist",
            hint="name the folder that holds train.txt, dev.txt and test.txt",
        )
    files = _files(folder)
    found = {prefix: _with_prefix(files, prefix) for prefix in prefixes}
    found = {prefix: splits for prefix, splits in found.items() if splits}
    if not found and asked != folder:
        raise DataError(
            f"there is no folder {asked}, and no file {asked}_train.txt, _dev.txt or _test.txt",
            hint="name the folder that holds train.txt, dev.txt and test.txt",
        )
    if len(found) > 1:
        names = (path.name for s in found.values() for paths in s.values() for path in paths)
        choices = " or ".join(f"{folder / prefix}" for prefix in found if prefix)
        raise DataError(
            f"{folder} holds more than one data set",
            faults=names,
            hint=f"{choices} as the data folder picks one",
        )
    splits = next(iter(found.values()), {})
    faults = [
        f"{name}: {', '.join(path.name for path in paths)}"
        for name, paths in splits.items()
        if len(paths) > 1
    ]
    if faults:
        raise DataError(
            f"{folder} holds more than one file for a split",
            faults=faults,
            hint="move all but one of each out of the folder",
        )
    return {name: splits[name][0] for name in SPLITS if name in splits}


def read_split(folder: Path | str, split: str) -> Split:
    """Read one split of a data set.

    Args:
        folder: As in `find_splits`.
        split: train, dev (or valid, val) or test.

    Raises:
        ConfigError: An unknown split.
        DataError: The split is missing, or lines cannot be used (all are listed).
    """
    name = split_name(split)
    return read_folder(folder, (name,))[name]


def read_folder(folder: Path | str, splits: Iterable[str] | None = SPLITS) -> DataSet:
    """Read a data set.

    Args:
        folder: As in `find_splits`.
        splits: The splits to read, each of which must exist; None for all that exist.

    Raises:
        ConfigError: An unknown split.
        DataError: A split is missing, or lines cannot be used (all of all splits are listed).
    """
    folder = Path(folder)
    names = None if splits is None else [split_name(split) for split in splits]
    files = find_splits(folder)
    names = names or list(files) or list(SPLITS)
    missing = [name for name in names if name not in files]
    if missing:
        raise DataError(
            f"no {' and no '.join(missing)} split in {folder}",
            faults=[
                *(f"looked for {name}: {_wanted(name)}" for name in missing),
                f"there is: {_listing(folder)}",
            ],
            hint="name the folder that holds the splits, or add the file",
        )
    read: dict[SplitName, Split] = {}
    faults: list[str] = []
    for name in names:
        source = Source(files[name])
        posts = parse(source, labelled=True)
        read[name] = Split(
            name=name,
            path=files[name],
            posts=posts,
            renamed=source.renamed,
            type_names=source.type_names,
        )
        faults += source.faults
    refuse(faults)
    return DataSet(folder=folder, splits=read)


def read_posts(path: Path | str, *, labelled: bool = False) -> tuple[Post, ...]:
    """Read posts from one file of any format.

    Args:
        path: The file.
        labelled: Every post must have words and tags; otherwise tags are read if given.

    Returns:
        The posts in the file's order, with unique ids.

    Raises:
        DataError: The file cannot be read, or lines cannot be used (all are listed).
    """
    source = Source(Path(path))
    posts = parse(source, labelled=labelled)
    refuse(source.faults)
    return posts


def every_post(path: Path | str) -> tuple[Post, ...]:
    """Return the posts of all splits in a folder, or of one file.

    Raises:
        DataError: There are no posts, or lines cannot be used (all are listed).
    """
    if Path(path).is_file():
        return read_posts(path)
    return tuple(post for split in read_folder(path, None) for post in split.posts)


def read_texts(path: Path | str) -> tuple[str, ...]:
    """Return the texts of posts, each once: of all splits in a folder, or of one file.

    Raises:
        DataError: There are no posts, or lines cannot be used (all are listed).
    """
    return tuple(dict.fromkeys(post.text for post in every_post(path)))


def write_json_lines(posts: Iterable[Post], path: Path) -> None:
    """Write posts as JSON lines; see `mnerfeat.datasets.formats.write_posts`."""
    write_posts(posts, path, FORMATS["json"])


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error


def _with_prefix(files: Iterable[Path], prefix: str) -> dict[SplitName, list[Path]]:
    """Return each split's files named by the prefix, `_`, `-` or `.`, and a name of the split."""
    found: dict[SplitName, list[Path]] = {}
    for path in files:
        stem = path.stem.lower()
        if prefix:
            head, stem = stem[: len(prefix)], stem[len(prefix) :]
            if head != prefix.lower() or stem[:1] not in ("_", "-", "."):
                continue
            stem = stem[1:]
        if path.suffix.lower() in SUFFIXES and stem in FILE_NAMES:
            found.setdefault(FILE_NAMES[stem], []).append(path)
    return found


def _wanted(split: SplitName) -> str:
    stems = " | ".join(stem for stem, name in FILE_NAMES.items() if name == split)
    return f"{stems}, with {' | '.join(SUFFIXES)}, bare or after {'_ | '.join(PREFIXES)}_"


def _listing(folder: Path) -> str:
    place = folder if folder.is_dir() else folder.parent
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in place.iterdir())
    shown_names = ", ".join(names[:20]) or "nothing"
    return shown_names + (f" and {len(names) - 20} more" if len(names) > 20 else "")
