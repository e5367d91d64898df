"""MANIQA's crops against pyiqa's own."""

import numpy as np
import pytest
import torch
from pyiqa.archs.arch_util import uniform_crop

from mnerfeat.extractors.maniqa import CROPS, uniform_crops
from tests.extractors.pictures import noise

SIZES = [
    (224, 224), (225, 225), (226, 300), (227, 228), (228, 228), (229, 500), (500, 375), (375, 500),
    (1, 1), (3, 7), (100, 60), (60, 100), (224, 500), (223, 223), (700, 10), (10, 700), (333, 225),
    (161, 217), (217, 161), (1000, 229), (13, 13),
]  # fmt: skip
"""Width and height."""


def stock_crops(pixels: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    crops = uniform_crop(image, crop_size=224, crop_num=CROPS)
    return crops.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_crops_and_their_counts_are_pyiqas(size: tuple[int, int]) -> None:
    pixels = noise(*size, seed=sum(size))
    crops, counts = uniform_crops(pixels)
    unit = crops.astype(np.float32) / 255 if crops.dtype == np.uint8 else crops
    wanted = stock_crops(pixels)
    assert counts.sum() == CROPS
    # Every stock crop is one of ours, as often as we count it.
    distance = np.abs(wanted[:, None] - unit[None]).max(axis=(2, 3, 4))
    nearest = distance.argmin(axis=1)
    assert distance[np.arange(CROPS), nearest].max() < 2e-5  # float32 positions of pixels
    if len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1:
        assert np.bincount(nearest, minlength=len(counts)).tolist() == counts.tolist()


def test_every_width_that_is_scaled_up_has_pyiqas_size() -> None:
    """Scaling rounds down, and 225 / side times side need not reach 225."""
    for side in range(1, 225):
        tall = torch.nn.functional.interpolate(
            torch.zeros(1, 1, side, 300), scale_factor=225 / side, mode="bilinear"
        )
        scale = 225 / side
        assert tall.shape[2:] == (int(side * scale), int(300 * scale))


def test_identical_crops_are_made_once() -> None:
    crops, counts = uniform_crops(noise(224, 224))
    assert (len(crops), counts.tolist()) == (1, [20.0])
    crops, counts = uniform_crops(noise(500, 227))
    assert (len(crops), counts.tolist()) == (5, [4.0] * 5)


def test_a_thread_costs_no_more_than_its_crops() -> None:
    """Scaled whole, it would have a hundred million pixels."""
    crops, counts = uniform_crops(noise(20_000, 10))
    assert crops.shape == (5, 224, 224, 3)
    assert counts.sum() == CROPS
