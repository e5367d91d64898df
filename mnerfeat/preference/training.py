"""Training the discriminator on rankings (GIFR, eq. 1)."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from mnerfeat.errors import ConfigError
from mnerfeat.preference.blank import BLANKS, Blank
from mnerfeat.preference.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    Embeddings,
    ranking_loss,
)
from mnerfeat.preference.measuring import (
    RankingScores,
    Rewards,
    against_blank,
    calibration_error_after,
    fit_temperature,
    measure,
)
from mnerfeat.preference.pairs import Order, make_pairs

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]

Progress = Callable[[int, int, float], None]
"""Told how many steps are done, of how many, and the last loss."""

_SCORED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """How the discriminator is trained, and on which rankings."""

    share: float = 0.1
    """Share of all train posts whose rankings may be used, above 0 up to 1: GIFR's D_dis. Where
    fewer posts are ranked, all rankings are used."""

    held_out: float = 0.2
    """Share of these posts that the discriminator does not learn from, so that its scores on
    them say what it can; they also calibrate R. 0 to below 1."""

    seed: int = 0
    """Draws the posts of D_dis, those held out, the weights, and the order of the pairs."""

    blank: Blank = "mean"
    """The blank image: the encoder's mean colour, white, or black."""

    epochs: int = 60
    """Passes over the pairs; the learning rate decays to 0 over them."""

    batch_size: int = 32
    """Pairs a step."""

    lr: float = 1e-3
    """Highest learning rate of the discriminator."""

    weight_decay: float = 1e-3
    """Decoupled weight decay (AdamW)."""

    calibrate: bool = False
    """Divide the rewards by the temperature that fits the rankings held out best, so that R can
    be read as a probability. The paper does not."""

    tune_clip: bool = False
    """Train CLIP's towers too, which needs the images and a GPU."""

    clip_lr: float = 1e-6
    """Highest learning rate of CLIP's towers, where they are trained."""

    device: Device = "auto"
    """`auto` takes a GPU where there is one."""

    network: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminator itself: hidden, layers, activation, dropout."""

    def __post_init__(self) -> None:
        faults = [
            *(
                f"rank.{name} is {getattr(self, name)}; at least 1 is needed"
                for name in ("epochs", "batch_size")
                if getattr(self, name) < 1
            ),
            *(
                f"rank.{name} is {getattr(self, name)}; it must not be negative"
                for name in ("lr", "clip_lr", "weight_decay", "seed")
                if getattr(self, name) < 0
            ),
            *(
                f"rank.{name} is {getattr(self, name)!r}; choose from: {', '.join(choices)}"
                for name, choices in (("blank", BLANKS), ("device", get_args(Device)))
                if getattr(self, name) not in choices
            ),
        ]
        if not 0 < self.share <= 1:
            faults.append(f"rank.share is {self.share}; it must be above 0 and at most 1")
        if not 0 <= self.held_out < 1:
            faults.append(f"rank.held_out is {self.held_out}; it must be in [0, 1)")
        if self.calibrate and not self.held_out:
            faults.append("rank.calibrate needs rankings held out; rank.held_out is 0")
        if faults:
            raise ConfigError("options of the discriminator that cannot be used:", faults=faults)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What comes of a training.

    Attributes:
        discriminator: In evaluation mode.
        fitted: How well it agrees with the rankings it learned from.
        held_out: How well it agrees with those it did not; None where there are none.
        temperature: That fits the rankings held out best, whether or not it is used.
        calibration_error_after: What that temperature leaves of the calibration error.
    """

    discriminator: Discriminator
    fitted: RankingScores
    held_out: RankingScores | None
    temperature: float | None
    calibration_error_after: float | None


