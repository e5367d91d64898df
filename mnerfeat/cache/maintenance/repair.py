"""Keeping what is sound of a damaged cache."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.encoding import NamesContent
from mnerfeat.cache.files import intended_size
from mnerfeat.cache.maintenance.checks import (
    needless,
    sound_names,
    table_faults,
    without_unsound,
    wrong_pairs,
    wrong_sums,
)
from mnerfeat.cache.maintenance.pack import Selection, locked, seal, set_aside
from mnerfeat.cache.reader import FeatureCache, candidates, no_cache, split_foreign
from mnerfeat.cache.schema import FAILED, MISSING, OK, READABLE_VERSIONS
from mnerfeat.cache.sealed import (
    SealedFile,
    SealedNames,
    SealedTable,
    TextColumn,
    open_sealed,
    read_version,
)
from mnerfeat.cache.storage import TEMPORARY, located, storage_error
from mnerfeat.errors import CacheFormatError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair found and did.

    Attributes:
        path: The `.h5` file.
        rows: Rows dropped, by feature: the next extraction fills them again.
        lost: Rows dropped altogether, by table, because no feature of theirs was sound.
        names: Names dropped.
        truncated: Files that ended too early; what had been written before is kept.
        set_aside: Files of which nothing can be read, under the names they have now.
        foreign: Parts of other caches, under the names they have now.
        repaired: Whether anything was written; False for a sound cache.
    """

    path: Path
    rows: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    names: int = 0
    truncated: tuple[Path, ...] = ()
    set_aside: tuple[Path, ...] = ()
    foreign: tuple[Path, ...] = ()
    repaired: bool = False


def repair(path: str | PathLike[str]) -> RepairReport:
    """Drop every row that `verify` would complain about, and keep all others.

    A row that does not match its checksum, is not finite or has an unknown state is missing
    afterwards, so that the next extraction makes it anew. A file that was cut off keeps the rows
    before the cut. A file of which nothing can be read is renamed to `….damaged`, a part of
    another cache to `….foreign`. Pairs whose text or image is missing are dropped. The result is
    packed.

    Args:
        path: The `.h5` file.

    Raises:
        CacheError: Where there is no cache at all, or a file of another version in it.
        StorageError: Where the disk is full; the cache is then as it was.
    """
    path = located(path)
    if not candidates(path):
        raise no_cache(path)
    with locked(path), _Repair(path) as work:
        for candidate in candidates(path):
            log.info("looking at %s", candidate)
            work.take(candidate)
        return work.finish()


