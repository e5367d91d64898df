"""Extraction on many machines with Ray: decoding tasks stream into devices, one run records.

Every device of the cluster has an actor with the models; every core may decode. The run hands
each device a few bundles of images ahead, gets rows back, and writes them as parts of the cache
by the same ledger as the engine for one machine. A bundle whose node is lost is given to another
one; rows of images are recorded once, when they arrive, so nothing is lost or repeated.

Tasks and actors of Ray's core are used rather than Ray Data: a failure must cost one image its
row with a reason, not a block of a data set.
"""

import logging
import math
import os
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from mnerfeat.errors import ConfigError, ExtractionError
from mnerfeat.extractors.base import TextExtractor
from mnerfeat.extractors.engine import Engine
from mnerfeat.extractors.lane import Rows
from mnerfeat.extractors.ledger import record_texts
from mnerfeat.extractors.loading import require
from mnerfeat.extractors.planning import ImageJob
from mnerfeat.extractors.ray_nodes import Answer, Decoding, Looker, Models, decode
from mnerfeat.extractors.stopping import Stop
from mnerfeat.extractors.workers import Job, pickle_prepares

logger = logging.getLogger(__name__)

IMAGES_A_TASK: Final = 32
"""Images that a task decodes: a fraction of a second, far more than a task costs."""

BUNDLES_AHEAD: Final = 2
"""Bundles that a device has beyond those that are being decoded for it."""

ATTEMPTS: Final = 5
"""Times a bundle is tried: nodes come and go, but an image may also be what ends them."""

MOST_BUNDLES: Final = 16
"""Bundles that are decoded at once for one device at most, so that memory stays bounded."""

DEVICES: Final = ("auto", "cpu", "cuda")

_STARTS = 3  # times a node may fail to start a device
_POLL = 0.2  # seconds between looks at the stop signal
_RECRUIT_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0  # before saying that no device can be had


@final
class RayEngine(Engine):
    """The nodes of a Ray cluster decode and look; this process plans and records."""

    def _look(self, reader: TextExtractor | None, stop: Stop, stack: ExitStack) -> None:
        if self._config.device not in DEVICES:
            raise ConfigError(
                f"device: {self._config.device!r}; with the engine ray every device of a kind is "
                f"used; choose from: {', '.join(DEVICES)}"
            )
        ray = connect(stack)
        gpus = self._wants_gpus(ray)
        fleet = _Fleet(ray, self._models(), gpus=gpus)
        stack.callback(fleet.close)
        decoding = ray.put(self._decoding(yielding=not gpus))
        if reader and self._texts.todo:
            self.cut_texts = record_texts(
                self._config,
                reader,
                self._texts.todo,
                lambda piece: fleet.read_texts(reader.name, piece, stop),
                stop.event.is_set,
            )
        if self._plan.jobs and not stop.event.is_set():
            with self.ledger.progress():
                self._look_at_images(ray, fleet, decoding, stop)
        self.device = fleet.used

    def _wants_gpus(self, ray: Any) -> bool:
        has_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in alive(ray))
        if self._config.device == "cuda" and not has_gpus:
            raise ConfigError("device: no node of the Ray cluster has a GPU")
        return has_gpus and self._config.device != "cpu"

    def _models(self) -> Models:
        return Models(
            # Nodes make extractors themselves: what they have may differ, which must be found out.
            make=self._make,
            provenance={
                name: provenance
                for extractor in self._extractors.values()
                for name, provenance in extractor.provenance.items()
            },
            folder=Path.cwd(),
            config=self._config,
        )

    def _decoding(self, *, yielding: bool) -> Decoding:
        wanted = {name for job in self._plan.jobs for name in job.extractors}
        libraries: dict[str, str] = {}
        for extractor in self._extractors.values():
            for provenance in extractor.provenance.values():
                libraries |= provenance.facts.get("libraries", {})
        return Decoding(
            run=uuid.uuid4().hex,
            prepares=pickle_prepares(
                {
                    name: extractor.prepare
                    for name, extractor in self._extractors.items()
                    if name in wanted
                }
            ),
            images=self._config.images.absolute(),
            libraries=libraries,
            timeout=self._config.image_timeout,
            yielding=yielding,
        )

    def _look_at_images(self, ray: Any, fleet: "_Fleet", decoding: Any, stop: Stop) -> None:
        folder = self._config.images.absolute()
        decoder = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(decode)
        work = _Work(self._plan.jobs)
        while (work.left or fleet.busy) and not stop.event.is_set():
            fleet.recruit()
            while (actor := fleet.freest()) and (bundle := work.take(actor.images)):
                jobs = [Job(path=folder / j.name, extractors=j.extractors) for j in bundle.jobs]
                nearby = decoder.options(scheduling_strategy=_near(actor.node))
                decoded = [
                    nearby.remote(decoding, jobs[start : start + IMAGES_A_TASK])
                    for start in range(0, len(jobs), IMAGES_A_TASK)
                ]
                ids = [job.id for job in bundle.jobs]
                actor.bundles[actor.handle.look.remote(ids, *decoded)] = bundle
            for bundle, answer in fleet.answers():
                if isinstance(answer, Exception):
                    work.give_back(bundle, answer)
                else:
                    self._record(bundle, answer)
            self.ledger.seal_when_due()
        stop.announce()

    def _record(self, bundle: "_Bundle", answer: Answer) -> None:
        for job, look in zip(bundle.jobs, answer.looks, strict=True):
            self.ledger.take(job, look)
        for name, ids, rows in answer.rows:
            self.ledger.done(name, ids, rows)


