"""Grids of a ResNet: one vector for each cell of an image (He et al. 2016)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import Provenance
from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import RECIPE, FeatureSpec, Prepared, usual_size
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.images import DECODING
from mnerfeat.extractors.loading import ModelFiles, find_model, versions
from mnerfeat.extractors.vision import ProcessorPrepare, VisionModel

if TYPE_CHECKING:
    import torch

GRID = "grid"
_HINT = "name a ResNet of transformers, such as microsoft/resnet-50"


class GridModel:
    """A ResNet of `transformers`, up to its last feature map.

    Args:
        reference: A folder, or a hub id.

    Attributes:
        facts: For provenances.
        shape: Of an image's grid: (height, width, d_image), for example (7, 7, 2048).

    Raises:
        ModelError: Where the model is not there or is of another kind.
    """

    def __init__(self, reference: str) -> None:
        files = find_model(reference, option="grid")
        self._model = VisionModel(files, auto="AutoModel", option="grid")
        self.facts = files.facts
        self.shape = grid_shape(files)

    @property
    def prepare(self) -> ProcessorPrepare:
        """The model's own image processor."""
        return self._model.prepare

    def load(self, compute: Compute) -> None:
        """Load the weights, unless they are there already."""
        self._model.load(compute)

    def run(self, batch: Sequence[Prepared], size: int) -> NDArray[np.float32]:
        """The grids of some images, (images, height, width, d_image)."""
        return self._model.run(batch, size, self._cells)

    def _cells(self, output: Any) -> "torch.Tensor":
        cells: torch.Tensor = output.last_hidden_state.permute(0, 2, 3, 1)
        if cells.shape[1:] != self.shape:
            raise ModelError(
                f"grid: the model gives a grid of {tuple(cells.shape[1:])} where its "
                f"configuration promises {self.shape}",
                hint=_HINT,
            )
        return cells


@final
class GridExtractor:
    """`grid`: the last feature map of a ResNet; (height, width, d_image), rows from the top.

    It is `last_hidden_state` of `transformers`, with the channels last.

    Args:
        reference: A folder, or a hub id.
        dtype: As stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where the model is not there or is of another kind.
    """

    name = "grid"

    def __init__(self, reference: str, *, dtype: np.dtype[Any], numerics: Numerics) -> None:
        self._grid = GridModel(reference)
        self.features = {GRID: FeatureSpec(shape=self._grid.shape, dtype=dtype)}
        facts = {
            "extractor": self.name,
            "recipe": RECIPE,
            **self._grid.facts,
            "decoding": DECODING,
            "output": "last_hidden_state, channels last",
            "dtype": dtype.name,
            "numerics": numerics,
            "libraries": versions("torch", "torchvision", "transformers"),
        }
        self.provenance: Mapping[str, Provenance] = {GRID: Provenance(facts)}

    @property
    def prepare(self) -> ProcessorPrepare:
        """The model's own image processor."""
        return self._grid.prepare

    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`."""
        return usual_size(compute)

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return size

    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        self._grid.load(compute)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        return {GRID: self._grid.run(batch, size)}


def grid_shape(files: ModelFiles) -> tuple[int, int, int]:
    """The shape of a ResNet's last feature map, known without loading the model.

    Its stem halves each side twice, and each stage but the first halves it once more; every half
    is rounded up.

    Raises:
        ModelError: Where it is no ResNet, or its processor does not say how large its images are.
    """
    config = files.config
    sizes = config.get("hidden_sizes")
    if config.get("model_type") != "resnet" or not isinstance(sizes, list) or not sizes:
        kind = config.get("model_type", "an unknown kind")
        raise ModelError(f"grid: {files.name} is {kind}; wanted a ResNet", hint=_HINT)
    halvings = 2 + len(sizes) - (not config.get("downsample_in_first_stage", False))
    height, width = _image_size(files)
    for _ in range(halvings):
        height, width = -(-height // 2), -(-width // 2)
    return height, width, int(sizes[-1])


def _image_size(files: ModelFiles) -> tuple[int, int]:
    """Height and width of what the image processor makes."""
    settings = files.preprocessing
    crops = settings.get("do_center_crop", False) and settings.get("crop_size")
    size = settings["crop_size"] if crops else settings.get("size", settings.get("crop_size"))
    if isinstance(size, Mapping):
        if {"height", "width"} <= set(size):
            return int(size["height"]), int(size["width"])
        size = size.get("shortest_edge")  # of a ConvNext processor, which makes squares
    if not isinstance(size, int):
        raise ModelError(
            f"grid: the image processor of {files.name} does not say how large its images are",
            hint=_HINT,
        )
    return size, size
