"""Devices that models run on, and the number formats used there."""

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
"""`fast`: float16 matrix products on CUDA, accumulated in float32. `strict`: float32, TF32 on CUDA.
Both are float32 on other devices."""

KEPT_MEMORY: Final = 3 << 30
"""GPU memory for CUDA itself and the weights of ViT, CLIP and MANIQA, in bytes.

Measured: 1.8 GB of weights with their float16 copies.
"""

WORKING_MEMORY: Final = 8 << 30
"""GPU memory of two batches of the default size in float16, in bytes: one runs, one is waiting.

Measured: 58 MiB for each of MANIQA's 64 crops, 4 MiB for each of ViT-B/16's 128 images; twice as
much in float32.
"""

_OUT_OF_MEMORY = (
    "can't allocate memory",  # the CPU's allocator
    "backend out of memory",  # MPS
    "CUDA error: out of memory",  # pinned memory, and what CUDA takes for itself
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Messages of torch's errors other than `OutOfMemoryError`."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """A device, and the number formats used on it.

    Attributes:
        device: The torch device.
        half: Whether matrix products run in float16 (accumulated in float32).
        memory: Total memory of a GPU in bytes; None for other devices.
    """

    device: "torch.device"
    half: bool
    memory: int | None = None

    def fitting_size(self, size: int) -> int:
        """Return the batch size to begin with: `size`, halved until it fits the device's memory.

        It depends on the total memory, not on what is free now nor on any measured speed: batches
        of another shape may round differently, and a cache must not depend on the moment. From
        about 11 GB on nothing is halved; larger batches would fit, but gain nothing.

        Args:
            size: Default batch size of an extractor.
        """
        if self.memory is None:
            return size
        share = (self.memory - KEPT_MEMORY) / (WORKING_MEMORY * (1 if self.half else 2))
        fitting = size
        while fitting > 1 and fitting > share * size:
            fitting //= 2
        return fitting

    def put(self, array: NDArray[Any]) -> "torch.Tensor":
        """Copy an array to the device; on a GPU the copy overlaps with computation."""
        import torch  # noqa: PLC0415

        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def claim_thread(self) -> None:
        """Give the calling thread its own CUDA stream, so that threads overlap on a GPU."""
        if self.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.set_device(self.device)
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def use_threads(self, count: int) -> None:
        """Set the number of CPU threads of this process."""
        import torch  # noqa: PLC0415

        torch.set_num_threads(count)

    def settle(self) -> None:
        """Wait until the device is idle, so that other streams see its results."""
        if self.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.synchronize(self.device)

    def forget_memory(self) -> None:
        """Free the memory that torch keeps for later."""
        if self.device.type == "cuda":
            import torch  # noqa: PLC0415

            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run inference in this device's number formats, without gradients."""
        import torch  # noqa: PLC0415

        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.float16, enabled=self.half),
        ):
            yield


def choose_computes(names: str, numerics: Numerics) -> list[Compute]:
    """Return the devices that an option names: one, or several with commas (`cuda:0,cuda:1`).

    Raises:
        ConfigError: A device does not exist.
    """
    chosen = [choose_compute(name.strip(), numerics) for name in names.split(",")]
    if {compute.device.type for compute in chosen} == {"cuda"}:
        import torch  # noqa: PLC0415

        used = {compute.device.index or 0 for compute in chosen}
        all_gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        idle = [name for i, name in enumerate(all_gpus) if i not in used]
        if idle:
            message = "not used: %s; --device %s uses all GPUs"
            logger.info(message, ", ".join(idle), ",".join(all_gpus))
    return chosen


def choose_compute(name: str, numerics: Numerics) -> Compute:
    """Return the device that an option names, and log it with the reason.

    Args:
        name: `auto` (a GPU if there is one), or torch's name: `cpu`, `cuda`, `cuda:1`, `mps`.
        numerics: See `Numerics`.

    Raises:
        ConfigError: The device does not exist.
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
        message = "this machine has an NVIDIA GPU, but torch %s %s: running on the CPU"
        logger.warning(message, torch.__version__, why)
    return torch.device("cpu"), "no GPU that torch can use"


def _named(name: str) -> "torch.device":
    import torch  # noqa: PLC0415

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        found += ["mps"] * torch.backends.mps.is_available()
        raise ConfigError(
            f"device: there is no {name!r} here ({str(error).splitlines()[0]}); "
            f"choose from: {', '.join(['auto', 'cpu', *found])}"
        ) from error
    if device.type == "meta":
        raise ConfigError("device: 'meta' computes nothing; choose auto, cpu, cuda or mps")
    return device


@contextlib.contextmanager
def matrix_precision(compute: Compute) -> Iterator[None]:
    """Allow TF32 in float32 products on CUDA, and restore torch's settings afterwards."""
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
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the machine ran out of memory."""
    import torch  # noqa: PLC0415

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def is_broken(error: BaseException) -> bool:
    """Return whether a GPU failed so that its process cannot use it any more.

    Another GPU may well succeed: the causes are faulty memory and driver resets.
    """
    import torch  # noqa: PLC0415

    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)
