"""What the nodes of a cluster do for an extraction; `ray_engine` tells them to.

Nothing here imports Ray, so it can be tried without a cluster. A node decodes with the same
worker processes and runs models with the same batches as one machine alone, and the images
folder, the models and the versions of libraries are compared first: rows of one feature must not
depend on which node made them.
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Event
from typing import final

import mnerfeat
from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError, ExtractionError, ModelError
from mnerfeat.extraction.batching import Batcher
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.lane import DeviceLane, Rows
from mnerfeat.extraction.ledger import was_changed
from mnerfeat.extraction.looking import Look
from mnerfeat.extraction.workers import Job, WorkerPool
from mnerfeat.extractors.base import Extractor
from mnerfeat.extractors.device import choose_computes, matrix_precision
from mnerfeat.extractors.loading import versions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What decoding takes, told to every node once.

    Attributes:
        run: Tells runs apart.
        version: Of mnerfeat.
        prepares: By extractor, pickled; only the processes that decode unpickle them.
        images: The images folder, which every node must reach by this path.
        known: Some files in it that the run has read.
        libraries: Versions that the provenance names.
        timeout: Seconds after which decoding one image is given up.
        yielding: Let everything else on the node's cores go first.
    """

    run: str
    version: str
    prepares: bytes
    images: Path
    known: Sequence[str]
    libraries: Mapping[str, str]
    timeout: float
    yielding: bool


@dataclass(frozen=True, kw_only=True)
class Models:
    """What looking takes, told to every node once.

    Attributes:
        version: Of mnerfeat.
        make: Makes the extractors.
        provenance: Of every feature, as the run records it.
        folder: Where the run was started: paths of models may be relative to it.
        config: Of the run.
    """

    version: str
    make: Callable[[], Sequence[Extractor]]
    provenance: Mapping[str, Provenance]
    folder: Path
    config: ExtractConfig


