"""The devices of a Ray cluster: each is an actor that holds the models.

Devices come and go with their nodes. One that is lost gives back what it was given, and is made
anew where its node still stands; a node whose devices fail again and again is left alone.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction.lane import Rows
from mnerfeat.extraction.ray_bundles import Bundle, in_short
from mnerfeat.extraction.ray_connection import alive, count_devices, only_on
from mnerfeat.extraction.ray_nodes import Answer, Looker, Models, Station
from mnerfeat.extraction.stopping import Stop
from mnerfeat.extractors.device import is_broken

logger = logging.getLogger(__name__)

IMAGES_A_TASK: Final = 32
"""Images that a task decodes: a fraction of a second, far more than a task costs."""

BUNDLES_AT_ONCE: Final = 2
"""Bundles that a device works on: while one ends, the next has begun."""

BUNDLES_AHEAD: Final = 2
"""Bundles that a device has beyond those that are being decoded for it."""

MOST_BUNDLES: Final = 16
"""Bundles that are decoded at once for one device at most, so that memory stays bounded."""

_FAILURES = 3  # of its devices, after which a node gets no new one
_NO_IMPORT = "failed to import on the worker"  # in Ray's message
_POLL = 0.2  # seconds between looks at the stop signal
_RECRUIT_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0  # before saying that no device can be had


@dataclass
class Device:
    """A device of the cluster, seen from the run.

    Attributes:
        node: Its node's number in Ray.
        name: Of the node and the device; the node's alone until it is ready.
        handle: Of the actor.
        ready: Its `start`.
        images: How many it is given at a time; 0 until it is ready.
        bundles: What it was given, by the call.
    """

    node: str
    name: str
    handle: Any
    ready: Any
    images: int = 0
    bundles: dict[Any, Bundle] = field(default_factory=dict)


class Fleet:
    """The devices of the cluster, as nodes come and go.

    Args:
        ray: The package, connected.
        models: What each device runs.
        gpus: Whether a device is a GPU; otherwise it is a node's processor.
    """

    def __init__(self, ray: Any, models: Models, *, gpus: bool) -> None:
        self._ray = ray
        self._models = ray.put(models)
        self._gpus = gpus
        self._devices: list[Device] = []
        self._failures: Counter[str] = Counter()
        self._last_failure = ""
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
            here = sum(device.node == id_ for device in self._devices)
            if self._failures[id_] < _FAILURES:
                for _ in range(here, count_devices(node, gpus=self._gpus)):
                    self._start(node)
        if not self._devices:
            tried = [n for n in nodes if self._failures[n["NodeID"]] >= _FAILURES]
            if tried:
                raise ExtractionError(
                    f"none of the {len(tried)} nodes of the Ray cluster keeps a device running; "
                    f"the last failure: {self._last_failure}",
                    hint="install the same mnerfeat[ray] on every node, and set RAY_AUTH_MODE "
                    "alike on all of them and here; the logs of workers say more: ray logs",
                )
            self._complain("the Ray cluster has no device that could be used")
        elif not any(device.images for device in self._devices):
            self._complain("no device of the Ray cluster is ready yet")

    def freest(self) -> Device | None:
        """The device with the fewest bundles, where it should be given another one."""
        ready = [device for device in self._devices if device.images]
        if not ready:
            return None
        least = min(ready, key=lambda device: len(device.bundles))
        tasks = len(ready) * math.ceil(least.images / IMAGES_A_TASK)
        decoding = min(math.ceil(self._cores / tasks), MOST_BUNDLES)
        return least if len(least.bundles) < BUNDLES_AHEAD + decoding else None

    @property
    def used(self) -> str:
        """The devices that were used, in words."""
        names = [f"{count} × {name}" for name, count in sorted(self._used.items())]
        total = self._used.total()
        return f"{total} device{'' if total == 1 else 's'} ({', '.join(names)})"

    @property
    def busy(self) -> bool:
        """Whether any device has work."""
        return any(device.bundles for device in self._devices)

    def answers(self) -> Iterator[tuple[Bundle, Answer | Exception]]:
        """What has come back, or what was lost; waits a moment for something to happen.

        Raises:
            MnerfeatError: That a node raised: a model is missing there, say.
        """
        waited = {ref: device for device in self._devices for ref in device.bundles}
        waited |= {device.ready: device for device in self._devices if not device.images}
        if not waited:
            time.sleep(_POLL)
            return
        done, _ = self._ray.wait(list(waited), num_returns=1, timeout=_POLL)
        for ref in done:
            device = waited[ref]
            try:
                found = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                cause = self._cause(error)
                if self._is_lost(error, cause):
                    self._retire(device, cause)
                    yield from ((bundle, cause) for bundle in device.bundles.values())
                    device.bundles = {}
                else:  # only what was decoded for it is
                    logger.info("decoded images were lost with a node; they are decoded again")
                    yield device.bundles.pop(ref), cause
            else:
                if ref is device.ready:
                    self._welcome(device, found)
                else:
                    yield device.bundles.pop(ref), found

    def read_texts(self, name: str, texts: Sequence[str], stop: Stop) -> tuple[Rows, int]:
        """Look at some texts now; nothing comes of it where the run is to stop."""
        while not stop.event.is_set():
            self.recruit()
            device = self.freest()
            if device is None:
                for _ in self.answers():
                    pass
                continue
            call = device.handle.read_texts.remote(name, texts)
            try:
                while not self._ray.wait([call], timeout=_POLL)[0]:
                    pass
                rows: tuple[Rows, int] = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                self._retire(device, self._cause(error))
            else:
                return rows
        return {}, 0

    def close(self) -> None:
        """End all actors."""
        for device in self._devices:
            self._ray.kill(device.handle)
        self._devices = []

    def _start(self, node: Mapping[str, Any]) -> None:
        # On a CPU it takes no core of Ray's, so that decoding always finds one.
        made = self._ray.remote(Looker).options(
            num_cpus=0,
            num_gpus=1 if self._gpus else 0,
            max_restarts=0,
            max_concurrency=BUNDLES_AT_ONCE,
            scheduling_strategy=only_on(node["NodeID"]),
        )
        threads = max(1, int(node["Resources"].get("CPU", 1)))
        handle = made.remote(self._models, "cuda" if self._gpus else "cpu", threads)
        name = str(node.get("NodeManagerHostname", node["NodeID"]))
        self._devices.append(Device(node["NodeID"], name, handle, handle.start.remote()))

    def _welcome(self, device: Device, station: Station) -> None:
        device.images = station.images
        device.name = station.name
        self._used[device.name] += 1
        ready = sum(bool(device.images) for device in self._devices)
        logger.info("%s is ready; devices now: %d", device.name, ready)

    def _retire(self, device: Device, cause: Exception) -> None:
        self._devices.remove(device)
        self._ray.kill(device.handle)
        self._last_failure = f"{device.name}: {in_short(cause)}"
        if not device.images:
            self._failures[device.node] += 1
            here = device.node in {node["NodeID"] for node in alive(self._ray)}
            # Ray takes a while to notice that a node is gone; that its device was lost is said.
            level = logging.WARNING if here else logging.INFO
            logger.log(level, "no device could be started on %s", self._last_failure)
        else:
            self._failures[device.node] += is_broken(cause)
            images = sum(len(bundle.jobs) for bundle in device.bundles.values())
            logger.warning(
                "a device was lost; others look at its %d images: %s", images, self._last_failure
            )
        self._next_look = time.monotonic()

    def _cause(self, error: Any) -> Exception:
        """What made a call fail.

        Raises:
            Exception: What a node raised itself, where that would happen on another one too.
        """
        exceptions = self._ray.exceptions
        cause: Exception = error
        while isinstance(cause, exceptions.RayTaskError):
            cause = cause.cause
        if isinstance(cause, exceptions.RayError) or is_broken(cause):
            return cause
        if isinstance(cause, ImportError) or _NO_IMPORT in str(cause):
            raise ExtractionError(
                f"a node of the Ray cluster lacks something that the run needs: {in_short(cause)}",
                hint="install the same mnerfeat[ray] on every node",
            ) from cause
        raise cause from None

    def _is_lost(self, error: Exception, cause: Exception) -> bool:
        return isinstance(error, self._ray.exceptions.RayActorError) or is_broken(cause)

    def _complain(self, what: str) -> None:
        if time.monotonic() - self._since > _PATIENCE_SECONDS:
            self._since = time.monotonic()
            logger.warning("%s; waiting for one", what)
