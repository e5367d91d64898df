"""Recording results in the cache: rows and failures of images and texts, sealed as parts."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
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
    text_id,
    unreadable_id,
)
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.decoding import DecodeResult
from mnerfeat.extraction.plan import ImageJob, Plan
from mnerfeat.extraction.progress import show_progress
from mnerfeat.extraction.runner import Rows
from mnerfeat.extractors.base import FeatureSpec, Prepared

PART_ROWS: Final = 256
"""Number of rows after which a part is sealed."""

PART_SECONDS: Final = 15.0
"""Seconds after which a part is sealed even if it has fewer rows."""

PACK_PARTS: Final = 64
"""Number of parts after which they are packed; doubled each time, since packing rewrites all."""

TEXT_BATCH: Final = 256
"""Number of texts that are read and recorded together."""

ReadTexts = Callable[[Sequence[str]], tuple[Rows, int]]
"""Runs a model on some texts: their rows, and how many were cut."""


class ImageRecorder:
    """Records the images of one run. Enter `open` around everything else.

    Args:
        plan: Plan of the run.

    Attributes:
        failed: Files that could not be used, with the reason.
        undecodable: Number of images that could not be decoded.
        profiles_ignored: Number of images whose colour profile is ignored.
        transparency_dropped: Number of images whose transparency is dropped.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._jobs = {job.id: job for job in plan.images.jobs}
        self._remaining = {job.id: len(job.extractors) for job in plan.images.jobs}
        self._sizes: dict[bytes, tuple[int, int]] = {}
        self._parts: PartWriter | None = None
        self._progress: Any = None
        self.failed = [(file.name, file.reason) for file in plan.images.unreadable]
        self.undecodable = self.profiles_ignored = self.transparency_dropped = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Record new names and unreadable files at once; on exit, everything is on the disk."""
        provenance: dict[str, Provenance] = {}
        specs: dict[str, FeatureSpec] = {}
        for extractor in self._plan.extractors.values():
            provenance |= extractor.provenance
            specs |= extractor.features
        parts = self._parts = PartWriter(self._plan.config, "images", specs, provenance)
        try:
            for name, id_ in self._plan.images.new_names:
                parts.name(id_, name)
            for file in self._plan.images.unreadable:
                if file.record:
                    parts.name(unreadable_id(file.name), file.name)
                    for feature in specs:
                        parts.fail(unreadable_id(file.name), feature, file.reason)
            yield
        finally:
            parts.close()

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show how many images are done."""
        with show_progress(
            self._plan.config, total=len(self._jobs), what="extracting", unit="images"
        ) as self._progress:
            yield

    @property
    def records_names(self) -> bool:
        """Whether there is something to record even if no model runs."""
        images = self._plan.images
        return bool(images.new_names) or any(file.record for file in images.unreadable)

    @property
    def unfinished(self) -> Sequence[ImageJob]:
        """Jobs that are not recorded in full yet."""
        return tuple(self._jobs.values())

    def record_decoded(self, job: ImageJob, result: DecodeResult) -> Mapping[str, Prepared]:
        """Record what decoding says about an image.

        Returns:
            By extractor, the input for its model; its rows go to `record_rows`.
        """
        changed = was_changed(job.id, result)
        reason = "it changed while it was being read; run again" if changed else result.reason
        self._sizes[job.id] = result.size
        self.profiles_ignored += result.profile_ignored
        self.transparency_dropped += result.transparency_dropped
        if reason is not None:
            self.undecodable += 1
            self.failed.append((job.name, reason))
            for name in job.extractors:
                if not changed:
                    self._record_failure(job, name, reason)
                self._count(job.id)
            return {}
        inputs: dict[str, Prepared] = {}
        for name, prepared in result.prepared.items():
            if isinstance(prepared, str):
                self.failed.append((job.name, f"{name}: {prepared}"))
                self._record_failure(job, name, prepared)
                self._count(job.id)
            else:
                inputs[name] = prepared
        return inputs

    def record_rows(self, extractor: str, ids: Sequence[bytes], rows: Rows) -> None:
        """Record the rows that an extractor computed for some images."""
        for i, id_ in enumerate(ids):
            job = self._jobs[id_]
            for feature, values in rows.items():
                reason = self._named(job).add(id_, feature, values[i])
                if reason:
                    self.failed.append((job.name, f"{extractor}: {reason}"))
            self._count(id_)

    def seal_when_due(self) -> None:
        """Start writing a part if enough rows have gathered, or the last part was long ago.

        Raises:
            StorageError: If the previous part could not be written.
        """
        assert self._parts is not None
        if self._parts.due:
            self._parts.seal()

    def _record_failure(self, job: ImageJob, extractor: str, reason: str) -> None:
        """Record that an extractor cannot use an image, unless the cache has it already."""
        for feature in self._plan.extractors[extractor].features:
            if job.names or job.failures.get(feature) != reason:
                self._named(job).fail(job.id, feature, reason)

    def _named(self, job: ImageJob) -> "PartWriter":
        """Return the writer, after giving it the image's names and size with its first row."""
        assert self._parts is not None
        if job.id in self._sizes:
            self._parts.name(job.id, *job.names, size=self._sizes.pop(job.id))
        return self._parts

    def _count(self, id_: bytes) -> None:
        self._remaining[id_] -= 1
        if not self._remaining[id_]:
            # Forget finished images, so that memory does not grow during the run.
            del self._remaining[id_], self._jobs[id_]
            self._sizes.pop(id_, None)
            if self._progress is not None:
                self._progress.update(1)


