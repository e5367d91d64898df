"""The relevance-based image discriminator of GIFR (section 4.1)."""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from mnerfeat.errors import ConfigError

Activation = Literal["relu", "tanh"]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}

REWARD_BATCH = 1024
"""Fixed batch size of `compute_rewards`, padded with zeros: matrix products of other shapes round
differently, and a pair's reward must not depend on the pairs computed with it."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Options of the discriminator's network."""

    hidden: int = 256
    """Units per hidden layer."""

    layers: int = 1
    """Number of hidden layers, at least 1: without one, the text cancels in r(A) − r(B)."""

    activation: Activation = "relu"
    """Activation after each hidden layer: relu, or tanh as in the authors' code."""

    dropout: float = 0.0
    """Dropout after each hidden layer, in [0, 1)."""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rank.network.{name} is {getattr(self, name)}; wanted 1 or more")
        if self.activation not in get_args(Activation):
            raise ConfigError(
                f"rank.network.activation is {self.activation!r}; choose from: "
                f"{', '.join(get_args(Activation))}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"rank.network.dropout is {self.dropout}; wanted a value in [0, 1)")


class Discriminator(nn.Module):
    """GIFR's discriminator: maps a text and an image to a reward.

    Zhao, Huang and Lin, "A Graph Interaction Framework on Relevance for Multimodal Named Entity
    Recognition with Multiple Images", section 4.1:

        G   = [T_t; V_t]
        r   = MLP(G)
        L_D = −1/|D| Σ_(A, B) log σ(r(I_A) − r(I_B))                       (1)
        R_i = σ(r(I_i) − r(I_blank))                                       (2)

    where A ranks above B, and the blank image is one of the ranked images.

    | paper    | here                                                                    |
    |----------|-------------------------------------------------------------------------|
    | T_t, V_t | `clip_text`, `clip_image`: CLIP's projected embeddings, not normalised   |
    | r        | the output: an unbounded number of which only differences have a meaning |
    | D        | `make_pairs`                                                            |
    | L_D      | `ranking_loss`                                                          |
    | R        | `relevance`                                                             |

    The paper speaks of "reinforcement learning based on human preference", but trains no policy:
    this is the reward model of that method, trained with a pairwise ranking loss.

    Differs from the paper:

    - CLIP is frozen unless `rank.tune_clip` is set.
    - `temperature` divides the rewards if `rank.calibrate` is set; otherwise it is 1.

    Not stated in the paper:

    - The MLP: one hidden layer of 256 units with ReLU (`rank.network`). It needs at least one
      hidden layer: if it were linear, r(A) − r(B) = w · (V_A − V_B) would not depend on the text.
    - The blank image: the encoder's mean colour (`rank.blank`).
    - The size of D_dis: at most a tenth of train (`rank.share`), a fifth of it held out
      (`rank.held_out`).
    - Training: AdamW with linear decay from `rank.lr`, 1e-3, and `rank.weight_decay`, 1e-3;
      `rank.epochs`, 60, of `rank.batch_size`, 32 pairs; `rank.clip_lr`, 1e-6, if CLIP is trained.

    As in the authors' code, by option; the default differs:

    - `rank.network.activation = "tanh"`; `rank.pairs = "neighbours"` (pairs of neighbours in a
      ranking, where eq. 1 reads all pairs).
    - `rank.lr = 1e-4`, `rank.epochs = 10`, `rank.batch_size = 8`. Their last 100 pairs are held
      out, here posts are; their optimiser is Adam.
    - `train.ranked_posts = "as-ranked"` keeps the ranked posts in the tagger's training set, with
      R = 1 before the blank and 0 after it.

    Args:
        config: Network options.
        d_clip_text: Size of a text embedding.
        d_clip_image: Size of an image embedding.
    """

    temperature: Tensor

    def __init__(self, config: DiscriminatorConfig, *, d_clip_text: int, d_clip_image: int) -> None:
        super().__init__()
        self.config = config
        sizes = [d_clip_text + d_clip_image, *[config.hidden] * config.layers]
        layers: list[nn.Module] = []
        for d_in, d_out in itertools.pairwise(sizes):
            layers += [
                nn.Linear(d_in, d_out),
                _ACTIVATIONS[config.activation](),
                nn.Dropout(config.dropout),
            ]
        self.mlp = nn.Sequential(*layers, nn.Linear(config.hidden, 1))
        self.register_buffer("temperature", torch.ones(()))

    def forward(
        self, text: Float[Tensor, "pairs d_clip_text"], image: Float[Tensor, "pairs d_clip_image"]
    ) -> Float[Tensor, " pairs"]:
        """Return the rewards r of texts with images."""
        reward: Tensor = self.mlp(torch.cat([text, image], dim=1)).squeeze(1)  # r = MLP(G)
        return reward / self.temperature


def ranking_loss(
    better: Float[Tensor, " pairs"], worse: Float[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """Return L_D of eq. 1: −mean log σ(r(A) − r(B))."""
    return -nn.functional.logsigmoid(better - worse).mean()


def relevance(
    reward: Float[Tensor, " pairs"], blank: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Return R of eq. 2, in (0, 1): above 0.5 for images that rank before the blank image."""
    return torch.sigmoid(reward - blank)


@torch.no_grad()
def compute_rewards(
    discriminator: Discriminator,
    texts: NDArray[np.floating],
    images: NDArray[np.floating],
    text: NDArray[np.integer],
    image: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Compute rewards on the CPU, in float32.

    Args:
        discriminator: Discriminator in evaluation mode, on the CPU.
        texts: (t, d_clip_text) text embeddings.
        images: (i, d_clip_image) image embeddings.
        text: (n,) rows of `texts`.
        image: (n,) rows of `images`.

    Returns:
        (n,) rewards.
    """
    rewards = np.zeros(len(text), np.float32)
    text_batch = np.zeros((REWARD_BATCH, texts.shape[1]), np.float32)
    image_batch = np.zeros((REWARD_BATCH, images.shape[1]), np.float32)
    for start in range(0, len(text), REWARD_BATCH):
        part = slice(start, start + REWARD_BATCH)
        count = len(text[part])
        text_batch[:count], image_batch[:count] = texts[text[part]], images[image[part]]
        text_batch[count:], image_batch[count:] = 0, 0
        found = discriminator(torch.from_numpy(text_batch), torch.from_numpy(image_batch))
        rewards[part] = found.numpy()[:count]
    return rewards


class Embeddings(nn.Module, ABC):
    """CLIP embeddings of the ranked posts' texts and images, by index."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Sizes of a text embedding and of an image embedding."""

    @abstractmethod
    def forward(
        self, text: Int[Tensor, " texts"], image: Int[Tensor, " images"]
    ) -> tuple[Float[Tensor, "texts d_clip_text"], Float[Tensor, "images d_clip_image"]]:
        """Return the embeddings of some texts and images, on the module's device."""


@final
class CachedEmbeddings(Embeddings):
    """Frozen embeddings.

    Args:
        text: One row per text.
        image: One row per image, the blank image last.
    """

    text: Tensor
    image: Tensor

    def __init__(
        self,
        text: Float[Tensor, "texts d_clip_text"],
        image: Float[Tensor, "images d_clip_image"],
    ) -> None:
        super().__init__()
        self.register_buffer("text", text)
        self.register_buffer("image", image)

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Embeddings`."""
        return self.text.shape[1], self.image.shape[1]

    def forward(
        self, text: Int[Tensor, " texts"], image: Int[Tensor, " images"]
    ) -> tuple[Float[Tensor, "texts d_clip_text"], Float[Tensor, "images d_clip_image"]]:
        """See `Embeddings`."""
        return self.text[text], self.image[image]
