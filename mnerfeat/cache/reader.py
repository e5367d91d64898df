"""Reading a cache: the `.h5` file, and the parts that are not packed into it yet."""

import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.names import Resolution, resolve_names
from mnerfeat.cache.rows import NameComparison, Rows
from mnerfeat.cache.schema import TABLES, encode_name, text_id
from mnerfeat.cache.sealed import SealedFile, open_sealed
from mnerfeat.cache.storage import located, parts_folder
from mnerfeat.cache.table import Table
from mnerfeat.errors import CacheError, CacheLookupError, ProvenanceError

_OPEN_ATTEMPTS = 50

Read = TypeVar("Read")

log = logging.getLogger(__name__)


def candidates(path: Path) -> list[Path]:
    """Return the files of the cache at `path`, whether they can be read or not.

    Raises:
        CacheError: If the folder of its parts may not be read.
    """
    # Parts first: what is packed in between is then in the file, which is there.
    parts = _waiting(path)
    return [path, *parts] if path.exists() else parts


def at_one_moment(path: Path, read: Callable[[list[Path]], Read]) -> Read:
    """Return what `read` makes of the parts of a cache; again if one is packed meanwhile.

    Args:
        path: The `.h5` file.
        read: Given the parts, in no order that means anything. It opens the file itself after
            that: what is packed in between is then found there. It raises `FileNotFoundError` if
            a part is gone.

    Raises:
        CacheError: If the folder of parts may not be read, or parts go again and again.
    """
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            return read(_waiting(path))
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
    """Return the error for a cache that does not exist."""
    return CacheError(
        f"there is no feature cache at {path}",
        hint="make one with `mnerfeat extract --images DIR`, or name the file of another",
    )


def split_foreign(
    base: SealedFile | None, parts: Iterable[SealedFile]
) -> tuple[list[SealedFile], list[SealedFile]]:
    """Tell the parts of a cache from those of other caches.

    Args:
        base: The cache's file; None if it is gone. Then the newest part says which cache it is.
        parts: The files in its folder of parts that are not packed yet.

    Returns:
        Its own parts, oldest first, and the others.
    """
    ordered = sorted(parts, key=lambda file: (file.sequence, file.uuid))
    first = base or (ordered[-1] if ordered else None)
    own = [file for file in ordered if first is not None and file.belongs_to(first)]
    return own, [file for file in ordered if file not in own]


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
        path: The `.h5` file; parts beside it that are not packed yet are read too.
        missing_ok: Treat a cache that does not exist as an empty one.

    Attributes:
        path: The `.h5` file, symbolic links followed.
        cache_id: The identity of the cache, 32 hex digits: made at random with its first file,
            and kept by copies and parts. Empty if there is no cache.
        files: Its files, oldest first.
        foreign: Files in its folder of parts that belong to another cache. They are not read.
        images, texts, pairs: Its tables.

    Raises:
        CacheError: If there is no cache, or only parts of several.
        CacheFormatError: If there is something else, or a damaged one.
    """

    def __init__(self, path: str | PathLike[str], *, missing_ok: bool = False) -> None:
        path = located(path)
        files, foreign = _open_all(path)
        self._fill(path, files, trusted=True, foreign=foreign)
        if not self.files and not missing_ok:
            raise no_cache(path)

    @classmethod
    def of_files(
        cls, path: Path, files: Sequence[SealedFile], *, trusted: bool = True
    ) -> "FeatureCache":
        """Make a cache of files that are open already.

        Args:
            path: What it is called.
            files: Oldest first.
            trusted: Take for granted that each is in order.
        """
        cache = cls.__new__(cls)
        cache._fill(path, files, trusted=trusted)
        return cache

    @classmethod
    def joined(cls, caches: Sequence["FeatureCache"]) -> "FeatureCache":
        """Return a read-only view of several caches as one; nothing is written.

        Rows are joined by identity. If several caches hold a row or a name, the last one counts,
        but an extracted row always before a failed one.

        Args:
            caches: At least one.

        Raises:
            ProvenanceError: If they hold a feature of different provenance.
            CacheError: If a feature differs in shape or type.
        """
        check_features(caches)
        view = cls.of_files(caches[0].path, [file for cache in caches for file in cache.files])
        together = "\n".join(dict.fromkeys(cache.cache_id for cache in caches))
        view.cache_id = hashlib.sha256(together.encode()).hexdigest()[:32]
        view.foreign = tuple(part for cache in caches for part in cache.foreign)
        view._set_reopen(functools.partial(_reopen_joined, [cache._reopen for cache in caches]))
        return view

    def _fill(
        self,
        path: Path,
        files: Sequence[SealedFile],
        *,
        trusted: bool,
        foreign: Sequence[SealedFile] = (),
    ) -> None:
        self.path = path
        self.files = tuple(files)
        self.foreign = tuple(file.path for file in foreign)
        # Without the `.h5` file, the newest part says which cache it is: see `split_foreign`.
        first = next((file for file in files if file.path == path), files[-1] if files else None)
        self.cache_id = first.cache_id if first else ""
        self._reopen: Callable[[], FeatureCache] = functools.partial(
            reopen, path, [file.uuid for file in self.files]
        )
        self.images, self.texts, self.pairs = (
            Table(name, path, self.files, reopen=self._reopen, trusted=trusted) for name in TABLES
        )

    def _set_reopen(self, again: Callable[[], "FeatureCache"]) -> None:
        self._reopen = again
        for table in self.tables:
            table.index.reopen = again

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hold nothing but memory maps, which go with the last array made from them."""

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        """`images`, `texts` and `pairs`."""
        return (self.images, self.texts, self.pairs)

    @property
    def features(self) -> list[str]:
        """The names of all features."""
        return sorted(name for table in self.tables for name in table.features)

    def __contains__(self, feature: object) -> bool:
        return any(feature in table.features for table in self.tables)

    def __getitem__(self, feature: str) -> Feature:
        """Return a feature by its name.

        Raises:
            CacheLookupError: If the cache does not hold it.
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
            (k,) int64 rows, -1 for names that lead to no image or to several; and how those names
            were resolved that are not stored as they stand.
        """
        names = list(names)
        rows = self.images.find_names(names)
        lost = np.flatnonzero(rows < 0).tolist()
        stored = dict(self.images.names()) if lost else {}
        resolution = resolve_names(
            (names[i] for i in lost),
            stored,
            other_names=other_names,
            namesakes=namesakes,
            same=lambda several: len({stored[name] for name in several}) == 1,
        )
        for i in lost:
            if names[i] in resolution.found:
                rows[i] = stored[resolution.found[names[i]]]
        return rows, resolution

    def text_rows(self, texts: Iterable[str]) -> Rows:
        """Return the rows of texts, -1 for texts that the cache does not hold.

        Returns:
            (k,) int64.
        """
        return self.texts.find([text_id(text) for text in texts])

    def compare_names(self, ids: Mapping[str, bytes], folder: Path | None) -> NameComparison:
        """Compare files with what the cache knows under their names, before they are written.

        Args:
            ids: The identity of each file, by name.
            folder: The folder that the names are relative to; None if unknown.
        """
        return self.images.compare_names(ids, folder)

    def digest(self) -> Mapping[str, str]:
        """Return a SHA-256, in hex, for each feature and for `names`.

        Two caches with the same content have the same digests, however they came about.
        """
        digests = {name: self[name].digest() for name in self.features}
        names = hashlib.sha256(self.images.sizes.tobytes())
        for name, row in sorted(self.images.names()):
            names.update(encode_name(name) + b"\0" + self.images.ids[row].tobytes())
        return {**digests, "names": names.hexdigest()}

    def __reduce__(self) -> tuple[Callable[[], "FeatureCache"], tuple[()]]:
        return self._reopen, ()


