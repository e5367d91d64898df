"""Finding models and loading them: folders, hub ids, and what their configuration says.

Nothing in a model's folder is run: weights are read from safetensors, or from older files with
unpickling switched off, and code that a repository brings is refused.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import mnerfeat
from mnerfeat.errors import ModelError
from mnerfeat.extractors.weights import hash_files
from mnerfeat.hub import (
    OLDER_WEIGHTS,
    SAFE_WEIGHTS,
    TOKENIZER_FILES,
    VOCABULARIES,
    download,
    is_hub_id,
)

_CONFIG, _PREPROCESSING = "config.json", "preprocessor_config.json"
_WEIGHTS = (*SAFE_WEIGHTS[:2], *OLDER_WEIGHTS[:2])
_NOISE: Final = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype",
                           "id2label", "label2id", "architectures"})  # fmt: skip
"""Entries of a `config.json` that change no number."""
_UNUSED_WEIGHTS = ("pooler.",)
"""Parts that a checkpoint may lack, because no extractor reads their output."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of a `transformers` model on this machine.

    Attributes:
        name: Name in provenances: the hub id, or the folder's name.
        folder: Folder of the files.
        option: The option that named the model, for messages.
        weights: Weight files, sorted.
        config: Content of `config.json`.
        preprocessing: Content of `preprocessor_config.json`; empty for a text model.
        tokenizer: Tokenizer files, sorted; empty for an image model.
    """

    name: str
    folder: Path
    option: str
    weights: tuple[Path, ...]
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tokenizer: tuple[Path, ...] = ()

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """The model and its preprocessing, for provenances."""
        config = {key: value for key, value in self.config.items() if key not in _NOISE}
        tokenizer = {"tokenizer_sha256": hash_files(self.tokenizer)} if self.tokenizer else {}
        return {
            "model": self.name,
            "architecture": self.config.get("model_type", "unknown"),
            "weights_sha256": hash_files(self.weights),
            "config_sha256": json_sha256(config),
            "preprocessing": dict(self.preprocessing),
            **tokenizer,
        }

    def hidden_size(self) -> int:
        """Return `hidden_size` of the configuration.

        Raises:
            ModelError: The configuration has none.
        """
        value = self.config.get("hidden_size")
        if not isinstance(value, int) or value < 1:
            raise ModelError(
                f"{self.option}: the configuration of {self.name} has no hidden_size",
                hint="name a transformer of the kind that the option takes",
            )
        return value

    def load_model(self, auto: str) -> Any:
        """Load the model in float32 on the CPU, ready for inference.

        Args:
            auto: Name of the `transformers` class that loads it.

        Raises:
            ModelError: The weights are incomplete, or do not fit the model.
        """
        import transformers  # noqa: PLC0415

        with self._loading():
            model, report = getattr(transformers, auto).from_pretrained(
                self.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=self.weights[0].suffix == ".safetensors",
                dtype="float32",
                output_loading_info=True,
            )
        lost = [
            *sorted(
                name for name in report["missing_keys"] if not name.startswith(_UNUSED_WEIGHTS)
            ),
            *sorted(str(entry[0]) for entry in report["mismatched_keys"]),
        ]
        if lost:
            raise ModelError(
                f"{self.option}: {self.folder} lacks weights of a {type(model).__name__}, so its "
                "numbers would be random:",
                faults=lost,
                hint="name a model of the right kind, or download it again",
            )
        return model.eval()

    def load_companion(self, auto: str) -> Any:
        """Load the image processor or the tokenizer in the model's folder.

        Args:
            auto: Name of the `transformers` class that loads it.

        Raises:
            ModelError: It cannot be loaded.
        """
        import transformers  # noqa: PLC0415

        with self._loading():
            return getattr(transformers, auto).from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        """Silence the progress bars of transformers, and turn its errors into a ModelError."""
        from transformers.utils import logging as reports  # noqa: PLC0415

        bar, level = reports.is_progress_bar_enabled(), reports.get_verbosity()
        reports.disable_progress_bar()
        reports.set_verbosity_error()
        try:
            yield
        except Exception as error:  # transformers raises nearly anything on an odd folder
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(
                f"{self.option}: {self.folder} cannot be loaded as a model of transformers: "
                f"{lines[0]}",
                hint="name another model; one that brings its own code is not run",
            ) from error
        finally:
            reports.set_verbosity(level)
            if bar:
                reports.enable_progress_bar()


def find_model(
    reference: str, *, option: str, images: bool = True, text: bool = False
) -> ModelFiles:
    """Find a model of `transformers`, downloading it if it is a hub id that is not here yet.

    Args:
        reference: A folder, or a hub id such as `google/vit-base-patch16-224`, with `@revision`
            to pin a version.
        option: The option that named it, for messages.
        images: Whether it needs an image processor.
        text: Whether it needs a tokenizer.

    Raises:
        ModelError: It does not exist, cannot be reached, or is incomplete.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        name = model_name(folder)
    elif is_hub_id(reference):
        name = reference
        others = [_CONFIG, *[_PREPROCESSING] * images, *TOKENIZER_FILES * text]
        folder = download(reference, [SAFE_WEIGHTS, OLDER_WEIGHTS], others, option=option)
    else:
        raise ModelError(
            f"{option}: {reference!r} is neither a folder nor a hub id such as "
            "google/vit-base-patch16-224",
            hint=f"name a folder that holds {_CONFIG}, {_PREPROCESSING} and model.safetensors",
        )
    return ModelFiles(
        name=name,
        folder=folder,
        option=option,
        weights=_find_weights(folder, option),
        config=read_json(folder / _CONFIG, option=option),
        preprocessing=read_json(folder / _PREPROCESSING, option=option) if images else {},
        tokenizer=_find_tokenizer(folder, option) if text else (),
    )


