"""[CLS] vectors of a vision transformer, for every model of `transformers` that is like ViT.

Dosovitskiy et al. 2021, An image is worth 16 × 16 words.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import Provenance
from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import RECIPE, FeatureSpec, Prepared, usual_size
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.images import DECODING
from mnerfeat.extractors.loading import find_model, versions
from mnerfeat.extractors.vision import ProcessorPrepare, VisionModel, positive_int

if TYPE_CHECKING:
    import torch

VIT_CLS = "vit_cls"


@final
class VitExtractor:
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
        self._model = VisionModel(files, auto="AutoModel", option="vit")
        width = positive_int(files.config, "hidden_size", option="vit")
        self.features = {VIT_CLS: FeatureSpec(shape=(width,), dtype=dtype)}
        facts = {
            "extractor": self.name,
            "recipe": RECIPE,
            **files.facts,
            "decoding": DECODING,
            "output": "last_hidden_state[:, 0]",
            "dtype": dtype.name,
            "numerics": numerics,
            "libraries": versions("torch", "torchvision", "transformers"),
        }
        self.provenance: Mapping[str, Provenance] = {VIT_CLS: Provenance(facts)}

    @property
    def prepare(self) -> ProcessorPrepare:
        """The model's own image processor."""
        return self._model.prepare

    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`."""
        return usual_size(compute)

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return size

    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        self._model.load(compute)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        return {VIT_CLS: self._model.run(batch, size, _cls)}


def _cls(output: Any) -> "torch.Tensor":
    states: torch.Tensor = output.last_hidden_state
    if states.ndim != 3:
        raise ModelError(
            f"vit: the model gives {states.ndim - 1} axes an image, a ViT gives tokens × d_image",
            hint="name a model of the ViT kind (ViT, DeiT, BEiT, DINOv2, …)",
        )
    return states[:, 0]
