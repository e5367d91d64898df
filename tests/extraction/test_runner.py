"""Batches on devices: every row once, whatever memory does, on one device or several."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction.runner import Batcher, DeviceRunner
from mnerfeat.extractors import device
from mnerfeat.extractors.base import Prepared
from mnerfeat.extractors.device import Compute

IMAGES = 103


class Echo:
    """Gives back the number of each image, and runs out of memory as it is told."""

    def __init__(self, memory: Sequence[int] = (1000,), delay: float = 0.0) -> None:
        self.name = "echo"
        self.memory = list(memory)
        self.delay = delay
        self.loads = 0
        self.running = 0
        self.most_running = 0
        self.sizes: list[int] = []

    def default_size(self, compute: Compute) -> int:
        return 16

    def images_at_once(self, size: int) -> int:
        return size

    def load(self, compute: Compute) -> None:
        self.loads += 1
        time.sleep(0.01)  # a second thread comes meanwhile

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        time.sleep(self.delay)
        self.running -= 1
        memory = self.memory.pop(0) if len(self.memory) > 1 else self.memory[0]
        self.sizes.append(size)
        if size > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"echo": np.array([image["number"] for image in batch], np.float32)}


def device_runner(
    extractor: Echo, *, kind: str = "cpu", size: int | None = None, memory: int | None = None
) -> DeviceRunner:
    class Pretended(Compute):
        def claim_thread(self) -> None: ...
        def settle(self) -> None: ...
        def forget_memory(self) -> None: ...

    pretended: Any = SimpleNamespace(type=kind)
    compute = Pretended(device=pretended, half=True, memory=memory)
    return DeviceRunner({"echo": extractor}, compute, batch_size=size)  # type: ignore[dict-item]


def run(runners: Sequence[DeviceRunner], stop: threading.Event | None = None) -> list[int]:
    """The numbers that came back, in the order they came."""
    back: list[int] = []

    def done(name: str, ids: Sequence[bytes], rows: Mapping[str, Any]) -> None:
        assert name == "echo"
        numbers = rows["echo"].astype(int).tolist()
        assert [int.from_bytes(id_, "big") for id_ in ids] == numbers  # each under its own name
        back.extend(numbers)

    batcher = Batcher(runners, ["echo"], stop=stop or threading.Event(), done=done)
    try:
        for i in range(IMAGES):
            batcher.add("echo", i.to_bytes(4, "big"), {"number": np.array(i)})
            batcher.collect()
        batcher.finish()
    finally:
        for each in runners:
            each.close()
    return back


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "memory",
    [
        (1000,),
        (3,),  # from the first batch on
        (1000, 1000, 9, 9, 1000, 3, 3, 1000, 1),  # now and then, down to single images
    ],
)
def test_memory_that_runs_out_loses_and_repeats_no_row(kind: str, memory: tuple[int, ...]) -> None:
    extractor = Echo(memory)
    assert sorted(run([device_runner(extractor, kind=kind)])) == list(range(IMAGES))
    assert extractor.sizes[-1] <= memory[-1]


def test_what_fits_is_found_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    extractor = Echo((5,))
    with caplog.at_level(logging.WARNING):
        run([device_runner(extractor)])
    assert extractor.sizes[:3] == [16, 8, 4]
    assert set(extractor.sizes[3:]) == {4}
    assert [record.getMessage() for record in caplog.records] == [
        "echo: out of memory, continuing with batch size 8",
        "echo: out of memory, continuing with batch size 4",
    ]


def test_batches_become_as_small_as_what_fits() -> None:
    only = device_runner(Echo((5,)), size=64)
    assert only.images_at_once("echo") == 64
    run([only])
    assert only.images_at_once("echo") == 4


def test_a_single_image_that_does_not_fit_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ExtractionError, match="not enough memory for echo") as failed:
        run([device_runner(Echo((0,)))])
    assert "--device" in str(failed.value)


def test_an_image_that_fits_alone_waits_for_the_other_threads_batch() -> None:
    class Large(Echo):
        def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
            self.memory = [1 if self.running == 0 else 0]
            return super().extract(batch, size)

    extractor = Large(delay=0.005)
    assert sorted(run([device_runner(extractor, kind="cuda", size=2)])) == list(range(IMAGES))
    assert extractor.most_running == 2  # it was tried side by side, too


def test_other_errors_are_no_lack_of_memory() -> None:
    class Wrong(Echo):
        def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run([device_runner(Wrong())])


def test_a_gpu_is_given_the_next_batch_before_the_last_one_is_done() -> None:
    extractor = Echo(delay=0.02)
    assert sorted(run([device_runner(extractor, kind="cuda")])) == list(range(IMAGES))
    assert extractor.most_running == 2
    assert extractor.loads == 1


def test_several_devices_share_the_batches() -> None:
    extractors = [Echo(delay=0.01) for _ in range(3)]
    assert sorted(run([device_runner(extractor) for extractor in extractors])) == list(
        range(IMAGES)
    )
    assert all(len(extractor.sizes) >= 1 for extractor in extractors)


def test_a_slow_device_is_given_less() -> None:
    fast, slow = Echo(), Echo(delay=0.2)
    assert sorted(run([device_runner(fast, size=2), device_runner(slow, size=2)])) == list(
        range(IMAGES)
    )
    assert len(fast.sizes) > 2 * len(slow.sizes)


def test_batches_that_wait_are_few_however_many_images_there_are() -> None:
    started: list[int] = []

    class Counting(Batcher):
        def _start(self, name: str) -> None:
            super()._start(name)
            started.append(len(self._in_flight))

    only = device_runner(Echo(delay=0.002), size=2)
    batcher = Counting([only], ["echo"], stop=threading.Event(), done=lambda *_: None)
    for i in range(IMAGES):
        batcher.add("echo", bytes([i]), {"number": np.array(i)})
    batcher.finish()
    only.close()
    assert max(started) <= only.capacity


def test_when_stopped_what_is_done_is_handed_over_and_nothing_is_waited_for() -> None:
    stop = threading.Event()

    class Stopping(Echo):
        def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
            if len(self.sizes) == 2:
                stop.set()
            return super().extract(batch, size)

    extractor = Stopping(delay=0.01)
    back = run([device_runner(extractor, size=4)], stop)
    assert len(back) == len(set(back)) < IMAGES
    assert len(back) >= 8


@pytest.mark.parametrize(
    ("gib", "half", "size"),
    [
        (139.8, True, 128),  # an H200: more would fit, and gain nothing
        (11.6, True, 128),  # what a card of 12 GB has
        (7.6, True, 64),
        (5.7, True, 32),
        (3.8, True, 8),
        (0.5, True, 1),
        (23.6, False, 128),
        (15.7, False, 64),
    ],
)
def test_a_small_gpu_begins_with_less(gib: float, half: bool, size: int) -> None:
    compute = Compute(device=torch.device("cuda"), half=half, memory=int(gib * 2**30))
    assert compute.fitting_size(128) == size


def test_what_is_no_gpu_begins_with_what_is_asked_for() -> None:
    assert Compute(device=torch.device("cpu"), half=False).fitting_size(16) == 16


@given(gib=st.floats(3.5, 300.0), half=st.booleans())
def test_what_was_measured_fits_into_every_gpu(gib: float, half: bool) -> None:
    """Two batches of MANIQA's crops, or of ViT's images, beside the weights of all models."""
    compute = Compute(device=torch.device("cuda"), half=half, memory=int(gib * 2**30))
    for asked, mib in ((64, 58.4 if half else 117.9), (128, 3.8 if half else 6.9)):
        size = compute.fitting_size(asked)
        assert asked % size == 0
        assert size == 1 or 2 * size * mib + 2.3 * 1024 <= gib * 1024
        assert size == asked or gib < (11 if half else 19)


def test_a_device_begins_with_what_fits_its_memory_unless_told_otherwise() -> None:
    small = 5 << 30
    assert device_runner(Echo(), memory=small).images_at_once("echo") == 4
    assert device_runner(Echo(), memory=small, size=16).images_at_once("echo") == 16
    extractor = Echo((2,))  # less is free than the card has
    assert sorted(run([device_runner(extractor, memory=small)])) == list(range(IMAGES))
    assert extractor.sizes[:2] == [4, 2]


def test_the_memory_of_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="a card", total_memory=7 << 30)
    monkeypatch.setattr(device, "_named", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    chosen = device.choose_compute("cuda:1", "fast")
    assert chosen.memory == 7 << 30
    assert chosen.half
    assert device.choose_compute("cpu", "fast").memory is None
