"""[CLS] vectors of a vision transformer, for every model of `transformers` that is like ViT.

Dosovitskiy et al. 2021, An image is worth 16 × 16 words.
"""

from typing import TYPE_CHECKING, Any, final

import numpy as np

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import FeatureSpec
from mnerfeat.extractors.device import Numerics
from mnerfeat.extractors.loading import find_model
from mnerfeat.extractors.vision import positive_int
from mnerfeat.extractors.vision_extractor import VisionExtractor

if TYPE_CHECKING:
    import torch

VIT_CLS = "vit_cls"


@final
class VitExtractor(VisionExtractor):
    """`vit_cls`: the last layer's state at the [CLS] token, after the final norm; (d_image,).

    It is what the `image-feature-extraction` pipeline of `transformers` gives at position 0.

    Args:
        reference: A folder, or a hub id.
        dtype: As stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where the model is not there or is of another kind.
    """

    name = "vit"

    def __init__(self, reference: str, *, dtype: np.dtype[Any], numerics: Numerics) -> None:
        files = find_model(reference, option="vit")
        width = positive_int(files.config, "hidden_size", option="vit")
        super().__init__(
            files,
            auto="AutoModel",
            option="vit",
            feature=VIT_CLS,
            spec=FeatureSpec(shape=(width,), dtype=dtype),
            output="last_hidden_state[:, 0]",
            numerics=numerics,
        )

    def _rows(self, output: Any) -> "torch.Tensor":
        states: torch.Tensor = output.last_hidden_state
        if states.ndim != 3:
            raise ModelError(
                f"vit: the model gives {states.ndim - 1} axes an image, "
                "a ViT gives tokens × d_image",
                hint="name a model of the ViT kind (ViT, DeiT, BEiT, DINOv2, …)",
            )
        return states[:, 0]
