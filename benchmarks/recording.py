"""What the records of all benchmarks say in the same words."""

import os
import platform
from pathlib import Path


def machine(device: str | None = None) -> str:
    """The machine that a benchmark ran on.

    Args:
        device: Of torch, on which models ran; None says nothing of GPUs.
    """
    allowed = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if allowed else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = f"{cores} vCPU {_processor()}, {memory:.0f} GiB"
    if device is None:
        return words
    if not device.startswith("cuda"):
        return f"{words}, no GPU used"
    import torch  # noqa: PLC0415  (the benchmarks of the cache do without it)

    return f"{words}, {torch.cuda.get_device_name(device)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
