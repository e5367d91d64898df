"""The distribution of a feature that is one number a row, as text."""

import json
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import FAILED, MISSING, Feature
from mnerfeat.errors import CacheError

_BARS: Final = 20  # at most
_BAR_WIDTH: Final = 40  # characters of the longest


def render_histogram(
    feature: Feature, *, threshold: float | None = None, provenance: bool = False
) -> str:
    """Return a histogram of a feature, and the shares of rows on each side of a threshold.

    Args:
        feature: With one number a row, such as `quality`.
        threshold: Where to divide the rows, in the feature's unit.
        provenance: Add what made the feature.

    Raises:
        CacheError: If the feature has several numbers a row.
    """
    if math.prod(feature.row_shape) != 1:
        raise CacheError(
            f"{feature.name} has no histogram: its rows are of shape {feature.row_shape}, and a "
            "histogram is of one number a row",
            hint="`mnerfeat cache info` shows the shape of each feature",
        )
    data, valid = feature.read(slice(None))
    values = data.reshape(len(data))[valid].astype(np.float64)
    left_out = [
        f"{count:,} {word}"
        for word, state in (("failed", FAILED), ("missing", MISSING))
        if (count := int((feature.state == state).sum()))
    ]
    lines = [
        ", ".join([f"{feature.name} ({feature.table}): {len(values):,} rows", *left_out]),
    ]
    if len(values):
        lines += [_summary(values), *_bars(values)]
        if threshold is not None:
            lines += _shares(values, threshold)
    if provenance:
        facts = json.dumps(feature.provenance.facts, indent=4, ensure_ascii=False)
        lines += ["", f"{feature.name} was made by {facts}"]
    return "\n".join(lines)


def _summary(values: NDArray[np.float64]) -> str:
    least, median, most = np.quantile(values, [0, 0.5, 1])
    return (
        f"  from {least:.4g} to {most:.4g}, median {median:.4g}, mean {values.mean():.4g}, "
        f"standard deviation {values.std():.4g}"
    )


def _bars(values: NDArray[np.float64]) -> list[str]:
    """Return a line for each bin: its bounds, a bar, its count and its share.

    Every bin holds its lower bound; only the last also holds its upper bound.
    """
    edges = _edges(float(values.min()), float(values.max()))
    counts, _ = np.histogram(values, edges)
    digits = max(0, -math.floor(math.log10(edges[1] - edges[0]) + 1e-9))
    labels = [f"{edge:.{min(digits, 12)}f}" for edge in edges]
    width = max(map(len, labels))
    unit = _BAR_WIDTH / counts.max()
    return [
        f"  {low:>{width}} to {high:>{width}}  {'█' * math.ceil(count * unit):{_BAR_WIDTH}}  "
        f"{count:9,}  {count / len(values):6.1%}"
        for low, high, count in zip(labels[:-1], labels[1:], counts.tolist(), strict=True)
    ]


def _edges(least: float, most: float) -> NDArray[np.float64]:
    """Return bounds of bins at multiples of 1, 2 or 5 times a power of ten."""
    span = most - least or abs(most) or 1.0
    power = 10.0 ** math.floor(math.log10(span / _BARS))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= _BARS - 1)
    first, last = math.floor(least / step), math.floor(most / step) + 1
    return step * np.arange(first, last + 1, dtype=np.float64)


def _shares(values: NDArray[np.float64], threshold: float) -> list[str]:
    below = int((values < threshold).sum())
    shares = {f"below {threshold:g}": below, f"{threshold:g} or more": len(values) - below}
    width = max(map(len, shares))
    return [
        f"  {what:{width}}  {count:9,}  {count / len(values):6.1%}"
        for what, count in shares.items()
    ]
