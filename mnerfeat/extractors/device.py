"""Where models run, and with which numbers."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mnerfeat.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Numerics = Literal["fast", "strict"]

KEPT_MEMORY: Final = 3 << 30
"""Bytes of a GPU for CUDA itself, and for the weights of ViT, CLIP and MANIQA with float16 copies.

Measured: 1.8 GB of weights and copies.
"""

WORKING_MEMORY: Final = 8 << 30
"""Bytes that two batches take at most, at the sizes extractors ask for, in float16.

Measured: 58 MiB for each of MANIQA's 64 crops, 4 MiB for each of ViT-B/16's 128 images; twice as
much in float32. One batch runs while the next is there already.
"""

_NO_MEMORY = (
    "can't allocate memory",  # the CPU's allocator
    "backend out of memory",  # MPS
    "CUDA error: out of memory",  # pinned memory, and what CUDA takes for itself
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""In messages of errors that are torch's own, but not `OutOfMemoryError`."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """A device and the numbers used on it.

    Attributes:
        device: As torch names it.
        half: Whether matrix products run in float16 (accumulated in float32).
        memory: Bytes that a GPU has in all; None where that bounds nothing.
    """

    device: "torch.device"
    half: bool
    memory: int | None = None

    def fitting_size(self, size: int) -> int:
        """How many inputs to begin with on this device: as asked for, or halved until they fit.

        It depends on all of the memory, not on what is free now, nor on any measured speed: batches
        of another shape may round otherwise, and a cache must not depend on the moment. From
        about 11 GB on nothing is halved; more at once would fit, but gain nothing.

        Args:
            size: What an extractor asks for on a GPU with memory enough.
        """
        if self.memory is None:
            return size
        share = (self.memory - KEPT_MEMORY) / (WORKING_MEMORY * (1 if self.half else 2))
        fitting = size
        while fitting > 1 and fitting > share * size:
            fitting //= 2
        return fitting

    def put(self, array: NDArray[Any]) -> "torch.Tensor":
        """An array as a tensor on the device; on a GPU the copy overlaps with what runs there."""
        import torch  # noqa: PLC0415

        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def claim_thread(self) -> None:
        """Give the calling thread a stream of its own on a GPU.

        What two threads ask for then overlaps: one batch is copied while another one runs.
        """
        if self.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.set_device(self.device)
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def use_threads(self, count: int) -> None:
        """Let products on a CPU use so many threads, in this whole process."""
        import torch  # noqa: PLC0415

        torch.set_num_threads(count)

    def settle(self) -> None:
        """Wait until the device has done everything, so that other streams see it."""
        if self.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.synchronize(self.device)

    def forget_memory(self) -> None:
        """Give back the memory that torch keeps for later."""
        if self.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inference with this device's numbers: no gradients, float16 where `half`."""
        import torch  # noqa: PLC0415

        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.float16, enabled=self.half),
        ):
            yield


def choose_computes(names: str, numerics: Numerics) -> list[Compute]:
    """The devices that an option names: one, or several between commas (`cuda:0,cuda:1`).

    Raises:
        ConfigError: Where there is no such device.
    """
    chosen = [choose_compute(name.strip(), numerics) for name in names.split(",")]
    if {compute.device.type for compute in chosen} == {"cuda"}:
        _mention_idle_gpus(chosen)
    return chosen


def _mention_idle_gpus(chosen: "list[Compute]") -> None:
    import torch  # noqa: PLC0415

    used = {compute.device.index or 0 for compute in chosen}
    idle = [f"cuda:{i}" for i in range(torch.cuda.device_count()) if i not in used]
    if idle:
        everything = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        logger.info("not used: %s; --device %s uses them all", ", ".join(idle), everything)


def choose_compute(name: str, numerics: Numerics) -> Compute:
    """The device that an option names, logged together with why.

    Args:
        name: `auto` (a GPU where there is one), or torch's name: `cpu`, `cuda`, `cuda:1`, `mps`.
        numerics: `fast` runs bodies in float16 on CUDA; `strict` in float32 (TF32 on CUDA).

    Raises:
        ConfigError: Where there is no such device.
    """
    import torch  # noqa: PLC0415

    device, why = _automatic() if name == "auto" else (_named(name), "as asked for")
    half = numerics == "fast" and device.type == "cuda"
    about, memory = device.type, None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about, memory = properties.name, properties.total_memory
    logger.info("device: %s (%s), %s", device, about, why)
    return Compute(device=device, half=half, memory=memory)


def _automatic() -> "tuple[torch.device, str]":
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), "the first GPU"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple's GPU"
    if Path("/proc/driver/nvidia/version").exists():
        why = "was built without CUDA" if torch.version.cuda is None else "cannot use its driver"
        logger.warning(
            "this machine has an NVIDIA GPU, but torch %s %s, so the CPU is used",
            torch.__version__,
            why,
        )
    return torch.device("cpu"), "no GPU that torch can use"


def _named(name: str) -> "torch.device":
    import torch  # noqa: PLC0415

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            found.append("mps")
        raise ConfigError(
            f"device: there is no {name!r} here ({str(error).splitlines()[0]}); "
            f"choose from: auto, cpu{''.join(f', {other}' for other in found)}"
        ) from error
    if device.type == "meta":
        raise ConfigError("device: 'meta' computes nothing; choose auto, cpu, cuda or mps")
    return device


@contextlib.contextmanager
def matrix_precision(compute: Compute) -> Iterator[None]:
    """Let float32 products use TF32 on CUDA; the settings are torch's own, so put them back."""
    if compute.device.type != "cuda":
        yield
        return
    import torch  # noqa: PLC0415

    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32 = convolution.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    import torch  # noqa: PLC0415

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)


def is_broken(error: BaseException) -> bool:
    """Whether a GPU failed, after which its process can do nothing more with it.

    Another GPU may well do the same work: memory that rots, a driver that was reset.
    """
    import torch  # noqa: PLC0415

    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)
