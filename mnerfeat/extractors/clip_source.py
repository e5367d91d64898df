"""Where an open_clip model comes from, and what its files say, without loading it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mnerfeat.errors import ModelError
from mnerfeat.extractors.loading import download, is_hub_id, model_name, read_json, require
from mnerfeat.extractors.weights import hash_files

CONFIG: Final = "open_clip_config.json"
_CHECKPOINTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
    "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""In the order in which open_clip looks for them in a folder."""

_SUFFIXES = frozenset({".safetensors", ".bin", ".pth"})
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.*",
              "merges.txt", "*.model")  # fmt: skip
_OPTION = "clip"

PREPROCESSING: Final[Mapping[str, Any]] = {
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
"""open_clip's defaults; `ClipExtractor.load` compares with what open_clip makes of the model."""


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """An open_clip model whose files are on this machine.

    Attributes:
        name: What provenance calls it.
        open_clip_name: What `open_clip.create_model` calls it.
        weights: The checkpoint.
        model_config: The architecture.
        preprocessing: `size` and the entries of `PREPROCESSING`.
        quick_gelu: Whether the weights were trained with the quick approximation of GELU.
        folder: Of a local model, with its tokenizer; None for one of open_clip's own names.
    """

    name: str
    open_clip_name: str
    weights: Path
    model_config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    quick_gelu: bool
    folder: Path | None

    @property
    def embed_dim(self) -> int:
        """Size of an embedding."""
        return int(self.model_config["embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens of a text that are read, special ones included."""
        return int(self.model_config["text_cfg"].get("context_length", 77))

    @property
    def hub_tokenizer(self) -> bool:
        """Whether the tokenizer is one of `transformers` and not open_clip's own."""
        return bool(self.model_config["text_cfg"].get("hf_tokenizer_name"))

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a provenance says of the model."""
        config = {**self.model_config, "quick_gelu": self.quick_gelu}
        return {
            "model": self.name,
            "architecture": "open_clip",
            "weights_sha256": hash_files([self.weights]),
            "config_sha256": _hash(config),
        }

    @property
    def tokenizer_facts(self) -> Mapping[str, Any]:
        """What a provenance says of how texts become tokens."""
        facts: dict[str, Any] = {"context_length": self.context_length, "tokenizer": "open_clip"}
        if self.hub_tokenizer:
            file = self.folder / "tokenizer.json" if self.folder else None
            named = self.model_config["text_cfg"]["hf_tokenizer_name"]
            facts["tokenizer"] = (
                f"sha256 {hash_files([file])}" if file and file.is_file() else named
            )
        return facts


def find_clip(reference: str) -> ClipSource:
    """Find an open_clip model, downloading it where it is not on this machine yet.

    Args:
        reference: A folder with `open_clip_config.json` (with or without `local-dir:` before
            it); `ORG/NAME` or `hf-hub:ORG/NAME`; or `NAME:TAG` as open_clip lists them, or
            `NAME:PATH` with a checkpoint's path.

    Raises:
        ModelError: Where it is not there, cannot be reached, or is incomplete.
    """
    folder = Path(reference.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        return _from_folder(folder, model_name(folder))
    if reference.startswith("local-dir:"):
        raise ModelError(f"{_OPTION}: {folder} is not a folder")
    if reference.startswith("hf-hub:") or is_hub_id(reference):
        id_ = reference.removeprefix("hf-hub:")
        weights = [(name,) for name in _CHECKPOINTS]
        folder = download(id_, weights, [CONFIG, *_TOKENIZER], option=_OPTION)
        return _from_folder(folder, id_)
    return _from_list(reference)


def _from_folder(folder: Path, name: str) -> ClipSource:
    content = read_json(folder / CONFIG, option=_OPTION)
    config = _checked(content.get("model_cfg"), folder / CONFIG)
    given = content.get("preprocess_cfg") or {}
    return ClipSource(
        name=name,
        open_clip_name=f"local-dir:{folder}",
        weights=_checkpoint(folder),
        model_config=config,
        preprocessing=_preprocessing(config, given),
        quick_gelu=bool(config.get("quick_gelu", False)),
        folder=folder,
    )


def _from_list(reference: str) -> ClipSource:
    require("open_clip", "open_clip_torch", "extract", option=_OPTION)
    import open_clip  # noqa: PLC0415

    name, _, tag = reference.partition(":")
    tags = open_clip.list_pretrained_tags_by_model(name)
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None or not tag:
        raise ModelError(
            f"{_OPTION}: {reference!r} is neither a folder nor one of open_clip's models, such as "
            "ViT-B-32:openai",
            hint="`open_clip.list_pretrained()` lists them",
        )
    listed: Mapping[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if listed:
        weights = _download_listed(listed, reference)
    elif Path(tag).expanduser().is_file():
        weights = Path(tag).expanduser()
    else:
        raise ModelError(
            f"{_OPTION}: {tag!r} is neither a file nor weights that open_clip has for {name}; "
            f"choose from: {', '.join(tags)}"
        )
    return ClipSource(
        name=reference if listed else f"{name}:{weights.name}",
        open_clip_name=name,
        weights=weights,
        model_config=_checked(config, Path(name)),
        preprocessing=_preprocessing(config, listed),
        # open_clip itself only warns where the tag's activation is not the architecture's.
        quick_gelu=bool(config.get("quick_gelu") or listed.get("quick_gelu")),
        folder=None,
    )


def _download_listed(listed: Mapping[str, Any], reference: str) -> Path:
    id_, _, file = str(listed.get("hf_hub", "")).rpartition("/")
    if not id_:
        raise ModelError(
            f"{_OPTION}: {reference} is not on the Hugging Face hub",
            hint="download its checkpoint from the place open_clip names and give its path: "
            f"--clip {reference.partition(':')[0]}:PATH",
        )
    names = [file] if file else _CHECKPOINTS
    return _checkpoint(download(id_, [(name,) for name in names], option=_OPTION))


def _checkpoint(folder: Path) -> Path:
    known = [folder / name for name in _CHECKPOINTS if (folder / name).is_file()]
    others = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    found = known or sorted(others, key=lambda path: path.suffix != ".safetensors")
    if not found:
        raise ModelError(f"{_OPTION}: {folder} holds no weights; wanted {_CHECKPOINTS[0]}")
    return found[0]


def _checked(config: Any, path: Path) -> Mapping[str, Any]:
    parts = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or not all(part in config for part in parts):
        raise ModelError(f"{_OPTION}: {path} has no model_cfg with {', '.join(parts)}")
    if "trust_remote_code" in json.dumps(config):
        raise ModelError(f"{_OPTION}: {path} wants code of its own to be run, which is refused")
    return config


def _preprocessing(config: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    size = config["vision_cfg"].get("image_size", 224)
    named = {key: value for key, value in given.items() if key in PREPROCESSING}
    chosen = {**PREPROCESSING, **{k: v for k, v in named.items() if v is not None}, "size": size}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items()}


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
