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

from mnerfeat.errors import ExtractionError
from mnerfeat.extractors.base import Prepared
from mnerfeat.extractors.batching import Batcher
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.lane import DeviceLane

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


def lane(extractor: Echo, *, kind: str = "cpu", size: int | None = None) -> DeviceLane:
    class Pretended(Compute):
        def claim_thread(self) -> None: ...
        def settle(self) -> None: ...
        def forget_memory(self) -> None: ...

    device: Any = SimpleNamespace(type=kind)
    return DeviceLane({"echo": extractor}, Pretended(device=device, half=False), size=size)  # type: ignore[dict-item]


def run(lanes: Sequence[DeviceLane], stop: threading.Event | None = None) -> list[int]:
    """The numbers that came back, in the order they came."""
    back: list[int] = []

    def done(name: str, ids: Sequence[bytes], rows: Mapping[str, Any]) -> None:
        assert name == "echo"
        numbers = rows["echo"].astype(int).tolist()
        assert [int.from_bytes(id_, "big") for id_ in ids] == numbers  # each under its own name
        back.extend(numbers)

    batcher = Batcher(lanes, ["echo"], stop=stop or threading.Event(), done=done)
    try:
        for i in range(IMAGES):
            batcher.add("echo", i.to_bytes(4, "big"), {"number": np.array(i)})
            batcher.collect()
        batcher.finish()
    finally:
        for each in lanes:
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
    assert sorted(run([lane(extractor, kind=kind)])) == list(range(IMAGES))
    assert extractor.sizes[-1] <= memory[-1]


def test_what_fits_is_found_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    extractor = Echo((5,))
    with caplog.at_level(logging.WARNING):
        run([lane(extractor)])
    assert extractor.sizes[:3] == [16, 8, 4]
    assert set(extractor.sizes[3:]) == {4}
    assert [record.getMessage() for record in caplog.records] == [
        "echo: out of memory, going on with 8 at once",
        "echo: out of memory, going on with 4 at once",
    ]


def test_batches_become_as_small_as_what_fits() -> None:
    device = lane(Echo((5,)), size=64)
    assert device.images_at_once("echo") == 64
    run([device])
    assert device.images_at_once("echo") == 4


def test_a_single_image_that_does_not_fit_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ExtractionError, match="not enough memory for echo") as failed:
        run([lane(Echo((0,)))])
    assert "--device" in str(failed.value)


def test_other_errors_are_no_lack_of_memory() -> None:
    class Wrong(Echo):
        def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run([lane(Wrong())])


def test_a_gpu_is_given_the_next_batch_before_the_last_one_is_done() -> None:
    extractor = Echo(delay=0.02)
    assert sorted(run([lane(extractor, kind="cuda")])) == list(range(IMAGES))
    assert extractor.most_running == 2
    assert extractor.loads == 1


def test_several_devices_share_the_batches() -> None:
    extractors = [Echo(delay=0.01) for _ in range(3)]
    assert sorted(run([lane(extractor) for extractor in extractors])) == list(range(IMAGES))
    assert all(len(extractor.sizes) >= 1 for extractor in extractors)


def test_a_slow_device_is_given_less() -> None:
    fast, slow = Echo(), Echo(delay=0.2)
    assert sorted(run([lane(fast, size=2), lane(slow, size=2)])) == list(range(IMAGES))
    assert len(fast.sizes) > 2 * len(slow.sizes)


def test_batches_that_wait_are_few_however_many_images_there_are() -> None:
    started: list[int] = []

    class Counting(Batcher):
        def _start(self, name: str) -> None:
            super()._start(name)
            started.append(len(self._queue))

    device = lane(Echo(delay=0.002), size=2)
    batcher = Counting([device], ["echo"], stop=threading.Event(), done=lambda *_: None)
    for i in range(IMAGES):
        batcher.add("echo", bytes([i]), {"number": np.array(i)})
    batcher.finish()
    device.close()
    assert max(started) <= device.depth


def test_when_stopped_what_is_done_is_handed_over_and_nothing_is_waited_for() -> None:
    stop = threading.Event()

    class Stopping(Echo):
        def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
            if len(self.sizes) == 2:
                stop.set()
            return super().extract(batch, size)

    extractor = Stopping(delay=0.01)
    back = run([lane(extractor, size=4)], stop)
    assert len(back) == len(set(back)) < IMAGES
    assert len(back) >= 8
