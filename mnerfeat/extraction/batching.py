"""Images gathered into batches, and dealt out to devices while others are being decoded."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from threading import Event
from typing import Final

from mnerfeat.extraction.lane import DeviceLane, Rows
from mnerfeat.extractors.base import Prepared, TextExtractor

_POLL: Final = 0.2  # seconds between looks at the stop signal


@dataclass(frozen=True)
class _Batch:
    extractor: str
    ids: Sequence[bytes]
    rows: "Future[Rows]"
    lane: int


class Batcher:
    """Gathers images into batches and runs each on the device with the least to do.

    Args:
        lanes: At least one.
        extractors: Their names.
        stop: Where it is set, nothing is waited for any more.
        done: Called in the caller's thread with an extractor's name, identities, and their rows.
    """

    def __init__(
        self,
        lanes: Sequence[DeviceLane],
        extractors: Sequence[str],
        *,
        stop: Event,
        done: Callable[[str, Sequence[bytes], Rows], None],
    ) -> None:
        self._lanes = lanes
        self._stop = stop
        self._done = done
        self._open: dict[str, list[tuple[bytes, Prepared]]] = {name: [] for name in extractors}
        self._queue: deque[_Batch] = deque()

    def add(self, extractor: str, id_: bytes, prepared: Prepared) -> None:
        """Put an image into the extractor's next batch, and start it when it is full.

        Raises:
            ModelError: Where the model of an earlier batch could not be loaded.
            ExtractionError: Where a device has no memory for a single image.
        """
        batch = self._open[extractor]
        batch.append((id_, prepared))
        if len(batch) >= min(lane.images_at_once(extractor) for lane in self._lanes):
            self._start(extractor)

    def collect(self) -> None:
        """Hand over the rows of batches that are done. Raises as `add`."""
        while self._queue and self._queue[0].rows.done():
            self._take()

    def finish(self) -> None:
        """Run what is left in open batches, and wait for everything. Raises as `add`.

        Where the run is to stop: wait for the batches that are running alone.
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

    def read_texts(self, name: str, texts: Sequence[str]) -> tuple[Rows, int]:
        """Look at some texts now; see `TextExtractor.extract_texts`."""

        def look(extractor: TextExtractor, size: int) -> tuple[Rows, int]:
            return extractor.extract_texts(texts, size)

        run = self._lanes[0].submit(name, look)
        while not run.done():
            wait([run], timeout=_POLL)
        return run.result()

    def _start(self, name: str) -> None:
        batch, self._open[name] = self._open[name], []
        if not batch:
            return
        while len(self._queue) >= sum(lane.depth for lane in self._lanes):
            if not self._take():
                return
        prepared = [image for _, image in batch]
        lane = self._idlest()
        rows = self._lanes[lane].submit(
            name, lambda extractor, size: extractor.extract(prepared, size)
        )
        self._queue.append(_Batch(name, [id_ for id_, _ in batch], rows, lane))

    def _idlest(self) -> int:
        busy = [0] * len(self._lanes)
        for batch in self._queue:
            busy[batch.lane] += not batch.rows.done()
        return busy.index(min(busy))

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
