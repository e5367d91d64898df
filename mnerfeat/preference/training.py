"""Training of the discriminator on rankings (GIFR, eq. 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mnerfeat.errors import ConfigError
from mnerfeat.preference.blank import BLANKS, Blank
from mnerfeat.preference.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    Embeddings,
    ranking_loss,
)
from mnerfeat.preference.pairs import IndexedRanking, PairSelection, make_pairs
from mnerfeat.preference.scores import (
    RankingScores,
    Rewards,
    blank_margins,
    cross_calibration_error,
    fit_temperature,
    score_rankings,
)

Device = Literal["auto", "cpu", "cuda"]

Progress = Callable[[int, int, float], None]
"""Called after each step with the number of steps done, the total, and the loss."""

_EVALUATION_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Options of the discriminator's training."""

    share: float = 0.1
    """Maximum fraction of train posts whose rankings are used, above 0 up to 1: GIFR's D_dis. If
    fewer posts are ranked, all rankings are used."""

    held_out: float = 0.2
    """Fraction of these posts that are held out for scores and calibration, 0 to below 1."""

    seed: int = 0
    """Random seed for D_dis, the held-out posts, the weights, and the order of pairs."""

    blank: Blank = "mean"
    """Blank image: the encoder's mean colour, white, or black."""

    pairs: PairSelection = "all"
    """Pairs of a ranking: all, as in eq. 1, or neighbours, as in the authors' code."""

    epochs: int = 60
    """Number of epochs; the learning rate decays linearly to 0."""

    batch_size: int = 32
    """Pairs per step."""

    lr: float = 1e-3
    """Peak learning rate of the discriminator."""

    weight_decay: float = 1e-3
    """Decoupled weight decay (AdamW)."""

    calibrate: bool = False
    """Divide the rewards by the temperature fitted on the held-out rankings, so that R can be read
    as a probability. Not in the paper."""

    tune_clip: bool = False
    """Train CLIP's towers too; needs the images and, in practice, a GPU."""

    clip_lr: float = 1e-6
    """Peak learning rate of CLIP's towers, with `tune_clip`."""

    device: Device = "auto"
    """Device: cpu, cuda, or auto, which trains tuned CLIP on a GPU if there is one."""

    network: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Network options: hidden, layers, activation, dropout."""

    def __post_init__(self) -> None:
        faults = [
            *(
                f"rank.{name} is {getattr(self, name)}; wanted 1 or more"
                for name in ("epochs", "batch_size")
                if getattr(self, name) < 1
            ),
            *(
                f"rank.{name} is {getattr(self, name)}; wanted a finite number, 0 or more"
                for name in ("lr", "clip_lr", "weight_decay", "seed")
                if not 0 <= getattr(self, name) < math.inf
            ),
            *(
                f"rank.{name} is {getattr(self, name)!r}; choose from: {', '.join(choices)}"
                for name, choices in (
                    ("blank", BLANKS),
                    ("pairs", get_args(PairSelection)),
                    ("device", get_args(Device)),
                )
                if getattr(self, name) not in choices
            ),
        ]
        if not 0 < self.share <= 1:
            faults.append(f"rank.share is {self.share}; wanted above 0 and at most 1")
        if not 0 <= self.held_out < 1:
            faults.append(f"rank.held_out is {self.held_out}; wanted a value in [0, 1)")
        if self.calibrate and not self.held_out:
            faults.append("rank.calibrate needs held-out rankings, but rank.held_out is 0")
        if faults:
            raise ConfigError("invalid options of the discriminator:", faults=faults)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        discriminator: The discriminator, in evaluation mode.
        fitted: Scores on the rankings it was trained on.
        held_out: Scores on the held-out rankings; None if there are none.
        temperature: Temperature fitted on the held-out rankings, whether or not it is used.
        calibration_error_after: Cross-validated calibration error with a fitted temperature.
    """

    discriminator: Discriminator
    fitted: RankingScores
    held_out: RankingScores | None
    temperature: float | None
    calibration_error_after: float | None


