"""Toy images: one figure and two props before a coloured wall, clean or degraded.

Everything is whole-number arithmetic or plain products on small grids, from the pixels to the
noise, so a scene gives the same pixels on every machine.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnerfeat.toy.figures import FIGURES, KINDS, PROPS, Mask, Part

SIDE = 48
"""Width and height of a toy image, in pixels."""

_SCALE = 2
"""Every pixel is the mean of `_SCALE` × `_SCALE` painted points."""

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

WALLS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "orange": (232, 132, 30),
    "yellow": (228, 210, 50),
    "green": (60, 165, 60),
    "turquoise": (50, 190, 190),
    "blue": (50, 80, 205),
    "purple": (130, 60, 180),
    "pink": (235, 120, 180),
}
"""By colour, RGB in [0, 255]."""

Pattern = Literal["plain", "striped", "barred", "dotted", "checked"]
PATTERNS: tuple[Pattern, ...] = ("plain", "striped", "barred", "dotted", "checked")

Damage = Literal["blur", "noise", "dark", "pale"]
DAMAGES: tuple[Damage, ...] = ("blur", "noise", "dark", "pale")
"""What can spoil an image; `pale` is a lack of contrast."""

Box = tuple[int, int, int, int]
"""Pixels, XYXY; the right and lower edges are outside."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a toy image shows.

    Attributes:
        kind: Name of the figure, of `mnerfeat.toy.figures.KINDS`.
        wall: Colour of the wall, of `WALLS`.
        pattern: Pattern of the wall.
        props: The things to the left and to the right, of `mnerfeat.toy.figures.PROPS`.
        size: Half the figure's side, in hundredths of the image's side.
        place: The figure's centre, x and y, in hundredths of the image's side.
        light: True for a pale figure with dark marks, False for the reverse.
        shade: Added to the wall's brightness, in [-20, 20].
        damage: By kind, its severity in hundredths; what is not named is 0.
        seed: Of the noise and of the tones.
    """

    kind: str
    wall: str
    pattern: Pattern
    props: tuple[str, str]
    size: int
    place: tuple[int, int]
    light: bool
    shade: int
    damage: tuple[tuple[Damage, int], ...]
    seed: int

    @property
    def type(self) -> str:
        """The entity type that the figure shows."""
        return KINDS[self.kind]

    @property
    def quality(self) -> float:
        """How far the image can be trusted, in [0, 1]; 1 is undamaged."""
        left = 1.0
        for _, severity in self.damage:
            left *= 1.0 - 0.9 * severity / 100
        return left


Thing = tuple[str, float, float, float]
"""A figure or prop: its name, its centre x and y, and half its side; shares of the image's side."""


def draw(scene: Scene) -> tuple[Pixels, list[tuple[str, Box]]]:
    """Draw the picture of a scene.

    Returns:
        Pixels, (`SIDE`, `SIDE`, 3) uint8 RGB in [0, 255], and what stands where: the figure
        first, then the left and the right prop, each a name and a box in pixels, XYXY.
    """
    across, down = scene.place
    figure = (scene.kind, across / 100, down / 100, scene.size / 100)
    return draw_things(scene, [figure, *prop_things(scene)])


def prop_things(scene: Scene) -> list[Thing]:
    """Return the props of a scene, in its lower corners."""
    left, right = scene.props
    return [(left, 0.12, 0.86, 0.09), (right, 0.88, 0.86, 0.09)]


def draw_things(scene: Scene, things: list[Thing]) -> tuple[Pixels, list[tuple[str, Box]]]:
    """Draw things before the wall of a scene, one over the other, with the scene's damage.

    Returns:
        As `draw`; the boxes are those of the things, in the order given.
    """
    rng = np.random.default_rng(scene.seed)
    canvas = _paint_wall(scene)
    ink, mark = _tones(scene, rng)
    objects = []
    for name, x, y, radius in things:
        parts = FIGURES[KINDS[name]][name] if name in KINDS else PROPS[name]
        objects.append((name, _paint(canvas, parts, (x, y, radius), {"ink": ink, "mark": mark})))
    small = canvas.reshape(SIDE, _SCALE, SIDE, _SCALE, 3).sum(axis=(1, 3)) // (_SCALE * _SCALE)
    return degrade(small, scene.damage, rng), objects


def degrade(
    clean: Ints, damage: tuple[tuple[Damage, int], ...], rng: np.random.Generator
) -> Pixels:
    """Spoils an image.

    Args:
        clean: (height, width, 3), values in [0, 255].
        damage: By kind, its severity in hundredths.
        rng: Of the noise.

    Returns:
        (height, width, 3) uint8.
    """
    severity = dict(damage)
    image = clean.astype(np.int64)
    for _ in range(severity.get("blur", 0) * 9 // 100):
        image = _blur_once(image)
    if pale := severity.get("pale", 0):
        image = 150 + (image - 150) * (128 - pale) // 128
    if dark := severity.get("dark", 0):
        image = image * (120 - dark) // 120
    if noise := severity.get("noise", 0):
        image = image + rng.integers(-noise, noise + 1, size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _blur_once(image: Ints) -> Ints:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    blurred: Ints = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16
    return blurred


def _paint_wall(scene: Scene) -> Ints:
    side = SIDE * _SCALE
    down, across = np.mgrid[0:side, 0:side]
    period = 16
    u, v = across % period, down % period
    marked: dict[Pattern, Mask] = {
        "plain": np.zeros((side, side), dtype=np.bool_),
        "striped": u < period // 2,
        "barred": v < period // 2,
        "dotted": (u - 8) * (u - 8) + (v - 8) * (v - 8) <= 20,
        "checked": (u < period // 2) ^ (v < period // 2),
    }
    base = np.array(WALLS[scene.wall], dtype=np.int64) + scene.shade
    wall = np.where(marked[scene.pattern][:, :, None], base * 7 // 8, base)
    return np.clip(wall, 0, 255)


def _tones(scene: Scene, rng: np.random.Generator) -> tuple[Ints, Ints]:
    # Greys only: the figure must not tell the colour of a wall.
    pale = np.full(3, 235 + int(rng.integers(0, 21)), dtype=np.int64)
    deep = np.full(3, 15 + int(rng.integers(0, 26)), dtype=np.int64)
    return (pale, deep) if scene.light else (deep, pale)


def _paint(
    canvas: Ints,
    parts: list[Part],
    circle: tuple[float, float, float],
    tones: dict[str, Ints],
) -> Box:
    side = SIDE * _SCALE
    x, y, radius = circle
    left, top = (max(0, int((c - radius) * side) - 1) for c in (x, y))
    right, bottom = (min(side, int((c + radius) * side) + 2) for c in (x, y))
    window = canvas[top:bottom, left:right]
    u = ((np.arange(left, right) + 0.5) / side - x) / radius
    v = ((np.arange(top, bottom) + 0.5) / side - y) / radius
    us, vs = np.broadcast_to(u, (len(v), len(u))), np.broadcast_to(v[:, None], (len(v), len(u)))
    painted = np.zeros(us.shape, dtype=np.bool_)
    for tone, shape in parts:
        mask = shape(us, vs)
        window[mask] = tones[tone]
        painted |= mask
    rows, columns = np.nonzero(painted.any(axis=1))[0], np.nonzero(painted.any(axis=0))[0]
    return (
        (left + int(columns[0])) // _SCALE,
        (top + int(rows[0])) // _SCALE,
        (left + int(columns[-1])) // _SCALE + 1,
        (top + int(rows[-1])) // _SCALE + 1,
    )
