"""Batches for the device, run in a thread of its own while images are still being decoded."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from mnerfeat.errors import ExtractionError
from mnerfeat.extractors.base import Extractor, Prepared, TextExtractor
from mnerfeat.extractors.device import Compute, is_out_of_memory

logger = logging.getLogger(__name__)

QUEUED: Final = 3
"""Batches that wait for the device at most: it never idles, and memory stays bounded."""

_POLL = 0.2  # seconds between looks at the stop signal

Result = TypeVar("Result")

Rows = Mapping[str, NDArray[Any]]
"""Rows by feature."""


@dataclass(frozen=True)
class _Batch:
    extractor: str
    ids: Sequence[bytes]
    rows: Future[Rows]


class DeviceLane:
    """Runs extractors on the device, batch after batch.

    Args:
        extractors: By name.
        compute: The device.
        size: Inputs that run at once, or None for what suits the device.
        stop: Where it is set, nothing is waited for any more.
        done: Called in the caller's thread with an extractor's name, identities, and their rows.
    """

    def __init__(
        self,
        extractors: Mapping[str, Extractor],
        compute: Compute,
        *,
        size: int | None,
        stop: Event,
        done: Callable[[str, Sequence[bytes], Rows], None],
    ) -> None:
        self._extractors = extractors
        self._compute = compute
        self._stop = stop
        self._done = done
        self._sizes = {
            name: size or extractor.default_size(compute) for name, extractor in extractors.items()
        }
        self._loaded: set[str] = set()
        self._open: dict[str, list[tuple[bytes, Prepared]]] = {name: [] for name in extractors}
        self._queue: deque[_Batch] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mnerfeat-device")

    def add(self, extractor: str, id_: bytes, prepared: Prepared) -> None:
        """Put an image into the extractor's next batch, and start it when it is full.

        Raises:
            ModelError: Where the model of an earlier batch could not be loaded.
            ExtractionError: Where the device has no memory for a single image.
        """
        batch = self._open[extractor]
        batch.append((id_, prepared))
        if len(batch) >= self._extractors[extractor].images_at_once(self._sizes[extractor]):
            self._start(extractor)

    def finish(self) -> None:
        """Run what is left in open batches, and wait for everything. Raises as `add`.

        Where the run is to stop: wait for the batch that is running alone.
        """
        for name in self._open:
            self._start(name)
        while self._queue and self._take():
            pass
        for batch in self._queue:
            batch.rows.cancel()
        for batch in self._queue:
            if not batch.rows.cancelled() and batch.rows.exception() is None:
                self._done(batch.extractor, batch.ids, batch.rows.result())
        self._queue.clear()

    def close(self) -> None:
        """End the thread, after the batch that runs."""
        self._thread.shutdown(cancel_futures=True)

    def collect(self) -> None:
        """Hand over the rows of batches that are done. Raises as `add`."""
        while self._queue and self._queue[0].rows.done():
            self._take()

    def run_texts(self, extractor: TextExtractor, texts: Sequence[str]) -> tuple[Rows, int]:
        """Look at some texts now; see `TextExtractor.extract_texts`."""
        name = extractor.name
        run = self._thread.submit(
            self._run, name, lambda size: extractor.extract_texts(texts, size)
        )
        while not run.done():
            wait([run], timeout=_POLL)
        return run.result()

    def _start(self, name: str) -> None:
        batch, self._open[name] = self._open[name], []
        if not batch:
            return
        while len(self._queue) >= QUEUED:
            if not self._take():
                return
        extractor, prepared = self._extractors[name], [image for _, image in batch]
        rows = self._thread.submit(self._run, name, lambda size: extractor.extract(prepared, size))
        self._queue.append(_Batch(name, [id_ for id_, _ in batch], rows))

    def _take(self) -> bool:
        """Wait for the oldest batch, and hand over its rows; False where the run is to stop."""
        batch = self._queue[0]
        while not batch.rows.done():
            if self._stop.is_set():
                return False
            wait([batch.rows], timeout=_POLL)
        self._queue.popleft()
        self._done(batch.extractor, batch.ids, batch.rows.result())
        return True

    def _run(self, name: str, look: Callable[[int], Result]) -> Result:
        """In the device's thread: load the model once, and make do with the memory there is."""
        if name not in self._loaded:
            logger.info("loading %s", name)
            self._extractors[name].load(self._compute)
            self._loaded.add(name)
        while True:
            size = self._sizes[name]
            try:
                return look(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise ExtractionError(
                        f"{self._compute.device} has not enough memory for {name} to look at a "
                        "single image",
                        hint="stop what else uses it, or choose another one with --device",
                    ) from error
            # Outside of `except`, so that nothing holds the tensors of the failed batch.
            self._sizes[name] = size // 2
            self._forget_memory()
            logger.warning("%s: out of memory, going on with %d at once", name, size // 2)

    def _forget_memory(self) -> None:
        if self._compute.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.empty_cache()
