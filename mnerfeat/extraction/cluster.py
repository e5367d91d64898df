"""The engine for a Ray cluster: a Ray Data pipeline from decoding tasks to actors with models.

`from_items` → `map_batches` that decodes → `map_batches` on actors that hold the models →
`iter_batches` into the recorder of this process. Placement, retries, back-pressure and actor
pools are Ray's. Images whose block Ray gives up on are processed by the local engine at the end.
"""

import importlib
import logging
import os
import pickle
import signal
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

import mnerfeat
from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError, ExtractionError
from mnerfeat.extraction.decoding import DecodeJob
from mnerfeat.extraction.local import run_locally
from mnerfeat.extraction.node import Answer, NodeModels, NodeSetup, Task, decode_tasks
from mnerfeat.extraction.plan import Plan
from mnerfeat.extraction.recorder import TEXT_BATCH, ImageRecorder, record_texts
from mnerfeat.extraction.runner import Rows
from mnerfeat.extraction.signals import StopRequest
from mnerfeat.extraction.workers import pickle_prepares
from mnerfeat.extractors.loader import require

logger = logging.getLogger(__name__)

DEVICES: Final = ("auto", "cpu", "cuda")

IMAGES_PER_TASK: Final = 32
"""Number of images that a task decodes: a fraction of a second, far more than a task costs."""

GPU_TASKS: Final = 8
"""Number of decoded tasks that a GPU takes at once: two batches, one copied as the other runs."""

RETRIES: Final = 10
"""Number of times that Ray repeats a task whose process or node was lost.

Until Ray has noticed that a node is gone, which takes a while, each attempt to reach it counts.
"""

JOINING_DEVICES: Final = 64
"""Number of devices that may join during a run and are used."""

_EXECUTOR = "ray.data._internal.execution.streaming_executor_state"
_KNOWN_IMAGES = 16  # by which a node tells whether it sees the images folder
_POLL_SECONDS = 0.2  # how often the stop request is checked


def run_on_cluster(plan: Plan, recorder: ImageRecorder, stop: StopRequest) -> tuple[str, int]:
    """Carry out a plan on the nodes of a Ray cluster. See `run_locally`.

    Raises:
        ConfigError: If there is no cluster, no such device, or a node does not see the images.
        ExtractionError: If a node has other models, or no node does anything.
        ModelError: If a model or a library is missing on a node.
    """
    config = plan.config
    if config.device not in DEVICES:
        raise ConfigError(
            f"device: {config.device!r}; the engine ray uses every device of a kind; choose from: "
            f"{', '.join(DEVICES)}"
        )
    used: dict[str, str] = {}  # names of devices
    with ExitStack() as stack:
        pipeline = _Pipeline(connect(stack), plan)
        cut_texts = 0
        if plan.reader is not None and plan.texts.todo:
            answers = pipeline.texts(plan.reader.name, plan.texts.todo, stop)
            cut_texts = record_texts(plan, partial(_next_rows, answers), stop.event)
        if plan.images.jobs and not stop.event.is_set():
            with recorder.progress():
                for answer in pipeline.images(stop):
                    used[answer.place] = answer.device
                    for number, result in answer.decoded:
                        recorder.record_decoded(plan.images.jobs[number], result)
                    for name, ids, rows in answer.rows:
                        recorder.record_rows(name, ids, rows)
                    recorder.seal_when_due()
                stop.announce()
    if recorder.unfinished and not stop.event.is_set():
        if not used:
            raise ExtractionError(
                f"the Ray cluster has not completed a single task; {pipeline.last_failure}",
                hint="install the same mnerfeat[ray] on every node; `ray logs` says more",
            )
        logger.warning(
            "%d images came back from no node, and this machine processes them; %s",
            len(recorder.unfinished),
            pipeline.last_failure,
        )
        here = replace(plan, config=replace(config, device="auto"), texts=type(plan.texts)())
        used["here"] = f"{socket.gethostname()} {run_locally(here, recorder, stop)[0]}"
    names = [f"{count} × {name}" for name, count in sorted(Counter(used.values()).items())]
    return f"{len(used)} device{'' if len(used) == 1 else 's'} ({', '.join(names)})", cut_texts


