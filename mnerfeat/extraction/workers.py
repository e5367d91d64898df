"""Decoder processes that survive whatever an image does to them.

Each decoder is a `ProcessPoolExecutor` with a single process, so a crash breaks that executor
only. A decoder works on batches in order: when it dies or runs out of time, the first unanswered
batch is at fault. Its images are then decoded one at a time, and an image that fails again is
reported with the reason.
"""

import ctypes
import multiprocessing
import os
import pickle
import pickletools
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from threading import Event
from types import ModuleType
from typing import Any, Final

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction.decoding import DecodeJob, DecodeResult, decode_image
from mnerfeat.extractors.base import Prepare

BATCH_IMAGES: Final = 8
"""Images per message between the run and a decoder."""

BATCHES_PER_DECODER: Final = 2
"""Batches a decoder has at once: one in work, one waiting."""

_NICENESS = 10  # gives way to models on the CPU; the lowest priority would starve decoding
_POLL_SECONDS = 0.2  # how often the time limit and the stop request are checked
_START_SECONDS = 600  # imports from a busy network disk may take minutes
_PR_SET_PDEATHSIG = 1
_NO_WORKERS_HINT = "--workers 0 does without worker processes"


def decode_here(
    jobs: Iterable[DecodeJob], prepares: Mapping[str, Prepare], stop: Event
) -> Iterator[tuple[int, DecodeResult]]:
    """Decode images in this process: for small runs, and where processes cannot be started.

    Args:
        jobs: Images to decode.
        prepares: Preparation steps by extractor.
        stop: Ends the iteration when set.

    Yields:
        The number of a job, from 0, and its result; in order.
    """
    for number, job in enumerate(jobs):
        if stop.is_set():
            return
        yield number, decode_image(job.path, {name: prepares[name] for name in job.extractors})


def pickle_prepares(prepares: Mapping[str, Prepare]) -> bytes:
    """Serialise preparation steps for `DecoderPool`."""
    return pickle.dumps(dict(prepares), protocol=pickle.HIGHEST_PROTOCOL)


