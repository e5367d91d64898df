"""From a plan to rows in the cache: what every engine does, and the engine for one machine."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, final

from mnerfeat.cache import pack
from mnerfeat.extraction.batching import Batcher
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.lane import DeviceLane
from mnerfeat.extraction.ledger import ImageLedger, record_texts
from mnerfeat.extraction.looking import Look
from mnerfeat.extraction.planning import ImagePlan, TextPlan
from mnerfeat.extraction.stopping import Stop, stopping
from mnerfeat.extraction.workers import Job, WorkerPool, look_here
from mnerfeat.extractors.base import Extractor, TextExtractor
from mnerfeat.extractors.device import Compute, choose_computes, matrix_precision, usable_cores

logger = logging.getLogger(__name__)

_FEW_IMAGES: Final = 256
"""Below, decoding in the main process is done before a worker process has started."""


class Engine(ABC):
    """Does what a plan says; one run.

    Args:
        config: Of the run.
        extractors: Those asked for.
        plan: For the images.
        texts: For the texts.
        make: Makes the extractors once more, for another device or another machine.

    Attributes:
        ledger: What came of the images.
        device: What models ran on, in words; None where there was nothing to do.
        cut_texts: How many texts were cut.
    """

    def __init__(
        self,
        config: ExtractConfig,
        extractors: Sequence[Extractor],
        plan: ImagePlan,
        texts: TextPlan,
        make: Callable[[], Sequence[Extractor]],
    ) -> None:
        self._config = config
        self._extractors = {extractor.name: extractor for extractor in extractors}
        self._plan = plan
        self._texts = texts
        self._make = make
        self.ledger = ImageLedger(config, extractors, plan)
        self.device: str | None = None
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
                stack.enter_context(self.ledger.open())
                if self._plan.jobs or self._texts.todo:
                    self._look(reader, stop, stack)
            if stop.event.is_set():
                logger.warning(
                    "stopped; what was finished is in %s, and the same command goes on from there",
                    self._config.cache,
                )
                stop.leave()
        pack(self._config.cache)

    @abstractmethod
    def _look(self, reader: TextExtractor | None, stop: Stop, stack: ExitStack) -> None:
        """Look at all texts and images, and tell the ledger. `stack` is closed after it."""


@final
class LocalEngine(Engine):
    """Workers of this machine decode, its devices look."""

    def _look(self, reader: TextExtractor | None, stop: Stop, stack: ExitStack) -> None:
        computes = choose_computes(self._config.device, self._config.numerics)
        self.device = ", ".join(str(compute.device) for compute in computes)
        for compute in computes:
            stack.enter_context(matrix_precision(compute))
        looks = self._looks(computes, stack, stop)  # workers start while texts are looked at
        lanes = self._lanes(computes, stack)
        batcher = Batcher(lanes, list(self._extractors), stop=stop.event, done=self.ledger.done)
        if reader and self._texts.todo:
            self.cut_texts = record_texts(
                self._config,
                reader,
                self._texts.todo,
                lambda piece: batcher.read_texts(reader.name, piece),
                stop.event.is_set,
            )
        if not self._plan.jobs or stop.event.is_set():
            return
        with self.ledger.progress():
            for number, look in looks:
                job = self._plan.jobs[number]
                for name, prepared in self.ledger.take(job, look).items():
                    batcher.add(name, job.id, prepared)
                batcher.collect()
                self.ledger.seal_when_due()
            stop.announce()
            batcher.finish()

    def _lanes(self, computes: Sequence[Compute], stack: ExitStack) -> list[DeviceLane]:
        # A model lies on one device; where there are several, each has its own.
        others = [{extractor.name: extractor for extractor in self._make()} for _ in computes[1:]]
        lanes = [
            DeviceLane(own, compute, size=self._config.batch_size)
            for own, compute in zip([self._extractors, *others], computes, strict=True)
        ]
        for lane in lanes:
            stack.callback(lane.close)
        return lanes

    def _looks(
        self, computes: Sequence[Compute], stack: ExitStack, stop: Stop
    ) -> Iterator[tuple[int, Look]]:
        jobs = (
            Job(path=self._config.images / job.name, extractors=job.extractors)
            for job in self._plan.jobs
        )
        wanted = {name for job in self._plan.jobs for name in job.extractors}
        prepares = {
            name: extractor.prepare
            for name, extractor in self._extractors.items()
            if name in wanted
        }
        on_cpu = any(compute.device.type == "cpu" for compute in computes)
        workers = self._workers(on_cpu=on_cpu)
        if not workers:
            return look_here(jobs, prepares, stop.event)
        pool = stack.enter_context(
            WorkerPool(
                prepares, workers=workers, timeout=self._config.image_timeout, yielding=on_cpu
            )
        )
        return pool.look(jobs, stop.event)

    def _workers(self, *, on_cpu: bool) -> int:
        if self._config.workers is not None:
            return self._config.workers
        if len(self._plan.jobs) < _FEW_IMAGES:
            return 0
        # On a CPU the models need the cores more than decoding does.
        return max(1, usable_cores() // 2 if on_cpu else usable_cores() - 1)
