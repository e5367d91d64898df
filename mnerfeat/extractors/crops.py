"""The twenty crops at which MANIQA looks at an image, each different one once.

pyiqa 0.1.16 (`uniform_crop`): an image whose shorter side is at most 224 pixels is scaled up,
bilinearly, until that side has 225; then a grid of 5 × 5 crops of 224 × 224 with steps of
(side − 224) // 4, of which the first twenty count. A side below 228 has step 0, so crops repeat:
of a 224 × 224 image all twenty are the same one.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.extractors.decoder import Pixels

CROP: Final = 224
CROPS: Final = 20
_GRID = 5

Crops = NDArray[Any]
"""(crops, 224, 224, 3): uint8 in [0, 255], or float32 in [0, 1] where the image was scaled up."""


def uniform_crops(pixels: Pixels) -> tuple[Crops, NDArray[np.float32]]:
    """The crops of an image.

    Args:
        pixels: (height, width, 3).

    Returns:
        The different crops, and how often each of them counts: (crops,), twenty in all.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    scale = (CROP + 1) / shorter if shorter <= CROP else 1.0
    tall, wide = int(height * scale), int(width * scale)
    counts: dict[tuple[int, int], int] = {}
    for place in range(CROPS):
        row, column = divmod(place, _GRID)
        corner = (row * ((tall - CROP) // (_GRID - 1)), column * ((wide - CROP) // (_GRID - 1)))
        counts[corner] = counts.get(corner, 0) + 1
    crops: list[Crops] = [
        pixels[top : top + CROP, left : left + CROP]
        if shorter > CROP
        else _scaled_up(pixels, top, left, scale)
        for top, left in counts
    ]
    return np.stack(crops), np.fromiter(counts.values(), np.float32)


def _scaled_up(pixels: Pixels, top: int, left: int, scale: float) -> NDArray[np.float32]:
    """One crop of the scaled image, without making the rest of it, which may be gigabytes."""
    height, width = pixels.shape[:2]
    above, below, down = _between(top, height, scale)
    before, after, right = _between(left, width, scale)
    down, right = down[:, None, None], right[None, :, None]
    # Columns first: the rows of a long image are long.
    upper, lower = (
        pixels[rows[:, None], before] * (1 - right) + pixels[rows[:, None], after] * right
        for rows in (above, below)
    )
    crop = (upper * (1 - down) + lower * down) / np.float32(255)
    return crop.astype(np.float32, copy=False)


def _between(
    start: int, length: int, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Of `CROP` pixels of a scaled side: the two pixels each lies between, and how far along.

    Pixel centres lie at halves, as in `torch.nn.functional.interpolate` without corners aligned.
    """
    centres = np.arange(start, start + CROP, dtype=np.float32) + np.float32(0.5)
    source = np.maximum(centres * np.float32(1 / scale) - np.float32(0.5), np.float32(0))
    first = np.minimum(source.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), (source - first).astype(np.float32)
