"""Worker processes that look at images, and survive whatever images do to them.

Each worker is a plain process with a pipe and a piece of shared memory: no fork of a process
that has threads or a GPU, and no import of the caller's script. A worker answers its jobs in
order, so when one dies, the image at fault is the first that it has not answered.
"""

import contextlib
import json
import math
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Event
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction.looking import Look, look_at
from mnerfeat.extractors.base import Prepare, Prepared

SLOTS: Final = 3
"""Images that a worker has at once: one in work, the others on their way."""

SLOT_BYTES: Final = 8 << 20
"""Shared memory of an image; arrays that do not fit go through the pipe."""

ATTEMPTS: Final = 2
"""Times an image is tried: when memory runs out, the worker that is killed may be innocent."""

_YIELDING = 10  # a tenth of a core that is fought for; the lowest priority leaves a hundredth
_POLL = 0.2  # seconds between looks at the clock and at the stop signal
_START_SECONDS = 600  # importing from a busy network disk may take minutes
_ALIGNMENT = 64
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from mnerfeat.extraction.workers import serve
serve(*map(int, sys.argv[2:]))
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An image to look at.

    Attributes:
        path: Of the file.
        extractors: By name, those that it is prepared for.
    """

    path: Path
    extractors: tuple[str, ...]


@dataclass(frozen=True)
class _Stored:
    """An array in shared memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


def look_here(
    jobs: Iterable[Job], prepares: Mapping[str, Prepare], stop: Event
) -> Iterator[tuple[int, Look]]:
    """Look at images in this process: for few of them, and where processes cannot be had.

    Args:
        jobs: What to look at.
        prepares: Of all extractors, by name.
        stop: Ends it when set.

    Yields:
        As `WorkerPool.look`, in order.
    """
    for number, job in enumerate(jobs):
        if stop.is_set():
            return
        yield number, look_at(job.path, {name: prepares[name] for name in job.extractors})


def pickle_prepares(prepares: Mapping[str, Prepare]) -> bytes:
    """What `WorkerPool` sends to its processes."""
    return pickle.dumps(dict(prepares), protocol=pickle.HIGHEST_PROTOCOL)


