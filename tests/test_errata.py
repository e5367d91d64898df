"""The slips of the papers that `docs/errata.md` names, as far as they can be computed."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mnerfeat.heads.base import HeadSizes, Images
from mnerfeat.heads.dpe.fusion import Priority
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.preference import Discriminator, DiscriminatorConfig
from tests.heads.image_lengths import movement

PAGE = (Path(__file__).parents[1] / "docs" / "errata.md").read_text("utf-8")

HALF = 0.005
"""Two decimals are printed, so the true value lies within this of it."""


def f1(precision, recall):
    return 2 * precision * recall / (precision + recall)


def follows(precision, recall, printed):
    """Whether some values that round to these P and R have an F1 that rounds to the printed one."""
    least = f1(precision - HALF, recall - HALF)
    most = f1(precision + HALF, recall + HALF)
    return least - HALF <= printed <= most + HALF


SLIPS = [
    ("GIFR, w/o D", 77.06, 77.92, 77.50, "77.49"),
    ("IQCR-MI", 83.35, 86.25, 84.97, "84.78"),
    ("BERT-Span", 75.52, 73.83, 74.76, "74.67"),
]

SOUND = [
    ("GIFR", 77.46, 78.76, 78.10), ("GIFR, Plus", 83.52, 84.42, 83.97),
    ("w/o D, Plus", 82.94, 83.96, 83.45), ("w/o P", 77.36, 78.29, 77.82),
    ("w/o P, Plus", 83.79, 83.92, 83.85), ("w/o G", 75.57, 76.90, 76.23),
    ("w/o G, Plus", 82.86, 83.27, 83.06), ("TPM-MI", 77.45, 77.19, 77.32),
    ("TPM-MI, Plus", 83.66, 83.18, 83.42), ("IQCR-MI, MNER-MI", 77.69, 79.44, 78.55),
    ("w/o IQW", 76.88, 77.72, 77.30), ("w/o IQW, Plus", 82.51, 83.12, 82.81),
    ("w/o CMW", 77.14, 78.04, 77.59), ("w/o CMW, Plus", 83.26, 83.42, 83.34),
    ("DPE-MNER, 2015", 76.86, 78.27, 77.56), ("DPE-MNER, 2017", 88.46, 87.34, 87.90),
    ("BERT-Iterative, 2015", 75.42, 76.76, 76.09), ("BERT-Iterative, 2017", 87.82, 84.83, 86.30),
]  # fmt: skip


@pytest.mark.parametrize(("who", "precision", "recall", "printed", "right"), SLIPS)
def test_scores_that_do_not_follow_from_precision_and_recall(
    who, precision, recall, printed, right
):
    assert not follows(precision, recall, printed)
    # Halves are rounded up, as tables do: 84.775 to 84.78.
    assert f"{f1(precision, recall) + 1e-4:.2f}" == right
    row = next(line for line in PAGE.splitlines() if f"{precision}, R {recall}" in line)
    assert f"{printed:.2f}" in row
    assert f"does not follow: {right} does" in row


@pytest.mark.parametrize(("who", "precision", "recall", "printed"), SOUND)
def test_the_other_scores_of_these_tables_follow(who, precision, recall, printed):
    assert follows(precision, recall, printed)


def test_what_the_right_score_of_iqcr_makes_of_its_leads():
    right = f1(83.35, 86.25)
    for printed, other in (("1.55", 83.42), ("2.16", 82.81), ("1.63", 83.34)):
        assert f"{84.97 - other:.2f}" == printed
        assert f"{right - other + 1e-4:.2f}" in PAGE
        assert f"{right - other + 1e-4:.2f}" != printed


# --- Table 1 of GIFR and of IQCR-MI -------------------------------------------------------------

ENTITIES = {"PER": (4529, 573, 439), "LOC": (1878, 210, 156), "ORG": (1273, 165, 92),
            "MISC": (2054, 260, 233)}  # fmt: skip
TWEETS, IMAGES = (6856, 860, 860), (19188, 2438, 2395)


def test_the_number_of_tweets_is_that_of_entities():
    assert sum(map(sum, ENTITIES.values())) == 11_862
    assert sum(TWEETS) == 8_576


def test_figure_3_has_one_image_more_than_table_1():
    assert 5_852 + 18_170 == 24_022
    assert sum(IMAGES) == 24_021


# --- GIFR ---------------------------------------------------------------------------------------

SIZES = HeadSizes(
    n_tags=3, d_text=8, text_layers=1, text_heads=2, columns={"vit_cls": 6, "ranked_relevance": 1}
)


def test_a_linear_discriminator_would_not_read_the_text():
    torch.manual_seed(0)
    texts, a, b = torch.randn(5, 4), torch.randn(1, 4), torch.randn(1, 4)

    def differences(reward):
        better, worse = (
            reward(torch.cat([texts, image.expand(5, 4)], dim=1)).squeeze(1) for image in (a, b)
        )
        return better - worse

    linear = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 1))
    assert differences(linear).std() < 1e-5
    ours = Discriminator(DiscriminatorConfig(hidden=16), d_clip_text=4, d_clip_image=4)
    assert differences(ours.mlp).std() > 1e-3


def drawn(images):
    torch.manual_seed(1)
    fusion = GifrConfig(dropout=0.0).build(SIZES).fusion
    relevance = torch.rand(1, images)
    columns = {"vit_cls": torch.randn(1, images, 6), "ranked_relevance": relevance}
    return fusion, Images(mask=torch.ones(1, images, dtype=torch.bool), columns=columns)


def test_degrees_do_not_tell_one_image_from_another():
    fusion, images = drawn(4)
    added = fusion.embedding(images["vit_cls"], images.mask) - images["vit_cls"]
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    fusion, fewer = drawn(3)
    other = fusion.embedding(fewer["vit_cls"], fewer.mask) - fewer["vit_cls"]
    assert not torch.allclose(added[:, 0], other[:, 0])


def test_rows_of_equation_4_sum_to_less_than_one_and_to_r_where_there_is_one_image():
    for count in (1, 3):
        fusion, images = drawn(count)
        value = fusion.graph[0].attention.value
        with torch.no_grad():
            value.weight.zero_()
            value.bias.fill_(1)  # so that U holds the sums of the weights
        sums = fusion.interact(images)[0, :, 0]
        relevance = images["ranked_relevance"][0]
        if count == 1:
            torch.testing.assert_close(sums, relevance)
        assert (sums <= relevance.max() + 1e-6).all()
        assert (sums < 1).all()


# --- IQCR-MI ------------------------------------------------------------------------------------


def test_a_quality_from_0_to_100_makes_equation_5_one_hot():
    quality = torch.tensor([0.55, 0.30])  # of a good image and of a bad one, by MANIQA
    assert (100 * quality).softmax(0).max() > 0.999
    assert quality.softmax(0).max() < 0.57


def equation_8(gate, weight, image):
    return gate * (weight * image) + (1 - gate) * image


def test_one_image_makes_equation_8_idle():
    weight = torch.tensor([0.3]).softmax(0) * torch.tensor([-0.2]).softmax(0)
    for gate in (0.0, 0.4, 1.0):
        assert equation_8(gate, weight.item(), 2.5) == pytest.approx(2.5)


def test_equation_8_only_shrinks_and_the_more_the_larger_the_gate():
    for weight in (0.0, 0.2, 0.9):
        kept = [equation_8(gate / 10, weight, 1.0) for gate in range(11)]
        assert kept == sorted(kept, reverse=True)
        assert max(kept) <= 1
    # A good image behind a wide gate keeps less than a bad one behind a narrow gate.
    assert equation_8(0.9, 0.6, 1.0) < equation_8(0.1, 0.1, 1.0)


@pytest.mark.parametrize(
    ("norm", "length", "ratio", "both"),
    [("post", 7, 16, 16), ("pre", 59, 40, 60), ("bare", 64, 44, 65)],
)
def test_norms_after_the_layers_undo_the_length_that_equation_8_gives_and_leave_the_ratio(
    norm, length, ratio, both
):
    """Images scaled by 0.6, 0.3, 0.3: by 0.4 on average (length), by 1.5, 0.75, 0.75 from there."""
    found = [
        100 * movement(norm, factors)
        for factors in ([0.4, 0.4, 0.4], [1.5, 0.75, 0.75], [0.6, 0.3, 0.3])
    ]
    assert found == pytest.approx([length, ratio, both], abs=1)
    assert f"| {norm} | {length} % | {ratio} % | {both} % |" in PAGE


def test_equation_13_would_be_least_where_the_gold_labels_are_improbable():
    def printed(probability):
        return math.log(probability)

    assert printed(0.01) < printed(0.99)


# --- DPE-MNER -----------------------------------------------------------------------------------

S = torch.linspace(0, 1, 11)
"""√ᾱ_t while reasoning: from noise to signal."""


def test_the_printed_weights_run_from_hard_to_easy_and_from_fine_to_coarse():
    printed = Priority(schedule="paper", gap_share=0.3, grain_share=0.3)
    hard, easy = printed.gap(S).unbind(dim=1)
    torch.testing.assert_close(easy, 0.3 * S)  # eq. 3
    torch.testing.assert_close(hard, 1 - 0.3 * S)
    coarse, fine = printed.grain(S).unbind(dim=1)
    torch.testing.assert_close(coarse, 0.3 * S)  # eq. 6
    for rises, falls in ((easy, hard), (coarse, fine)):
        assert (rises.diff() > 0).all()
        assert (falls.diff() < 0).all()
        assert rises.max() == pytest.approx(0.3)  # λ is the most it gets, not the least
        assert rises.min() == 0
    easy_first = Priority(schedule="intent", gap_share=0.3, grain_share=0.3).gap(S)[:, 1]
    assert (easy_first.diff() < 0).all()
    assert easy_first.min() == pytest.approx(0.3)


def test_a_linear_relevance_ranks_the_images_alike_for_every_text():
    torch.manual_seed(0)
    texts, images = torch.randn(6, 4), torch.randn(6, 5)
    both = torch.cat([texts[:, None].expand(6, 6, 4), images[None].expand(6, 6, 5)], dim=2)
    linear = nn.Linear(9, 1)(both).squeeze(2).sigmoid()
    assert len({tuple(row) for row in linear.argsort(dim=1).tolist()}) == 1
    two_layers = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 1))
    found = two_layers(both).squeeze(2).sigmoid()
    assert len({tuple(row) for row in found.argsort(dim=1).tolist()}) > 1


def test_without_a_non_linear_step_every_span_points_at_the_same_word():
    torch.manual_seed(0)
    spans, words = 3 * torch.randn(20, 1, 5), torch.randn(1, 9, 5)
    mix_spans, mix_words, last = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 1)
    mixed = mix_spans(spans) + mix_words(words)
    assert len(set(last(mixed).squeeze(2).argmax(dim=1).tolist())) == 1
    assert len(set(last(mixed.relu()).squeeze(2).argmax(dim=1).tolist())) > 1


def test_the_misplaced_bracket_makes_a_cross_entropy_negative():
    rel, temperature = torch.full((8, 8), 0.2), 0.1
    rel.fill_diagonal_(0.9)
    own = (rel.diagonal() / temperature).exp()
    printed = -(own / (rel.exp() / temperature).sum(dim=1)).log()
    meant = -(own / (rel / temperature).exp().sum(dim=1)).log()
    assert (printed < 0).all()
    assert (meant > 0).all()
