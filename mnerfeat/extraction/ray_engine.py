"""Extraction on many machines with Ray: decoding tasks stream into devices, one run records.

Every device of the cluster has an actor with the models; every core may decode. The run hands
each device a few bundles of images ahead, gets rows back, and writes them as parts of the cache
by the same ledger as the engine for one machine. A bundle whose node is lost is given to another
one; rows of images are recorded once, when they arrive, so nothing is lost or repeated.

Tasks and actors of Ray's core are used rather than Ray Data: a failure must cost one image its
row with a reason, not a block of a data set.
"""

import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, final

import mnerfeat
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.engine import Engine
from mnerfeat.extraction.ledger import record_texts
from mnerfeat.extraction.ray_bundles import ATTEMPTS, Bundle, BundleQueue
from mnerfeat.extraction.ray_connection import alive, connect, near
from mnerfeat.extraction.ray_fleet import IMAGES_A_TASK, Fleet
from mnerfeat.extraction.ray_nodes import Answer, Decoding, Models, decode
from mnerfeat.extraction.stopping import Stop
from mnerfeat.extraction.workers import Job, pickle_prepares
from mnerfeat.extractors.base import TextExtractor

DEVICES: Final = ("auto", "cpu", "cuda")

_KNOWN = 16  # files by which a node tells whether it sees the images


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
        fleet = Fleet(ray, self._models(), gpus=gpus)
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
            version=mnerfeat.__version__,
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
            version=mnerfeat.__version__,
            prepares=pickle_prepares(
                {
                    name: extractor.prepare
                    for name, extractor in self._extractors.items()
                    if name in wanted
                }
            ),
            images=self._config.images.absolute(),
            known=[job.name for job in self._plan.jobs[:: len(self._plan.jobs) // _KNOWN + 1]],
            libraries=libraries,
            timeout=self._config.image_timeout,
            yielding=yielding,
        )

    def _look_at_images(self, ray: Any, fleet: Fleet, decoding: Any, stop: Stop) -> None:
        folder = self._config.images.absolute()
        decoder = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(decode)
        work = BundleQueue(self._plan.jobs)
        while (work.left or fleet.busy) and not stop.event.is_set():
            fleet.recruit()
            while (device := fleet.freest()) and (bundle := work.take(device.images)):
                jobs = [Job(path=folder / j.name, extractors=j.extractors) for j in bundle.jobs]
                nearby = decoder.options(scheduling_strategy=near(device.node))
                decoded = [
                    nearby.remote(decoding, jobs[start : start + IMAGES_A_TASK])
                    for start in range(0, len(jobs), IMAGES_A_TASK)
                ]
                ids = [job.id for job in bundle.jobs]
                device.bundles[device.handle.look.remote(ids, *decoded)] = bundle
            for bundle, answer in fleet.answers():
                if isinstance(answer, Exception):
                    work.give_back(bundle, answer)
                else:
                    self._record(bundle, answer)
            self.ledger.seal_when_due()
        stop.announce()

    def _record(self, bundle: Bundle, answer: Answer) -> None:
        for job, look in zip(bundle.jobs, answer.looks, strict=True):
            self.ledger.take(job, look)
        for name, ids, rows in answer.rows:
            self.ledger.done(name, ids, rows)