class WorkerPool:
    """Processes that look at images. Use it as a context manager.

    Args:
        prepares: Of all extractors, by name; they are pickled, unless they are already.
        workers: How many processes.
        timeout: Seconds after which an image counts as one that hangs its decoder.
        yielding: Let everything else on the machine's cores go first. The threads of a model on
            a CPU wait for each other at every product, so one that loses its core to a decoder
            for a moment stops them all.
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
        self._workers: list[_Worker] = []
        self._again: deque[_Task] = deque()
        self._count = workers
        self._nice = _YIELDING if yielding else 0

    def __enter__(self) -> "WorkerPool":
        try:
            self._workers = [_Worker(self._prepares, self._nice) for _ in range(self._count)]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def look(self, jobs: Iterable[Job], stop: Event) -> Iterator[tuple[int, Look]]:
        """Look at images, as many at once as there are workers.

        Args:
            jobs: Taken as workers become free, so memory stays bounded however many there are.
            stop: Ends it when set.

        Yields:
            The number of a job, from 0, and what came of it; in the order they are done.

        Raises:
            ExtractionError: Where workers cannot be started.
        """
        waiting = enumerate(jobs)
        while not stop.is_set():
            self._hand_out(waiting)
            busy = [worker for worker in self._workers if worker.tasks]
            if not busy:
                return
            answering = wait([worker.connection for worker in busy], timeout=_POLL)
            for worker in busy:
                if worker.connection in answering:
                    yield from self._answer(worker)
                elif not worker.ready:
                    worker.check_start()
                elif worker.waited() > self._timeout:
                    reason = f"decoding took more than {self._timeout:g} seconds"
                    yield from self._bury(worker, reason)

    def _hand_out(self, waiting: Iterator[tuple[int, Job]]) -> None:
        """Give tasks to the workers with the fewest, as long as there are both."""
        while (worker := min(self._workers, key=lambda w: len(w.tasks))).free:
            if self._again:
                worker.give(self._again.popleft())
            elif found := next(waiting, None):
                worker.give(_Task(number=found[0], job=found[1]))
            else:
                return

    def _answer(self, worker: "_Worker") -> Iterator[tuple[int, Look]]:
        try:
            answer = worker.take()
        except (EOFError, OSError):  # its end of the pipe is closed: it is dead
            yield from self._bury(worker, worker.last_words())
        else:
            if answer is not None:
                yield answer

    def _bury(self, worker: "_Worker", reason: str) -> Iterator[tuple[int, Look]]:
        """Replace a worker; give its images to others, save for one that has cost two workers."""
        tasks = list(worker.tasks)
        worker.close()
        self._workers[self._workers.index(worker)] = _Worker(self._prepares, self._nice)
        first = replace(tasks[0], attempts=tasks[0].attempts + 1)
        self._again.extend(tasks[1:])
        if first.attempts < ATTEMPTS:
            self._again.append(first)
        else:
            yield first.number, Look(id=None, reason=f"{reason}, {ATTEMPTS} times")


@dataclass(frozen=True, kw_only=True)
class _Task:
    number: int
    job: Job
    attempts: int = 0


class _Worker:
    """One process, seen from the run."""

    def __init__(self, prepares: bytes, nice: int) -> None:
        self.tasks: deque[_Task] = deque()
        self.ready = False
        self._since = time.monotonic()
        self._memory_file = _shared_memory(SLOTS * SLOT_BYTES)
        self._memory = mmap.mmap(self._memory_file, SLOTS * SLOT_BYTES)
        self._free_slots = deque(range(SLOTS))
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        path = json.dumps([str(entry) for entry in sys.path])
        handles = (theirs.fileno(), self._memory_file)
        self._process = subprocess.Popen(  # noqa: S603  (this very interpreter)
            [sys.executable, "-P", "-c", _START, path, *map(str, (*handles, nice))],
            stdin=subprocess.DEVNULL,
            pass_fds=handles,
            env=environment,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        with contextlib.suppress(ConnectionError):  # told when the first answer is waited for
            self.connection.send_bytes(prepares)

    @property
    def free(self) -> bool:
        return bool(self._free_slots)

    def give(self, task: _Task) -> None:
        if not self.tasks:
            self._since = time.monotonic()
        slot = self._free_slots.popleft()
        self.tasks.append(task)
        with contextlib.suppress(ConnectionError):  # it is dead, which `take` will see
            self.connection.send((slot, task.job))

    def take(self) -> tuple[int, Look] | None:
        """What it has sent: the answer to its oldest task, or None where it has just started."""
        answer = self.connection.recv()
        if isinstance(answer, str):
            if answer:
                raise ExtractionError(f"a worker process cannot start: {answer}")
            self.ready = True
            self._since = time.monotonic()
            return None
        slot, look = answer
        task = self.tasks.popleft()
        self._free_slots.append(slot)
        self._since = time.monotonic()
        prepared = {
            name: arrays if isinstance(arrays, str) else self._fetch(arrays)
            for name, arrays in look.prepared.items()
        }
        return task.number, replace(look, prepared=prepared)

    def _fetch(self, arrays: Mapping[str, NDArray[Any] | _Stored]) -> Prepared:
        return {
            name: _load(self._memory, array).copy() if isinstance(array, _Stored) else array
            for name, array in arrays.items()
        }

    def waited(self) -> float:
        """Seconds since it began its oldest task."""
        return time.monotonic() - self._since

    def check_start(self) -> None:
        """Make sure that it does not take forever to begin.

        Raises:
            ExtractionError: Where it does.
        """
        if self.waited() > _START_SECONDS:
            raise ExtractionError(
                f"a worker process has not begun within {_START_SECONDS} seconds",
                hint="--workers 0 does without worker processes",
            )

    def last_words(self) -> str:
        """Why the process ended.

        Raises:
            ExtractionError: Where it never began to work: then no image is at fault.
        """
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if not self.ready:
            raise ExtractionError(
                f"a worker process {how} before it could look at an image",
                hint="--workers 0 does without worker processes",
            )
        return f"the process that decoded it {how}"

    def close(self) -> None:
        self.connection.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._memory.close()
        os.close(self._memory_file)


def _shared_memory(size: int) -> int:
    """A descriptor of memory that can be mapped in several processes."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mnerfeat", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _load(memory: mmap.mmap, array: _Stored) -> NDArray[Any]:
    count = math.prod(array.shape)  # numpy's takes ten times as long, for every image
    return np.frombuffer(memory, array.dtype, count, array.offset).reshape(array.shape)


def serve(connection_handle: int, memory_handle: int, nice: int) -> None:
    """What a worker process does until its pipe is closed.

    Args:
        connection_handle: Descriptor of its end of the pipe.
        memory_handle: Descriptor of the shared memory.
        nice: By how much to lower the process's priority once it has begun.
    """
    # Ctrl-C reaches the whole group; the run decides, and closes the pipe when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    connection = Connection(connection_handle)
    memory = mmap.mmap(memory_handle, SLOTS * SLOT_BYTES)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            prepares: Mapping[str, Prepare] = pickle.loads(connection.recv_bytes())  # noqa: S301
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
        except (ImportError, AttributeError, RuntimeError) as error:
            connection.send(f"{type(error).__name__}: {error}")
            return
        # Not before: on a busy machine it would take minutes to begin.
        os.nice(nice)
        connection.send("")
        while True:
            slot, job = connection.recv()
            look = look_at(job.path, {name: prepares[name] for name in job.extractors})
            connection.send((slot, _store(memory, slot, look)))


def _store(memory: mmap.mmap, slot: int, look: Look) -> Look:
    """A look with its arrays in shared memory, as far as they fit."""
    position, end = slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES

    def store(array: NDArray[Any]) -> NDArray[Any] | _Stored:
        nonlocal position
        if position + array.nbytes > end:
            return array
        stored = _Stored(position, array.shape, array.dtype.str)
        _load(memory, stored)[...] = array
        position += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return stored

    prepared: dict[str, Any] = {
        name: arrays if isinstance(arrays, str) else {key: store(a) for key, a in arrays.items()}
        for name, arrays in look.prepared.items()
    }
    return replace(look, prepared=prepared)
