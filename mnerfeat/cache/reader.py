"""Reading a cache: one sealed file, or one and the parts that wait beside it."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.joining import Rows
from mnerfeat.cache.names import Resolution, normalise_name, resolve_names
from mnerfeat.cache.opening import open_sealed
from mnerfeat.cache.schema import TABLES, encode_name, text_id
from mnerfeat.cache.sealed import SealedFile
from mnerfeat.cache.table import Table
from mnerfeat.errors import CacheError, CacheLookupError

_OPEN_ATTEMPTS = 50

Looked = TypeVar("Looked")


def parts_folder(path: Path) -> Path:
    """Where the parts of the cache at `path` wait to be packed."""
    return path.with_name(f"{path.name}.d")


def candidates(path: Path) -> list[Path]:
    """The files of the cache at `path`, whether they can be read or not.

    Raises:
        CacheError: Where the folder of its parts may not be read.
    """
    # Parts first: what is packed in between is then in the file, which is there.
    parts = _waiting(path)
    return [path, *parts] if path.exists() else parts


def at_one_moment(path: Path, look: Callable[[list[Path]], Looked]) -> Looked:
    """What `look` makes of the parts that wait beside a cache; again where one is packed meanwhile.

    Args:
        path: The `.h5` file.
        look: Given the parts, in no order that means anything. It looks at the file itself after
            that: what is packed in between is then found there. It raises `FileNotFoundError`
            where a part is gone.

    Raises:
        CacheError: Where the folder of parts may not be read, or parts go again and again.
    """
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            return look(_waiting(path))
        except FileNotFoundError:
            time.sleep(0.001 * attempt)
    raise CacheError(
        f"{path} was packed again and again while it was being opened",
        hint="try once more; if it goes on, look for a program that packs it in a loop",
    )


def _waiting(path: Path) -> list[Path]:
    folder = parts_folder(path)
    try:
        found = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # a pack removes the folder it has emptied
        return []
    except OSError as error:
        raise CacheError(
            f"{folder} cannot be read: {error.strerror or error}",
            hint="parts of the cache wait there; check the folder and its permissions",
        ) from error
    return sorted(file for file in found if file.match("part-*.h5"))


def no_cache(path: Path) -> CacheError:
    """The error for a cache that is not there."""
    return CacheError(
        f"there is no feature cache at {path}",
        hint="make one with `mnerfeat extract --images DIR`, or name the file of another",
    )


class FeatureCache:
    """A feature cache, open for reading.

    ```python
    with FeatureCache("features.h5") as cache:
        rows = cache.rows(["a.jpg", "b.jpg"])
        x = cache["vit_cls"][rows]
    ```

    It shows the cache as it was when it was opened; what is written later is seen by opening it
    again. It may be pickled: the other process opens the same files anew.

    Args:
        path: The `.h5` file; parts that wait beside it are read too.
        missing_ok: Take a cache that is not there as an empty one.

    Raises:
        CacheError: Where there is no cache.
        CacheFormatError: Where there is something else, or a damaged one.
    """

    def __init__(self, path: str | PathLike[str], *, missing_ok: bool = False) -> None:
        path = Path(path)
        self._fill(path, _open_all(path), trusted=True)
        if not self.files and not missing_ok:
            raise no_cache(path)

    @classmethod
    def of_files(
        cls, path: Path, files: Sequence[SealedFile], *, trusted: bool = True
    ) -> "FeatureCache":
        """A cache made of files that are open already.

        Args:
            path: What it is called.
            files: Oldest first.
            trusted: Take for granted that each is in order.
        """
        cache = cls.__new__(cls)
        cache._fill(path, files, trusted=trusted)
        return cache

    def _fill(self, path: Path, files: Sequence[SealedFile], *, trusted: bool) -> None:
        self.path = path
        self.files = tuple(files)
        self.images, self.texts, self.pairs = (
            Table(name, path, self.files, trusted=trusted) for name in TABLES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held but memory maps, which go with the last array made from them."""

    @property
    def features(self) -> list[str]:
        """The names of all features."""
        return sorted(name for table in self.tables for name in table.features)

    def __contains__(self, feature: object) -> bool:
        return any(feature in table.features for table in self.tables)

    def __getitem__(self, feature: str) -> Feature:
        """A feature by its name.

        Raises:
            CacheLookupError: Where the cache does not hold it.
        """
        for table in self.tables:
            if feature in table.features:
                return table.features[feature]
        raise CacheLookupError(
            f"{self.path} holds no feature {feature!r}; it holds "
            f"{', '.join(self.features) or 'none'}",
            hint="`mnerfeat extract --features …` adds one",
        )

    def rows(self, names: Iterable[str | PathLike[str]]) -> Rows:
        """Return the rows of images, by the names they were extracted under.

        A name that differs only in Unicode form is found; see `mnerfeat.cache.names`.

        Returns:
            (k,) int64.

        Raises:
            CacheLookupError: Names are not in the cache; all are listed, with a namesake in
                another folder if there is one.
        """
        asked = [fspath(name) for name in names]
        rows, resolution = self.find_images(asked, namesakes=False)
        lost = (*resolution.missing, *resolution.ambiguous)
        if lost:
            _, near = self.find_images(lost)
            unknown = [
                f"{name} (there is {near.found[name]})" if name in near.found else name
                for name in lost
            ]
            raise CacheLookupError(
                f"{self.path} does not contain {len(lost):,} of the {len(set(asked)):,} images "
                "asked for:",
                faults=unknown,
                hint="names are relative to the folder given to `mnerfeat extract --images`; run "
                "it again if images have been added",
            )
        return rows

    def find_images(
        self,
        names: Iterable[str],
        *,
        other_names: Callable[[str], Sequence[str]] | None = None,
        namesakes: bool = True,
    ) -> tuple[Rows, Resolution]:
        """Find images by the names that posts give them; see `mnerfeat.cache.names`.

        Args:
            names: Names asked for.
            other_names: As in `resolve_names`.
            namesakes: As in `resolve_names`.

        Returns:
            (k,) int64 rows, -1 for names that lead to no image or to several; and how each was
            found.
        """
        names = list(names)
        rows = self.images.find_names(names)
        exact = {name for name, row in zip(names, rows.tolist(), strict=True) if row >= 0}
        lost = [name for name in dict.fromkeys(names) if name not in exact]
        stored = dict(self.images.names()) if lost else {}
        resolution = resolve_names(
            lost,
            stored,
            other_names=other_names,
            namesakes=namesakes,
            same=lambda several: len({stored[name] for name in several}) == 1,
        )
        for i in np.flatnonzero(rows < 0).tolist():
            if names[i] in resolution.found:
                rows[i] = stored[resolution.found[names[i]]]
        found = {name: normalise_name(name) for name in names if name in exact}
        return rows, replace(resolution, found={**found, **resolution.found})

    def text_rows(self, texts: Iterable[str]) -> Rows:
        """The rows of some texts, -1 where the cache does not hold one.

        Returns:
            (k,) int64.
        """
        return self.texts.find([text_id(text) for text in texts])

    def digest(self) -> Mapping[str, str]:
        """What the cache holds: a SHA-256, in hex, for each feature and for `names`.

        Two caches with the same content have the same digests, however they came about.
        """
        digests = {name: self[name].digest() for name in self.features}
        names = hashlib.sha256(self.images.sizes.tobytes())
        for name, row in sorted(self.images.names()):
            names.update(encode_name(name) + b"\0" + self.images.ids[row].tobytes())
        return {**digests, "names": names.hexdigest()}

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        """`images`, `texts` and `pairs`."""
        return (self.images, self.texts, self.pairs)

    def __reduce__(self) -> tuple[Callable[..., "FeatureCache"], tuple[Path, list[str]]]:
        return reopen, (self.path, [file.uuid for file in self.files])


def reopen(path: Path, uuids: Sequence[str]) -> FeatureCache:
    """Open a cache as another process has opened it.

    Args:
        path: The `.h5` file.
        uuids: Of the files it consisted of.

    Raises:
        CacheError: Where it consists of other files by now.
    """
    cache = FeatureCache(path, missing_ok=not uuids)
    if [file.uuid for file in cache.files] != list(uuids):
        raise CacheError(
            f"{path} was written to after it had been opened in another process, so row "
            "numbers made there may be wrong here",
            hint="extract first, then start what reads",
        )
    return cache


def _open_all(path: Path) -> tuple[SealedFile, ...]:
    """The sealed file and the parts that are not in it yet, oldest first."""

    def look(parts: list[Path]) -> tuple[SealedFile, ...]:
        base: SealedFile | None = None
        with contextlib.suppress(FileNotFoundError):
            base = open_sealed(path)
        absorbed = base.absorbed if base else frozenset[str]()
        waiting = [open_sealed(part) for part in parts if part.stem[5:] not in absorbed]
        waiting.sort(key=lambda file: (file.sequence, file.uuid))
        return (*([base] if base else []), *waiting)

    return at_one_moment(path, look)