@dataclass
class _Bundle:
    """Images that a device looks at together."""

    jobs: Sequence[ImageJob]
    attempts: int = 0


class _Work:
    """What there is left to hand over."""

    def __init__(self, jobs: Sequence[ImageJob]) -> None:
        self._jobs = jobs
        self._next = 0
        self._again: deque[_Bundle] = deque()

    @property
    def left(self) -> bool:
        return bool(self._again) or self._next < len(self._jobs)

    def take(self, images: int) -> _Bundle | None:
        if self._again:
            return self._again.popleft()
        jobs = self._jobs[self._next : self._next + images]
        self._next += len(jobs)
        return _Bundle(jobs) if jobs else None

    def give_back(self, bundle: _Bundle, error: Exception) -> None:
        bundle.attempts += 1
        if bundle.attempts >= ATTEMPTS:
            raise ExtractionError(
                f"images were given to {ATTEMPTS} devices in turn, and each was lost with them "
                f"(the last one: {str(error).splitlines()[0]}):",
                faults=[job.name for job in bundle.jobs],
                hint="what is finished is kept; move these images away, or give nodes more memory",
            ) from error
        logger.warning("a node was lost; its images are given to another one")
        self._again.append(bundle)


@dataclass
class _Actor:
    """A device of the cluster, seen from the run."""

    node: str
    handle: Any
    ready: Any
    images: int = 0
    bundles: dict[Any, _Bundle] = field(default_factory=dict)


