"""The part of extraction that works: from a plan to rows in the cache, on one machine."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

from tqdm import tqdm

from mnerfeat.cache import pack, text_id, unreadable_id
from mnerfeat.extractors.base import Extractor, TextExtractor
from mnerfeat.extractors.config import ExtractConfig
from mnerfeat.extractors.device import Compute, choose_compute, matrix_precision
from mnerfeat.extractors.lane import DeviceLane, Rows
from mnerfeat.extractors.looking import Look
from mnerfeat.extractors.planning import ImageJob, ImagePlan, TextPlan
from mnerfeat.extractors.recording import Recorder
from mnerfeat.extractors.stopping import Stop, stopping
from mnerfeat.extractors.workers import Job, WorkerPool, look_here

logger = logging.getLogger(__name__)

_TEXTS_AT_ONCE = 256
_FEW_IMAGES: Final = 256
"""Below, decoding in the main process is done before a worker process has started."""


class LocalEngine:
    """Does what a plan says, on this machine: workers decode, one device looks, parts are sealed.

    Args:
        config: Of the run.
        extractors: Those asked for.
        plan: For the images.
        texts: For the texts.

    Attributes:
        compute: The device, once there was something to do.
        failed: Files that could not be used, with the reason.
        lost: How many images could not be decoded.
        cut_texts: How many texts were cut.
    """

    def __init__(
        self,
        config: ExtractConfig,
        extractors: Sequence[Extractor],
        plan: ImagePlan,
        texts: TextPlan,
    ) -> None:
        self._config = config
        self._extractors = {extractor.name: extractor for extractor in extractors}
        self._plan = plan
        self._texts = texts
        self._jobs = {job.id: job for job in plan.jobs}
        self._open = {job.id: len(job.extractors) for job in plan.jobs}
        self._unnamed: dict[bytes, tuple[int, int]] = {}
        self._recorder: Recorder | None = None
        self._bar: Any = None
        self.compute: Compute | None = None
        self.failed = [(file.name, file.reason) for file in plan.unreadable]
        self.lost = 0
        self.cut_texts = 0

    def run(self, reader: TextExtractor | None) -> None:
        """Do what there is to do, and pack the cache.

        Args:
            reader: The extractor that looks at texts, where there is one.

        Raises:
            StorageError: Where the disk is full; what was finished is kept.
            ModelError: Where a model cannot be loaded.
            KeyboardInterrupt: After SIGINT, when what was finished has been sealed.
            SystemExit: With 143, likewise after SIGTERM.
        """
        with stopping() as stop:
            with ExitStack() as stack:
                recorder = self._record_known(stack)
                if self._plan.jobs or self._texts.todo:
                    self._look(reader, recorder, stop, stack)
            if stop.event.is_set():
                logger.warning(
                    "stopped; what was finished is in %s, and the same command goes on from there",
                    self._config.cache,
                )
                stop.leave()
        pack(self._config.cache)

    def _look(
        self, reader: TextExtractor | None, recorder: Recorder, stop: Stop, stack: ExitStack
    ) -> None:
        self.compute = choose_compute(self._config.device, self._config.numerics)
        stack.enter_context(matrix_precision(self.compute))
        looks = self._looks(stack, stop)  # workers start while texts are looked at
        lane = DeviceLane(
            self._extractors,
            self.compute,
            size=self._config.batch_size,
            stop=stop.event,
            done=self._done,
        )
        stack.callback(lane.close)
        if reader and self._texts.todo:
            self._look_at_texts(reader, lane, stop)
        if self._plan.jobs and not stop.event.is_set():
            self._look_at_images(looks, recorder, lane, stop)

    def _look_at_texts(self, reader: TextExtractor, lane: DeviceLane, stop: Stop) -> None:
        todo = self._texts.todo
        with ExitStack() as stack:
            bar = stack.enter_context(
                progress_bar(self._config, total=len(todo), what="texts", unit=" texts")
            )
            recorder = Recorder(
                self._config.cache, "texts", reader.text_features, reader.provenance
            )
            stack.callback(recorder.close)
            for start in range(0, len(todo), _TEXTS_AT_ONCE):
                if stop.event.is_set():
                    return
                piece = todo[start : start + _TEXTS_AT_ONCE]
                rows, cut = lane.run_texts(reader, piece)
                self.cut_texts += cut
                for feature, values in rows.items():
                    for text, value in zip(piece, values, strict=True):
                        recorder.add(text_id(text), feature, value)
                recorder.seal()
                bar.update(len(piece))

    def _look_at_images(
        self, looks: Iterator[tuple[int, Look]], recorder: Recorder, lane: DeviceLane, stop: Stop
    ) -> None:
        total = len(self._plan.jobs)
        with progress_bar(self._config, total=total, what="extracting", unit=" images") as bar:
            self._bar = bar
            for number, look in looks:
                self._hand_on(self._plan.jobs[number], look, lane)
                lane.collect()
                if recorder.due:
                    recorder.seal()
            stop.announce()
            lane.finish()

    def _looks(self, stack: ExitStack, stop: Stop) -> Iterator[tuple[int, Look]]:
        jobs = (
            Job(path=self._config.images / job.name, extractors=job.extractors)
            for job in self._plan.jobs
        )
        prepares = {
            name: extractor.prepare
            for name, extractor in self._extractors.items()
            if any(name in job.extractors for job in self._plan.jobs)
        }
        workers = self._workers()
        if not workers:
            return look_here(jobs, prepares, stop.event)
        pool = stack.enter_context(
            WorkerPool(
                prepares,
                workers=workers,
                timeout=self._config.image_timeout,
                yielding=self.compute is not None and self.compute.device.type == "cpu",
            )
        )
        return pool.look(jobs, stop.event)

    def _workers(self) -> int:
        if self._config.workers is not None:
            return self._config.workers
        if len(self._plan.jobs) < _FEW_IMAGES:
            return 0
        assert self.compute is not None
        # On a CPU the models need the cores more than decoding does.
        return max(
            1, usable_cores() // 2 if self.compute.device.type == "cpu" else usable_cores() - 1
        )

    def _record_known(self, stack: ExitStack) -> Recorder:
        """A recorder with what is known without looking: new names, and unreadable files."""
        made = {
            name: provenance
            for extractor in self._extractors.values()
            for name, provenance in extractor.provenance.items()
        }
        specs = {
            name: spec
            for extractor in self._extractors.values()
            for name, spec in extractor.features.items()
        }
        recorder = self._recorder = Recorder(self._config.cache, "images", specs, made)
        stack.callback(recorder.close)
        for name, id_ in self._plan.new_names:
            recorder.name(id_, name)
        for file in self._plan.unreadable:
            if file.record:
                id_ = unreadable_id(file.name)
                recorder.name(id_, file.name)
                for extractor in self._extractors.values():
                    for feature in extractor.features:
                        recorder.fail(id_, feature, file.reason)
        return recorder

    def _hand_on(self, job: ImageJob, look: Look, lane: DeviceLane) -> None:
        """Give what came of a look to the device, or to the cache where nothing came of it."""
        changed = look.id not in {job.id, None}
        reason = "it was changed while it was being read; run it again" if changed else look.reason
        self._unnamed[job.id] = look.size
        if reason is not None:
            self.lost += 1
            self.failed.append((job.name, reason))
            for name in job.extractors:
                if not changed:
                    self._fail(job, name, reason)
                self._count_off(job.id)
            return
        for name, prepared in look.prepared.items():
            if isinstance(prepared, str):
                self.failed.append((job.name, f"{name}: {prepared}"))
                self._fail(job, name, prepared)
                self._count_off(job.id)
            else:
                lane.add(name, job.id, prepared)

    def _fail(self, job: ImageJob, extractor: str, reason: str) -> None:
        """Record that an extractor cannot use an image, unless the cache says so already."""
        for feature in self._extractors[extractor].features:
            if job.names or job.failures.get(feature) != reason:
                self._named(job).fail(job.id, feature, reason)

    def _done(self, extractor: str, ids: Sequence[bytes], rows: Rows) -> None:
        for i, id_ in enumerate(ids):
            job = self._jobs[id_]
            for feature, values in rows.items():
                reason = self._named(job).add(id_, feature, values[i])
                if reason:
                    self.failed.append((job.name, f"{extractor}: {reason}"))
            self._count_off(id_)

    def _named(self, job: ImageJob) -> Recorder:
        """The recorder, told of the image's names and size with its first row."""
        assert self._recorder is not None
        if job.id in self._unnamed:
            self._recorder.name(job.id, *job.names, size=self._unnamed.pop(job.id))
        return self._recorder

    def _count_off(self, id_: bytes) -> None:
        self._open[id_] -= 1
        if not self._open[id_]:
            self._bar.update(1)


def progress_bar(config: ExtractConfig, *, total: int | None, what: str, unit: str) -> "tqdm[Any]":
    """A progress bar on standard error, where that is a terminal or one was asked for."""
    shown = sys.stderr.isatty() if config.progress is None else config.progress
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=not shown,
        dynamic_ncols=True,
        leave=total is not None,
    )


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
