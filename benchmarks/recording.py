"""What all benchmarks share: how they start and take time, and what their records say.

Heavy libraries are imported where they are needed: the benchmark of the cache does without them.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mnerfeat.training import TrainingConfig

RESULTS: Final = Path(__file__).parent / "results"

CLOCKS: Final[Mapping[str, Callable[[], float]]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}


# Starting.


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Let `--clock` choose one of `CLOCKS`."""
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="processor: seconds of processor time, for a machine that others use too",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Where models run, by which clock, and where the record goes (None: by the device)."""
    import torch  # noqa: PLC0415

    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_clock(parser)
    parser.add_argument("--record", type=Path, default=None)


def begin(threads: int) -> None:
    """So many threads of torch, no network, and no word from libraries."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    torch.set_num_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


# Telling.


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{sd}"


def f1_rows(found: Mapping[str, Sequence[float]], whole: str) -> list[str]:
    """The rows of a table of heads.

    Args:
        found: F1 in percent, by head and seed.
        whole: The head that the others are compared with, where it is among them.
    """
    rows = []
    for name, values in found.items():
        behind = ""
        if whole in found:
            behind = f"{statistics.fmean(values) - statistics.fmean(found[whole]):+.1f}"
        each = ", ".join(f"{value:.1f}" for value in values)
        rows.append(f"| {name} | **{spread(values)}** | {behind} | {each} |")
    return rows


def chosen_options(config: "TrainingConfig", *always: str) -> dict[str, Any]:
    """Options other than the defaults.

    Args:
        config: Of a training.
        always: Told even where they are the defaults.
    """
    usual = asdict(type(config)())
    return {
        name: value
        for name, value in asdict(config).items()
        if value != usual[name] or name in always
    }


def ending(where: str, versions: Mapping[str, str]) -> list[str]:
    """The last lines of a record: machine, versions and date.

    Args:
        where: From `machine`, and what else there is to say of it.
        versions: By library.
    """
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"- Machine: {where}; load average at the end {os.getloadavg()[0]:.1f}.",
        f"- Versions: {told}.",
        f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
    ]


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
    import torch  # noqa: PLC0415

    return f"{words}, {torch.cuda.get_device_name(device)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def publish(text: str, path: Path | None) -> None:
    """Print a record, and write it.

    Args:
        text: Of the record.
        path: None to print it alone.
    """
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
