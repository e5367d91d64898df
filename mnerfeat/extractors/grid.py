"""Grid features: one vector for each cell of a ResNet's last feature map (He et al. 2016)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import ExtractorFactory, FeatureSpec, ModelOption
from mnerfeat.extractors.device import Numerics
from mnerfeat.extractors.loader import ModelFiles, find_model, packaged
from mnerfeat.extractors.vision import VisionExtractor

if TYPE_CHECKING:
    import torch

GRID: Final = ModelOption(name="grid", base="microsoft/resnet-50", tiny=packaged("grid"))
_HINT = "name a ResNet of transformers, such as microsoft/resnet-50"


@final
class GridExtractor(VisionExtractor):
    """`grid`: the last feature map of a ResNet; (height, width, d_image), rows from the top.

    It is `last_hidden_state` of `transformers`, channels last.

    Args:
        reference: A folder or hub id.
        dtype: Type in which vectors are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: The model is missing or of another kind.
    """

    name = "grid"

    def __init__(self, reference: str, *, dtype: np.dtype[Any], numerics: Numerics) -> None:
        files = find_model(reference, option=GRID.name)
        self._shape = grid_shape(files)
        super().__init__(
            files,
            auto="AutoModel",
            feature=self.name,
            spec=FeatureSpec(shape=self._shape, dtype=dtype),
            output="last_hidden_state, channels last",
            numerics=numerics,
        )

    def _rows(self, output: Any) -> "torch.Tensor":
        cells: torch.Tensor = output.last_hidden_state.permute(0, 2, 3, 1)
        if cells.shape[1:] != self._shape:
            raise ModelError(
                f"grid: the model returns a grid of {tuple(cells.shape[1:])}; its configuration "
                f"says {self._shape}",
                hint=_HINT,
            )
        return cells


def grid_shape(files: ModelFiles) -> tuple[int, int, int]:
    """Return the shape of a ResNet's last feature map, from its configuration alone.

    The stem halves each side twice, and each stage but the first halves it once more, rounding up.

    Raises:
        ModelError: It is no ResNet, or its processor does not define the image size.
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
    """Return height and width of the image processor's output."""
    settings = files.preprocessing
    crops = settings.get("do_center_crop", False) and settings.get("crop_size")
    size = settings["crop_size"] if crops else settings.get("size", settings.get("crop_size"))
    if isinstance(size, Mapping):
        if {"height", "width"} <= set(size):
            return int(size["height"]), int(size["width"])
        size = size.get("shortest_edge")  # of a ConvNext processor, which makes squares
    if not isinstance(size, int):
        raise ModelError(
            f"grid: the image processor of {files.name} does not define the image size", hint=_HINT
        )
    return size, size


FACTORY: Final = ExtractorFactory(
    help="the last feature map of a ResNet",
    options={GRID: "model"},
    make=lambda o: GridExtractor(o.model(GRID), dtype=o.dtype, numerics=o.numerics),
)
