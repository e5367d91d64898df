"""Running models: one runner per device, and the batcher that shares images among runners."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, Lock, Semaphore
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from mnerfeat.errors import ExtractionError
from mnerfeat.extractors.base import Extractor, Prepared, TextExtractor
from mnerfeat.extractors.device import Compute, is_out_of_memory

logger = logging.getLogger(__name__)

WAITING_BATCHES: Final = 2
"""Maximum number of batches that wait for a device: enough to keep it busy in bounded memory."""

_POLL_SECONDS: Final = 0.2  # how often the stop request is checked

Result = TypeVar("Result")

Rows = Mapping[str, NDArray[Any]]
"""Rows by feature."""


class DeviceRunner:
    """Runs extractors on one device.

    A GPU has two threads: while one batch runs, the next is copied to the device and the rows of
    the previous one are fetched. A CPU has one, since models use all cores anyway.

    Args:
        extractors: Extractors by name; no other runner may use them.
        compute: The device.
        batch_size: Batch size; None for one that suits the device and its memory.
    """

    def __init__(
        self, extractors: Mapping[str, Extractor], compute: Compute, *, batch_size: int | None
    ) -> None:
        self._extractors = extractors
        self._compute = compute
        self._batch_sizes = {
            name: batch_size or compute.fitting_size(extractor.default_size(compute))
            for name, extractor in extractors.items()
        }
        self._loaded: set[str] = set()
        self._loading = Lock()
        self._n_threads = 2 if compute.device.type == "cuda" else 1
        self._threads = ThreadPoolExecutor(
            self._n_threads, thread_name_prefix="mnerfeat-device", initializer=compute.claim_thread
        )
        self._turns = Semaphore(self._n_threads)
        self._exclusive = Lock()
        self.capacity = self._n_threads + WAITING_BATCHES
        """Maximum number of batches in flight."""

    def images_at_once(self, name: str) -> int:
        """Return how many images an extractor takes per batch, given the memory seen so far."""
        return self._extractors[name].images_at_once(self._batch_sizes[name])

    def submit(self, name: str, call: Callable[[Any, int], Result]) -> "Future[Result]":
        """Run an extractor in one of the device's threads.

        Args:
            name: Name of the extractor.
            call: Receives the loaded extractor and the batch size. It is called again with half
                the batch size after each out-of-memory error, at last with one input while
                nothing else runs on the device.

        Returns:
            The result of `call`. It raises `ModelError` if the model cannot be loaded, and
            `ExtractionError` if there is no memory for a single input.
        """
        return self._threads.submit(self._run, name, call)

    def close(self) -> None:
        """End the threads after the running batches."""
        self._threads.shutdown(cancel_futures=True)

    def _run(self, name: str, call: Callable[[Any, int], Result]) -> Result:
        self._load(name)
        alone = self._n_threads == 1
        while True:
            size = self._batch_sizes[name]
            try:
                with self._turn(alone=alone):
                    return call(self._extractors[name], size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1 and alone:
                    raise ExtractionError(
                        f"{self._compute.device} has not enough memory for {name} to run on a "
                        "single image",
                        hint="stop other programs that use it, or choose another --device",
                    ) from error
            # Outside of `except`, so that nothing keeps the tensors of the failed batch.
            self._compute.forget_memory()
            if size == 1:
                alone = True  # the other thread's batch may take all of the memory
                continue
            self._batch_sizes[name] = min(self._batch_sizes[name], size // 2)
            logger.warning("%s: out of memory, continuing with batch size %d", name, size // 2)

    @contextlib.contextmanager
    def _turn(self, *, alone: bool) -> Iterator[None]:
        """Hold the device, together with the other thread or alone."""
        with contextlib.ExitStack() as turns:
            if alone:
                turns.enter_context(self._exclusive)  # or two threads would wait for each other
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


@dataclass(frozen=True)
class _Batch:
    extractor: str
    ids: Sequence[bytes]
    rows: "Future[Rows]"
    runner: int


class Batcher:
    """Gathers images into batches and gives each to the least busy device.

    Args:
        runners: One or more.
        extractors: Names of the extractors.
        stop: When set, nothing is waited for any more.
        done: Called in the caller's thread with an extractor's name, identities and their rows.
    """

    def __init__(
        self,
        runners: Sequence[DeviceRunner],
        extractors: Sequence[str],
        *,
        stop: Event,
        done: Callable[[str, Sequence[bytes], Rows], None],
    ) -> None:
        self._runners = runners
        self._stop = stop
        self._done = done
        self._filling: dict[str, list[tuple[bytes, Prepared]]] = {name: [] for name in extractors}
        self._in_flight: deque[_Batch] = deque()

    def add(self, extractor: str, id_: bytes, prepared: Prepared) -> None:
        """Add an image to the extractor's next batch, and start the batch if it is full.

        Raises:
            ModelError: If the model of an earlier batch could not be loaded.
            ExtractionError: If a device has no memory for a single image.
        """
        batch = self._filling[extractor]
        batch.append((id_, prepared))
        if len(batch) >= min(runner.images_at_once(extractor) for runner in self._runners):
            self._start(extractor)

    def collect(self) -> None:
        """Hand over the rows of finished batches. Raises as `add`."""
        while self._in_flight and self._in_flight[0].rows.done():
            self._take()

    def finish(self) -> None:
        """Run the batches that are not full, and wait for all. Raises as `add`.

        If the run is to stop, only wait for the batches that are running.
        """
        for name in self._filling:
            self._start(name)
        while self._in_flight and self._take():
            pass
        for batch in self._in_flight:
            batch.rows.cancel()
        for batch in self._in_flight:
            if not batch.rows.cancelled() and batch.rows.exception() is None:
                self._done(batch.extractor, batch.ids, batch.rows.result())
        self._in_flight.clear()

    def read_texts(self, name: str, texts: Sequence[str]) -> tuple[Rows, int]:
        """Run an extractor on texts now; see `TextExtractor.extract_texts`."""

        def call(extractor: TextExtractor, size: int) -> tuple[Rows, int]:
            return extractor.extract_texts(texts, size)

        run = self._runners[0].submit(name, call)
        while not run.done():
            wait([run], timeout=_POLL_SECONDS)
        return run.result()

    def _start(self, name: str) -> None:
        batch, self._filling[name] = self._filling[name], []
        if not batch:
            return
        while len(self._in_flight) >= sum(runner.capacity for runner in self._runners):
            if not self._take():
                return
        prepared = [image for _, image in batch]
        runner = self._least_busy()
        rows = self._runners[runner].submit(
            name, lambda extractor, size: extractor.extract(prepared, size)
        )
        self._in_flight.append(_Batch(name, [id_ for id_, _ in batch], rows, runner))

    def _least_busy(self) -> int:
        busy = [0] * len(self._runners)
        for batch in self._in_flight:
            busy[batch.runner] += not batch.rows.done()
        return busy.index(min(busy))

    def _take(self) -> bool:
        """Wait for the oldest batch and hand over its rows; False if the run is to stop."""
        batch = self._in_flight[0]
        while not batch.rows.done():
            if self._stop.is_set():
                return False
            wait([batch.rows], timeout=_POLL_SECONDS)
        self._in_flight.popleft()
        self._done(batch.extractor, batch.ids, batch.rows.result())
        return True