def reopen(path: Path, uuids: Sequence[str]) -> FeatureCache:
    """Open a cache as another process has opened it.

    Args:
        path: The `.h5` file.
        uuids: The files that it consisted of.

    Raises:
        CacheError: If it consists of other files by now.
    """
    cache = FeatureCache(path, missing_ok=not uuids)
    if [file.uuid for file in cache.files] != list(uuids):
        raise CacheError(
            f"{path} was written to after it had been opened in another process, so row "
            "numbers made there may be wrong here",
            hint="extract first, then start what reads",
        )
    return cache


def _reopen_joined(again: Sequence[Callable[[], FeatureCache]]) -> FeatureCache:
    return FeatureCache.joined([each() for each in again])


def check_features(caches: Sequence[FeatureCache]) -> None:
    """Make sure that the features of several caches can be joined.

    Raises:
        ProvenanceError: If they hold a feature of different provenance; it names all of them.
        CacheError: If a feature differs in table, shape or type.
    """
    made: list[str] = []
    kinds: list[str] = []
    first: dict[str, FeatureCache] = {}
    for cache in caches:
        for name in cache.features:
            other = first.setdefault(name, cache)
            ours, theirs = cache[name], other[name]
            if ours.provenance != theirs.provenance:
                made += [
                    f"{name} {line}"
                    for line in theirs.provenance.differences(
                        ours.provenance, f"in {other.path}", f"in {cache.path}"
                    )
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
            "these features have different provenance, so their rows cannot be joined:",
            faults=made,
            hint="extract the feature anew in one of the caches, or prune it there "
            "(`mnerfeat cache prune --features NAME`)",
        )
    if kinds:
        raise CacheError("these features differ in kind:", faults=kinds)


def _open_all(path: Path) -> tuple[list[SealedFile], list[SealedFile]]:
    """Open the `.h5` file and the parts that are not in it yet, oldest first, and foreign parts."""

    def read(parts: list[Path]) -> tuple[list[SealedFile], list[SealedFile]]:
        base: SealedFile | None = None
        with contextlib.suppress(FileNotFoundError):
            base = open_sealed(path)
        absorbed = base.absorbed if base else frozenset[str]()
        waiting = [open_sealed(part) for part in parts if part.stem[5:] not in absorbed]
        own, foreign = split_foreign(base, waiting)
        return [*([base] if base else []), *own], foreign

    files, foreign = at_one_moment(path, read)
    for file in foreign:
        if file.path not in _WARNED:
            log.warning(
                "%s belongs to another cache than %s and is not read; `mnerfeat cache repair %s` "
                "sets it aside",
                file.path,
                path,
                path,
            )
            _WARNED.add(file.path)
    return files, foreign


_WARNED: set[Path] = set()
