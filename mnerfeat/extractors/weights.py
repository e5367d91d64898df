"""Weights: reading them safely, and knowing them by their hash.

They come from safetensors, or from a checkpoint that `torch.load(weights_only=True)` accepts.
Nothing is ever unpickled.
"""

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

_HASH_MEMORY_FROM = 1 << 24  # bytes; smaller files are hashed anew


def read_weights(path: Path, *, option: str) -> "dict[str, torch.Tensor]":
    """The tensors of a checkpoint, on the CPU; nothing in it is run.

    Args:
        path: `.safetensors`, or what `torch.save` wrote: a state dictionary, alone or under
            `params` or `state_dict`.
        option: The option that named it, for messages.

    Raises:
        ModelError: Where it is something else.
    """
    import torch  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise _unsafe(path, option, error) from error
    except Exception as error:  # pickle's own errors, which torch words at length
        raise _unsafe(path, option, error) from error
    for key in ("params", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise ModelError(f"{option}: {path} holds no state dictionary")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _unsafe(path: Path, option: str, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ModelError(
        f"{option}: {path} cannot be loaded safely: {reason}",
        hint="weights must be tensors alone: save them again as safetensors",
    )


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256, in hex, of a file, or of the hashes of several.

    Hashes of large files are kept in the user's cache folder for as long as the file is the
    same (size, times and inode), so that a run that has nothing to do need not read weights.
    """
    hashes = [_hash_file(path.resolve()) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    found = path.stat()
    signature = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    kept = _hash_memory()
    known = kept.get(str(path))
    if isinstance(known, list) and known[:-1] == signature and isinstance(known[-1], str):
        return known[-1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if found.st_size >= _HASH_MEMORY_FROM:
        _keep_hashes({**_hash_memory(), str(path): [*signature, digest]})
    return digest


def _hash_memory_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mnerfeat" / "weights-sha256.json"


def _hash_memory() -> dict[str, Any]:
    try:
        kept = json.loads(_hash_memory_path().read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep_hashes(hashes: Mapping[str, Any]) -> None:
    try:
        path = _hash_memory_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(hashes), "utf-8")
        temporary.replace(path)
    except (OSError, RuntimeError):  # no home, read-only: then it is hashed again next time
        logger.debug("hashes of weights cannot be kept", exc_info=True)
