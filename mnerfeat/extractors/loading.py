"""Models by hub id or folder: finding and downloading their files, and what they say."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import mnerfeat
from mnerfeat.errors import ModelError
from mnerfeat.extractors.weights import hash_files

logger = logging.getLogger(__name__)

_CONFIG, _PREPROCESSING = "config.json", "preprocessor_config.json"
_SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_OLDER = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
_WEIGHTS = (*_SAFE[:2], *_OLDER[:2])
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_TOKENIZER = [*_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
_HUB_TIMEOUT = 10.0  # seconds until an unreachable hub counts as such
_NOISE: Final = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype",
                           "id2label", "label2id", "architectures"})  # fmt: skip
"""Entries of a `config.json` that change no number."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model of `transformers`, on this machine's disk.

    Attributes:
        name: What provenance calls it: the hub id, or the folder's name.
        folder: Where its files lie.
        weights: Files with its weights, sorted.
        config: `config.json`.
        preprocessing: `preprocessor_config.json`; empty of a model that sees no image.
        tokenizer: Files of its tokenizer, sorted; none of a model that reads no text.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tokenizer: tuple[Path, ...] = ()

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What a provenance says of the model and of its preprocessing."""
        config = {key: value for key, value in self.config.items() if key not in _NOISE}
        tokenizer = {"tokenizer_sha256": hash_files(self.tokenizer)} if self.tokenizer else {}
        return {
            "model": self.name,
            "architecture": self.config.get("model_type", "unknown"),
            "weights_sha256": hash_files(self.weights),
            "config_sha256": hashlib.sha256(
                json.dumps(config, sort_keys=True).encode()
            ).hexdigest(),
            "preprocessing": dict(self.preprocessing),
            **tokenizer,
        }


def find_model(
    reference: str, *, option: str, sees: bool = True, reads: bool = False
) -> ModelFiles:
    """Find a model of `transformers`, downloading it where it is a hub id and not here yet.

    Args:
        reference: A folder, or a hub id such as `google/vit-base-patch16-224`, with a revision
            after `@` where a certain one is meant.
        option: The option that named it, for messages.
        sees: Whether it looks at images, and so has an image processor.
        reads: Whether it reads or writes text, and so has a tokenizer.

    Raises:
        ModelError: Where it is not there, cannot be reached, or is incomplete.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        name = model_name(folder)
    elif is_hub_id(reference):
        name = reference
        others = [_CONFIG, *[_PREPROCESSING] * sees, *_TOKENIZER * reads]
        folder = download(reference, [_SAFE, _OLDER], others, option=option)
    else:
        raise ModelError(
            f"{option}: {reference!r} is neither a folder nor a hub id such as "
            "google/vit-base-patch16-224",
            hint=f"name a folder that holds {_CONFIG}, {_PREPROCESSING} and model.safetensors",
        )
    return ModelFiles(
        name=name,
        folder=folder,
        weights=_find_weights(folder, option),
        config=read_json(folder / _CONFIG, option=option),
        preprocessing=read_json(folder / _PREPROCESSING, option=option) if sees else {},
        tokenizer=_find_tokenizer(folder, option) if reads else (),
    )


def _find_tokenizer(folder: Path, option: str) -> tuple[Path, ...]:
    found = tuple(folder / name for name in sorted(_TOKENIZER) if (folder / name).is_file())
    if not any(path.name in _VOCABULARIES for path in found):
        raise ModelError(
            f"{option}: {folder} holds no tokenizer; wanted one of {', '.join(_VOCABULARIES)}",
            hint="name a folder as the hub has it, or save the tokenizer there too",
        )
    return found


def is_hub_id(reference: str) -> bool:
    """Return whether a reference is a hub id, with or without a revision."""
    return bool(_HUB_ID.fullmatch(reference))


def model_name(path: Path) -> str:
    """What provenance calls a model that was given by path: no path, which differs by machine."""
    path = path.resolve()
    package = Path(mnerfeat.__file__).parent.resolve()
    if path.is_relative_to(package):
        return f"mnerfeat/{path.relative_to(package).as_posix()}"
    for part in path.parts:  # a snapshot in the hub's own cache
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return path.name