def was_changed(id_: bytes, result: DecodeResult) -> bool:
    """Tell whether a file had other bytes when it was decoded than when it was planned."""
    return result.id not in {id_, None}


def record_texts(plan: Plan, read: ReadTexts, stop: Event) -> int:
    """Run a model on the texts of a plan, some at a time, and record their rows.

    Args:
        plan: Plan of the run.
        read: Runs the model.
        stop: Ends the loop when set.

    Returns:
        Number of texts that were cut.
    """
    reader, texts = plan.reader, plan.texts.todo
    if reader is None or not texts:
        return 0
    cut_texts = 0
    parts = PartWriter(plan.config, "texts", reader.text_features, reader.provenance)
    try:
        with show_progress(plan.config, total=len(texts), what="texts", unit="texts") as progress:
            for start in range(0, len(texts), TEXT_BATCH):
                if stop.is_set():
                    break
                batch = texts[start : start + TEXT_BATCH]
                rows, cut = read(batch)
                cut_texts += cut
                for feature, values in rows.items():
                    for text, value in zip(batch, values, strict=True):
                        parts.add(text_id(text), feature, value)
                parts.seal()
                progress.update(len(batch))
    finally:
        parts.close()
    return cut_texts


@dataclass
class _Row:
    names: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class PartWriter:
    """Gathers rows of one table and seals them as parts, in a thread of its own.

    Once `close` returns, everything gathered before is on the disk and stays there.

    Args:
        config: Configuration of the run.
        table: `images` or `texts`.
        features: Shapes and types of the features.
        provenance: Provenance of each feature.
    """

    def __init__(
        self,
        config: ExtractConfig,
        table: Literal["images", "texts"],
        features: Mapping[str, FeatureSpec],
        provenance: Mapping[str, Provenance],
    ) -> None:
        self._config = config
        self._table = table
        self._features = features
        self._provenance = provenance
        self._writer = CacheWriter(config.cache)
        self._rows: dict[bytes, _Row] = {}
        self._since = time.monotonic()
        self._parts = 0
        self._pack_at = PACK_PARTS
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mnerfeat-writer")
        self._sealing: Future[None] | None = None

    def name(self, id_: bytes, *names: str, size: tuple[int, int] = (0, 0)) -> None:
        """Set the names that lead to an image, and its size in pixels."""
        row = self._row(id_)
        row.names += names
        row.size = size

    def add(self, id_: bytes, feature: str, value: NDArray[Any]) -> str | None:
        """Add a row as computed; a value that is not finite is recorded as a failure.

        Returns:
            The reason for a failure, or None.
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
        """Add a failed row of a feature."""
        self._row(id_).reasons[feature] = reason

    @property
    def due(self) -> bool:
        """Whether it is time to seal a part."""
        waiting = bool(self._rows) and time.monotonic() - self._since >= PART_SECONDS
        return waiting or len(self._rows) >= PART_ROWS

    def seal(self) -> None:
        """Start writing the gathered rows as a part.

        Raises:
            StorageError: If the previous part could not be written.
        """
        self._wait()
        if not self._rows:
            return
        rows, self._rows = self._rows, {}
        self._sealing = self._thread.submit(self._write, rows)

    def close(self) -> None:
        """Write everything that has been gathered, and wait until it is on the disk.

        Raises:
            StorageError: If it could not be written.
        """
        try:
            self.seal()
            self._wait()
        finally:
            self._thread.shutdown()

    def _row(self, id_: bytes) -> _Row:
        if not self._rows:
            self._since = time.monotonic()
        return self._rows.setdefault(id_, _Row())

    def _wait(self) -> None:
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def _write(self, rows: Mapping[bytes, _Row]) -> None:
        content = self._content(list(rows), list(rows.values()))
        self._writer.put(
            **{self._table: content}, replace=self._config.replace, rename=self._config.rename
        )
        self._parts += 1
        if self._parts >= self._pack_at:
            pack(self._config.cache)
            self._parts = 0
            self._pack_at *= 2

    def _content(self, ids: Sequence[bytes], rows: Sequence[_Row]) -> TableRows:
        images = self._table == "images"
        return TableRows(
            ids=stack_ids(ids),
            features={
                name: self._feature(name, rows)
                for name in self._features
                if any(name in row.values or name in row.reasons for row in rows)
            },
            names=[(name, i) for i, row in enumerate(rows) for name in row.names],
            folder=self._config.images if images else None,
            size=np.array([row.size for row in rows], np.int32) if images else None,
        )

    def _feature(self, name: str, rows: Sequence[_Row]) -> FeatureRows:
        spec = self._features[name]
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
