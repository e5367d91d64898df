"""Agreement of rewards with rankings, and calibration of R as a probability."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnerfeat.preference.pairs import IndexedRanking

BINS = 10
"""Number of bins of the calibration error."""

TEMPERATURES = (0.05, 20.0)
"""Range of fitted temperatures."""

Rewards = Sequence[Sequence[float]]
"""Rewards of each ranking's items, in the ranking's order."""


@dataclass(frozen=True, kw_only=True)
class RankingScores:
    """Agreement of rewards with rankings.

    Attributes:
        rankings: Number of rankings.
        pairs: Number of pairs of items, the blank image being one of the items.
        pairwise: Fraction of pairs whose better item has the larger reward; ties count half.
        tau: Kendall's τ-a, averaged over rankings, −1 to 1.
        relevant: Fraction of images on the right side of the blank image; ties count half.
        images: Number of ranked images.
        loss: Eq. 1 over all pairs; log 2 ≈ 0.69 for uninformative rewards.
        calibration_error: Expected calibration error of R as the probability that an image ranks
            before the blank image, 0 to 1.
    """

    rankings: int
    pairs: int
    pairwise: float
    tau: float
    relevant: float
    images: int
    loss: float
    calibration_error: float


def score_rankings(rankings: Sequence[IndexedRanking], rewards: Rewards) -> RankingScores:
    """Compare rewards with rankings.

    Args:
        rankings: At least one ranking.
        rewards: Rewards of their items.
    """
    by_ranking: list[NDArray[np.float64]] = []
    for values in rewards:
        r = np.asarray(values, np.float64)
        better, worse = np.triu_indices(len(r), 1)
        by_ranking.append(r[better] - r[worse])
    differences = np.concatenate(by_ranking)
    margin, before = blank_margins(rankings, rewards)
    return RankingScores(
        rankings=len(rankings),
        pairs=len(differences),
        pairwise=_fraction_positive(differences),
        tau=float(np.mean([np.sign(values).mean() for values in by_ranking])),
        relevant=_fraction_positive(np.where(before, margin, -margin)),
        images=len(margin),
        loss=float(np.logaddexp(0, -differences).mean()),
        calibration_error=calibration_error(_sigmoid(margin), before),
    )


def blank_margins(
    rankings: Sequence[IndexedRanking], rewards: Rewards
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return r(image) − r(blank) of every ranked image, and whether it ranks before the blank.

    Returns:
        Two (images,) arrays, ranking by ranking.
    """
    images = [
        (reward - values[ranking.blank], place < ranking.blank)
        for ranking, values in zip(rankings, rewards, strict=True)
        for place, reward in enumerate(values)
        if place != ranking.blank
    ]
    margins, before = zip(*images, strict=True) if images else ((), ())
    return np.asarray(margins, np.float64), np.asarray(before, bool)


def calibration_error(
    probability: NDArray[np.float64], outcome: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Return the expected calibration error.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Args:
        probability: (n,) predictions in [0, 1], n ≥ 1.
        outcome: (n,) outcomes.
        bins: Number of bins, of equal width.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    distance = np.bincount(place, probability - outcome, minlength=bins)
    return float(np.abs(distance).sum() / len(probability))


def fit_temperature(margin: NDArray[np.float64], before: NDArray[np.bool_]) -> float:
    """Fit the temperature τ of σ(margin / τ) as the probability of ranking before the blank.

    Minimises the cross-entropy against Platt's smoothed targets, (n₊ + 1) / (n₊ + 2) and
    1 / (n₋ + 2) instead of 1 and 0 (Platt 1999), so that τ stays positive if few images are
    perfectly separated. There is no offset: the blank image keeps R = 0.5.

    Args:
        margin: (n,) values of r(image) − r(blank), n ≥ 1.
        before: (n,) whether the image ranks before the blank image.

    Returns:
        A value within `TEMPERATURES`.
    """
    positive, negative = int(before.sum()), int((~before).sum())
    target = np.where(before, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def slope(inverse: float) -> float:
        return float(((_sigmoid(inverse * margin) - target) * margin).mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    if slope(high) <= 0:
        return TEMPERATURES[0]
    for _ in range(60):  # bisection: the cross-entropy is convex in 1/τ
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def cross_calibration_error(rankings: Sequence[IndexedRanking], rewards: Rewards) -> float | None:
    """Return the calibration error after temperature scaling, by two-fold cross-validation.

    Returns:
        None if there are fewer than two rankings.
    """
    if len(rankings) < 2:
        return None
    folds = [blank_margins(rankings[start::2], rewards[start::2]) for start in (0, 1)]
    probability = [
        _sigmoid(test[0] / fit_temperature(*fit))
        for test, fit in zip(folds, reversed(folds), strict=True)
    ]
    return calibration_error(np.concatenate(probability), np.concatenate([f[1] for f in folds]))


def _fraction_positive(values: NDArray[np.float64]) -> float:
    return float((np.sign(values).mean() + 1) / 2)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -x))