def model_reference(name: str) -> str:
    """Return the reference that leads to a model by its name in a provenance.

    Names of hub models are references already, and of a model inside this package the path is
    known. A folder of the user has a name, but no path: it is returned as it is.
    """
    path = Path(mnerfeat.__file__).parent / name.removeprefix("mnerfeat/")
    return str(path) if name.startswith("mnerfeat/") and path.exists() else name


def packaged(name: str) -> str:
    """Return the folder of a model inside this package."""
    return str(Path(mnerfeat.__file__).parent / "toy" / "weights" / name)


def _find_weights(folder: Path, option: str) -> tuple[Path, ...]:
    for name in _WEIGHTS:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".json"):
            return (folder / name,)
        index = read_json(folder / name, option=option)
        shards = sorted(set(index.get("weight_map", {}).values()))
        lost = [shard for shard in shards if not (folder / shard).is_file()]
        if shards and not lost and all(Path(shard).name == shard for shard in shards):
            return tuple(folder / shard for shard in shards)
        raise ModelError(
            f"{option}: {folder / name} names weights that are not there",
            faults=lost,
            hint="copy or download the folder again",
        )
    raise ModelError(
        f"{option}: {folder} holds no weights; wanted one of {', '.join(_WEIGHTS)}",
        hint="download the model again, or save it there with `save_pretrained`",
    )


def read_json(path: Path, *, option: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: Where the file is not there or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{option}: {path.parent} has no {path.name}",
            hint="name a folder as the hub has it, or as `save_pretrained` writes it",
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{option}: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{option}: {path} is not a JSON object")
    return content


def download(
    reference: str, weights: Sequence[Sequence[str]], others: Sequence[str] = (), *, option: str
) -> Path:
    """The folder of a hub repository's files, from this machine where they are here already.

    Args:
        reference: A hub id, with `@revision` where a certain one is meant.
        weights: Files with weights, as patterns, in groups: the first group of which the
            repository has a file is taken, and the other groups are not downloaded.
        others: More files that are wanted, as patterns.
        option: The option that named it, for messages.

    Raises:
        ModelError: Where it does not exist or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    id_, _, revision = reference.partition("@")
    with contextlib.suppress(LocalEntryNotFoundError):
        here = Path(snapshot_download(id_, revision=revision or None, local_files_only=True))
        if any(_any_of(here, group) for group in weights):
            return here
    logger.info("getting %s from the Hugging Face hub", reference)
    for group in weights:
        with _hub_errors(reference, option):
            folder = Path(
                snapshot_download(
                    id_,
                    revision=revision or None,
                    allow_patterns=[*group, *others],
                    etag_timeout=_HUB_TIMEOUT,
                )
            )
        if _any_of(folder, group):
            return folder
    raise ModelError(
        f"{option}: {reference} on the hub has no weights that can be loaded safely; wanted one "
        f"of {', '.join(pattern for group in weights for pattern in group)}"
    )


def _any_of(folder: Path, patterns: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


@contextlib.contextmanager
def _hub_errors(reference: str, option: str) -> Iterator[None]:
    from huggingface_hub import errors  # noqa: PLC0415

    id_ = reference.partition("@")[0]
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{option}: the hub has no model {id_!r}, or it is not open to you",
            hint="check the id; for a gated model, log in with `hf auth login`",
        ) from error
    except (errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ModelError(f"{option}: {reference!r} cannot be had: {error}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{option}: {reference} is not on this machine and the Hugging Face hub cannot be "
            f"reached ({reason[0]})",
            hint=f"where there is a network, `hf download {id_} --local-dir "
            f"{id_.split('/')[-1]}`; copy that folder here and name it with --{option}. Or use "
            "--preset tiny, whose models are part of this package",
        ) from error


def versions(*packages: str) -> dict[str, str]:
    """Versions for a provenance: as far as they may change what comes out.

    A major version, or the minor one before 1.0: more would make every cache stale with every
    small upgrade.
    """
    found = {}
    for package in packages:
        numbers = importlib.metadata.version(package).split(".")
        found[package] = ".".join(numbers[:2] if numbers[0] == "0" else numbers[:1])
    return found


def require(module: str, package: str, extra: str, *, option: str) -> None:
    """Make sure that an optional package is installed.

    Raises:
        ModelError: With the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise ModelError(
            f"{option} needs {package}, which is not installed",
            hint=f"pip install 'mnerfeat[{extra}]'",
        )
