"""What comes of every image and text: rows on their way into the cache, and what failed.

Engines differ in where images are decoded and models run; the books are kept here, once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mnerfeat.cache import text_id, unreadable_id
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.lane import Rows
from mnerfeat.extraction.looking import Look
from mnerfeat.extraction.planning import ImageJob, ImagePlan
from mnerfeat.extraction.progress import progress_bar
from mnerfeat.extraction.recording import Recorder
from mnerfeat.extractors.base import Extractor, Prepared, TextExtractor

TEXTS_AT_ONCE = 256

ReadTexts = Callable[[Sequence[str]], tuple[Rows, int]]
"""Looks at some texts: their rows, and how many were cut."""


class ImageLedger:
    """Keeps the books of a run over images. Use `open` around everything else.

    Args:
        config: Of the run.
        extractors: Those asked for.
        plan: What there is to do.

    Attributes:
        failed: Files that could not be used, with the reason.
        lost: How many images could not be decoded.
    """

    def __init__(
        self, config: ExtractConfig, extractors: Sequence[Extractor], plan: ImagePlan
    ) -> None:
        self._config = config
        self._extractors = {extractor.name: extractor for extractor in extractors}
        self._plan = plan
        self._jobs = {job.id: job for job in plan.jobs}
        self._open = {job.id: len(job.extractors) for job in plan.jobs}
        self._unnamed: dict[bytes, tuple[int, int]] = {}
        self._recorder: Recorder | None = None
        self._bar: Any = None
        self.failed = [(file.name, file.reason) for file in plan.unreadable]
        self.lost = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Record what is known without looking: new names, and unreadable files.

        What was recorded is on the disk when this ends, however it ends.
        """
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
        try:
            for name, id_ in self._plan.new_names:
                recorder.name(id_, name)
            for file in self._plan.unreadable:
                if file.record:
                    self._record_unreadable(recorder, file.name, file.reason)
            yield
        finally:
            recorder.close()

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show how many images are done."""
        total = len(self._plan.jobs)
        with progress_bar(self._config, total=total, what="extracting", unit=" images") as bar:
            self._bar = bar
            yield

    def take(self, job: ImageJob, look: Look) -> Mapping[str, Prepared]:
        """Record what of a look needs no device.

        Returns:
            By extractor, what is left for the device to look at; `done` takes what comes of it.
        """
        changed = was_changed(job.id, look)
        reason = "it was changed while it was being read; run it again" if changed else look.reason
        self._unnamed[job.id] = look.size
        if reason is not None:
            self.lost += 1
            self.failed.append((job.name, reason))
            for name in job.extractors:
                if not changed:
                    self._fail(job, name, reason)
                self._count_off(job.id)
            return {}
        left: dict[str, Prepared] = {}
        for name, prepared in look.prepared.items():
            if isinstance(prepared, str):
                self.failed.append((job.name, f"{name}: {prepared}"))
                self._fail(job, name, prepared)
                self._count_off(job.id)
            else:
                left[name] = prepared
        return left

    def done(self, extractor: str, ids: Sequence[bytes], rows: Rows) -> None:
        """Record the rows that an extractor gave for some images."""
        for i, id_ in enumerate(ids):
            job = self._jobs[id_]
            for feature, values in rows.items():
                reason = self._named(job).add(id_, feature, values[i])
                if reason:
                    self.failed.append((job.name, f"{extractor}: {reason}"))
            self._count_off(id_)

    def seal_when_due(self) -> None:
        """Begin to write what was recorded, where that is enough or a while ago.

        Raises:
            StorageError: Where the part before could not be written.
        """
        assert self._recorder is not None
        if self._recorder.due:
            self._recorder.seal()

    def _record_unreadable(self, recorder: Recorder, name: str, reason: str) -> None:
        id_ = unreadable_id(name)
        recorder.name(id_, name)
        for extractor in self._extractors.values():
            for feature in extractor.features:
                recorder.fail(id_, feature, reason)

    def _fail(self, job: ImageJob, extractor: str, reason: str) -> None:
        """Record that an extractor cannot use an image, unless the cache says so already."""
        for feature in self._extractors[extractor].features:
            if job.names or job.failures.get(feature) != reason:
                self._named(job).fail(job.id, feature, reason)

    def _named(self, job: ImageJob) -> Recorder:
        """The recorder, told of the image's names and size with its first row."""
        assert self._recorder is not None
        if job.id in self._unnamed:
            self._recorder.name(job.id, *job.names, size=self._unnamed.pop(job.id))
        return self._recorder

    def _count_off(self, id_: bytes) -> None:
        self._open[id_] -= 1
        if not self._open[id_]:
            # What is done is let go of: a run's memory does not grow with what it has done.
            del self._open[id_], self._jobs[id_]
            self._unnamed.pop(id_, None)
            self._bar.update(1)


def was_changed(id_: bytes, look: Look) -> bool:
    """Whether a file held other bytes when it was decoded than when it was planned."""
    return look.id not in {id_, None}


def record_texts(
    config: ExtractConfig,
    reader: TextExtractor,
    texts: Sequence[str],
    read: ReadTexts,
    stopped: Callable[[], bool],
) -> int:
    """Look at texts, some at a time, and record their rows.

    Args:
        config: Of the run.
        reader: The extractor that `read` runs.
        texts: Those that the cache lacks.
        read: Looks at some of them.
        stopped: Whether the run is to end now.

    Returns:
        How many of the texts were cut.
    """
    cut_texts = 0
    recorder = Recorder(config.cache, "texts", reader.text_features, reader.provenance)
    try:
        with progress_bar(config, total=len(texts), what="texts", unit=" texts") as bar:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                if stopped():
                    break
                piece = texts[start : start + TEXTS_AT_ONCE]
                rows, cut = read(piece)
                cut_texts += cut
                for feature, values in rows.items():
                    for text, value in zip(piece, values, strict=True):
                        recorder.add(text_id(text), feature, value)
                recorder.seal()
                bar.update(len(piece))
    finally:
        recorder.close()
    return cut_texts