def _next_rows(answers: Iterator[Answer], texts: Sequence[str]) -> tuple[Rows, int]:
    answer = next(answers, None)
    if answer is None or list(answer.texts) != list(texts):
        raise ExtractionError(
            f"{len(texts)} texts came back from no node of the Ray cluster",
            hint="`ray logs` has the reasons; the same command continues",
        )
    return answer.text_rows


class _LastFailure(logging.Filter):
    """Keeps the reason of the last failed task, which Ray Data would log with its traceback."""

    _reason = "no reason is known"

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info and record.exc_info[1]
        if error:
            self._reason = f"the last reason: {_in_short(error)}"
        return not error

    def __str__(self) -> str:
        return self._reason


class _Pipeline:
    """A plan as pipelines of Ray Data."""

    def __init__(self, ray: Any, plan: Plan) -> None:
        self._ray = ray
        self._plan = plan
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if plan.config.device == "cuda" and not gpus:
            raise ConfigError("device: no node of the Ray cluster has a GPU")
        self._gpus = gpus > 0 and plan.config.device != "cpu"
        self._devices = gpus if self._gpus else sum(node.get("CPU", 0) >= 1 for node in nodes)
        self._setup = self._describe()
        self._context = ray.data.DataContext.get_current()
        self._context.enable_progress_bars = False
        self._context.max_errored_blocks = -1
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self.last_failure = _LastFailure()
        logging.getLogger(_EXECUTOR).addFilter(self.last_failure)

    def images(self, stop: StopRequest) -> Iterator[Answer]:
        """Decode all images and run the models on them."""
        self._context.execution_options.preserve_order = False
        folder = self._plan.config.images.absolute()
        tasks = [
            Task(
                number=number,
                id=job.id,
                job=DecodeJob(path=folder / job.name, extractors=job.extractors),
            )
            for number, job in enumerate(self._plan.images.jobs)
        ]
        work = [tasks[i : i + IMAGES_PER_TASK] for i in range(0, len(tasks), IMAGES_PER_TASK)]
        decoded = self._items(work).map_batches(
            _decode,
            batch_size=1,
            batch_format="pyarrow",
            fn_args=(self._setup,),
            # Beside models on a CPU, both fit on a node that has a single core.
            num_cpus=1 if self._gpus else 0.9,
            max_retries=RETRIES,
        )
        return self._answers(decoded, stop, batch_size=GPU_TASKS if self._gpus else 1)

    def texts(self, name: str, texts: Sequence[str], stop: StopRequest) -> Iterator[Answer]:
        """Embed texts, `TEXT_BATCH` at a time, in their order."""
        self._context.execution_options.preserve_order = True
        work = [(name, texts[i : i + TEXT_BATCH]) for i in range(0, len(texts), TEXT_BATCH)]
        return self._answers(self._items(work), stop, batch_size=1)

    def _items(self, work: Sequence[Any]) -> Any:
        items = [{"work": pickle.dumps(some), "decoded": b""} for some in work]
        return self._ray.data.from_items(items, override_num_blocks=len(items))

    def _answers(self, data: Any, stop: StopRequest, *, batch_size: int) -> Iterator[Answer]:
        """Run models on what a data set holds; ends early on a stop request."""
        answers = data.map_batches(
            _RunModels,
            batch_size=batch_size,
            batch_format="pyarrow",
            fn_constructor_args=(self._setup,),
            compute=self._ray.data.ActorPoolStrategy(
                min_size=1,
                initial_size=self._devices,
                max_size=self._devices + JOINING_DEVICES,
            ),
            num_gpus=1 if self._gpus else 0,
            num_cpus=0 if self._gpus else 0.1,
            max_restarts=-1,
            max_task_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        queue: Queue[Answer | BaseException | None] = Queue(maxsize=4)

        def receive() -> None:
            try:
                for batch in answers.iter_batches(batch_size=1, batch_format="pyarrow"):
                    queue.put(pickle.loads(batch["answer"][0].as_buffer()))  # noqa: S301
                queue.put(None)
            except BaseException as error:  # noqa: BLE001  (raised below, in the caller's thread)
                queue.put(error)

        threading.Thread(target=receive, daemon=True).start()
        while not stop.event.is_set():
            try:
                answer = queue.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise ExtractionError(
                    f"the Ray cluster failed: {_in_short(answer)}",
                    hint="`ray status` and `ray logs` say more; the same command continues",
                ) from answer
            if answer.error is not None:
                raise answer.error
            yield answer

    def _describe(self) -> NodeSetup:
        plan = self._plan
        jobs = plan.images.jobs
        wanted = {name for job in jobs for name in job.extractors}
        provenance: dict[str, Provenance] = {}
        libraries: dict[str, str] = {}
        for extractor in plan.extractors.values():
            provenance |= extractor.provenance
            for made_by in extractor.provenance.values():
                libraries |= made_by.facts.get("libraries", {})
        return NodeSetup(
            run=uuid.uuid4().hex,
            version=mnerfeat.__version__,
            prepares=pickle_prepares({name: plan.extractors[name].prepare for name in wanted}),
            # Nodes make extractors themselves: theirs may differ, which must be found out.
            make=plan.make,
            provenance=provenance,
            libraries=libraries,
            known=[job.name for job in jobs[:: len(jobs) // _KNOWN_IMAGES + 1]],
            folder=Path.cwd(),
            config=replace(plan.config, images=plan.config.images.absolute()),
            gpus=self._gpus,
        )


def _decode(table: Any, setup: NodeSetup) -> dict[str, list[bytes]]:
    """Decode the images of one item, on a node."""
    work = table["work"][0].as_py()
    decoded = decode_tasks(setup, pickle.loads(work))  # noqa: S301  (made by this program)
    return {"work": [work], "decoded": [pickle.dumps(decoded, protocol=5)]}


class _RunModels:
    """Run models on decoded images or on texts, on a node."""

    def __init__(self, setup: NodeSetup) -> None:
        ray: Any = importlib.import_module("ray")
        context = ray.get_runtime_context()
        here = context.get_node_id()
        gpus = context.get_accelerator_ids().get("GPU", [])
        cores = [n["Resources"].get("CPU", 1) for n in ray.nodes() if n["NodeID"] == here]
        self._models = NodeModels(setup, threads=max(1, int(*cores)), place=" ".join([here, *gpus]))

    def __call__(self, table: Any) -> dict[str, list[bytes]]:
        items = []
        for work, decoded in zip(table["work"], table["decoded"], strict=True):
            tasks = pickle.loads(work.as_buffer())  # noqa: S301  (made by this program)
            if isinstance(tasks, tuple):
                return _packed(self._models.read(*tasks))
            results = pickle.loads(decoded.as_buffer())  # noqa: S301
            if isinstance(results, Exception):
                return _packed(Answer(error=results))
            items += list(zip(tasks, results, strict=True))
        return _packed(self._models.run(items))


def _packed(answer: Answer) -> dict[str, list[bytes]]:
    return {"answer": [pickle.dumps(answer, protocol=5)]}


def connect(stack: ExitStack) -> Any:
    """Connect to the Ray cluster, or start one on this machine if there is none.

    Ray finds the address itself: `RAY_ADDRESS`, then a cluster that runs on this machine.

    Args:
        stack: Disconnects when closed, unless the program was connected before.

    Raises:
        ConfigError: If Ray cannot connect.
        ModelError: If Ray is not installed.
    """
    require("ray", "ray", "ray", option="engine")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # noqa: PLC0415
    import ray.data  # noqa: PLC0415

    if ray.is_initialized():
        return ray
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"engine: Ray cannot connect: {_in_short(error, 0)}",
            hint="`ray status` tells whether the cluster that RAY_ADDRESS names is up and lets "
            "this machine in (`ray get-auth-token`)",
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray has set its own
    stack.callback(ray.shutdown)
    return ray


def _in_short(error: BaseException, line: int = -1) -> str:
    """Return a line of an error: the last one, since errors of tasks begin with tracebacks."""
    lines = str(error).strip().splitlines()
    return lines[line].strip() if lines else type(error).__name__
