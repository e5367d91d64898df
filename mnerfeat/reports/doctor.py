"""What this machine has: devices, versions, weights."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mnerfeat import __version__
from mnerfeat.errors import MnerfeatError
from mnerfeat.extractors.base import ExtractorOptions
from mnerfeat.extractors.registry import EXTRACTORS, make_extractor

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "core": ("torch", "transformers", "accelerate", "h5py", "numpy", "pytorch-crf", "seqeval"),
    "extract": ("open_clip_torch", "torchvision", "pillow"),
    "quality": ("pyiqa",),
}
"""By extra, the packages that decide what can be done here."""

_HUB = "https://huggingface.co"
_HUB_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        what: Its name.
        fine: Whether it is there.
        detail: Its version or place, or what is missing and how to get it.
    """

    what: str
    fine: bool
    detail: str


def examine(preset: str, text_encoders: Mapping[str, str]) -> dict[str, list[Finding]]:
    """Look at this machine; nothing is downloaded.

    Args:
        preset: Its backbones are looked for.
        text_encoders: By head, the text encoder that it uses by default.

    Returns:
        Findings under headings.
    """
    return {
        "machine": _machine(),
        "packages": [_package(name, extra) for extra, names in PACKAGES.items() for name in names],
        f"weights of the preset {preset}": [*_weights(preset, text_encoders), _hub()],
    }


def render(findings: Mapping[str, list[Finding]]) -> str:
    """Findings as lines of text; what is missing is marked."""
    lines = []
    for heading, found in findings.items():
        lines.append(heading)
        width = max(len(one.what) for one in found)
        lines += [f"  {'✓' if one.fine else '✗'} {one.what:{width}}  {one.detail}" for one in found]
    return "\n".join(lines)


def _machine() -> list[Finding]:
    import torch  # noqa: PLC0415 - slow to import

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [
        Finding(what="mnerfeat", fine=True, detail=f"{__version__} on Python "
                f"{platform.python_version()}, {platform.platform(terse=True)}"),
        Finding(what="CPU", fine=True, detail=f"{cores} cores, {_memory()}"),
    ]  # fmt: skip
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
        found.append(Finding(what=f"cuda:{number}", fine=True, detail=detail))
    if not torch.cuda.is_available():
        found.append(Finding(what="CUDA", fine=False, detail=_no_cuda(torch.version.cuda)))
    if torch.backends.mps.is_available():
        found.append(Finding(what="mps", fine=True, detail="Apple's GPU"))
    return found


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "memory unknown"


def _no_cuda(built_for: str | None) -> str:
    driver = Path("/proc/driver/nvidia/version").exists()
    if built_for is None:
        return "torch was built without CUDA" + ("; install a build with it" if driver else "")
    if driver:
        return f"torch is built for CUDA {built_for}, which the NVIDIA driver here does not run"
    return "no NVIDIA driver here: everything runs on the CPU"


def _package(name: str, extra: str) -> Finding:
    try:
        detail = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            what=name, fine=False, detail=f"not installed: pip install 'mnerfeat[{extra}]'"
        )
    licence = " (PolyForm Noncommercial: not for commercial use)" if name == "pyiqa" else ""
    return Finding(what=name, fine=True, detail=detail + licence)


def _weights(preset: str, text_encoders: Mapping[str, str]) -> Iterator[Finding]:
    import numpy as np  # noqa: PLC0415

    with _offline():
        wanted = ExtractorOptions(preset=preset, dtype=np.dtype("float16"), numerics="fast")
        for name, factory in EXTRACTORS.items():
            models = [option.default(preset) for option in factory.options if not option.is_file]
            if None in models:
                continue
            model = " and ".join(map(str, models))
            try:
                extractor = make_extractor(name, wanted)
            except (MnerfeatError, ImportError) as error:
                what = error.what if isinstance(error, MnerfeatError) else str(error)
                yield Finding(what=f"{name}: {model}", fine=False, detail=what)
                continue
            facts = next(iter(extractor.provenance.values())).facts
            digest = str(facts.get("weights_sha256", ""))[:12]
            yield Finding(what=f"{name}: {model}", fine=True, detail=f"here, SHA-256 {digest}…")
        for encoder in sorted(set(text_encoders.values())):
            heads = ", ".join(head for head, used in text_encoders.items() if used == encoder)
            place = _text_encoder(encoder)
            yield Finding(
                what=f"text ({heads}): {encoder}",
                fine=place is not None,
                detail=f"here, in {place}" if place else "not here; downloaded on first use",
            )


def _text_encoder(encoder: str) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    if Path(encoder).is_dir():
        return Path(encoder)
    try:
        return Path(snapshot_download(encoder, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub's client from downloading: this is a look, not an installation."""
    from huggingface_hub import constants  # noqa: PLC0415

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub() -> Finding:
    from urllib.error import URLError  # noqa: PLC0415
    from urllib.request import Request, urlopen  # noqa: PLC0415

    endpoint = os.environ.get("HF_ENDPOINT", _HUB)
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=_HUB_SECONDS):  # noqa: S310
            return Finding(what="hub", fine=True, detail=f"{endpoint} answers")
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            what="hub",
            fine=False,
            detail=f"{endpoint} cannot be reached ({reason}): only what is here can be used",
        )
