import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.preference.pairs import IndexedRanking
from mnerfeat.preference.scores import (
    TEMPERATURES,
    blank_margins,
    calibration_error,
    cross_calibration_error,
    fit_temperature,
    score_rankings,
)


@st.composite
def scored(draw):
    """Rankings with rewards, some of them equal."""
    orders, rewards = [], []
    for text in range(draw(st.integers(1, 5))):
        size = draw(st.integers(2, 5))
        blank = draw(st.integers(0, size - 1))
        orders.append(IndexedRanking(text=text, items=tuple(range(size)), blank=blank))
        values = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0])
        rewards.append(draw(st.lists(values, min_size=size, max_size=size)))
    return orders, rewards


def plain(orders, rewards):
    """The same figures with loops over pairs."""
    right, pairs, loss, taus, sides = 0.0, 0, 0.0, [], []
    for order, mine in zip(orders, rewards, strict=True):
        signs = []
        for i in range(len(mine)):
            for j in range(i + 1, len(mine)):
                difference = mine[i] - mine[j]
                sign = (difference > 0) - (difference < 0)
                signs.append(sign)
                right += (sign + 1) / 2
                loss += math.log1p(math.exp(-difference))
                pairs += 1
        taus.append(sum(signs) / len(signs))
        for place, reward in enumerate(mine):
            if place != order.blank:
                difference = reward - mine[order.blank]
                good = difference > 0 if place < order.blank else difference < 0
                sides.append(0.5 if difference == 0 else float(good))
    return right / pairs, sum(taus) / len(taus), sum(sides) / len(sides), loss / pairs


@given(scored())
def test_agrees_with_loops_over_pairs(given_):
    scores = score_rankings(*given_)
    pairwise, tau, relevant, loss = plain(*given_)
    assert scores.pairwise == pytest.approx(pairwise)
    assert scores.tau == pytest.approx(tau)
    assert scores.relevant == pytest.approx(relevant)
    assert scores.loss == pytest.approx(loss)


@given(scored())
def test_rewards_upside_down_give_figures_upside_down(given_):
    orders, rewards = given_
    scores = score_rankings(orders, rewards)
    turned = score_rankings(orders, [[-r for r in mine] for mine in rewards])
    assert turned.pairwise == pytest.approx(1 - scores.pairwise)
    assert turned.tau == pytest.approx(-scores.tau)
    assert turned.relevant == pytest.approx(1 - scores.relevant)


def test_rewards_in_the_ranking_s_order_are_perfect():
    order = IndexedRanking(text=0, items=(4, 9, 2), blank=1)
    scores = score_rankings([order], [[3.0, 1.0, -2.0]])
    assert (scores.pairwise, scores.tau, scores.relevant) == (1, 1, 1)
    assert (scores.rankings, scores.pairs, scores.images) == (1, 3, 2)


def test_differences_to_the_blank_come_image_by_image():
    orders = [
        IndexedRanking(text=0, items=(4, 9, 2), blank=1),
        IndexedRanking(text=1, items=(9, 3), blank=0),
    ]
    difference, before = blank_margins(orders, [[3.0, 1.0, -2.0], [0.5, 2.0]])
    assert difference.tolist() == [2.0, -3.0, 1.5]
    assert before.tolist() == [True, False, False]


def test_the_calibration_error_is_the_mean_distance_over_bins():
    probability = np.array([0.05, 0.05, 0.95, 0.95, 1.0, 0.55])
    outcome = np.array([False, True, True, True, False, True])
    bins = [(2, 0.05, 0.5), (3, (0.95 + 0.95 + 1) / 3, 2 / 3), (1, 0.55, 1.0)]
    wanted = sum(n / 6 * abs(mean - share) for n, mean, share in bins)
    assert calibration_error(probability, outcome) == pytest.approx(wanted)


def test_outcomes_drawn_from_the_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    probability = rng.random(40_000)
    outcome = rng.random(40_000) < probability
    assert calibration_error(probability, outcome) < 0.02
    assert calibration_error(probability**3, outcome) > 0.15


def cross_entropy(temperature, difference, before):
    positive, negative = before.sum(), (~before).sum()
    target = np.where(before, (positive + 1) / (positive + 2), 1 / (negative + 2))
    logit = difference / temperature
    return float((np.logaddexp(0, logit) - target * logit).mean())


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_again(true):
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 2, 20_000)
    before = rng.random(20_000) < 1 / (1 + np.exp(-logit))
    assert fit_temperature(true * logit, before) == pytest.approx(true, rel=0.05)


@given(
    st.lists(st.tuples(st.floats(-6, 6), st.booleans()), min_size=1, max_size=12),
)
def test_no_temperature_of_a_grid_fits_better(some):
    difference = np.array([value for value, _ in some])
    before = np.array([side for _, side in some])
    found = fit_temperature(difference, before)
    assert TEMPERATURES[0] * 0.999 <= found <= TEMPERATURES[1] * 1.001
    best = cross_entropy(found, difference, before)
    for temperature in np.geomspace(*TEMPERATURES, 60):
        assert best <= cross_entropy(temperature, difference, before) + 1e-9


def test_perfectly_separated_images_do_not_make_r_certain():
    difference, before = np.array([3.0, 2.0, -2.0, -4.0]), np.array([True, True, False, False])
    assert fit_temperature(difference, before) > 1


def test_the_error_that_a_temperature_leaves_is_measured_on_other_rankings():
    rng = np.random.default_rng(2)
    orders, rewards = [], []
    for text in range(600):
        logit = rng.normal(0, 2)
        before = rng.random() < 1 / (1 + math.exp(-logit))
        orders.append(IndexedRanking(text=text, items=(0, 1), blank=1 if before else 0))
        image, blank = 5 * logit, 0.0  # far too sure of itself
        rewards.append([image, blank] if before else [blank, image])
    assert score_rankings(orders, rewards).calibration_error > 0.1
    assert cross_calibration_error(orders, rewards) < 0.06
    assert cross_calibration_error(orders[:1], rewards[:1]) is None
