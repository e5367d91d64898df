"""The work of a cluster's nodes: tasks that decode images, and actors that run models.

Nothing here imports Ray. Failures are values: a task that raised would cost a block of images,
and Ray would try it again. Before a node does anything it compares its images folder, its models
and its libraries with those of the run, since rows of one feature must not depend on the node.
"""

import os
import pickle
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Event
from typing import final

import mnerfeat
from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError, ExtractionError, ModelError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.decoding import DecodeJob, DecodeResult
from mnerfeat.extraction.recorder import was_changed
from mnerfeat.extraction.runner import Batcher, DeviceRunner, Rows
from mnerfeat.extraction.workers import DecoderPool
from mnerfeat.extractors.base import Extractor
from mnerfeat.extractors.device import choose_computes, is_broken, matrix_precision
from mnerfeat.extractors.loader import versions


@dataclass(frozen=True, kw_only=True)
class NodeSetup:
    """What every node is told about a run.

    Attributes:
        run: Random identifier of the run.
        version: Version of mnerfeat.
        prepares: Preparation steps by extractor, pickled; only decoder processes unpickle them.
        make: Makes the extractors.
        provenance: Provenance of every feature, as the run records it.
        libraries: Versions of libraries, as the provenance states them.
        known: Names of some images that the run has read.
        folder: Working directory of the run, to which paths of models may be relative.
        config: Configuration of the run; its images folder is absolute.
        gpus: Whether models run on GPUs.
    """

    run: str
    version: str
    prepares: bytes
    make: Callable[[], Sequence[Extractor]]
    provenance: Mapping[str, Provenance]
    libraries: Mapping[str, str]
    known: Sequence[str]
    folder: Path
    config: ExtractConfig
    gpus: bool


