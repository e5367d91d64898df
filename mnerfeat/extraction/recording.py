"""Rows on their way into the cache: gathered, sealed as parts, packed."""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import (
    FAILED,
    MISSING,
    OK,
    CacheWriter,
    FeatureRows,
    Provenance,
    TableRows,
    pack,
    stack_ids,
)
from mnerfeat.extractors.base import FeatureSpec

logger = logging.getLogger(__name__)

PART_ROWS: Final = 256
"""Rows after which a part is sealed."""

PART_SECONDS: Final = 15.0
"""Seconds after which a part is sealed, however few its rows are."""

PACK_PARTS: Final = 64
"""Parts after which they are packed; twice as many each time, for a pack rewrites everything."""


@dataclass
class _Row:
    names: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class Recorder:
    """Gathers rows of one table and seals them as parts, in a thread of its own.

    What was gathered before `close` returned is on the disk and stays there.

    Args:
        path: Of the cache.
        table: `images` or `texts`.
        features: That rows may hold.
        provenance: What makes each of them.
    """

    def __init__(
        self,
        path: Path,
        table: Literal["images", "texts"],
        features: Mapping[str, FeatureSpec],
        provenance: Mapping[str, Provenance],
    ) -> None:
        self._path = path
        self._table = table
        self._features = features
        self._provenance = provenance
        self._writer = CacheWriter(path)
        self._rows: dict[bytes, _Row] = {}
        self._since = time.monotonic()
        self._parts = 0
        self._pack_at = PACK_PARTS
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mnerfeat-writer")
        self._sealing: Future[None] | None = None

    def name(self, id_: bytes, *names: str, size: tuple[int, int] = (0, 0)) -> None:
        """Names that lead to an image, and its size in pixels."""
        row = self._row(id_)
        row.names += names
        row.size = size

    def add(self, id_: bytes, feature: str, value: NDArray[Any]) -> str | None:
        """A row of a feature, as computed; one that is not finite is recorded as failed.

        Returns:
            Why it failed, or None.
        """
        spec = self._features[feature]
        with np.errstate(over="ignore"):
            stored = np.asarray(value).astype(spec.dtype)
        if np.isfinite(stored).all():
            self._row(id_).values[feature] = stored
            return None
        overflow = np.isfinite(value).all()
        reason = f"too large for {spec.dtype.name}" if overflow else "the output is not finite"
        self.fail(id_, feature, reason)
        return reason

    def fail(self, id_: bytes, feature: str, reason: str) -> None:
        """A row of a feature that cannot be had."""
        self._row(id_).reasons[feature] = reason

    @property
    def due(self) -> bool:
        """Whether it is time to seal."""
        waiting = bool(self._rows) and time.monotonic() - self._since >= PART_SECONDS
        return waiting or len(self._rows) >= PART_ROWS

    def seal(self) -> None:
        """Begin to write what has been gathered as a part.

        Raises:
            StorageError: Where the part before could not be written.
        """
        self._settle()
        if not self._rows:
            return
        rows, self._rows = self._rows, {}
        self._sealing = self._thread.submit(self._write, rows)

    def close(self) -> None:
        """Write everything that has been gathered, and wait until it is on the disk.

        Raises:
            StorageError: Where it could not be written.
        """
        try:
            self.seal()
            self._settle()
        finally:
            self._thread.shutdown()

    def _row(self, id_: bytes) -> _Row:
        if not self._rows:
            self._since = time.monotonic()
        return self._rows.setdefault(id_, _Row())

    def _settle(self) -> None:
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def _write(self, rows: Mapping[bytes, _Row]) -> None:
        table = self._content(rows)
        if self._table == "images":
            self._writer.put(images=table)
        else:
            self._writer.put(texts=table)
        self._parts += 1
        if self._parts >= self._pack_at:
            pack(self._path)
            self._parts = 0
            self._pack_at *= 2

    def _content(self, rows: Mapping[bytes, _Row]) -> TableRows:
        gathered = list(rows.values())
        images = self._table == "images"
        return TableRows(
            ids=stack_ids(list(rows)),
            features={
                name: self._feature(name, spec, gathered)
                for name, spec in self._features.items()
                if any(name in row.values or name in row.reasons for row in gathered)
            },
            names=[(name, i) for i, row in enumerate(gathered) for name in row.names],
            size=np.array([row.size for row in gathered], np.int32) if images else None,
        )

    def _feature(self, name: str, spec: FeatureSpec, rows: list[_Row]) -> FeatureRows:
        data = np.zeros((len(rows), *spec.shape), spec.dtype)
        state = np.full(len(rows), MISSING, np.uint8)
        reasons: dict[int, str] = {}
        for i, row in enumerate(rows):
            if name in row.values:
                data[i], state[i] = row.values[name], OK
            elif name in row.reasons:
                state[i], reasons[i] = FAILED, row.reasons[name]
        return FeatureRows(
            data=data, state=state, provenance=self._provenance[name], reasons=reasons
        )
