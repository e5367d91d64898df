"""Options of training."""

from dataclasses import dataclass
from typing import Literal, get_args

from mnerfeat.checkpoint import Run
from mnerfeat.errors import ConfigError, RunError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
RankedPosts = Literal["leave-out", "keep", "as-ranked"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Options of training; a run records them, but can be used without them."""

    epochs: int = 20
    """Maximum number of epochs; the learning rates decay to 0 over them."""

    batch_size: int = 16
    """Posts per optimizer step, over all devices and accumulation steps together."""

    accumulation: int = 1
    """Parts into which each device splits its share of a batch: more parts need less memory."""

    encoder_lr: float = 2e-5
    """Highest learning rate of the text encoder."""

    fusion_lr: float = 1e-4
    """Highest learning rate of the layers that fuse text and images."""

    crf_lr: float = 5e-3
    """Highest learning rate of emissions and CRF."""

    scalar_lr: float = 5e-2
    """Highest learning rate of trainable scalars (α and β of IQCR-MI)."""

    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW) of matrices; biases, norms and scalars do not decay."""

    warmup: float = 0.1
    """Fraction of all steps in which the learning rates rise from 0, in [0, 1]."""

    max_grad_norm: float = 1.0
    """Maximum norm of the gradient over all parameters; 0 turns clipping off."""

    patience: int = 5
    """Epochs without a better lenient micro F1 on dev before training stops; 0 turns it off."""

    eval_batch_size: int = 64
    """Posts per batch on each device when scoring dev; no result depends on it."""

    precision: Precision = "auto"
    """Number format of matrix products in training: `auto` is bfloat16 on GPUs that support it,
    float16 on other GPUs, and float32 on a CPU. Weights, loss and CRF are always float32."""

    device: Device = "auto"
    """`auto` (a GPU if there is one), `cpu` or `cuda`."""

    deterministic: bool = True
    """Whether to use operations that repeat to the bit; on a GPU some are slower."""

    ranked_posts: RankedPosts = "leave-out"
    """Train posts that the discriminator learned from, if the head reads its rewards (GIFR):
    `leave-out`, so that the tagger trains on posts whose R is as certain as on new ones; `keep`;
    or `as-ranked`, which keeps them with R = 1 for images ranked before the blank image and 0
    after it, as in the authors' code."""

    seed: int = 1
    """Random seed for the head's weights, the order of posts and dropout."""

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "accumulation", "eval_batch_size")
        rates = ("encoder_lr", "fusion_lr", "crf_lr", "scalar_lr", "weight_decay")
        faults = [
            *(_at_least(self, name, 1) for name in counts),
            *(_at_least(self, name, 0) for name in (*rates, "max_grad_norm", "patience", "seed")),
            _one_of(self, "precision", get_args(Precision)),
            _one_of(self, "device", get_args(Device)),
            _one_of(self, "ranked_posts", get_args(RankedPosts)),
        ]
        if not 0 <= self.warmup <= 1:
            faults.append(f"train.warmup is {self.warmup}; it must be in [0, 1]")
        faults = [fault for fault in faults if fault]
        if faults:
            raise ConfigError("training options that cannot be used:", faults=faults)


def training_config(run: Run) -> TrainingConfig:
    """Return the training options of a run.

    Raises:
        RunError: This version has no such option.
    """
    try:
        return TrainingConfig(**run.manifest.training)
    except (ConfigError, TypeError) as error:
        raise RunError(f"the training options of {run.folder} cannot be used: {error}") from error


def _at_least(config: TrainingConfig, name: str, least: int) -> str:
    value = getattr(config, name)
    return "" if value >= least else f"train.{name} is {value}; at least {least} is needed"


def _one_of(config: TrainingConfig, name: str, choices: tuple[str, ...]) -> str:
    value = getattr(config, name)
    return (
        "" if value in choices else f"train.{name} is {value!r}; choose from: {', '.join(choices)}"
    )