@dataclass(frozen=True, kw_only=True)
class Task:
    """An image to decode.

    Attributes:
        number: Its number among the jobs of the run.
        id: Its identity as planned.
        job: What to decode.
    """

    number: int
    id: bytes
    job: DecodeJob


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of some images or texts.

    Attributes:
        decoded: Numbers of images with their results, without the inputs of models.
        rows: Name of an extractor, identities of images, and their rows.
        texts: Texts that were read.
        text_rows: Their rows, and how many of them were cut.
        device: Name of the node and of the device that ran the models.
        place: Identifies that device; Ray may run several processes on one.
        error: A failure of the node that concerns the whole run, if any.
    """

    decoded: Sequence[tuple[int, DecodeResult]] = ()
    rows: Sequence[tuple[str, Sequence[bytes], Rows]] = ()
    texts: Sequence[str] = ()
    text_rows: tuple[Rows, int] = ({}, 0)
    device: str = ""
    place: str = ""
    error: Exception | None = None


_pools: dict[str, DecoderPool] = {}


def decode_tasks(setup: NodeSetup, tasks: Sequence[Task]) -> list[DecodeResult] | Exception:
    """Decode images in a decoder process, which later calls in this process use again.

    Returns:
        A result per task, or the error that keeps this node from decoding.
    """
    try:
        pool = _pools.get(setup.run)
        if pool is None:
            _check_version(setup.version)
            _check_libraries(setup.libraries)
            _check_images(setup.config.images, setup.known)
            close_pools()
            pool = DecoderPool(
                setup.prepares,
                workers=1,
                timeout=setup.config.image_timeout,
                yielding=not setup.gpus,
            )
            _pools[setup.run] = pool.__enter__()
        results = dict(pool.decode((task.job for task in tasks), Event()))
        return [results[number] for number in range(len(tasks))]
    except Exception as error:  # noqa: BLE001  (a value, see above)
        return _portable(error)


def close_pools() -> None:
    """End the decoder processes of this process."""
    for pool in _pools.values():
        pool.close()
    _pools.clear()


@final
class NodeModels:
    """The extractors on one device of a node.

    Args:
        setup: What the run tells.
        threads: Number of cores that a model on a CPU may use.
        place: Identifies the device in the cluster.
    """

    def __init__(self, setup: NodeSetup, threads: int, place: str = "") -> None:
        self._setup = setup
        self._threads = threads
        self._settings = ExitStack()
        self._runner: DeviceRunner | None = None
        self._names: Sequence[str] = ()
        self._device = socket.gethostname()
        self._place = place

    def run(self, decoded: Sequence[tuple[Task, DecodeResult]]) -> Answer:
        """Run the models on some images."""
        rows: list[tuple[str, Sequence[bytes], Rows]] = []
        try:
            runner = self._ready()
            batcher = Batcher(
                [runner],
                self._names,
                stop=Event(),
                done=lambda name, ids, some: rows.append((name, list(ids), some)),
            )
            for task, result in decoded:
                if result.reason is None and not was_changed(task.id, result):
                    for name, prepared in result.prepared.items():
                        if not isinstance(prepared, str):
                            batcher.add(name, task.id, prepared)
            batcher.finish()
        except Exception as error:  # noqa: BLE001  (a value, see above)
            return self._failure(error)
        stripped = [
            (task.number, replace(result, prepared=_refusals(result))) for task, result in decoded
        ]
        return Answer(decoded=stripped, rows=rows, device=self._device, place=self._place)

    def read(self, name: str, texts: Sequence[str]) -> Answer:
        """Run an extractor on texts."""
        try:
            batcher = Batcher([self._ready()], self._names, stop=Event(), done=lambda *_: None)
            rows = batcher.read_texts(name, texts)
            return Answer(texts=texts, text_rows=rows, device=self._device, place=self._place)
        except Exception as error:  # noqa: BLE001  (a value, see above)
            return self._failure(error)

    def _failure(self, error: Exception) -> Answer:
        if is_broken(error):
            # Nothing in this process can use the GPU again: Ray starts another one elsewhere.
            os._exit(1)
        return Answer(device=self._device, place=self._place, error=_portable(error))

    def _ready(self) -> DeviceRunner:
        """Make the extractors on first use.

        Raises:
            ExtractionError: If they are not those that the run records.
            ModelError: If a model is missing here, or this node has another mnerfeat.
        """
        if self._runner is not None:
            return self._runner
        setup = self._setup
        _check_version(setup.version)
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if setup.folder.is_dir():
            os.chdir(setup.folder)
        extractors = setup.make()
        _check_provenance(extractors, setup.provenance)
        (compute,) = choose_computes("cuda" if setup.gpus else "cpu", setup.config.numerics)
        self._settings.enter_context(matrix_precision(compute))
        if compute.device.type == "cpu":
            compute.use_threads(self._threads)
        self._names = [extractor.name for extractor in extractors]
        self._device = f"{socket.gethostname()} {compute.device}"
        self._runner = DeviceRunner(
            {extractor.name: extractor for extractor in extractors},
            compute,
            batch_size=setup.config.batch_size,
        )
        return self._runner


def _refusals(result: DecodeResult) -> dict[str, str]:
    return {name: why for name, why in result.prepared.items() if isinstance(why, str)}


def _portable(error: Exception) -> Exception:
    """Return an error that can travel to the run."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (made here)
    except Exception:  # noqa: BLE001  (exceptions may fail to be pickled in any way)
        return ExtractionError(f"{type(error).__name__} on {socket.gethostname()}: {error}")
    return error


def _check_version(wanted: str) -> None:
    if mnerfeat.__version__ != wanted:
        raise ModelError(
            f"node {socket.gethostname()} has mnerfeat {mnerfeat.__version__}, the machine that "
            f"started the run has {wanted}",
            hint=f"pip install 'mnerfeat[ray]=={wanted}' on every node",
        )


def _check_libraries(wanted: Mapping[str, str]) -> None:
    here = {package: _version(package) for package in wanted}
    if here != dict(wanted):
        raise ModelError(
            f"node {socket.gethostname()} has other versions of libraries than the machine that "
            "started the run:",
            faults=[
                f"{package}: {here[package]} there, {version} here"
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
    """Refuse a node that sees none of the images; a single one may have been deleted.

    The mount point of a disk that is not mounted exists, and is empty.
    """
    if known and not any(os.access(folder / name, os.R_OK) for name in known):
        raise ConfigError(
            f"node {socket.gethostname()} cannot read the images in {folder}: none of "
            f"{len(known)} that the run has read, such as {known[0]}",
            hint="put them on a file system that all nodes share, under the same path",
        )


def _check_provenance(extractors: Sequence[Extractor], wanted: Mapping[str, Provenance]) -> None:
    faults: list[str] = []
    for extractor in extractors:
        for feature, here in extractor.provenance.items():
            if here != wanted[feature]:
                lines = here.differences(wanted[feature], "there", "here")
                faults += [f"{feature}: {line}" for line in lines]
    if faults:
        raise ExtractionError(
            f"node {socket.gethostname()} would make other features than the machine that started "
            "the run:",
            faults=faults,
            hint="put the same models and the same versions of libraries on every node",
        )
