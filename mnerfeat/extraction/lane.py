"""One device: its models, how much they take at once, and the threads that feed it."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Semaphore
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from mnerfeat.errors import ExtractionError
from mnerfeat.extractors.base import Extractor
from mnerfeat.extractors.device import Compute, is_out_of_memory

logger = logging.getLogger(__name__)

WAITING: Final = 2
"""Batches that wait for a device at most: it never idles, and memory stays bounded."""

Result = TypeVar("Result")

Rows = Mapping[str, NDArray[Any]]
"""Rows by feature."""


class DeviceLane:
    """Runs extractors on one device, batch after batch.

    A GPU has two threads: while one batch runs, the next is copied to it, and the rows of the
    one before are fetched. On a CPU there is one, since the models use all cores anyway.

    Args:
        extractors: By name; no other lane may use them.
        compute: The device.
        size: Inputs that run at once, or None for what suits the device and its memory.
    """

    def __init__(
        self, extractors: Mapping[str, Extractor], compute: Compute, *, size: int | None
    ) -> None:
        self._extractors = extractors
        self._compute = compute
        self._sizes = {
            name: size or compute.fitting_size(extractor.default_size(compute))
            for name, extractor in extractors.items()
        }
        self._loaded: set[str] = set()
        self._loading = Lock()
        self._n_threads = 2 if compute.device.type == "cuda" else 1
        self._threads = ThreadPoolExecutor(
            self._n_threads, thread_name_prefix="mnerfeat-device", initializer=compute.claim_thread
        )
        self._turns = Semaphore(self._n_threads)
        self._clearing = Lock()
        self.depth = self._n_threads + WAITING
        """Batches to hand over before waiting for one."""

    def images_at_once(self, name: str) -> int:
        """How many images an extractor is best given at a time, after what memory has shown."""
        return self._extractors[name].images_at_once(self._sizes[name])

    def submit(self, name: str, look: Callable[[Any, int], Result]) -> "Future[Result]":
        """Run an extractor in one of the device's threads.

        Args:
            name: Of the extractor.
            look: Is given the extractor, loaded, and how many inputs to run at once; it is
                called again with half of that where memory runs out, and at last with one input
                while nothing else runs on the device.

        Returns:
            What `look` gives; or raises `ModelError` where the model cannot be loaded, and
            `ExtractionError` where there is no memory for a single input.
        """
        return self._threads.submit(self._run, name, look)

    def close(self) -> None:
        """End the threads, after the batches that run."""
        self._threads.shutdown(cancel_futures=True)

    def _run(self, name: str, look: Callable[[Any, int], Result]) -> Result:
        self._load(name)
        alone = self._n_threads == 1
        while True:
            size = self._sizes[name]
            try:
                with self._turn(alone=alone):
                    return look(self._extractors[name], size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1 and alone:
                    raise ExtractionError(
                        f"{self._compute.device} has not enough memory for {name} to look at a "
                        "single image",
                        hint="stop what else uses it, or choose another one with --device",
                    ) from error
            # Outside of `except`, so that nothing holds the tensors of the failed batch.
            self._compute.forget_memory()
            if size == 1:
                alone = True  # what another thread's batch holds may be all that it takes
                continue
            self._sizes[name] = min(self._sizes[name], size // 2)
            logger.warning("%s: out of memory, going on with %d at once", name, size // 2)

    @contextlib.contextmanager
    def _turn(self, *, alone: bool) -> Iterator[None]:
        """The right to use the device: beside the other thread, or alone."""
        with contextlib.ExitStack() as turns:
            if alone:
                turns.enter_context(self._clearing)  # two that wait for each other's would for ever
                for _ in range(self._n_threads):
                    turns.enter_context(self._turns)
                self._compute.forget_memory()
            else:
                turns.enter_context(self._turns)
            yield

    def _load(self, name: str) -> None:
        with self._loading:
            if name not in self._loaded:
                logger.info("loading %s", name)
                self._extractors[name].load(self._compute)
                self._compute.settle()
                self._loaded.add(name)
