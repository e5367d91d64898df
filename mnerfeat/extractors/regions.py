"""`regions`: the three surest objects of an image, and the grids of their crops.

Chen et al. 2022, HVPNeT, looks at three objects an image; DPE-MNER follows it. The boxes come from
a detector, or from a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.extractors.base import (
    FeatureSpec,
    Prepare,
    Prepared,
    UnreadableImageError,
    usual_size,
)
from mnerfeat.extractors.detector import IMAGE, Detector
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.grid import GRID, GridExtractor
from mnerfeat.extractors.imports import Box, Imported
from mnerfeat.extractors.vision import PIXELS, ProcessorPrepare

REGIONS: Final = 3
"""Boxes kept of an image, the surest first."""

_BOXES = "boxes"


@dataclass(frozen=True, kw_only=True)
class _Crops:
    """Crops of boxes that are known before the image is looked at."""

    processor: ProcessorPrepare
    boxes: tuple[Box, ...]

    def __call__(self, image: Image.Image) -> Prepared:
        return crop(image, self.boxes, self.processor)


@dataclass(frozen=True, kw_only=True)
class CropPrepare:
    """Finds a file's boxes of an image, and crops them."""

    processor: ProcessorPrepare
    said: Imported[tuple[Box, ...]]

    def of(self, path: Path) -> Prepare:
        """See `FilePrepare.of`."""
        return _Crops(processor=self.processor, boxes=self.said.of(path))

    def __call__(self, image: Image.Image) -> Prepared:
        """Never called: `of` comes first."""
        raise NotImplementedError


@final
class RegionsExtractor:
    """`regions_boxes`, `regions_grid` and `regions_count`.

    `regions_boxes`: (3, 4) float32, pixels of the upright image, XYXY. `regions_grid`: (3, height,
    width, d_image), the grid of each crop. `regions_count`: how many of the three there are; what
    comes after them is zero.

    Args:
        reference: The ResNet: a folder, or a hub id.
        source: A detector, or what a file says.
        dtype: In which grids are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where a model is not there or is of another kind.
    """

    name = "regions"

    def __init__(
        self,
        reference: str,
        source: Detector | Imported[tuple[Box, ...]],
        *,
        dtype: np.dtype[Any],
        numerics: Numerics,
    ) -> None:
        self._grid = GridExtractor(reference, dtype=dtype, numerics=numerics)
        self._source = source
        cells, numbers = self._grid.features[GRID].shape, np.dtype(np.float32)
        self.features = {
            "regions_boxes": FeatureSpec(shape=(REGIONS, 4), dtype=numbers),
            "regions_grid": FeatureSpec(shape=(REGIONS, *cells), dtype=dtype),
            "regions_count": FeatureSpec(shape=(), dtype=numbers),
        }
        outputs = ("pixels, XYXY", "last_hidden_state of the crops, channels last", "regions")
        told = (
            {"imported": source.file}
            if isinstance(source, Imported)
            else {"detector": dict(source.facts)}
        )
        self.provenance: Mapping[str, Provenance] = {
            feature: Provenance(
                {
                    **self._grid.provenance[GRID].facts,
                    **told,
                    "extractor": self.name,
                    "output": output,
                    "dtype": spec.dtype.name,
                }
            )
            for (feature, spec), output in zip(self.features.items(), outputs, strict=True)
        }

    @property
    def prepare(self) -> Prepare:
        """Crops where the boxes are known, or else the image as it is."""
        if isinstance(self._source, Imported):
            return CropPrepare(processor=self._grid.prepare, said=self._source)
        return self._source.prepare

    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`."""
        return usual_size(compute)

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return -(-size // REGIONS)

    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        if isinstance(self._source, Detector):
            self._source.load(compute)
        self._grid.load(compute)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        cut = [self._crops(prepared) for prepared in batch]
        rows = {
            name: np.zeros((len(batch), *spec.shape), np.float32)
            for name, spec in self.features.items()
        }
        for row, crops in enumerate(cut):
            count = len(crops[_BOXES])
            rows["regions_boxes"][row, :count] = crops[_BOXES]
            rows["regions_count"][row] = count
        every = [{PIXELS: pixels} for crops in cut for pixels in crops[PIXELS]]
        if every:
            grids = self._grid.extract(every, size)[GRID]
            there = np.arange(REGIONS) < rows["regions_count"][:, None]
            rows["regions_grid"][there] = grids
        return rows

    def _crops(self, prepared: Prepared) -> Prepared:
        if isinstance(self._source, Imported):
            return prepared
        boxes = [one.box for one in self._source.find(prepared[IMAGE])]
        return crop(Image.fromarray(prepared[IMAGE]), boxes, self._grid.prepare)


def crop(image: Image.Image, boxes: Sequence[Box], processor: ProcessorPrepare) -> Prepared:
    """The first boxes of an image, cut to its edges, and their crops.

    A crop takes every pixel that its box touches. What a detector puts wholly outside of the image
    is passed over by the edges: such a box is no region.

    Returns:
        `boxes`: (regions, 4) float32; `pixels`: (regions, 3, height, width).

    Raises:
        UnreadableImageError: All of several boxes are outside: they are of another image.
    """
    cut = [_inside(box, image.size) for box in boxes]
    kept = [box for box in cut if box is not None][:REGIONS]
    if boxes and not kept:
        left, top, right, bottom = boxes[0]
        raise UnreadableImageError(
            f"its boxes lie outside of its {image.width} × {image.height} pixels, the first at "
            f"{left:g}, {top:g}, {right:g}, {bottom:g}"
        )
    crops = [
        processor(image.crop((int(box[0]), int(box[1]), -int(-box[2] // 1), -int(-box[3] // 1))))
        for box in kept
    ]
    pixels = [one[PIXELS] for one in crops]
    return {
        _BOXES: np.array(kept, np.float32).reshape(-1, 4),
        PIXELS: np.stack(pixels) if pixels else np.zeros((0,), np.uint8),
    }


def _inside(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box in the image; None where there is none."""
    width, height = size
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(width)), min(box[3], float(height))
    return (left, top, right, bottom) if left < right and top < bottom else None
