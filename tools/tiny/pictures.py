"""Freshly drawn pictures to train on, with what is true of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnerfeat.toy.drawing import DAMAGES, WALLS, Damage, Scene, draw
from mnerfeat.toy.figures import KINDS
from mnerfeat.toy.plan import heavy_damage, light_damage, make_scene

KIND_NAMES = tuple(KINDS)
WALL_NAMES = tuple(WALLS)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Drawn pictures.

    Attributes:
        pixels: (pictures, 3, height, width) uint8.
        kinds: (pictures,) places in `KIND_NAMES`.
        walls: (pictures,) places in `WALL_NAMES`.
        quality: (pictures,) in [0, 1].
    """

    pixels: Tensor
    kinds: Tensor
    walls: Tensor
    quality: Tensor

    def batch(self, rows: Tensor) -> Tensor:
        """Pixels scaled to [-1, 1], as the backbones' own preprocessing does it."""
        return self.pixels[rows].float() / 127.5 - 1.0


def draw_pictures(count: int, *, seed: int) -> Pictures:
    """Draws pictures of all kinds before all walls.

    A third is damaged to any degree, a third heavily and a third lightly, as in a world.
    """
    rng = np.random.default_rng([seed, 7])
    scenes = [
        make_scene(
            KIND_NAMES[rng.integers(len(KIND_NAMES))],
            WALL_NAMES[rng.integers(len(WALL_NAMES))],
            (_any_damage, heavy_damage, light_damage)[number % 3](rng),
            rng,
        )
        for number in range(count)
    ]
    return pictures_of(scenes)


def pictures_of(scenes: list[Scene]) -> Pictures:
    """Draws the given scenes."""
    drawn: list[NDArray[np.uint8]] = [draw(scene)[0] for scene in scenes]
    return Pictures(
        pixels=torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous(),
        kinds=torch.tensor([KIND_NAMES.index(scene.kind) for scene in scenes]),
        walls=torch.tensor([WALL_NAMES.index(scene.wall) for scene in scenes]),
        quality=torch.tensor([scene.quality for scene in scenes]),
    )


def _any_damage(rng: np.random.Generator) -> tuple[tuple[Damage, int], ...]:
    first, second = (DAMAGES[i] for i in rng.permutation(len(DAMAGES))[:2])
    return ((first, int(rng.integers(0, 101))), (second, int(rng.integers(0, 36))))