class _Repair:
    """A repair under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[SealedFile] = []
        self._gone: dict[tuple[Path, str], NDArray[np.bool_]] = {}
        self._rows: Counter[str] = Counter()
        self._names = 0
        self._broken = False
        self._truncated: list[Path] = []
        self._damaged: list[Path] = []
        self._padded: list[Path] = []

    def __enter__(self) -> "_Repair":
        return self

    def __exit__(self, *_: object) -> None:
        for padded in self._padded:
            padded.unlink(missing_ok=True)

    def take(self, candidate: Path) -> None:
        """Look at one file."""
        try:
            file = open_sealed(candidate)
        except CacheFormatError as error:
            _refuse_other_versions(candidate, error)
            padded = self._pad(candidate)
            if padded is None:
                self._damaged.append(candidate)
                return
            self._truncated.append(candidate)
            file = replace(open_sealed(padded), path=candidate)
        wrong = set(wrong_sums(file))
        self._broken |= bool(wrong)
        tables = {}
        for name, table in file.tables.items():
            tables[name], self._gone[file.path, name] = self._table(table, f"/{name}", wrong)
        self._files.append(replace(file, tables=tables))

    def _pad(self, candidate: Path) -> Path | None:
        """A copy of a truncated file with zeros up to its full length; None where that is no use.

        The rows that were cut off do not match their checksums then, and all others do.
        """
        with candidate.open("rb") as file:
            size = intended_size(file.read(48))
        if size is None or size <= candidate.stat().st_size:
            return None
        padded = self._path.with_name(f".{candidate.name}.{uuid4().hex}{TEMPORARY}")
        self._padded.append(padded)
        try:
            shutil.copyfile(candidate, padded)
            os.truncate(padded, size)
            open_sealed(padded)
        except CacheFormatError:
            return None
        except OSError as error:
            raise storage_error(padded, error) from error
        return padded

    def _table(
        self, table: SealedTable, where: str, wrong: set[str]
    ) -> tuple[SealedTable, NDArray[np.bool_]]:
        """A table without what is not sound in it, and the rows of which nothing is left.

        Args:
            table: Of one file.
            where: Its full name.
            wrong: The datasets that do not match their checksums.
        """
        self._broken |= any(True for _ in table_faults(table))
        # A digest is never zero: such a row was cut off.
        cut_off = np.logical_not(table.id.any(axis=1))
        dropped = cut_off.copy()
        if f"{where}/id" in wrong:
            # Of rows that are OK the checksum of the row tells; of others nothing does.
            dropped[:] = True
        if table.text is not None:
            dropped |= wrong_pairs(table)
        kept = np.zeros(len(table), bool)
        features = {}
        for name, feature in table.features.items():
            self._broken |= any(True for _ in needless(feature))
            state = without_unsound(table, feature)
            told = (f"{where}/{name}/state", f"{where}/{name}/reason")
            if any(other.startswith(told) for other in wrong):
                state[state == FAILED] = MISSING  # whether they did, and why, is not known
            bad = state != feature.state
            self._rows[name] += int(bad.sum())
            dropped |= bad
            kept |= (state == OK) | ((state == FAILED) & (f"{where}/id" not in wrong))
            features[name] = replace(feature, state=state)
        gone = (dropped & ~kept) | cut_off
        if table.text is not None:
            gone |= wrong_pairs(table)
        size = table.size
        if size is not None and f"{where}/size" in wrong:
            size = np.zeros_like(size)
        names = table.names
        if names is not None:
            gone_names = f"{where}/path/row" in wrong
            names = self._sound_names(table, names, np.ones_like(gone) if gone_names else gone)
        return replace(table, features=features, names=names, size=size), gone

    def _sound_names(
        self, table: SealedTable, names: SealedNames, gone: NDArray[np.bool_]
    ) -> SealedNames:
        sound = sound_names(table, names)
        sound[sound] &= ~gone[names.row[sound]]
        if sound.all():
            return names
        self._names += int((~sound).sum())
        kept = np.flatnonzero(sound).tolist()
        content = NamesContent.of(
            {names.text[i]: (int(names.row[i]), int(names.folder[i])) for i in kept}
        )
        offset = np.concatenate([[0], np.cumsum(content.length)]).astype(np.uint64)
        data = np.frombuffer(b"".join(content.texts), np.uint8)
        return SealedNames(content.hash, content.row, TextColumn(data, offset), content.folder)

    def finish(self) -> RepairReport:
        """Write what is sound, if anything was not."""
        foreign = self._split_off_foreign()
        cache = FeatureCache.of_files(self._path, self._ordered(), trusted=False)
        keep = self._keep(cache)
        lost = {name: int((~rows).sum()) for name, rows in keep.items() if not rows.all()}
        twice = _features_of_two_tables(cache)
        broken = self._broken or any(twice.values())
        damage = bool(self._truncated or self._damaged or lost or self._names or +self._rows)
        # What nothing can be read of comes first: sealing would replace it.
        damaged = tuple(set_aside(self._path, file, "damaged") for file in self._damaged)
        others = tuple(set_aside(self._path, file.path, "foreign") for file in foreign)
        if cache.files and (damage or broken):
            selections = {
                table.name: Selection(
                    rows=keep[table.name], features=frozenset(table.features) - twice[table.name]
                )
                for table in cache.tables
            }
            seal(cache, selections=selections)
        return RepairReport(
            path=self._path,
            rows=dict(+self._rows),
            lost=lost,
            names=self._names,
            truncated=tuple(self._truncated),
            set_aside=damaged,
            foreign=others,
            repaired=damage or broken or bool(others),
        )

    def _split_off_foreign(self) -> list[SealedFile]:
        """Drop the parts of other caches from the files, and return them."""
        base = next((file for file in self._files if file.path == self._path), None)
        absorbed = base.absorbed if base else frozenset[str]()
        waiting = [
            file for file in self._files if file is not base and file.path.stem[5:] not in absorbed
        ]
        _, foreign = split_foreign(base, waiting)
        self._files = [file for file in self._files if file not in foreign]
        return foreign

    def _ordered(self) -> list[SealedFile]:
        """Oldest first. What is packed already is older than what it is packed in."""
        absorbed = {
            uuid for file in self._files if file.path == self._path for uuid in file.absorbed
        }

        def age(file: SealedFile) -> tuple[int, int, str]:
            rank = 1 if file.path == self._path else 0 if file.path.stem[5:] in absorbed else 2
            return rank, file.sequence, file.uuid

        return sorted(self._files, key=age)

    def _keep(self, cache: FeatureCache) -> dict[str, NDArray[np.bool_]]:
        """Which rows stay: those of which some file has something, and pairs of two that stay."""
        keep = {}
        for table in cache.tables:
            rows = np.zeros(len(table), bool)
            for number, file in enumerate(table.index.holders):
                there = np.flatnonzero(~self._gone[file.path, table.name])
                rows[table.index.union.place(number, there)] = True
            keep[table.name] = rows
        for table, ids in zip((cache.texts, cache.images), cache.pairs.pair_ids, strict=True):
            found = table.index.union.find(ids)
            keep["pairs"][found < 0] = False
            keep["pairs"][found >= 0] &= keep[table.name][found[found >= 0]]
        return keep


def _features_of_two_tables(cache: FeatureCache) -> dict[str, set[str]]:
    """By table, the features that an earlier table has, too."""
    seen: set[str] = set()
    twice = {}
    for table in cache.tables:
        twice[table.name] = seen & set(table.features)
        seen |= set(table.features)
    return twice


def _refuse_other_versions(path: Path, error: CacheFormatError) -> None:
    try:
        version = read_version(path)
    except CacheFormatError:
        return
    if version not in READABLE_VERSIONS:
        raise error
