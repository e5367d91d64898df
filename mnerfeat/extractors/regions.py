"""Regions: the three most confident objects of an image, and the grid features of each.

Chen et al. 2022, HVPNeT, uses three objects an image, and DPE-MNER follows. Boxes come from a
detector, or from a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.extractors.annotations import AnnotationPrepare, Annotations, Box, read_boxes
from mnerfeat.extractors.base import (
    Extractor,
    ExtractorFactory,
    ExtractorOptions,
    FeatureSpec,
    ModelOption,
    Prepare,
    Prepared,
    UnreadableImageError,
)
from mnerfeat.extractors.detector import DETECTOR, IMAGE, Detector
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.grid import GRID, GridExtractor
from mnerfeat.extractors.vision import PIXELS

REGION_DETECTOR: Final = replace(DETECTOR, file_instead="regions")
FILE: Final = ModelOption(name="regions", is_file=True)
REGIONS: Final = 3
"""Boxes kept of an image, the most confident first."""

_BOXES = "boxes"


@dataclass(frozen=True)
class _CropPrepare:
    """Cuts out boxes that are known in advance."""

    processor: Prepare
    boxes: tuple[Box, ...]

    def __call__(self, image: Image.Image) -> Prepared:
        return crop(image, self.boxes, self.processor)


@final
class RegionsExtractor(Extractor):
    """`regions_boxes`, `regions_grid` and `regions_count`.

    `regions_boxes`: (3, 4) float32, pixels of the upright image, XYXY. `regions_grid`: (3, height,
    width, d_image), the grid of each crop. `regions_count`: the number of regions, 0 to 3; rows
    after that are zero.

    Args:
        reference: The ResNet: a folder or hub id.
        source: A detector, or annotations.
        dtype: Type in which grids are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: A model is missing or of another kind.
    """

    name = "regions"
    inputs_an_image = REGIONS

    def __init__(
        self,
        reference: str,
        source: Detector | Annotations[tuple[Box, ...]],
        *,
        dtype: np.dtype[Any],
        numerics: Numerics,
    ) -> None:
        self._grid = GridExtractor(reference, dtype=dtype, numerics=numerics)
        self._source = source
        cells, number = self._grid.features[GridExtractor.name].shape, np.dtype(np.float32)
        features = {
            "regions_boxes": FeatureSpec(shape=(REGIONS, 4), dtype=number),
            "regions_grid": FeatureSpec(shape=(REGIONS, *cells), dtype=dtype),
            "regions_count": FeatureSpec(shape=(), dtype=number),
        }
        origin: Mapping[str, Any] = (
            {"imported": source.file}
            if isinstance(source, Annotations)
            else {"detector": dict(source.facts)}
        )
        super().__init__(
            features,
            facts={**self._grid.provenance[GridExtractor.name].facts, **origin},
            own_facts={
                "regions_boxes": {"output": "pixels, XYXY"},
                "regions_grid": {"output": "last_hidden_state of the crops, channels last"},
                "regions_count": {"output": "regions"},
            },
        )

    @property
    def prepare(self) -> Prepare:
        """Cut out the boxes if they are known in advance, else send the whole image."""
        if isinstance(self._source, Annotations):
            return AnnotationPrepare(
                annotations=self._source, make=partial(_CropPrepare, self._grid.prepare)
            )
        return self._source.prepare

    def _load(self, compute: Compute) -> None:
        if isinstance(self._source, Detector):
            self._source.load(compute)
        self._grid.load(compute)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        crops = [self._crops(prepared) for prepared in batch]
        rows = {
            name: np.zeros((len(batch), *spec.shape), np.float32)
            for name, spec in self.features.items()
        }
        for row, cut in enumerate(crops):
            count = len(cut[_BOXES])
            rows["regions_boxes"][row, :count] = cut[_BOXES]
            rows["regions_count"][row] = count
        inputs = [{PIXELS: pixels} for cut in crops for pixels in cut[PIXELS]]
        if inputs:
            valid = np.arange(REGIONS) < rows["regions_count"][:, None]
            rows["regions_grid"][valid] = self._grid.extract(inputs, size)[GridExtractor.name]
        return rows

    def _crops(self, prepared: Prepared) -> Prepared:
        if isinstance(self._source, Annotations):
            return prepared
        boxes = [one.box for one in self._source.find(prepared[IMAGE], self.compute)]
        return crop(Image.fromarray(prepared[IMAGE]), boxes, self._grid.prepare)


def crop(image: Image.Image, boxes: Sequence[Box], processor: Prepare) -> Prepared:
    """Cut out the first boxes of an image, clipped to its edges.

    A crop takes every pixel that its box touches. Boxes wholly outside of the image are skipped.

    Returns:
        `boxes`: (regions, 4) float32; `pixels`: (regions, 3, height, width).

    Raises:
        UnreadableImageError: All boxes are outside, so they belong to another image.
    """
    clipped = [_clip(box, image.size) for box in boxes]
    kept = [box for box in clipped if box is not None][:REGIONS]
    if boxes and not kept:
        left, top, right, bottom = boxes[0]
        raise UnreadableImageError(
            f"its boxes lie outside of its {image.width} × {image.height} pixels, the first at "
            f"{left:g}, {top:g}, {right:g}, {bottom:g}"
        )
    pixels = [
        processor(image.crop((int(left), int(top), -int(-right // 1), -int(-bottom // 1))))[PIXELS]
        for left, top, right, bottom in kept
    ]
    return {
        _BOXES: np.array(kept, np.float32).reshape(-1, 4),
        PIXELS: np.stack(pixels) if pixels else np.zeros((0,), np.uint8),
    }


def _clip(box: Box, size: tuple[int, int]) -> Box | None:
    """Return the part of a box inside the image, or None if there is none."""
    width, height = size
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(width)), min(box[3], float(height))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _make(options: ExtractorOptions) -> Extractor:
    file = options.file(FILE)
    return RegionsExtractor(
        options.model(GRID),
        read_boxes(file) if file else Detector(options.model(REGION_DETECTOR)),
        dtype=options.dtype,
        numerics=options.numerics,
    )


FACTORY: Final = ExtractorFactory(
    help="three boxes, and the grid of each",
    options={GRID: "model", REGION_DETECTOR: "detector.model", FILE: "imported"},
    make=_make,
)
