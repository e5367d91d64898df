"""CLIP embeddings of images and of posts' texts, by open_clip, not normalised.

Radford et al. 2021, Learning transferable visual models from natural language supervision.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import (
    ExtractorFactory,
    FeatureSpec,
    ModelOption,
    Prepared,
    TextExtractor,
    run_padded,
)
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loader import (
    json_sha256,
    model_name,
    packaged,
    read_json,
    require,
    versions,
)
from mnerfeat.extractors.weights import hash_files
from mnerfeat.hub import download, is_hub_id

if TYPE_CHECKING:
    import torch

CLIP: Final = ModelOption(name="clip", base="ViT-B-32:openai", tiny=packaged("clip"))
CLIP_IMAGE, CLIP_TEXT = "clip_image", "clip_text"
PIXELS: Final = "pixels"
CONFIG: Final = "open_clip_config.json"
PREPROCESSING: Final[Mapping[str, Any]] = {
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
"""open_clip's defaults; `load_clip` compares them with what open_clip uses for the model."""

_CHECKPOINTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
    "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""In the order in which open_clip looks for them in a folder."""
_SUFFIXES = frozenset({".safetensors", ".bin", ".pth"})
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.*",
              "merges.txt", "*.model")  # fmt: skip
_SCALED_PIXELS = 1 << 24
"""Largest scaled image that is made whole before it is cropped, as open_clip does."""


