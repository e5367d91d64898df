"""[CLS] vectors of a vision transformer: any model of `transformers` of the ViT kind.

Dosovitskiy et al. 2021, An image is worth 16 × 16 words.
"""

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import ExtractorFactory, FeatureSpec, ModelOption
from mnerfeat.extractors.device import Numerics
from mnerfeat.extractors.loader import find_model, packaged
from mnerfeat.extractors.vision import VisionExtractor

if TYPE_CHECKING:
    import torch

VIT: Final = ModelOption(name="vit", base="google/vit-base-patch16-224", tiny=packaged("vit"))
VIT_CLS: Final = "vit_cls"


@final
class VitExtractor(VisionExtractor):
    """`vit_cls`: the last layer's state at [CLS], after the final norm; (d_image,).

    The same as position 0 of the `image-feature-extraction` pipeline of `transformers`.

    Args:
        reference: A folder or hub id.
        dtype: Type in which vectors are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: The model is missing or of another kind.
    """

    name = "vit"

    def __init__(self, reference: str, *, dtype: np.dtype[Any], numerics: Numerics) -> None:
        files = find_model(reference, option=VIT.name)
        super().__init__(
            files,
            auto="AutoModel",
            feature=VIT_CLS,
            spec=FeatureSpec(shape=(files.hidden_size(),), dtype=dtype),
            output="last_hidden_state[:, 0]",
            numerics=numerics,
        )

    def _rows(self, output: Any) -> "torch.Tensor":
        states: torch.Tensor = output.last_hidden_state
        if states.ndim != 3:
            raise ModelError(
                f"vit: the model returns {states.ndim - 1} axes an image, a ViT returns tokens × "
                "d_image",
                hint="name a model of the ViT kind (ViT, DeiT, BEiT, DINOv2, …)",
            )
        return states[:, 0]


FACTORY: Final = ExtractorFactory(
    help="[CLS] vectors of a vision transformer",
    options={VIT: "model"},
    make=lambda o: VitExtractor(o.model(VIT), dtype=o.dtype, numerics=o.numerics),
    default=True,
)
