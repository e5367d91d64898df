"""The figures in toy images: twelve, three for each entity type.

A figure is a list of parts, painted in order. A part is a tone and a shape in a square with x to
the right and y down, both in [-1, 1]. Shapes are evaluated point by point with comparisons and
products only, so every machine paints the same pixels.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
Mask = NDArray[np.bool_]
Shape = Callable[[Grid, Grid], Mask]
Tone = Literal["ink", "mark"]
Part = tuple[Tone, Shape]


def ellipse(x: float, y: float, rx: float, ry: float) -> Shape:
    """Return an ellipse around (x, y) with semi-axes rx and ry."""

    def inside(u: Grid, v: Grid) -> Mask:
        a, b = (u - x) / rx, (v - y) / ry
        mask: Mask = a * a + b * b <= 1.0
        return mask

    return inside


def box(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """Return an axis-aligned rectangle."""

    def inside(u: Grid, v: Grid) -> Mask:
        mask: Mask = (u >= x0) & (u <= x1) & (v >= y0) & (v <= y1)
        return mask

    return inside


def polygon(*corners: tuple[float, float]) -> Shape:
    """Return a convex polygon; its corners are in clockwise order on the screen."""

    def inside(u: Grid, v: Grid) -> Mask:
        mask = np.ones(u.shape, dtype=np.bool_)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            mask &= (x1 - x0) * (v - y0) - (y1 - y0) * (u - x0) >= 0.0
        return mask

    return inside


def _windows(columns: int, rows: int, x0: float, y0: float, x1: float, y1: float) -> list[Part]:
    width, height = (x1 - x0) / columns, (y1 - y0) / rows
    return [
        (
            "mark",
            box(
                x0 + (column + 0.22) * width,
                y0 + (row + 0.22) * height,
                x0 + (column + 0.78) * width,
                y0 + (row + 0.78) * height,
            ),
        )
        for column in range(columns)
        for row in range(rows)
    ]


FIGURES: dict[str, dict[str, list[Part]]] = {
    "PER": {
        "man": [
            ("ink", ellipse(0.0, -0.68, 0.27, 0.3)),
            ("ink", box(-0.42, -0.36, 0.42, 0.25)),
            ("ink", box(-0.34, 0.25, -0.06, 1.0)),
            ("ink", box(0.06, 0.25, 0.34, 1.0)),
            ("mark", box(-0.16, -0.76, -0.06, -0.66)),
            ("mark", box(0.06, -0.76, 0.16, -0.66)),
        ],
        "woman": [
            ("mark", ellipse(0.0, -0.62, 0.42, 0.36)),
            ("ink", ellipse(0.0, -0.62, 0.24, 0.28)),
            ("ink", polygon((-0.12, -0.34), (0.12, -0.34), (0.62, 0.72), (-0.62, 0.72))),
            ("ink", box(-0.26, 0.72, -0.1, 1.0)),
            ("ink", box(0.1, 0.72, 0.26, 1.0)),
        ],
        "baby": [
            ("ink", ellipse(0.0, -0.3, 0.62, 0.62)),
            ("ink", ellipse(0.0, 0.62, 0.42, 0.38)),
            ("mark", ellipse(-0.25, -0.38, 0.11, 0.13)),
            ("mark", ellipse(0.25, -0.38, 0.11, 0.13)),
            ("mark", box(-0.22, 0.0, 0.22, 0.1)),
        ],
    },
    "LOC": {
        "mountain": [
            ("ink", polygon((-0.2, -0.9), (0.65, 0.85), (-1.0, 0.85))),
            ("ink", polygon((0.5, -0.25), (1.0, 0.85), (-0.1, 0.85))),
            ("mark", polygon((-0.2, -0.9), (0.04, -0.41), (-0.42, -0.41))),
        ],
        "bridge": [
            ("ink", box(-1.0, -0.05, 1.0, 0.2)),
            ("ink", box(-0.62, -0.75, -0.44, 0.8)),
            ("ink", box(0.44, -0.75, 0.62, 0.8)),
            ("ink", polygon((-0.53, -0.75), (-0.4, -0.75), (0.02, -0.05), (-0.1, -0.05))),
            ("ink", polygon((0.4, -0.75), (0.53, -0.75), (0.1, -0.05), (-0.02, -0.05))),
            ("mark", box(-1.0, 0.8, 1.0, 0.94)),
        ],
        "island": [
            ("ink", ellipse(0.0, 0.72, 0.95, 0.26)),
            ("ink", box(-0.08, -0.3, 0.08, 0.6)),
            ("mark", ellipse(-0.4, -0.48, 0.42, 0.15)),
            ("mark", ellipse(0.4, -0.48, 0.42, 0.15)),
            ("mark", ellipse(0.0, -0.66, 0.16, 0.3)),
        ],
    },
    "ORG": {
        "office": [
            ("ink", box(-0.5, -0.95, 0.5, 0.95)),
            *_windows(3, 5, -0.45, -0.9, 0.45, 0.9),
        ],
        "factory": [
            ("ink", box(-0.95, 0.05, 0.95, 0.9)),
            ("ink", polygon((-0.35, -0.35), (-0.35, 0.06), (-0.95, 0.06))),
            ("ink", polygon((0.25, -0.35), (0.25, 0.06), (-0.35, 0.06))),
            ("ink", box(0.5, -0.95, 0.8, 0.06)),
            *_windows(4, 1, -0.85, 0.3, 0.85, 0.7),
        ],
        "emblem": [
            ("ink", box(-0.72, -0.9, 0.72, 0.1)),
            ("ink", polygon((-0.72, 0.1), (0.72, 0.1), (0.0, 0.98))),
            ("mark", polygon((0.0, -0.68), (0.44, -0.1), (0.0, 0.48), (-0.44, -0.1))),
        ],
    },
    "MISC": {
        "trophy": [
            ("mark", ellipse(0.0, -0.45, 0.85, 0.36)),
            ("ink", box(-0.52, -0.9, 0.52, -0.3)),
            ("ink", ellipse(0.0, -0.3, 0.52, 0.5)),
            ("ink", box(-0.1, 0.1, 0.1, 0.7)),
            ("ink", box(-0.5, 0.68, 0.5, 0.92)),
        ],
        "rocket": [
            ("ink", ellipse(0.0, -0.15, 0.32, 0.82)),
            ("ink", polygon((-0.3, 0.1), (-0.2, 0.75), (-0.75, 0.85))),
            ("ink", polygon((0.3, 0.1), (0.75, 0.85), (0.2, 0.75))),
            ("mark", ellipse(0.0, -0.38, 0.16, 0.16)),
            ("mark", polygon((-0.16, 0.7), (0.16, 0.7), (0.0, 1.0))),
        ],
        "record": [
            ("ink", ellipse(0.0, 0.0, 0.95, 0.95)),
            ("mark", ellipse(0.0, 0.0, 0.5, 0.5)),
            ("ink", ellipse(0.0, 0.0, 0.36, 0.36)),
            ("mark", ellipse(0.0, 0.0, 0.12, 0.12)),
        ],
    },
}
"""Parts by entity type and figure."""

PROPS: dict[str, list[Part]] = {
    "ball": [("ink", ellipse(0.0, 0.0, 0.9, 0.9))],
    "box": [("ink", box(-0.85, -0.85, 0.85, 0.85)), ("mark", box(-0.85, -0.15, 0.85, 0.15))],
    "plant": [
        ("ink", box(-0.5, 0.2, 0.5, 0.95)),
        ("mark", polygon((0.0, -1.0), (0.6, 0.2), (-0.6, 0.2))),
    ],
    "lamp": [
        ("mark", polygon((-0.35, -0.95), (0.35, -0.95), (0.75, -0.1), (-0.75, -0.1))),
        ("ink", box(-0.12, -0.1, 0.12, 0.95)),
    ],
}
"""Small objects beside the figure, unrelated to the entity type."""

TYPES: tuple[str, ...] = tuple(FIGURES)
"""The entity types of the toy world."""

KINDS: dict[str, str] = {kind: type_ for type_, kinds in FIGURES.items() for kind in kinds}
"""Entity type by figure."""