class _Fleet:
    """The devices of the cluster, as nodes come and go."""

    def __init__(self, ray: Any, models: Models, *, gpus: bool) -> None:
        self._ray = ray
        self._models = ray.put(models)
        self._gpus = gpus
        self._actors: list[_Actor] = []
        self._failed_starts: Counter[str] = Counter()
        self._cores = 0
        self._next_look = self._since = time.monotonic()
        self._used: Counter[str] = Counter()

    def recruit(self) -> None:
        """Start an actor for every device that has none.

        Raises:
            ExtractionError: Where no device is left that could be tried.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _RECRUIT_SECONDS
        nodes = alive(self._ray)
        self._cores = int(sum(node["Resources"].get("CPU", 0) for node in nodes))
        for node in nodes:
            id_ = node["NodeID"]
            here = sum(actor.node == id_ for actor in self._actors)
            if self._failed_starts[id_] < _STARTS:
                for _ in range(here, devices(node, gpus=self._gpus)):
                    self._start(node)
        if not self._actors:
            tried = [n for n in nodes if self._failed_starts[n["NodeID"]] >= _STARTS]
            if tried:
                raise ExtractionError(
                    f"none of the {len(tried)} nodes of the Ray cluster keeps a device running",
                    hint="the logs of its workers say why: ray logs",
                )
            self._complain("the Ray cluster has no device that could be used")
        elif not any(actor.images for actor in self._actors):
            self._complain("no device of the Ray cluster is free yet")

    def freest(self) -> _Actor | None:
        """The device with the fewest bundles, where it should be given another one."""
        ready = [actor for actor in self._actors if actor.images]
        if not ready:
            return None
        least = min(ready, key=lambda actor: len(actor.bundles))
        tasks = len(ready) * math.ceil(least.images / IMAGES_A_TASK)
        decoding = min(math.ceil(self._cores / tasks), MOST_BUNDLES)
        return least if len(least.bundles) < BUNDLES_AHEAD + decoding else None

    @property
    def used(self) -> str:
        """The devices that were used, in words."""
        names = [f"{count} × {name}" for name, count in sorted(self._used.items())]
        return f"{self._used.total()} devices ({', '.join(names)})"

    @property
    def busy(self) -> bool:
        return any(actor.bundles for actor in self._actors)

    def answers(self) -> Iterator[tuple[_Bundle, Answer | Exception]]:
        """What has come back, or what was lost; waits a moment for something to happen.

        Raises:
            MnerfeatError: That a node raised: a model is missing there, say.
        """
        waited = {ref: actor for actor in self._actors for ref in actor.bundles}
        waited |= {actor.ready: actor for actor in self._actors if not actor.images}
        if not waited:
            time.sleep(_POLL)
            return
        done, _ = self._ray.wait(list(waited), num_returns=1, timeout=_POLL)
        for ref in done:
            actor = waited[ref]
            try:
                found = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                lost, cause = self._cause(error)
                if not lost:  # only what was decoded for it is
                    yield actor.bundles.pop(ref), cause
                    continue
                self._retire(actor)
                yield from ((bundle, cause) for bundle in actor.bundles.values())
                actor.bundles = {}
            else:
                if ref is actor.ready:
                    actor.images = found.images
                    self._used[found.name] += 1
                else:
                    yield actor.bundles.pop(ref), found

    def read_texts(self, name: str, texts: Sequence[str], stop: Stop) -> tuple[Rows, int]:
        """Look at some texts now; nothing comes of it where the run is to stop."""
        while not stop.event.is_set():
            self.recruit()
            actor = self.freest()
            if actor is None:
                for _ in self.answers():
                    pass
                continue
            call = actor.handle.read_texts.remote(name, texts)
            try:
                while not self._ray.wait([call], timeout=_POLL)[0]:
                    pass
                rows: tuple[Rows, int] = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                self._cause(error)
                self._retire(actor)
            else:
                return rows
        return {}, 0

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._actors = []

    def _start(self, node: Mapping[str, Any]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        # On a CPU it takes no core of Ray's, so that decoding always finds one.
        made = self._ray.remote(Looker).options(
            num_cpus=0,
            num_gpus=1 if self._gpus else 0,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        threads = max(1, int(node["Resources"].get("CPU", 1)))
        handle = made.remote(self._models, "cuda" if self._gpus else "cpu", threads)
        self._actors.append(_Actor(node["NodeID"], handle, handle.start.remote()))

    def _retire(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor.handle)
        if not actor.images:
            self._failed_starts[actor.node] += 1
        self._next_look = time.monotonic()

    def _cause(self, error: Any) -> tuple[bool, Exception]:
        """Whether a device was lost, and by what.

        Raises:
            Exception: What a node raised itself; that would happen on another one too.
        """
        exceptions = self._ray.exceptions
        cause = error
        while isinstance(cause, exceptions.RayTaskError):
            cause = cause.cause
        if not isinstance(cause, exceptions.RayError):
            raise cause from None
        return isinstance(error, exceptions.RayActorError), cause

    def _complain(self, what: str) -> None:
        if time.monotonic() - self._since > _PATIENCE_SECONDS:
            self._since = time.monotonic()
            logger.warning("%s; waiting for one", what)


def _near(node: str) -> Any:
    """On that node while one of its cores is free, or else on another: pixels are heavy."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    return NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)


def alive(ray: Any) -> list[Mapping[str, Any]]:
    """The nodes that are part of the cluster now."""
    return [node for node in ray.nodes() if node["Alive"]]


def devices(node: Mapping[str, Any], *, gpus: bool) -> int:
    """How many devices a node has: its GPUs, or its processor where it lends any of it."""
    resources = node["Resources"]
    return int(resources.get("GPU", 0)) if gpus else int(resources.get("CPU", 0) >= 1)


def connect(stack: ExitStack) -> Any:
    """Connect to the Ray cluster, or start one on this machine where there is none.

    Ray looks for the address itself: `RAY_ADDRESS`, then a cluster that runs on this machine.

    Args:
        stack: Disconnects when it is closed, unless the program was connected before.

    Raises:
        ConfigError: Where Ray cannot connect.
        ModelError: Where Ray is not installed.
    """
    require("ray", "ray", "ray", option="engine")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # noqa: PLC0415

    if ray.is_initialized():
        return ray
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"engine: Ray cannot connect: {str(error).splitlines()[0]}",
            hint="`ray status` tells whether the cluster that RAY_ADDRESS names is up",
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there
    stack.callback(ray.shutdown)
    return ray