class ClipPrepare:
    """Resizes and crops as open_clip's transform does, up to bytes.

    It needs Pillow alone for nearly every model, so a decoder process starts quickly. If an image
    is so long and thin that scaling it whole would take gigabytes, only the part inside the crop
    is scaled; the filter's passes then round in another order, by a few of 255 levels.

    Args:
        preprocessing: `size`, `resize_mode`, `interpolation` and other entries of `PreprocessCfg`.
    """

    def __init__(self, preprocessing: Mapping[str, Any]) -> None:
        size = preprocessing["size"]
        self._size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self._preprocessing = dict(preprocessing)
        bilinear = preprocessing["interpolation"] == "bilinear"
        self._filter = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC

    def __call__(self, image: Image.Image) -> Prepared:
        """Return `pixels`: (3, height, width) uint8."""
        height, width = self._size
        mode = self._preprocessing["resize_mode"]
        if mode == "squash":
            scaled = image.resize((width, height), self._filter)
        elif mode == "shortest" and height == width:
            scaled = self._shortest_side(image, width)
        else:
            scaled = self._open_clip(image)
        return {PIXELS: np.ascontiguousarray(np.asarray(scaled).transpose(2, 0, 1))}

    def _shortest_side(self, image: Image.Image, side: int) -> Image.Image:
        """Scale the shorter side to `side`, then crop the middle."""
        short = min(image.size)
        # Lengths and offsets round as torchvision's Resize and CenterCrop round.
        width, height = (side if x == short else int(side * x / short) for x in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        if width * height <= _SCALED_PIXELS:
            scaled = image.resize((width, height), self._filter)
            return scaled.crop((left, top, left + side, top + side))
        x, y = image.width / width, image.height / height
        box = (left * x, top * y, (left + side) * x, (top + side) * y)
        return image.resize((side, side), self._filter, box=box)

    def _open_clip(self, image: Image.Image) -> Image.Image:
        from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: PLC0415

        transform = image_transform_v2(PreprocessCfg(**self._preprocessing), is_train=False)
        for step in transform.transforms[:-2]:  # the last two: to a tensor, normalise
            image = step(image)
        return image


@final
class ClipExtractor(TextExtractor):
    """`clip_image` and `clip_text`: `encode_image` and `encode_text`; (embed_dim,) each.

    Args:
        reference: See `find_clip`.
        dtype: Type in which vectors are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: The model is missing.
    """

    name = "clip"

    def __init__(self, reference: str, *, dtype: np.dtype[Any], numerics: Numerics) -> None:
        source = find_clip(reference)
        self._source = source
        self.context_length = source.context_length
        vectors = FeatureSpec(shape=(source.embed_dim,), dtype=dtype)
        super().__init__(
            {CLIP_IMAGE: vectors},
            {CLIP_TEXT: vectors},
            facts={**source.facts, "numerics": numerics},
            own_facts={
                CLIP_IMAGE: {
                    "preprocessing": dict(source.preprocessing),
                    "decoding": DECODING,
                    "output": "encode_image, not normalised",
                    "libraries": versions("torch", "open_clip_torch", "pillow"),
                },
                CLIP_TEXT: {
                    "preprocessing": dict(source.tokenizer_facts),
                    "output": "encode_text, not normalised",
                    "libraries": versions("torch", "open_clip_torch"),
                },
            },
        )
        self._model: Any = None
        self._tokenizer: Any = None
        self._statistics: tuple[torch.Tensor, ...] = ()

    @property
    def prepare(self) -> ClipPrepare:
        """See `Extractor.prepare`."""
        return ClipPrepare(self._source.preprocessing)

    def _load(self, compute: Compute) -> None:
        model, self._tokenizer = load_clip(self._source)
        self._model = model.to(compute.device).eval()
        self._statistics = self._source.statistics(compute.device)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        mean, std = self._statistics

        def step(pixels: "torch.Tensor") -> "torch.Tensor":
            images = pixels.float().div_(255).sub_(mean).div_(std)
            vectors: torch.Tensor = self._model.encode_image(images)
            return vectors

        pixels = np.stack([image[PIXELS] for image in batch])
        return {CLIP_IMAGE: run_padded(pixels, size, self.compute, step)}

    def extract_texts(
        self, texts: Sequence[str], size: int
    ) -> tuple[Mapping[str, NDArray[Any]], int]:
        """See `TextExtractor.extract_texts`."""
        texts = list(texts)
        tokens: NDArray[np.int64] = self._tokenizer(texts).numpy()
        vectors = run_padded(tokens, size, self.compute, self._model.encode_text)
        cut = sum(length > self.context_length for length in _lengths(self._tokenizer, texts))
        return {CLIP_TEXT: vectors}, cut


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """The files of an open_clip model on this machine.

    Attributes:
        name: Name in provenances.
        open_clip_name: Name for `open_clip.create_model`.
        weights: The checkpoint.
        model_config: The architecture.
        preprocessing: `size` and the entries of `PREPROCESSING`.
        quick_gelu: Whether the weights were trained with the quick approximation of GELU.
        folder: Folder of a model with its tokenizer; None for one of open_clip's own names.
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
        """Maximum number of tokens of a text, special ones included."""
        return int(self.model_config["text_cfg"].get("context_length", 77))

    @property
    def hub_tokenizer(self) -> bool:
        """Whether the tokenizer is one of `transformers`, not open_clip's own."""
        return bool(self.model_config["text_cfg"].get("hf_tokenizer_name"))

    @property
    def facts(self) -> Mapping[str, Any]:
        """The model, for provenances."""
        config = {**self.model_config, "quick_gelu": self.quick_gelu}
        return {
            "model": self.name,
            "architecture": "open_clip",
            "weights_sha256": hash_files([self.weights]),
            "config_sha256": json_sha256(config),
        }

    @property
    def tokenizer_facts(self) -> Mapping[str, Any]:
        """The tokenizer, for provenances."""
        facts: dict[str, Any] = {"context_length": self.context_length, "tokenizer": "open_clip"}
        if self.hub_tokenizer:
            file = self.folder / "tokenizer.json" if self.folder else None
            named = self.model_config["text_cfg"]["hf_tokenizer_name"]
            facts["tokenizer"] = (
                f"sha256 {hash_files([file])}" if file and file.is_file() else named
            )
        return facts

    def statistics(self, device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return mean and standard deviation of the channels, each (1, 3, 1, 1)."""
        import torch  # noqa: PLC0415

        mean, std = (
            torch.tensor(self.preprocessing[key], device=device).view(1, 3, 1, 1)
            for key in ("mean", "std")
        )
        return mean, std


def find_clip(reference: str) -> ClipSource:
    """Find an open_clip model, downloading it if it is not on this machine yet.

    Args:
        reference: A folder with `open_clip_config.json` (with or without `local-dir:` before
            it); `ORG/NAME` or `hf-hub:ORG/NAME`; or `NAME:TAG` as open_clip lists them, or
            `NAME:PATH` with a checkpoint's path.

    Raises:
        ModelError: It does not exist, cannot be reached, or is incomplete.
    """
    folder = Path(reference.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        return _from_folder(folder, model_name(folder))
    if reference.startswith("local-dir:"):
        raise ModelError(f"{CLIP.name}: {folder} is not a folder")
    if reference.startswith("hf-hub:") or is_hub_id(reference):
        id_ = reference.removeprefix("hf-hub:")
        weights = [(name,) for name in _CHECKPOINTS]
        folder = download(id_, weights, [CONFIG, *_TOKENIZER], option=CLIP.name)
        return _from_folder(folder, id_)
    return _from_list(reference)


def _from_folder(folder: Path, name: str) -> ClipSource:
    content = read_json(folder / CONFIG, option=CLIP.name)
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
    require("open_clip", "open_clip_torch", "extract", option=CLIP.name)
    import open_clip  # noqa: PLC0415

    name, _, tag = reference.partition(":")
    tags = open_clip.list_pretrained_tags_by_model(name)
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None or not tag:
        raise ModelError(
            f"{CLIP.name}: {reference!r} is neither a folder nor one of open_clip's models, such "
            "as ViT-B-32:openai",
            hint="`open_clip.list_pretrained()` lists them",
        )
    listed: Mapping[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if listed:
        weights = _download_listed(listed, reference)
    elif Path(tag).expanduser().is_file():
        weights = Path(tag).expanduser()
    else:
        raise ModelError(
            f"{CLIP.name}: {tag!r} is neither a file nor weights that open_clip has for {name}; "
            f"choose from: {', '.join(tags)}"
        )
    return ClipSource(
        name=reference if listed else f"{name}:{weights.name}",
        open_clip_name=name,
        weights=weights,
        model_config=_checked(config, Path(name)),
        preprocessing=_preprocessing(config, listed),
        # open_clip itself only warns if the tag's activation is not the architecture's.
        quick_gelu=bool(config.get("quick_gelu") or listed.get("quick_gelu")),
        folder=None,
    )


def _download_listed(listed: Mapping[str, Any], reference: str) -> Path:
    id_, _, file = str(listed.get("hf_hub", "")).rpartition("/")
    if not id_:
        raise ModelError(
            f"{CLIP.name}: {reference} is not on the Hugging Face hub",
            hint="download its checkpoint from where open_clip says and name its path: "
            f"--clip {reference.partition(':')[0]}:PATH",
        )
    names = [file] if file else _CHECKPOINTS
    return _checkpoint(download(id_, [(name,) for name in names], option=CLIP.name))


def _checkpoint(folder: Path) -> Path:
    known = [folder / name for name in _CHECKPOINTS if (folder / name).is_file()]
    others = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    found = known or sorted(others, key=lambda path: path.suffix != ".safetensors")
    if not found:
        raise ModelError(f"{CLIP.name}: {folder} holds no weights; wanted {_CHECKPOINTS[0]}")
    return found[0]


def _checked(config: Any, path: Path) -> Mapping[str, Any]:
    parts = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or not all(part in config for part in parts):
        raise ModelError(f"{CLIP.name}: {path} has no model_cfg with {', '.join(parts)}")
    if "trust_remote_code" in json.dumps(config):
        raise ModelError(f"{CLIP.name}: {path} asks to run its own code, which is refused")
    return config


def _preprocessing(config: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    size = config["vision_cfg"].get("image_size", 224)
    named = {key: value for key, value in given.items() if key in PREPROCESSING}
    chosen = {**PREPROCESSING, **{k: v for k, v in named.items() if v is not None}, "size": size}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items()}


def load_clip(source: ClipSource) -> tuple[Any, Any]:
    """Load a model to the CPU, and its tokenizer.

    Raises:
        ModelError: The weights do not fit, or open_clip cannot make the model.
    """
    require("open_clip", "open_clip_torch", "extract", option=CLIP.name)
    import open_clip  # noqa: PLC0415

    given: dict[str, Any] = {}
    if source.folder is None:
        given = {
            "pretrained": str(source.weights),
            "force_preprocess_cfg": dict(source.preprocessing),
        }
    tokenizer_options = {"trust_remote_code": False} if source.hub_tokenizer else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(
                source.open_clip_name,
                force_quick_gelu=source.quick_gelu,
                weights_only=True,
                require_pretrained=True,
                **given,
            )
            tokenizer = open_clip.get_tokenizer(source.open_clip_name, **tokenizer_options)
    except Exception as error:  # open_clip raises nearly anything on an odd folder
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"clip: {source.weights} cannot be loaded as {source.name}: {' '.join(lines[:3])}",
            hint="name another model with --clip, or download this one again",
        ) from error
    found, expected = _plain(model.visual.preprocess_cfg), _plain(source.preprocessing)
    if found != expected:
        raise ModelError(
            "clip: open_clip prepares images for this model differently from its files:",
            faults=[
                f"{key}: open_clip has {found.get(key)}, the files have {expected[key]}"
                for key in expected
                if found.get(key) != expected[key]
            ],
            hint="report this together with the model's name",
        )
    return model, tokenizer


def _plain(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessing with lists for tuples, and both sides of the size."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in preprocessing.items()}
    size = plain["size"]
    return {**plain, "size": [size, size] if isinstance(size, int) else size}


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    """Return the number of tokens of each text, special ones included, before it is cut."""
    if hasattr(tokenizer, "encode"):  # open_clip's own
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    return [len(ids) for ids in tokenizer.tokenizer(cleaned, verbose=False)["input_ids"]]


FACTORY: Final = ExtractorFactory(
    help="CLIP embeddings of images and of the posts' texts",
    options={CLIP: "model"},
    make=lambda o: ClipExtractor(o.model(CLIP), dtype=o.dtype, numerics=o.numerics),
    default=True,
)
