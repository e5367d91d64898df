"""Extractors of one feature, which an image model of `transformers` gives for an image."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from numpy.typing import NDArray

from mnerfeat.cache import Provenance
from mnerfeat.extractors.base import RECIPE, FeatureSpec, Prepared, usual_size
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loading import ModelFiles, versions
from mnerfeat.extractors.vision import ProcessorPrepare, VisionModel

if TYPE_CHECKING:
    import torch


class VisionExtractor(ABC):
    """Says which of a model's outputs is the feature; all else is the same for every model.

    Args:
        files: Of the model.
        auto: The name of the `transformers` class that loads it.
        option: The option that named it, for messages.
        feature: Its name in the cache.
        spec: Its rows.
        output: Which of the model's outputs it is, for its provenance.
        numerics: See `mnerfeat.extractors.device`.
    """

    name: str

    def __init__(
        self,
        files: ModelFiles,
        *,
        auto: str,
        option: str,
        feature: str,
        spec: FeatureSpec,
        output: str,
        numerics: Numerics,
    ) -> None:
        self._model = VisionModel(files, auto=auto, option=option)
        self._feature = feature
        self.features: Mapping[str, FeatureSpec] = {feature: spec}
        facts = {
            "extractor": self.name,
            "recipe": RECIPE,
            **files.facts,
            "decoding": DECODING,
            "output": output,
            "dtype": spec.dtype.name,
            "numerics": numerics,
            "libraries": versions("torch", "torchvision", "transformers"),
        }
        self.provenance: Mapping[str, Provenance] = {feature: Provenance(facts)}

    @property
    @final
    def prepare(self) -> ProcessorPrepare:
        """The model's own image processor."""
        return self._model.prepare

    @final
    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`."""
        return usual_size(compute)

    @final
    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return size

    @final
    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        self._model.load(compute)

    @final
    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        return {self._feature: self._model.run(batch, size, self._rows)}

    @abstractmethod
    def _rows(self, output: Any) -> "torch.Tensor":
        """The feature of some images, (images, …), from what the model gives for them."""
