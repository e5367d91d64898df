"""How well rewards agree with rankings, and whether R can be read as a probability."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.preference.pairs import Order

BINS = 10
"""Of equal width, for the calibration error."""

TEMPERATURES = (0.05, 20.0)
"""Between these the temperature is looked for."""

Rewards = Sequence[Sequence[float]]
"""For each ranking, the rewards of its items, in the ranking's order."""


@dataclass(frozen=True, kw_only=True)
class RankingScores:
    """How well rewards agree with rankings.

    Attributes:
        rankings: How many.
        pairs: Pairs of items in them, the blank image among the items.
        pairwise: Share of the pairs whose better item has the larger reward; equal ones count
            half.
        tau: Kendall's τ (concordant less discordant pairs, over all pairs of a ranking), mean
            over the rankings, −1 to 1.
        relevant: Share of the images that are on the right side of the blank image.
        images: How many of them there are.
        loss: Eq. 1 over these pairs; log 2 = 0.69 for rewards that tell nothing.
        calibration_error: Mean distance, over `BINS` bins of R, between the mean R of a bin's
            images and the share of them that rank before the blank image, 0 to 1.
    """

    rankings: int
    pairs: int
    pairwise: float
    tau: float
    relevant: float
    images: int
    loss: float
    calibration_error: float

    def as_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "RankingScores":
        """The inverse of `as_json`."""
        return RankingScores(**value)


def measure(orders: Sequence[Order], rewards: Rewards) -> RankingScores:
    """Compare rewards with rankings.

    Args:
        orders: The rankings, at least one.
        rewards: Of their items.
    """
    agree: list[NDArray[np.float64]] = []
    taus: list[float] = []
    for mine in rewards:
        r = np.asarray(mine, np.float64)
        better, worse = np.triu_indices(len(r), 1)
        differences = r[better] - r[worse]
        agree.append(differences)
        taus.append(float(np.sign(differences).mean()))
    every = np.concatenate(agree)
    difference, before = against_blank(orders, rewards)
    sides = np.where(before, difference, -difference)
    return RankingScores(
        rankings=len(orders),
        pairs=len(every),
        pairwise=_share_positive(every),
        tau=float(np.mean(taus)),
        relevant=_share_positive(sides),
        images=len(difference),
        loss=float(np.logaddexp(0, -every).mean()),
        calibration_error=calibration_error(_sigmoid(difference), before),
    )


def against_blank(
    orders: Sequence[Order], rewards: Rewards
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For every ranked image, r(image) − r(blank), and whether it ranks before the blank image.

    Returns:
        (images,) each, ranking by ranking.
    """
    differences: list[float] = []
    before: list[bool] = []
    for order, mine in zip(orders, rewards, strict=True):
        for place, reward in enumerate(mine):
            if place != order.blank:
                differences.append(reward - mine[order.blank])
                before.append(place < order.blank)
    return np.asarray(differences, np.float64), np.asarray(before, bool)


def calibration_error(
    probability: NDArray[np.float64], outcome: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Expected calibration error: Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Args:
        probability: (n,), in [0, 1], n ≥ 1.
        outcome: (n,): what came of it.
        bins: Of equal width.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    distance = np.bincount(place, probability - outcome, minlength=bins)
    return float(np.abs(distance).sum() / len(probability))


def fit_temperature(difference: NDArray[np.float64], before: NDArray[np.bool_]) -> float:
    """The temperature τ under which σ(difference / τ) fits best what ranks before the blank.

    It minimises the cross-entropy against Platt's smoothed outcomes, (n₊ + 1) / (n₊ + 2) and
    1 / (n₋ + 2) in place of 1 and 0 (Platt 1999), so few and perfectly separated images do not
    make it 0. There is no offset: the blank image keeps R = 0.5.

    Args:
        difference: (n,): r(image) − r(blank), n ≥ 1.
        before: (n,): whether the image ranks before the blank image.

    Returns:
        In `TEMPERATURES`.
    """
    positive, negative = int(before.sum()), int((~before).sum())
    target = np.where(before, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def slope(inverse: float) -> float:
        return float(((_sigmoid(inverse * difference) - target) * difference).mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    if slope(high) <= 0:
        return TEMPERATURES[0]
    for _ in range(60):  # the cross-entropy is convex in 1/τ, so its slope rises
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def calibration_error_after(orders: Sequence[Order], rewards: Rewards) -> float | None:
    """The calibration error that a fitted temperature leaves on rankings it was not fitted on.

    Every second ranking is measured under the temperature of the others.

    Returns:
        None where there are fewer than two rankings.
    """
    if len(orders) < 2:
        return None
    probability: list[NDArray[np.float64]] = []
    outcome: list[NDArray[np.bool_]] = []
    halves = [(orders[start::2], rewards[start::2]) for start in (0, 1)]
    for mine, others in (halves, halves[::-1]):
        temperature = fit_temperature(*against_blank(*others))
        difference, before = against_blank(*mine)
        probability.append(_sigmoid(difference / temperature))
        outcome.append(before)
    return calibration_error(np.concatenate(probability), np.concatenate(outcome))


def _share_positive(values: NDArray[np.float64]) -> float:
    return float((np.sign(values).mean() + 1) / 2)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -x))
