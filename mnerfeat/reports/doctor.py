"""The `doctor` report: devices, package versions and models of this machine."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np

from mnerfeat import __version__
from mnerfeat.errors import MnerfeatError
from mnerfeat.extractors.base import ExtractorOptions
from mnerfeat.extractors.registry import EXTRACTORS, make_extractor
from mnerfeat.hub import OLDER_WEIGHTS, SAFE_WEIGHTS, download, local_only

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "core": ("torch", "transformers", "accelerate", "h5py", "numpy", "pytorch-crf", "seqeval"),
    "extract": ("open_clip_torch", "torchvision", "pillow"),
    "quality": ("pyiqa",),
    "ray": ("ray",),
}
"""Packages by the extra that installs them."""

_HUB = "https://huggingface.co"
_HUB_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the report.

    Attributes:
        what: A device, package or model.
        found: Whether it is there.
        detail: Its version or place, or how to get it.
    """

    what: str
    found: bool
    detail: str


def examine(preset: str, text_encoders: Mapping[str, str]) -> dict[str, list[Finding]]:
    """Examine this machine, without downloading anything.

    Args:
        preset: The preset whose models are looked for.
        text_encoders: Default text encoder by head.

    Returns:
        Findings by section.
    """
    hub = _hub()
    missing = f"not on this machine{', downloaded on first use' if hub.found else ''}"
    with local_only():
        models = [*_extractors(preset, missing), *_text_encoders(text_encoders, missing)]
    return {
        "machine": _machine(),
        "packages": [_package(name, extra) for extra, names in PACKAGES.items() for name in names],
        f"models of the preset {preset}": [*models, hub],
    }


def render(findings: Mapping[str, list[Finding]]) -> str:
    """Render findings as text, with ✓ or ✗ before each."""
    lines = []
    for heading, some in findings.items():
        lines.append(heading)
        width = max(len(one.what) for one in some)
        lines += [f"  {'✓' if one.found else '✗'} {one.what:{width}}  {one.detail}" for one in some]
    return "\n".join(lines)


def _machine() -> list[Finding]:
    import torch  # noqa: PLC0415 - slow to import

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = f"{__version__} on Python {platform.python_version()}, {platform.platform(terse=True)}"
    found = [
        Finding(what="mnerfeat", found=True, detail=about),
        Finding(what="CPU", found=True, detail=f"{cores} cores, {_memory()}"),
    ]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
        found.append(Finding(what=f"cuda:{number}", found=True, detail=detail))
    if not torch.cuda.is_available():
        found.append(Finding(what="CUDA", found=False, detail=_no_cuda(torch.version.cuda)))
    if torch.backends.mps.is_available():
        found.append(Finding(what="mps", found=True, detail="Apple's GPU"))
    return found


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "memory unknown"


def _no_cuda(built_for: str | None) -> str:
    driver = Path("/proc/driver/nvidia/version").exists()
    if built_for is None:
        return "torch was built without CUDA" + ("; install a CUDA build" if driver else "")
    if driver:
        return f"torch is built for CUDA {built_for}, which this NVIDIA driver does not support"
    return "no NVIDIA driver: everything runs on the CPU"


def _package(name: str, extra: str) -> Finding:
    try:
        detail = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        detail = f"not installed: pip install 'mnerfeat[{extra}]'"
        return Finding(what=name, found=False, detail=detail)
    if name == "h5py":
        import h5py  # noqa: PLC0415 - the one that caches are read with

        detail += f", HDF5 {h5py.version.hdf5_version}"
    if name == "pyiqa":
        detail += " (PolyForm Noncommercial: not for commercial use)"
    return Finding(what=name, found=True, detail=detail)


def _extractors(preset: str, missing: str) -> Iterator[Finding]:
    options = ExtractorOptions(preset=preset, dtype=np.dtype("float16"), numerics="fast")
    for name, factory in EXTRACTORS.items():
        models = [option.default(preset) for option in factory.options if not option.is_file]
        if None in models:
            continue
        what = f"{name}: {' and '.join(map(str, models))}"
        try:
            extractor = make_extractor(name, options)
        except (MnerfeatError, ImportError) as error:
            reason = error.what if isinstance(error, MnerfeatError) else str(error)
            absent = "not on this machine" in reason or "cannot be downloaded" in reason
            yield Finding(what=what, found=False, detail=missing if absent else reason)
            continue
        facts = next(iter(extractor.provenance.values())).facts
        digest = str(facts.get("weights_sha256", ""))[:12]
        yield Finding(what=what, found=True, detail=f"SHA-256 {digest}…")


def _text_encoders(text_encoders: Mapping[str, str], missing: str) -> Iterator[Finding]:
    for encoder in sorted(set(text_encoders.values())):
        heads = ", ".join(head for head, used in text_encoders.items() if used == encoder)
        what = f"text ({heads}): {encoder}"
        try:
            place = Path(encoder)
            if not place.is_dir():
                place = download(encoder, [SAFE_WEIGHTS, OLDER_WEIGHTS], option="encoder")
        except MnerfeatError:
            yield Finding(what=what, found=False, detail=missing)
        else:
            yield Finding(what=what, found=True, detail=f"in {place}")


def _hub() -> Finding:
    endpoint = os.environ.get("HF_ENDPOINT", _HUB)
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=_HUB_SECONDS):  # noqa: S310
            return Finding(what="hub", found=True, detail=f"{endpoint} answers")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        detail = f"{endpoint} cannot be reached ({reason}); only models on this machine can be used"
        return Finding(what="hub", found=False, detail=detail)
