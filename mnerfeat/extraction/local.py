"""The engine for one machine: its processes decode, its devices run the models."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from mnerfeat.extraction.decoding import DecodeJob, DecodeResult
from mnerfeat.extraction.plan import ImageJob, Plan
from mnerfeat.extraction.recorder import ImageRecorder, record_texts
from mnerfeat.extraction.runner import Batcher, DeviceRunner
from mnerfeat.extraction.signals import StopRequest
from mnerfeat.extraction.workers import DecoderPool, decode_here
from mnerfeat.extractors.device import Compute, choose_computes, matrix_precision, usable_cores

_FEW_IMAGES: Final = 256
"""Below, decoding in the main process is done before a decoder process has started."""


def run_locally(plan: Plan, recorder: ImageRecorder, stop: StopRequest) -> tuple[str, int]:
    """Carry out a plan on this machine.

    Args:
        plan: Plan of the run.
        recorder: Receives the results of images, opened; its unfinished jobs are done.
        stop: Ends the run early.

    Returns:
        The devices that were used, and how many texts were cut.
    """
    config, jobs = plan.config, recorder.unfinished
    computes = choose_computes(config.device, config.numerics)
    with ExitStack() as stack:
        for compute in computes:
            stack.enter_context(matrix_precision(compute))
        decoded = _decode(plan, jobs, computes, stop, stack)  # decoders start during the texts
        runners = _runners(plan, computes, stack)
        batcher = Batcher(
            runners, list(plan.extractors), stop=stop.event, done=recorder.record_rows
        )
        cut_texts = record_texts(
            plan,
            lambda texts: batcher.read_texts(plan.reader.name if plan.reader else "", texts),
            stop.event,
        )
        if jobs and not stop.event.is_set():
            with recorder.progress():
                for number, result in decoded:
                    job = jobs[number]
                    for name, prepared in recorder.record_decoded(job, result).items():
                        batcher.add(name, job.id, prepared)
                    batcher.collect()
                    recorder.seal_when_due()
                stop.announce()
                batcher.finish()
    return ", ".join(str(compute.device) for compute in computes), cut_texts


def _runners(plan: Plan, computes: Sequence[Compute], stack: ExitStack) -> list[DeviceRunner]:
    # Each device needs its own copy of the models.
    copies = [{extractor.name: extractor for extractor in plan.make()} for _ in computes[1:]]
    runners = [
        DeviceRunner(own, compute, batch_size=plan.config.batch_size)
        for own, compute in zip([plan.extractors, *copies], computes, strict=True)
    ]
    for runner in runners:
        stack.callback(runner.close)
    return runners


def _decode(
    plan: Plan,
    jobs: Sequence[ImageJob],
    computes: Sequence[Compute],
    stop: StopRequest,
    stack: ExitStack,
) -> Iterator[tuple[int, DecodeResult]]:
    config = plan.config
    decode_jobs = (
        DecodeJob(path=config.images / job.name, extractors=job.extractors) for job in jobs
    )
    wanted = {name for job in jobs for name in job.extractors}
    prepares = {name: plan.extractors[name].prepare for name in wanted}
    on_cpu = any(compute.device.type == "cpu" for compute in computes)
    workers = config.workers
    if workers is None:
        # On a CPU the models need the cores more than decoding does.
        workers = max(1, usable_cores() // 2 if on_cpu else usable_cores() - 1)
        workers = workers if len(jobs) >= _FEW_IMAGES else 0
    if not workers:
        return decode_here(decode_jobs, prepares, stop.event)
    pool = DecoderPool(prepares, workers=workers, timeout=config.image_timeout, yielding=on_cpu)
    return stack.enter_context(pool).decode(decode_jobs, stop.event)
