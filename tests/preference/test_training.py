from dataclasses import replace

import pytest
import torch

from mnerfeat.errors import ConfigError
from mnerfeat.preference.discriminator import CachedEmbeddings, DiscriminatorConfig, Embeddings
from mnerfeat.preference.pairs import IndexedRanking
from mnerfeat.preference.scores import score_rankings
from mnerfeat.preference.training import RankConfig, reward_rankings, train_discriminator

from .builders import unchecked, world

CONFIG = RankConfig(epochs=20, lr=5e-3, network=DiscriminatorConfig(hidden=32))


def train(config=CONFIG, seed=0):
    embeddings, orders = world(80, seed=seed)
    return train_discriminator(orders[:60], orders[60:], embeddings, config)


@pytest.fixture(scope="module")
def trained():
    return train()


def test_it_learns_which_images_fit_which_texts(trained):
    assert trained.held_out.pairwise > 0.9
    assert trained.fitted.pairwise > 0.95
    embeddings, orders = world(100, seed=7)
    scores = score_rankings(orders, reward_rankings(trained.discriminator, orders, embeddings))
    assert scores.pairwise > 0.9


def test_it_cannot_learn_from_rankings_at_random():
    embeddings, orders = world(80)
    generator = torch.Generator().manual_seed(3)
    orders = [
        IndexedRanking(text=o.text, items=tuple(o.items[i] for i in turn), blank=turn.index(1))
        for o in orders
        for turn in [torch.randperm(len(o.items), generator=generator).tolist()]
    ]
    found = train_discriminator(orders[:60], orders[60:], embeddings, CONFIG)
    assert found.held_out.pairwise < 0.7


def test_the_same_seed_gives_the_same_weights_and_another_one_others(trained):
    again = train().discriminator.state_dict()
    other = train(replace(CONFIG, seed=1)).discriminator.state_dict()
    mine = trained.discriminator.state_dict()
    assert all((mine[name] == again[name]).all() for name in mine)
    assert not all((mine[name] == other[name]).all() for name in mine)


def test_training_leaves_the_generator_of_others_alone():
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    train(replace(CONFIG, epochs=1))
    assert (torch.rand(3) == wanted).all()


def test_rankings_held_out_are_not_learned_from():
    embeddings, orders = world(80)
    upside_down = [
        IndexedRanking(text=o.text, items=o.items[::-1], blank=len(o.items) - 1 - o.blank)
        for o in orders[60:]
    ]
    one = train_discriminator(orders[:60], orders[60:], embeddings, CONFIG)
    other = train_discriminator(orders[:60], upside_down, embeddings, CONFIG)
    weights = other.discriminator.state_dict()
    assert all(
        (tensor == weights[name]).all() for name, tensor in one.discriminator.state_dict().items()
    )
    assert other.held_out.pairwise == pytest.approx(1 - one.held_out.pairwise)


def test_calibrating_divides_the_rewards_by_the_temperature_that_fits(trained):
    calibrated = train(replace(CONFIG, calibrate=True))
    assert calibrated.temperature == trained.temperature
    assert float(calibrated.discriminator.temperature) == pytest.approx(trained.temperature)
    assert float(trained.discriminator.temperature) == 1
    assert calibrated.held_out.pairwise == trained.held_out.pairwise
    assert calibrated.held_out.loss != trained.held_out.loss


def test_nothing_need_be_held_out():
    embeddings, orders = world(20)
    found = train_discriminator(orders, [], embeddings, replace(CONFIG, held_out=0.0, epochs=1))
    assert (found.held_out, found.temperature, found.calibration_error_after) == (None, None, None)


def test_without_rankings_to_learn_from_it_says_so():
    embeddings, orders = world(4)
    with pytest.raises(ConfigError, match="no ranking to train on"):
        train_discriminator([], orders, embeddings, CONFIG)


def test_progress_counts_every_step():
    embeddings, orders = world(20)
    told = []
    config = replace(CONFIG, epochs=2, batch_size=16)
    train_discriminator(orders, [], embeddings, config, progress=lambda *x: told.append(x))
    assert [done for done, _, _ in told] == list(range(1, told[0][1] + 1))
    assert told[0][2] > told[-1][2] > 0


class Towers(Embeddings):
    """Embeddings with a weight that is trained too."""

    def __init__(self, inner: CachedEmbeddings) -> None:
        super().__init__()
        self.inner = inner
        self.weight = torch.nn.Parameter(torch.eye(inner.image.shape[1]))
        self.modes: list[bool] = []

    @property
    def sizes(self):
        return self.inner.sizes

    def forward(self, text, image):
        rows, images = self.inner(text, image)
        return rows, images @ self.weight

    def train(self, mode=True):
        self.modes.append(mode)
        return super().train(mode)


def test_towers_are_trained_at_a_rate_of_their_own():
    embeddings, orders = world(40)
    moved = []
    for rate in (0.0, 1e-2):
        towers = Towers(embeddings)
        train_discriminator(orders, [], towers, replace(CONFIG, clip_lr=rate, weight_decay=0.0))
        moved.append(float((towers.weight - torch.eye(6)).abs().max().detach()))
        assert towers.modes == [True, False]
    assert moved[0] == 0
    assert moved[1] > 0.01


def test_impossible_options_are_all_listed():
    with pytest.raises(ConfigError) as caught:
        unchecked(
            RankConfig,
            share=0.0,
            held_out=1.0,
            epochs=0,
            batch_size=0,
            lr=-1.0,
            seed=-1,
            blank="grey",
            device="tpu",
        )
    text = "\n".join(caught.value.faults)
    for name in ("share", "held_out", "epochs", "batch_size", "lr", "seed", "blank", "device"):
        assert f"rank.{name} is" in text
    with pytest.raises(ConfigError, match="calibrate needs held-out rankings"):
        RankConfig(held_out=0.0, calibrate=True)


@pytest.mark.parametrize("rate", [1e20, 1e30])
def test_a_loss_that_is_not_finite_stops_training_with_what_to_lower(rate):
    embeddings, orders = world(20)
    with pytest.raises(ConfigError, match=r"is (nan|inf|-inf) at .*\nnext: .*--set rank\.lr="):
        train_discriminator(orders, [], embeddings, replace(CONFIG, lr=rate))


def test_towers_that_diverge_name_their_own_rate():
    embeddings, orders = world(20)
    config = replace(CONFIG, lr=0.0, clip_lr=1e30, tune_clip=True)
    with pytest.raises(ConfigError, match=r"--set rank\.clip_lr="):
        train_discriminator(orders, [], Towers(embeddings), config)


def test_neighbours_alone_teach_a_ranking_too():
    embeddings, orders = world(80)
    config = replace(CONFIG, pairs="neighbours", epochs=60)
    found = train_discriminator(orders[:60], orders[60:], embeddings, config)
    assert found.held_out.pairwise > 0.9


@pytest.mark.parametrize("option", ["lr", "clip_lr", "weight_decay"])
def test_options_that_are_no_finite_number_are_refused(option):
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=rf"rank\.{option} is {value}"):
            RankConfig(**{option: value})
