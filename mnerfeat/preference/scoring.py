"""Rewards of many texts and images."""

import numpy as np
import torch
from numpy.typing import NDArray

from mnerfeat.preference.discriminator import Discriminator

PAIRS_AT_ONCE = 1024
"""Always so many, filled up with zeros: matrix products of another shape round otherwise, and a
pair's reward must not depend on which others are computed with it."""


@torch.no_grad()
def score_pairs(
    discriminator: Discriminator,
    texts: NDArray[np.floating],
    images: NDArray[np.floating],
    text: NDArray[np.integer],
    image: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Rewards of some pairs, on the CPU, in float32.

    Args:
        discriminator: In evaluation mode, on the CPU.
        texts: (t, d_clip_text): embeddings of texts.
        images: (i, d_clip_image): embeddings of images.
        text: (n,): of each pair, the row of `texts`.
        image: (n,): of each pair, the row of `images`.

    Returns:
        (n,): rewards.
    """
    rewards = np.zeros(len(text), np.float32)
    wide = np.zeros((PAIRS_AT_ONCE, texts.shape[1]), np.float32)
    high = np.zeros((PAIRS_AT_ONCE, images.shape[1]), np.float32)
    for start in range(0, len(text), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        count = len(text[part])
        wide[:count], high[:count] = texts[text[part]], images[image[part]]
        wide[count:], high[count:] = 0, 0
        found = discriminator(torch.from_numpy(wide), torch.from_numpy(high))
        rewards[part] = found.numpy()[:count]
    return rewards
