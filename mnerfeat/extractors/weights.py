"""Weights: read without unpickling, and identified by their hash."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnerfeat.errors import ModelError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_REMEMBERED_FROM = 1 << 24  # bytes; smaller files are hashed every time


def read_weights(path: Path, *, option: str) -> "dict[str, torch.Tensor]":
    """Read the tensors of a checkpoint to the CPU, without unpickling.

    Args:
        path: A `.safetensors` file, or a state dictionary that `torch.save` wrote, alone or under
            `params` or `state_dict`.
        option: The option that named it, for messages.

    Raises:
        ModelError: It is something else.
    """
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each have errors of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{option}: {path} cannot be loaded safely: {reason}",
            hint="a checkpoint must hold tensors alone: save it again as safetensors",
        ) from error
    for key in ("params", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise ModelError(f"{option}: {path} holds no state dictionary")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def hash_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of a file in hex, or of the hashes of several files.

    The user's cache folder keeps the hashes of large files until the file changes (size, times or
    inode), so that a run with nothing to do does not read any weights.
    """
    hashes = [_hash_file(path.resolve()) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    found = path.stat()
    signature = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    known = _remembered().get(str(path))
    if isinstance(known, list) and known[:-1] == signature and isinstance(known[-1], str):
        return known[-1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if found.st_size >= _REMEMBERED_FROM:
        _remember({**_remembered(), str(path): [*signature, digest]})
    return digest


def _memory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mnerfeat" / "weights-sha256.json"


def _remembered() -> dict[str, Any]:
    try:
        kept = json.loads(_memory().read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _remember(hashes: Mapping[str, Any]) -> None:
    try:
        path = _memory()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(hashes), "utf-8")
        temporary.replace(path)
    except (OSError, RuntimeError):  # no home, or a read-only one
        logger.debug("hashes of weights cannot be kept", exc_info=True)
