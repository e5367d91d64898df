"""Bringing the files of a cache to the present version of the format."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mnerfeat.cache.hdf5 import Dataset, Group, read_root
from mnerfeat.cache.hdf5_blocks import Blocks, UnfitError
from mnerfeat.cache.layout import Array, write_sealed
from mnerfeat.cache.mapping import map_file
from mnerfeat.cache.opening import read_version, refusing, view
from mnerfeat.cache.packing import locked
from mnerfeat.cache.reader import candidates, no_cache
from mnerfeat.cache.schema import FORMAT_VERSION
from mnerfeat.errors import CacheFormatError

_DEPTH_LIMIT = 8
_OBJECTS_LIMIT = 10_000


@dataclass(frozen=True)
class Contents:
    """Everything in a file, whatever its version.

    Attributes:
        attributes: By object (`""` is the root), its texts and whole numbers.
        arrays: By full name, without the `/` at the beginning.
    """

    attributes: dict[str, dict[str, str | int]]
    arrays: dict[str, NDArray[Any]]


Migration = Callable[[Contents], Contents]
"""Makes of a file of one version what the next version has; `format_version` is set for it."""

MIGRATIONS: dict[int, Migration] = {}
"""By the version that a file has. Version 1 is the first, so there is nothing to migrate yet.

Whoever raises `FORMAT_VERSION` adds the step from the version before, and a golden file of that
version to the tests. Steps follow each other, so a file of any age is brought up to date.
"""


def migrate(path: str | PathLike[str]) -> list[Path]:
    """Rewrite every file of a cache that is of an older version; each by a rename.

    Args:
        path: The `.h5` file; parts beside it are migrated, too.

    Returns:
        The files that were rewritten; none where all are of the present version.

    Raises:
        CacheError: Where there is no cache.
        CacheFormatError: Where a file is of a version that this program does not know; nothing is
            rewritten then.
        StorageError: Where the disk is full; running it again goes on.
    """
    path = Path(path)
    with locked(path):
        files = candidates(path)
        if not files:
            raise no_cache(path)
        steps = {file: _steps(file) for file in files}
        older = [file for file, migrations in steps.items() if migrations]
        for file in older:
            contents = read_contents(file)
            for migration in steps[file]:
                contents = migration(contents)
            contents.attributes[""]["format_version"] = FORMAT_VERSION
            write_sealed(
                file,
                contents.attributes,
                {name: Array.of(array) for name, array in contents.arrays.items()},
            )
    return older


def read_contents(path: Path) -> Contents:
    """Everything in a file that a cache can hold.

    Raises:
        FileNotFoundError: Where there is none.
        CacheFormatError: Where it is damaged, or holds what no cache does.
    """
    data, _ = map_file(path)
    contents = Contents({}, {})
    with refusing(path):
        blocks = Blocks(data)
        for owner, thing in _walk(read_root(blocks), 0):
            if isinstance(thing, Dataset):
                array = view(data, thing, owner)
                stored = thing.number("crc32")
                if stored is not None and stored != zlib.crc32(array.tobytes()):
                    raise UnfitError(f"{owner} does not match its checksum")
                contents.arrays[owner] = array
            else:
                values = {name: thing.attribute(name) for name in thing.attributes}
                contents.attributes[owner] = {
                    name: value for name, value in values.items() if value is not None
                }
            if len(contents.arrays) + len(contents.attributes) > _OBJECTS_LIMIT:
                raise UnfitError("it holds more than any cache")
        blocks.verify()
    return contents


def _walk(group: Group, depth: int) -> Iterator[tuple[str, Group | Dataset]]:
    yield group.name.strip("/"), group
    if depth > _DEPTH_LIMIT:
        raise UnfitError("its groups are nested deeper than in any cache")
    for name in group.members:
        opened = group.open(name)
        if isinstance(opened, Group):
            yield from _walk(opened, depth + 1)
        elif opened is not None:
            yield group.where(name).strip("/"), opened


def _steps(file: Path) -> list[Migration]:
    version = read_version(file)
    if version > FORMAT_VERSION or any(
        step not in MIGRATIONS for step in range(version, FORMAT_VERSION)
    ):
        raise CacheFormatError(
            f"{file} has format version {version}; this program can migrate "
            f"{', '.join(map(str, MIGRATIONS)) or 'none'} to {FORMAT_VERSION}",
            hint="install the mnerfeat that wrote it, or a newer one",
        )
    return [MIGRATIONS[step] for step in range(version, FORMAT_VERSION)]
