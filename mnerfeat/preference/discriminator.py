"""The relevance-based image discriminator of GIFR (section 4.1)."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mnerfeat.errors import ConfigError

Activation = Literal["relu", "tanh"]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Options of the discriminator."""

    hidden: int = 256
    """Units of each hidden layer."""

    layers: int = 1
    """Hidden layers, at least one: without any, the text would cancel in r(A) − r(B)."""

    activation: Activation = "relu"
    """After each hidden layer: relu, or tanh as in the authors' code."""

    dropout: float = 0.0
    """Dropout after each hidden layer, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"rank.network.{name} is {getattr(self, name)}; at least 1 is needed"
                )
        if self.activation not in get_args(Activation):
            raise ConfigError(
                f"rank.network.activation is {self.activation!r}; choose from: "
                f"{', '.join(get_args(Activation))}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"rank.network.dropout is {self.dropout}; it must be in [0, 1)")


class Discriminator(nn.Module):
    """GIFR's discriminator: a text and an image in, a reward out.

    Zhao, Huang and Lin, "A Graph Interaction Framework on Relevance for Multimodal Named Entity
    Recognition with Multiple Images", section 4.1:

        G   = [T_t; V_t]
        r   = MLP(G)
        L_D = −1/|D| Σ_(A, B) log σ(r(I_A) − r(I_B))                       (1)
        R_i = σ(r(I_i) − r(I_blank))                                       (2)

    where A is ranked above B, and the blank image is one of the ranked images.

    | paper    | here                                                                    |
    |----------|-------------------------------------------------------------------------|
    | T_t, V_t | `clip_text`, `clip_image`: CLIP's projected embeddings, not normalised   |
    | r        | what it gives: an unbounded number; only differences mean something      |
    | D        | `Pairs`                                                                  |
    | L_D      | `ranking_loss`                                                           |
    | R        | `relevance`                                                              |

    The paper calls it "reinforcement learning based on human preference"; no policy is trained.
    It is the reward model of that method alone, a pairwise ranking loss.

    Differs from the paper:

    - The MLP has at least one hidden layer. The paper does not lay it out; were it linear,
      r(A) − r(B) = w · (V_A − V_B), and the text would make no difference.
    - `temperature` divides the rewards, so that R can be calibrated; 1, which changes nothing,
      unless training was asked to calibrate.

    Args:
        config: The options.
        d_clip_text: Size of a text's embedding.
        d_clip_image: Size of an image's embedding.
    """

    temperature: Tensor

    def __init__(self, config: DiscriminatorConfig, *, d_clip_text: int, d_clip_image: int) -> None:
        super().__init__()
        self.config = config
        sizes = [d_clip_text + d_clip_image, *[config.hidden] * config.layers]
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(sizes):
            layers += [
                nn.Linear(wide, narrow),
                _ACTIVATIONS[config.activation](),
                nn.Dropout(config.dropout),
            ]
        self.mlp = nn.Sequential(*layers, nn.Linear(config.hidden, 1))
        self.register_buffer("temperature", torch.ones(()))

    def forward(
        self, text: Float[Tensor, "pairs d_clip_text"], image: Float[Tensor, "pairs d_clip_image"]
    ) -> Float[Tensor, " pairs"]:
        """The rewards r of texts and images."""
        reward: Tensor = self.mlp(torch.cat([text, image], dim=1)).squeeze(1)  # r = MLP(G)
        return reward / self.temperature


def ranking_loss(
    better: Float[Tensor, " pairs"], worse: Float[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """Eq. 1: −mean log σ(r(A) − r(B))."""
    return -nn.functional.logsigmoid(better - worse).mean()


def relevance(
    reward: Float[Tensor, " pairs"], blank: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Eq. 2: R, in (0, 1); 0.5 at the blank image, above it where the image ranks before it."""
    return torch.sigmoid(reward - blank)


@runtime_checkable
class Embeddings(Protocol):
    """CLIP embeddings of the ranked posts' texts and images, by number.

    Frozen ones lie in a cache (`CachedEmbeddings`); towers that are trained too compute them.
    """

    @property
    def sizes(self) -> tuple[int, int]:
        """Of a text's embedding, and of an image's."""
        ...

    def __call__(
        self, text: Int[Tensor, " texts"], image: Int[Tensor, " images"]
    ) -> tuple[Float[Tensor, "texts d_clip_text"], Float[Tensor, "images d_clip_image"]]:
        """The embeddings of some texts and images, on the discriminator's device."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is trained besides the discriminator."""
        ...

    def train(self, mode: bool, /) -> object:
        """Train (dropout and the like), or not."""
        ...


class CachedEmbeddings:
    """Embeddings that are there already.

    Args:
        text: One row a text.
        image: One row an image, the blank image last.
    """

    def __init__(
        self,
        text: Float[Tensor, "texts d_clip_text"],
        image: Float[Tensor, "images d_clip_image"],
    ) -> None:
        self.text = text
        self.image = image

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Embeddings`."""
        return self.text.shape[1], self.image.shape[1]

    def __call__(
        self, text: Int[Tensor, " texts"], image: Int[Tensor, " images"]
    ) -> tuple[Float[Tensor, "texts d_clip_text"], Float[Tensor, "images d_clip_image"]]:
        """See `Embeddings`."""
        return self.text[text], self.image[image]

    def parameters(self) -> Iterable[nn.Parameter]:
        """None: they are frozen."""
        return ()

    def train(self, mode: bool, /) -> object:  # noqa: ARG002
        """Nothing to do."""
        return self

    def to(self, device: torch.device) -> "CachedEmbeddings":
        """The same on a device."""
        return CachedEmbeddings(self.text.to(device), self.image.to(device))
