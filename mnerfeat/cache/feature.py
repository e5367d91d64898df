"""One feature of a cache: its rows as arrays, as a torch tensor, as a column of a data set."""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnerfeat.cache.rows import Index, JoinedFeature, Rows
from mnerfeat.cache.schema import FAILED, OK, Provenance
from mnerfeat.cache.storage import map_again
from mnerfeat.errors import CacheLookupError, ProvenanceError

_ROWS_AT_ONCE = 1024


class Feature:
    """One feature of one table: `feature[rows]` reads rows.

    It is a sequence of rows: `len`, iteration and `np.asarray` work, and `torch.utils.data` takes
    it as a data set (by itself, in a `Subset` or in a `StackDataset`), in worker processes too.

    Attributes:
        name: In the cache.
        table: `images`, `texts` or `pairs`.
        provenance: What made it.
        generation: Orders the provenances of one feature: the largest is the newest.
        row_shape: Of one row, for example `(768,)`; `()` for a number.
        dtype: As stored.
    """

    def __init__(self, name: str, joined: JoinedFeature, index: Index) -> None:
        self.name = name
        self.table = index.name
        self.joined = joined
        self.provenance = joined.provenance
        self.generation = joined.generation
        self.row_shape = joined.row_shape
        self.dtype = joined.dtype
        self._index = index
        self._length = joined.n_rows

    def __len__(self) -> int:
        return self._length

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, …)."""
        return (self._length, *self.row_shape)

    @property
    def state(self) -> NDArray[np.uint8]:
        """(n,) uint8, of every row of the table: MISSING, OK or FAILED."""
        return self.joined.state

    @cached_property
    def complete(self) -> bool:
        """Whether every row of the table is OK."""
        return bool((self.state == OK).all())

    @cached_property
    def failures(self) -> Mapping[int, str]:
        """Failure reasons by row."""
        return self.joined.reasons()

    def __getitem__(self, rows: int | slice | ArrayLike) -> NDArray[Any]:
        """Return the data of some rows, all of which must be OK.

        Args:
            rows: A row number, a slice, or (k,) row numbers.

        Returns:
            (…) for one row, (k, …) otherwise. A slice of a packed cache is a view of the file
            and takes no memory, so slices cannot be written to; anything else is a copy.

        Raises:
            CacheLookupError: If a row is missing or failed; it names every one.
        """
        if isinstance(rows, slice):
            return self._slice(rows)
        wanted = self._rows(rows)
        if not self.complete:
            self._check(wanted)
        data = self.joined.take(wanted)
        return data[0] if isinstance(rows, (int, np.integer)) else data

    def __getitems__(self, rows: Sequence[int]) -> NDArray[Any]:
        """The same, under the name by which torch's `DataLoader` asks for a whole batch."""
        return self[rows]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Row by row; all of them must be OK."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self[start : start + _ROWS_AT_ONCE]

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """All rows, for `np.asarray` and everything that calls it."""
        return np.array(self[:], dtype, copy=copy)

    def read(self, rows: slice | ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the data of some rows, zeros if a row is not OK, and which rows are.

        Returns:
            (k, …), and (k,) bool.
        """
        wanted = self._rows(rows)
        valid = self.state[wanted] == OK
        data = self.joined.take(wanted)
        if not valid.all():
            data[~valid] = 0
        return data, valid

    @property
    def mapped(self) -> bool:
        """Whether the rows lie in one file, one after the other, so that `tensor` can show it."""
        whole = self.joined.whole
        return whole is not None and whole.offset is not None

    def tensor(self, *, allow_missing: bool = False) -> Any:
        """Return all rows as a torch tensor that takes no memory of its own.

        It shows the file itself, page by page as it is used. Writing to it is possible and
        changes neither the file nor what anybody else reads. If the cache is not packed, or was
        replaced since it was opened, it is a copy.

        Args:
            allow_missing: Return zeros for rows that are not OK (`state` says which).

        Returns:
            torch.Tensor, (n, …).

        Raises:
            CacheLookupError: If rows are not OK; it names every one.
            ModuleNotFoundError: If torch is not installed.
        """
        torch = importlib.import_module("torch")
        if not allow_missing and not self.complete:
            self._check(np.arange(len(self)))
        data = self._private_view()
        if data is None:
            data = self.joined.take(np.arange(len(self)))
        if not self.complete:
            # Our own files have zeros there already; those of others need not.
            unfit = np.flatnonzero(self.state != OK)
            if data[unfit].any():
                data[unfit] = 0
        return torch.from_numpy(data)

    def require(self, provenance: Provenance, *, command: str) -> None:
        """Make sure that this feature has the provenance that a run asks for.

        Args:
            provenance: What the run asks for.
            command: The command that recomputes the feature.

        Raises:
            ProvenanceError: If it has another; the error shows every fact that differs.
        """
        if provenance != self.provenance:
            raise ProvenanceError(
                f"{self.name} in {self._index.path} has another provenance than this run asks for:",
                faults=self.provenance.differences(provenance, "in the cache", "requested"),
                hint=command,
            )

    def fingerprint(self, rows: ArrayLike | None = None) -> str:
        """Return the SHA-256, in hex, of some rows and their provenance.

        Args:
            rows: (k,) row numbers, in any order; all rows by default. Rows that are not OK
                count as absent.
        """
        wanted = np.unique(self._rows(slice(None) if rows is None else rows))
        wanted = wanted[self.state[wanted] == OK]
        digest = hashlib.sha256(self.provenance.digest.encode())
        digest.update(self._index.ids[wanted].tobytes())
        digest.update(self.joined.take_crc32(wanted).astype("<u4").tobytes())
        return digest.hexdigest()

    def digest(self) -> str:
        """Return the SHA-256, in hex, of all rows: data, states, reasons and provenance."""
        digest = hashlib.sha256(self.fingerprint().encode())
        digest.update(self._index.ids.tobytes() + self.state.tobytes())
        for row, reason in sorted(self.failures.items()):
            digest.update(f"{row} {reason}\n".encode())
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Another process opens the same files anew: no rows are sent."""
        return _reopen, (self._index.reopen, self.name)

    def _slice(self, rows: slice) -> NDArray[Any]:
        if not self.complete and (self.state[rows] != OK).any():
            self._check(np.arange(len(self))[rows])
        whole = self.joined.whole
        data = whole.data[rows] if whole else self.joined.take(np.arange(len(self))[rows])
        data.flags.writeable = False
        return data

    def _rows(self, rows: int | slice | ArrayLike) -> Rows:
        if isinstance(rows, slice):
            return np.arange(len(self))[rows]
        given = np.asarray(rows)
        if given.dtype == bool:
            given = np.flatnonzero(given)
        numbers = given.dtype.kind in "iu" or not given.size
        if numbers and given.ndim < 2:
            wanted = np.atleast_1d(given.astype(np.int64, copy=False))
            # Seen as unsigned numbers, those below zero are beyond the end.
            if not wanted.size or np.maximum.reduce(wanted.view(np.uint64)) < self._length:
                return wanted
        raise CacheLookupError(
            f"rows of {self.name} are whole numbers from 0 to {len(self) - 1} in one dimension; "
            f"got {given.dtype} of shape {given.shape}"
            + (f", from {given.min()} to {given.max()}" if numbers and given.size else "")
        )

    def _check(self, rows: Rows) -> None:
        unfit = np.unique(rows[self.state[rows] != OK])
        if not len(unfit):
            return
        names = self._index.describe(unfit)
        raise CacheLookupError(
            f"{self.name} in {self._index.path} lacks {len(unfit):,} of the rows asked for:",
            faults=[
                f"{name}: {self.failures[row] if self.state[row] == FAILED else 'not extracted'}"
                for name, row in zip(names, unfit.tolist(), strict=True)
            ],
            hint="run `mnerfeat extract` for these, or use `read`, which says which rows it has",
        )

    def _private_view(self) -> NDArray[Any] | None:
        """All rows, in a map of the file that may be written to without changing it."""
        source = self.joined.whole
        if source is None or source.offset is None:
            return None
        mapped = map_again(*source.place)
        if mapped is None:
            return None
        return np.frombuffer(mapped, self.dtype, source.data.size, source.offset).reshape(
            self.shape
        )


def _reopen(reopen: Callable[[], Mapping[str, Feature]], name: str) -> Feature:
    return reopen()[name]