def train_discriminator(
    rankings: Sequence[IndexedRanking],
    held_out: Sequence[IndexedRanking],
    embeddings: Embeddings,
    config: RankConfig,
    *,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a discriminator; same rankings, embeddings, options and device give same weights.

    Args:
        rankings: Rankings to train on.
        held_out: Rankings of other posts, for scores and calibration.
        embeddings: Embeddings of the indexed texts and images.
        config: Options.
        progress: Called after each step.

    Raises:
        ConfigError: There is no ranking to train on, or the loss is not finite.
    """
    if not rankings:
        raise ConfigError(
            "there is no ranking to train on; all are held out",
            hint="--set rank.held_out=0, or more rankings",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        d_text, d_image = embeddings.sizes
        discriminator = Discriminator(config.network, d_clip_text=d_text, d_clip_image=d_image)
        device = embeddings(torch.tensor([0]), torch.tensor([0]))[0].device
        _fit(discriminator.to(device), rankings, embeddings, config, progress)
    discriminator.eval()
    embeddings.train(False)
    temperature = error_after = None
    if held_out:
        rewards = reward_rankings(discriminator, held_out, embeddings)
        temperature = fit_temperature(*blank_margins(held_out, rewards))
        error_after = cross_calibration_error(held_out, rewards)
        if config.calibrate:
            discriminator.temperature.fill_(temperature)
    return TrainingResult(
        discriminator=discriminator,
        fitted=score_rankings(rankings, reward_rankings(discriminator, rankings, embeddings)),
        held_out=score_rankings(held_out, reward_rankings(discriminator, held_out, embeddings))
        if held_out
        else None,
        temperature=temperature,
        calibration_error_after=error_after,
    )


def _fit(
    discriminator: Discriminator,
    rankings: Sequence[IndexedRanking],
    embeddings: Embeddings,
    config: RankConfig,
    progress: Progress | None,
) -> None:
    pairs = make_pairs(rankings, config.pairs)
    groups = [{"params": list(discriminator.parameters()), "lr": config.lr}]
    towers = list(embeddings.parameters())
    if towers:
        groups.append({"params": towers, "lr": config.clip_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(pairs) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    discriminator.train()
    embeddings.train(True)
    step = 0
    for _ in range(config.epochs):
        for batch in torch.split(torch.randperm(len(pairs)), config.batch_size):
            loss = _pair_loss(discriminator, embeddings, pairs[batch])
            value = float(loss.detach())
            step += 1
            _check_finite("loss", value, f"step {step} of {steps}", config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, steps, value)
    for parameter in (*discriminator.parameters(), *towers):
        _check_finite("sum of a weight", float(parameter.detach().sum()), "the last step", config)


def _check_finite(name: str, value: float, where: str, config: RankConfig) -> None:
    if not math.isfinite(value):
        lower = "rank.clip_lr" if config.tune_clip else "rank.lr"
        raise ConfigError(
            f"the {name} is {value} at {where}; nothing is written",
            hint=f"lower the learning rate: --set {lower}="
            f"{(config.clip_lr if config.tune_clip else config.lr) / 10:g}",
        )


def _pair_loss(
    discriminator: Discriminator, embeddings: Embeddings, pairs: Int[Tensor, "pairs 3"]
) -> Float[Tensor, ""]:
    """Return eq. 1 over some pairs; each of their texts and images is embedded once."""
    text, better, worse = pairs.unbind(dim=1)
    rewards = _reward(
        discriminator, embeddings, torch.cat([text, text]), torch.cat([better, worse])
    )
    return ranking_loss(rewards[: len(pairs)], rewards[len(pairs) :])


def _reward(
    discriminator: Discriminator,
    embeddings: Embeddings,
    text: Int[Tensor, " pairs"],
    image: Int[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    texts, text_place = torch.unique(text, return_inverse=True)
    images, image_place = torch.unique(image, return_inverse=True)
    text_rows, image_rows = embeddings(texts, images)
    reward: Tensor = discriminator(
        text_rows[text_place.to(text_rows.device)], image_rows[image_place.to(image_rows.device)]
    )
    return reward


@torch.no_grad()
def reward_rankings(
    discriminator: Discriminator, rankings: Sequence[IndexedRanking], embeddings: Embeddings
) -> Rewards:
    """Return the rewards of every ranking's items, in the ranking's order."""
    text = torch.tensor([ranking.text for ranking in rankings for _ in ranking.items])
    image = torch.tensor([item for ranking in rankings for item in ranking.items])
    rewards = iter(
        reward
        for part in torch.split(torch.arange(len(text)), _EVALUATION_BATCH)
        for reward in _reward(discriminator, embeddings, text[part], image[part]).double().tolist()
    )
    return [[next(rewards) for _ in ranking.items] for ranking in rankings]
