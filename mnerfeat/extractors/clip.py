"""CLIP embeddings of images and of posts' texts, by open_clip, not normalised.

Radford et al. 2021, Learning transferable visual models from natural language supervision.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import RECIPE, FeatureSpec, Prepared, run_padded, usual_size
from mnerfeat.extractors.clip_source import ClipSource, find_clip
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loading import require, versions

if TYPE_CHECKING:
    import torch

CLIP_IMAGE, CLIP_TEXT = "clip_image", "clip_text"
PIXELS = "pixels"

_SCALED_PIXELS = 1 << 24
"""An image is scaled whole and then cropped, as open_clip does, up to this many pixels."""


class ClipPrepare:
    """open_clip's transform up to bytes: resized and cropped pixels.

    It needs Pillow alone for nearly every model, so a worker starts in a moment. Only where an
    image is so long and thin that scaling it whole would take gigabytes, just the part that the
    crop keeps is scaled; the passes of the filter then round in another order, which differs by
    a few of 255 levels.

    Args:
        preprocessing: `size`, `resize_mode`, `interpolation` and what else `PreprocessCfg` has.
    """

    def __init__(self, preprocessing: Mapping[str, Any]) -> None:
        size = preprocessing["size"]
        self._size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self._preprocessing = dict(preprocessing)
        bilinear = preprocessing["interpolation"] == "bilinear"
        self._filter = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC

    def __call__(self, image: Image.Image) -> Prepared:
        """`pixels`: (3, height, width) uint8."""
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
        """Scale the shorter side to `side`, then keep the middle."""
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
class ClipExtractor:
    """`clip_image` and `clip_text`: `encode_image` and `encode_text`; (embed_dim,) each.

    Args:
        reference: See `find_clip`.
        dtype: As stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where the model is not there.
    """

    name = "clip"

    def __init__(self, reference: str, *, dtype: np.dtype[Any], numerics: Numerics) -> None:
        source = find_clip(reference)
        self._source = source
        self.features = {CLIP_IMAGE: FeatureSpec(shape=(source.embed_dim,), dtype=dtype)}
        self.text_features = {CLIP_TEXT: FeatureSpec(shape=(source.embed_dim,), dtype=dtype)}
        self.context_length = source.context_length
        common = {
            "extractor": self.name,
            "recipe": RECIPE,
            **source.facts,
            "dtype": dtype.name,
            "numerics": numerics,
        }
        self.provenance: Mapping[str, Provenance] = {
            CLIP_IMAGE: Provenance(
                {
                    **common,
                    "preprocessing": dict(source.preprocessing),
                    "decoding": DECODING,
                    "output": "encode_image, not normalised",
                    "libraries": versions("torch", "open_clip_torch", "pillow"),
                }
            ),
            CLIP_TEXT: Provenance(
                {
                    **common,
                    "preprocessing": dict(source.tokenizer_facts),
                    "output": "encode_text, not normalised",
                    "libraries": versions("torch", "open_clip_torch"),
                }
            ),
        }
        self._model: Any = None
        self._tokenizer: Any = None
        self._compute: Compute | None = None
        self._statistics: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def prepare(self) -> ClipPrepare:
        """open_clip's transform up to bytes."""
        return ClipPrepare(self._source.preprocessing)

    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`."""
        return usual_size(compute)

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return size

    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        if compute == self._compute:
            return
        import torch  # noqa: PLC0415

        self._model, self._tokenizer = load_clip(self._source)
        self._model = self._model.to(compute.device).eval()
        self._compute = compute
        mean, std = (
            torch.tensor(self._source.preprocessing[key], device=compute.device).view(1, 3, 1, 1)
            for key in ("mean", "std")
        )
        self._statistics = mean, std

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        compute, statistics = self._compute, self._statistics
        assert compute is not None, "load comes first"
        assert statistics is not None

        def step(pixels: NDArray[Any]) -> NDArray[np.float32]:
            with compute.running():
                images = compute.put(pixels).float().div_(255)
                images.sub_(statistics[0]).div_(statistics[1])
                result = self._model.encode_image(images)
            host: NDArray[np.float32] = result.float().cpu().numpy()
            return host

        return {CLIP_IMAGE: run_padded(np.stack([image[PIXELS] for image in batch]), size, step)}

    def extract_texts(
        self, texts: Sequence[str], size: int
    ) -> tuple[Mapping[str, NDArray[Any]], int]:
        """See `TextExtractor.extract_texts`."""
        compute = self._compute
        assert compute is not None, "load comes first"

        def step(tokens: NDArray[Any]) -> NDArray[np.float32]:
            with compute.running():
                result = self._model.encode_text(compute.put(tokens))
            host: NDArray[np.float32] = result.float().cpu().numpy()
            return host

        texts = list(texts)
        tokens: NDArray[np.int64] = self._tokenizer(texts).numpy()
        cut = sum(length > self.context_length for length in _lengths(self._tokenizer, texts))
        return {CLIP_TEXT: run_padded(tokens, size, step)}, cut


def load_clip(source: ClipSource) -> tuple[Any, Any]:
    """A model with its weights, on the CPU, and its tokenizer.

    Raises:
        ModelError: Where the weights do not fit, or open_clip cannot make the model.
    """
    require("open_clip", "open_clip_torch", "extract", option="clip")
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
    except Exception as error:  # open_clip raises nearly anything on a folder that is odd
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"clip: {source.weights} cannot be loaded as {source.name}: {' '.join(lines[:3])}",
            hint="name another model with --clip, or download this one again",
        ) from error
    made = {
        k: list(v) if isinstance(v, tuple) else v for k, v in model.visual.preprocess_cfg.items()
    }
    wanted = dict(source.preprocessing)
    if _square(made) != _square(wanted):
        raise ModelError(
            "clip: open_clip prepares images for this model otherwise than its files say:",
            faults=[
                f"{key}: {made.get(key)}, not {wanted[key]}"
                for key in wanted
                if made.get(key) != wanted[key]
            ],
            hint="report this together with the model's name",
        )
    return model, tokenizer


def _square(preprocessing: Mapping[str, Any]) -> Mapping[str, Any]:
    size = preprocessing["size"]
    return {**preprocessing, "size": [size, size] if isinstance(size, int) else list(size)}


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    """Tokens of each text, special ones included, before anything is cut."""
    if hasattr(tokenizer, "encode"):  # open_clip's own
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    return [len(ids) for ids in tokenizer.tokenizer(cleaned, verbose=False)["input_ids"]]
