"""The weights of eqs. 3 and 6, and what the paper's prose says of them."""

import math

import pytest
import torch

from mnerfeat.heads.dpe.fusion import Priority

SHARES = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
"""s = √ᾱ_t, from pure noise to none."""


def test_paper_is_the_equations_as_they_stand():
    priority = Priority(schedule="paper", gap_share=0.3, grain_share=0.2)
    image, text = priority.gap(SHARES).unbind(dim=1)
    coarse, fine = priority.grain(SHARES).unbind(dim=1)
    for place, s in enumerate(SHARES.tolist()):
        assert float(image[place]) == pytest.approx(1 - 0.3 * s)  # eq. 3
        assert float(text[place]) == pytest.approx(0.3 * s)
        assert float(coarse[place]) == pytest.approx(0.2 * s)  # eq. 6
        assert float(fine[place]) == pytest.approx(1 - 0.2 * s)


def test_intent_goes_from_easy_to_hard_and_from_coarse_to_fine():
    priority = Priority(schedule="intent", gap_share=0.3, grain_share=0.1)
    image, text = priority.gap(SHARES).unbind(dim=1)
    coarse, fine = priority.grain(SHARES).unbind(dim=1)
    for place, s in enumerate(SHARES.tolist()):
        left = math.sqrt(1 - s * s)
        assert float(text[place]) == pytest.approx(0.3 + 0.4 * left, abs=1e-6)
        assert float(coarse[place]) == pytest.approx(0.1 + 0.8 * left, abs=1e-6)
    torch.testing.assert_close(image + text, torch.ones(5))
    torch.testing.assert_close(coarse + fine, torch.ones(5))
    # The reasoning begins at s = 0 and ends at s = 1.
    assert text[0] > image[0]
    assert text[-1] < image[-1]
    assert coarse[0] > fine[0]
    assert coarse[-1] < fine[-1]


@pytest.mark.parametrize("schedule", ["paper", "intent"])
def test_reversed_priorities_are_exchanged(schedule):
    plain = Priority(schedule=schedule, gap_share=0.3, grain_share=0.3)
    swapped = Priority(
        schedule=schedule, gap_share=0.3, grain_share=0.3, reverse_gap=True, reverse_grain=True
    )
    for name in ("gap", "grain"):
        shares = getattr(plain, name)(SHARES)
        torch.testing.assert_close(getattr(swapped, name)(SHARES), shares.flip(1))


def test_without_priorities_both_gaps_count_fully():
    priority = Priority(schedule="paper", gap_share=0.3, grain_share=0.3, equal=True)
    assert all((weight == 1).all() for weight in priority.gap(SHARES).unbind(dim=1))