class DecoderPool:
    """Processes that decode images. Use it as a context manager.

    Args:
        prepares: Preparation steps by extractor, pickled by `pickle_prepares` or not yet.
        workers: Number of processes.
        timeout: Seconds after which a decoder counts as hung.
        yielding: Lower the decoders' priority. A model on a CPU waits for all of its threads at
            every product, so a decoder that takes one core for a moment stops all of them.
    """

    def __init__(
        self,
        prepares: Mapping[str, Prepare] | bytes,
        *,
        workers: int,
        timeout: float,
        yielding: bool = False,
    ) -> None:
        self._prepares = prepares if isinstance(prepares, bytes) else pickle_prepares(prepares)
        self._timeout = timeout
        self._count = workers
        self._niceness = _NICENESS if yielding else 0
        self._decoders: list[_Decoder] = []
        self._retries: deque[_Batch] = deque()

    def __enter__(self) -> "DecoderPool":
        try:
            for _ in range(self._count):
                self._decoders.append(self._start())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes, even in the middle of an image."""
        for decoder in self._decoders:
            decoder.kill()
        for decoder in self._decoders:
            decoder.close()
        self._decoders = []

    def decode(self, jobs: Iterable[DecodeJob], stop: Event) -> Iterator[tuple[int, DecodeResult]]:
        """Decode images in all processes at once.

        Args:
            jobs: Images to decode; taken as decoders become free, so memory stays bounded.
            stop: Ends the iteration when set.

        Yields:
            The number of a job, from 0, and its result; in the order they finish.

        Raises:
            ExtractionError: If a process cannot start.
        """
        waiting = enumerate(jobs)
        while not stop.is_set():
            self._submit(waiting)
            busy = [decoder for decoder in self._decoders if decoder.batches]
            if not busy:
                return
            oldest = [decoder.batches[0].results for decoder in busy]
            wait(oldest, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for decoder in busy:
                if decoder.batches[0].results.done():
                    yield from self._collect(decoder)
                elif decoder.ready and decoder.seconds_in_work > self._timeout:
                    decoder.kill()
                    limit = f"decoding took more than {self._timeout:g} seconds"
                    yield from self._replace(decoder, limit)
                else:
                    decoder.check_start()

    def _start(self) -> "_Decoder":
        try:
            return _Decoder(self._prepares, self._niceness)
        except OSError as error:
            raise ExtractionError(
                f"no decoder process can be started: {error.strerror or error}",
                hint=_NO_WORKERS_HINT,
            ) from error

    def _submit(self, waiting: Iterator[tuple[int, DecodeJob]]) -> None:
        """Hand batches to the decoders with the fewest, until all have enough."""
        while True:
            decoder = min(self._decoders, key=lambda decoder: len(decoder.batches))
            if len(decoder.batches) >= BATCHES_PER_DECODER:
                return
            if self._retries:
                batch = self._retries.popleft()
            else:
                batch = _Batch(tuple(islice(waiting, BATCH_IMAGES)))
                if not batch.jobs:
                    return
            decoder.submit(batch)

    def _collect(self, decoder: "_Decoder") -> Iterator[tuple[int, DecodeResult]]:
        batch = decoder.batches[0]
        try:
            decoder.check_start()
            results = batch.results.result()
        except BrokenProcessPool:
            yield from self._replace(decoder, None)
        else:
            decoder.finish(batch)
            yield from zip((number for number, _ in batch.jobs), results, strict=True)

    def _replace(
        self, decoder: "_Decoder", reason: str | None
    ) -> Iterator[tuple[int, DecodeResult]]:
        """Start another decoder; retry the images of the broken one, the suspects singly."""
        how = decoder.close()
        reason = reason or f"the process that decoded it {how}"
        suspect, *innocent = decoder.batches
        self._decoders[self._decoders.index(decoder)] = self._start()
        self._retries.extend(_Batch(batch.jobs, retry=batch.retry) for batch in innocent)
        if suspect.retry:
            for number, _ in suspect.jobs:
                yield number, DecodeResult(id=None, reason=f"{reason}, 2 times")
        else:
            self._retries.extend(_Batch((job,), retry=True) for job in suspect.jobs)


@dataclass
class _Batch:
    """Numbered images that a decoder gets together; a retry holds a single one."""

    jobs: tuple[tuple[int, DecodeJob], ...]
    retry: bool = False
    results: "Future[Sequence[DecodeResult]]" = field(default_factory=Future)


class _Decoder:
    """One decoder process, as the run sees it."""

    def __init__(self, prepares: bytes, niceness: int) -> None:
        self._context = _Context()
        modules = ["mnerfeat.extraction.workers", *sorted(_modules_of(prepares))]
        self._context.set_forkserver_preload(modules)
        self._executor = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_receive, initargs=(prepares,)
        )
        self.batches: deque[_Batch] = deque()
        self.ready = False
        self._since = time.monotonic()
        self._started = self._executor.submit(_start, niceness)
        self._started.add_done_callback(self._begin)

    def _begin(self, _: object) -> None:
        self._since = time.monotonic()
        self.ready = True

    @property
    def seconds_in_work(self) -> float:
        """Seconds since the oldest batch was begun, or since the start of a process not ready."""
        return time.monotonic() - self._since

    def submit(self, batch: _Batch) -> None:
        if not self.batches and self.ready:
            self._since = time.monotonic()
        self.batches.append(batch)
        try:
            batch.results = self._executor.submit(_decode, [job for _, job in batch.jobs])
        except BrokenProcessPool as error:  # it died while idle
            batch.results.set_exception(error)

    def finish(self, batch: _Batch) -> None:
        self.batches.remove(batch)
        self._since = time.monotonic()

    def check_start(self) -> None:
        """Make sure that the process has started, or still may.

        Raises:
            ExtractionError: If it could not, in which case no image is at fault.
        """
        if not self.ready:
            why = f"has not started within {_START_SECONDS} seconds"
            if self.seconds_in_work < _START_SECONDS:
                return
        elif error := self._started.exception():
            why = f"cannot start: {type(error).__name__}: {error}"
            if isinstance(error, BrokenProcessPool):
                why = f"{self.close()} before it could decode an image"
        else:
            return
        raise ExtractionError(f"a decoder process {why}", hint=_NO_WORKERS_HINT)

    def kill(self) -> None:
        """End the process at once; `close` then says so."""
        if self._context.process is not None:
            self._context.process.kill()

    def close(self) -> str:
        """Clean up after a process that was killed or died, and say how it ended."""
        self._executor.shutdown(cancel_futures=True)
        code = self._context.process.exitcode if self._context.process else None
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with {code}"


class _Context(ForkServerContext):
    """Starts one process without running the caller's script in it, and keeps hold of it.

    Processes are forked from a server that has imported what decoding needs, torch included if a
    model's image processor is built on it; so that is paid for once, not by every decoder.
    """

    process: ForkServerProcess | None = None

    def Process(self, *args: Any, **kwargs: Any) -> ForkServerProcess:  # type: ignore[override]  # noqa: N802
        self.process = _Process(*args, **kwargs)
        return self.process


class _Process(ForkServerProcess):
    _starting = threading.Lock()

    def start(self) -> None:
        # `multiprocessing` imports the caller's script in every process, which runs it a second
        # time if it has no `if __name__ == "__main__"`. Nothing in it is needed here.
        with self._starting:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            # Ctrl-C reaches the whole process group, but what to do about it is the run's to
            # decide: the server and the decoders inherit the mask.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                sys.modules["__main__"] = main


def _modules_of(pickled: bytes) -> set[str]:
    """Names of modules that a pickle refers to."""
    strings = {arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)}
    return strings & sys.modules.keys()


# What runs in a decoder process.

_received: bytes = b""
_prepares: Mapping[str, Prepare] = {}


def _receive(prepares: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the run decides what to do about them
    _die_with_the_run()
    global _received  # noqa: PLW0603
    _received = prepares


def _die_with_the_run() -> None:
    """End this process with the run, even after a SIGKILL and in the middle of an image."""
    if sys.platform == "linux":
        # Decoders hold the server's sign of life open; without it the server ends with the run,
        # and the kernel ends the decoders with the server.
        alive = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)
        if alive is not None:
            os.close(alive)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(niceness: int) -> None:
    """Load the preparation steps; an error here is no image's fault."""
    warnings.simplefilter("ignore")
    global _prepares  # noqa: PLW0603
    _prepares = pickle.loads(_received)  # noqa: S301
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    os.nice(niceness)


def _decode(jobs: Sequence[DecodeJob]) -> list[DecodeResult]:
    return [
        decode_image(job.path, {name: _prepares[name] for name in job.extractors}) for job in jobs
    ]