@dataclass(frozen=True, kw_only=True)
class Station:
    """What a device on a node is.

    Attributes:
        name: The node's name and the device.
        images: How many images to give it at a time.
    """

    name: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of some images.

    Attributes:
        looks: What decoding says of each, without what was prepared for devices.
        rows: An extractor's name, identities of images, and their rows; several times.
    """

    looks: Sequence[Look]
    rows: list[tuple[str, Sequence[bytes], Rows]] = field(default_factory=list)


_pools: dict[str, WorkerPool] = {}


def decode(decoding: Decoding, jobs: Sequence[Job]) -> list[Look]:
    """Decode some images in a worker process, which later calls in this process use again.

    Args:
        decoding: What it takes.
        jobs: What to look at.

    Returns:
        What came of each, in order.

    Raises:
        ConfigError: Where this node does not see the images folder.
        ModelError: Where this node has another mnerfeat, or other libraries, than the run records.
    """
    pool = _pools.get(decoding.run)
    if pool is None:
        _check_version(decoding.version)
        _check_libraries(decoding.libraries)
        _check_images(decoding.images, decoding.known)
        for old in _pools.values():
            old.close()
        _pools.clear()
        pool = _pools[decoding.run] = WorkerPool(
            decoding.prepares, workers=1, timeout=decoding.timeout, yielding=decoding.yielding
        ).__enter__()
    looks = dict(pool.look(jobs, Event()))
    return [looks[number] for number in range(len(jobs))]


def _check_version(wanted: str) -> None:
    if mnerfeat.__version__ != wanted:
        raise ModelError(
            f"node {socket.gethostname()} has mnerfeat {mnerfeat.__version__}, not {wanted} as the "
            "machine that the run was started on",
            hint=f"pip install 'mnerfeat[ray]=={wanted}' on every node",
        )


def _check_libraries(wanted: Mapping[str, str]) -> None:
    here = {package: _version(package) for package in wanted}
    if here != dict(wanted):
        raise ModelError(
            f"node {socket.gethostname()} has other versions of libraries than the machine that "
            "the run was started on:",
            faults=[
                f"{package}: {here[package]}, not {version}"
                for package, version in wanted.items()
                if here[package] != version
            ],
            hint="install the same versions on every node",
        )


def _version(package: str) -> str:
    try:
        return versions(package)[package]
    except PackageNotFoundError:
        return "not installed"


def _check_images(folder: Path, known: Sequence[str]) -> None:
    """Refuse where nothing is seen: not where one file was deleted meanwhile.

    A folder that another disk should be mounted on is there, and empty.
    """
    if known and not any(os.access(folder / name, os.R_OK) for name in known):
        raise ConfigError(
            f"node {socket.gethostname()} cannot read the images in {folder}: none of "
            f"{len(known)} that the run has read, {known[0]} for one",
            hint="put them on a file system that all nodes share, under the same path",
        )


@final
class Looker:
    """Runs models on one device of a node.

    Args:
        models: What it takes.
        device: As in `--device`, as this process sees it.
        threads: Of the processor that a model on a CPU uses.
    """

    def __init__(self, models: Models, device: str, threads: int) -> None:
        self._models = models
        self._device = device
        self._threads = threads
        self._names: list[str] = []
        self._lanes: list[DeviceLane] = []
        self._settings = ExitStack()

    def start(self) -> Station:
        """Make the extractors.

        Not when it is made: an error of an actor's making reaches the run as text alone.

        Raises:
            ExtractionError: Where they are others than the run records.
            ModelError: Where a model is not here, or this node has another mnerfeat.
        """
        _check_version(self._models.version)
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if self._models.folder.is_dir():
            os.chdir(self._models.folder)
        extractors = self._models.make()
        _check_provenance(extractors, self._models.provenance)
        (compute,) = choose_computes(self._device, self._models.config.numerics)
        self._settings.enter_context(matrix_precision(compute))
        if compute.device.type == "cpu":
            compute.use_threads(self._threads)
        self._names = [extractor.name for extractor in extractors]
        lane = DeviceLane(
            {extractor.name: extractor for extractor in extractors},
            compute,
            size=self._models.config.batch_size,
        )
        self._lanes = [lane]
        most = max(lane.images_at_once(name) for name in self._names)
        # A GPU is given the next batch before it has done the last one.
        images = 2 * most if compute.device.type == "cuda" else most
        return Station(name=f"{socket.gethostname()} {compute.device}", images=images)

    def look(self, ids: Sequence[bytes], *decoded: Sequence[Look]) -> Answer:
        """Look at some images.

        Args:
            ids: The identity of each, as planned.
            decoded: What came of decoding them, in the same order.
        """
        looks = [look for some in decoded for look in some]
        answer = Answer(looks=[replace(look, prepared=_refusals(look)) for look in looks])
        batcher = self._batcher(answer)
        for id_, look in zip(ids, looks, strict=True):
            if look.reason is None and not was_changed(id_, look):
                for name, prepared in look.prepared.items():
                    if not isinstance(prepared, str):
                        batcher.add(name, id_, prepared)
        batcher.finish()
        return answer

    def read_texts(self, name: str, texts: Sequence[str]) -> tuple[Rows, int]:
        """Look at some texts; see `TextExtractor.extract_texts`."""
        return self._batcher(Answer(looks=())).read_texts(name, texts)

    def _batcher(self, answer: Answer) -> Batcher:
        return Batcher(
            self._lanes,
            self._names,
            stop=Event(),
            done=lambda name, ids, rows: answer.rows.append((name, list(ids), rows)),
        )


def _refusals(look: Look) -> dict[str, str]:
    return {name: why for name, why in look.prepared.items() if isinstance(why, str)}


def _check_provenance(extractors: Sequence[Extractor], wanted: Mapping[str, Provenance]) -> None:
    faults: list[str] = []
    for extractor in extractors:
        for feature, here in extractor.provenance.items():
            if here != wanted[feature]:
                faults += [f"{feature}: {line}" for line in here.differences(wanted[feature])]
    if faults:
        raise ExtractionError(
            f"node {socket.gethostname()} would make other features than the machine that the run "
            "was started on (what it has, not what is wanted):",
            faults=faults,
            hint="put the same models and the same versions of libraries on every node",
        )