def train_discriminator(
    orders: Sequence[Order],
    held_out: Sequence[Order],
    embeddings: Embeddings,
    config: RankConfig,
    *,
    progress: Progress | None = None,
) -> Trained:
    """Learn rewards from rankings.

    The same orders, embeddings, options and device give the same weights.

    Args:
        orders: To learn from.
        held_out: To measure and calibrate on; of other posts.
        embeddings: Of the texts and images that the orders number.
        config: How.
        progress: Told of every step.

    Raises:
        ConfigError: There is no ranking to learn from.
    """
    if not orders:
        raise ConfigError(
            "there is no ranking to learn from; all are held out",
            hint="--set rank.held_out=0, or more rankings",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        d_text, d_image = embeddings.sizes
        discriminator = Discriminator(config.network, d_clip_text=d_text, d_clip_image=d_image)
        device = embeddings(torch.tensor([0]), torch.tensor([0]))[0].device
        discriminator.to(device)
        _fit(discriminator, orders, embeddings, config, progress)
    discriminator.eval()
    embeddings.train(False)
    after = temperature = None
    if held_out:
        rewards = score_orders(discriminator, held_out, embeddings)
        temperature = fit_temperature(*against_blank(held_out, rewards))
        after = calibration_error_after(held_out, rewards)
        if config.calibrate:
            discriminator.temperature.fill_(temperature)
    return Trained(
        discriminator=discriminator,
        fitted=measure(orders, score_orders(discriminator, orders, embeddings)),
        held_out=measure(held_out, score_orders(discriminator, held_out, embeddings))
        if held_out
        else None,
        temperature=temperature,
        calibration_error_after=after,
    )


def _fit(
    discriminator: Discriminator,
    orders: Sequence[Order],
    embeddings: Embeddings,
    config: RankConfig,
    progress: Progress | None,
) -> None:
    pairs = make_pairs(orders)
    groups = [{"params": list(discriminator.parameters()), "lr": config.lr}]
    towers = list(embeddings.parameters())
    if towers:
        groups.append({"params": towers, "lr": config.clip_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(pairs) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    discriminator.train()
    embeddings.train(True)
    done = 0
    for _ in range(config.epochs):
        order = torch.randperm(len(pairs))
        for batch in torch.split(order, config.batch_size):
            loss = _pair_loss(
                discriminator,
                embeddings,
                pairs.text[batch],
                pairs.better[batch],
                pairs.worse[batch],
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            if progress:
                progress(done, steps, float(loss.detach()))


def _pair_loss(
    discriminator: Discriminator,
    embeddings: Embeddings,
    text: Tensor,
    better: Tensor,
    worse: Tensor,
) -> Tensor:
    """Eq. 1 over some pairs; every text and image of them is embedded once."""
    texts, text_place = torch.unique(text, return_inverse=True)
    images, image_place = torch.unique(torch.cat([better, worse]), return_inverse=True)
    text_rows, image_rows = embeddings(texts, images)
    text_rows = text_rows[text_place.to(text_rows.device)]
    image_rows = image_rows[image_place.to(image_rows.device)]
    rewards = discriminator(torch.cat([text_rows, text_rows]), image_rows)
    return ranking_loss(rewards[: len(better)], rewards[len(better) :])


@torch.no_grad()
def score_orders(
    discriminator: Discriminator, orders: Sequence[Order], embeddings: Embeddings
) -> Rewards:
    """The rewards of every ranking's items, in the ranking's order."""
    text = torch.tensor([order.text for order in orders for _ in order.items])
    image = torch.tensor([item for order in orders for item in order.items])
    rewards: list[float] = []
    for start in range(0, len(text), _SCORED_AT_ONCE):
        part = slice(start, start + _SCORED_AT_ONCE)
        texts, text_place = torch.unique(text[part], return_inverse=True)
        images, image_place = torch.unique(image[part], return_inverse=True)
        text_rows, image_rows = embeddings(texts, images)
        found = discriminator(
            text_rows[text_place.to(text_rows.device)],
            image_rows[image_place.to(image_rows.device)],
        )
        rewards += found.double().tolist()
    left = iter(rewards)
    return [[next(left) for _ in order.items] for order in orders]
