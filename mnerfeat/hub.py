"""Models on the Hugging Face hub: used from this machine if they are here, else downloaded."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from mnerfeat.errors import ModelError

logger = logging.getLogger(__name__)

SAFE_WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json",
                       "model-*-of-*.safetensors")  # fmt: skip
OLDER_WEIGHTS: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json",
                        "pytorch_model-*-of-*.bin")  # fmt: skip
VOCABULARIES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
TOKENIZER_FILES: Final = (*VOCABULARIES, "merges.txt", "tokenizer_config.json",
                          "special_tokens_map.json")  # fmt: skip

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
_HUB_TIMEOUT = 10.0  # seconds until the hub counts as unreachable


_local_only: ContextVar[bool] = ContextVar("local_only", default=False)


@contextlib.contextmanager
def local_only() -> Iterator[None]:
    """Download nothing in this context: a model that is not on this machine is an error."""
    token = _local_only.set(True)
    try:
        yield
    finally:
        _local_only.reset(token)


def is_hub_id(reference: str) -> bool:
    """Return whether a reference is `ORG/NAME`, with or without `@revision`."""
    return bool(_HUB_ID.fullmatch(reference))


def download(
    reference: str, weights: Sequence[Sequence[str]], others: Sequence[str] = (), *, option: str
) -> Path:
    """Return the folder of a model's files, downloading them if they are not on this machine.

    Args:
        reference: A hub id, with `@revision` to pin a version.
        weights: File patterns of weights, in groups by preference. Only the first group that the
            repository has is downloaded.
        others: Patterns of the other files needed.
        option: The option that named the model, for messages.

    Raises:
        ModelError: The model does not exist, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    id_, _, revision = reference.partition("@")
    with _hub_errors(reference, option), contextlib.suppress(LocalEntryNotFoundError):
        here = Path(snapshot_download(id_, revision=revision or None, local_files_only=True))
        if any(_has_any(here, group) for group in weights):
            return here
    if _local_only.get():
        raise ModelError(f"{option}: {reference} is not on this machine")
    logger.info("downloading %s from the Hugging Face hub", reference)
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
        if _has_any(folder, group):
            return folder
    raise ModelError(
        f"{option}: {reference} on the hub has no weights that can be loaded safely; wanted one "
        f"of {', '.join(pattern for group in weights for pattern in group)}"
    )


def _has_any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


@contextlib.contextmanager
def _hub_errors(reference: str, option: str) -> Iterator[None]:
    from huggingface_hub import errors  # noqa: PLC0415

    id_ = reference.partition("@")[0]
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{option}: the hub has no model {id_!r}, or you have no access to it",
            hint="check the id; for a gated model, log in with `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{option}: {id_} has no version {reference.partition('@')[2]!r}",
            hint="name a branch, tag or commit of the model on the hub",
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(
            f"{option}: {reference!r} is neither a folder nor a hub id",
            hint=f"name a model with --{option}: a folder, or an id such as ORG/NAME",
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{option}: {reference} is not on this machine and the Hugging Face hub cannot be "
            f"reached ({_reason(error)})",
            hint=f"on a machine with a network, `hf download {id_} --local-dir "
            f"{id_.split('/')[-1]}`; copy that folder here and name it with --{option}. Or use "
            "--preset tiny, whose models are part of this package",
        ) from error


def _reason(error: BaseException) -> str:
    """Return why the hub cannot be reached: the innermost cause in one line."""
    from huggingface_hub import constants  # noqa: PLC0415

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