def _find_tokenizer(folder: Path, option: str) -> tuple[Path, ...]:
    found = tuple(folder / name for name in sorted(TOKENIZER_FILES) if (folder / name).is_file())
    if not any(path.name in VOCABULARIES for path in found):
        raise ModelError(
            f"{option}: {folder} has no tokenizer; wanted one of {', '.join(VOCABULARIES)}",
            hint="name a folder with the same files as on the hub, or save the tokenizer there",
        )
    return found


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
            f"{option}: {folder / name} lists weight files that are not there",
            faults=lost,
            hint="copy or download the folder again",
        )
    raise ModelError(
        f"{option}: {folder} holds no weights; wanted one of {', '.join(_WEIGHTS)}",
        hint="download the model again, or save it there with `save_pretrained`",
    )


def model_name(path: Path) -> str:
    """Return the name of a model folder for provenances: no path, which differs by machine."""
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

    A hub id is a reference already, and the path of a model inside this package is known. The
    name of a user's folder is returned as it is: its path is not known.
    """
    path = Path(mnerfeat.__file__).parent / name.removeprefix("mnerfeat/")
    return str(path) if name.startswith("mnerfeat/") and path.exists() else name


def packaged(name: str) -> str:
    """Return the folder of a model inside this package."""
    return str(Path(mnerfeat.__file__).parent / "toy" / "weights" / name)


def read_json(path: Path, *, option: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: The file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{option}: {path.parent} has no {path.name}",
            hint="name a folder with the same files as on the hub, or as `save_pretrained` writes",
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{option}: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{option}: {path} is not a JSON object")
    return content


def json_sha256(value: Mapping[Any, Any]) -> str:
    """Return the SHA-256 of a value as JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Return package versions for provenances: the major one, or `0.minor`.

    More digits would make every cache stale after every small upgrade.
    """
    found = {}
    for package in packages:
        numbers = importlib.metadata.version(package).split(".")
        found[package] = ".".join(numbers[:2] if numbers[0] == "0" else numbers[:1])
    return found


def require(module: str, package: str, extra: str, *, option: str) -> None:
    """Check that an optional package is installed.

    Raises:
        ModelError: It is not; the hint is the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise ModelError(
            f"{option} needs {package}, which is not installed",
            hint=f"pip install 'mnerfeat[{extra}]'",
        )
