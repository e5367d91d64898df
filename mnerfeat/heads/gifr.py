"""GIFR: a graph of images weighted by human relevance rankings, as prompts for the text."""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig, HeadSizes, Images, KeyValues, Words
from mnerfeat.heads.crf import CrfHead, Fused, Fusion
from mnerfeat.heads.relevance_graph import (
    DegreeEmbedding,
    GraphLayer,
    ImagePrompts,
    LearnedPositions,
    SinusoidalPositions,
    ones,
)

Ablation = Literal["none", "no-d", "no-p", "no-g"]
Block = Literal["literal", "standard"]
Positions = Literal["sinusoidal", "learned"]

RANKED = "ranked_relevance"
"""The column of R."""


@dataclass(frozen=True, kw_only=True)
class GifrConfig(HeadConfig):
    """Options of GIFR."""

    ablation: Ablation = "none"
    """Part left out, as in Table 3: `no-d` (the discriminator: R = 1), `no-p` (degrees: replaced
    by ordinary positions) or `no-g` (the graph: images become prompts unchanged)."""

    positions: Positions = "sinusoidal"
    """Positions that replace the degrees in `no-p`: `sinusoidal`, as in the original transformer,
    or `learned`."""

    block: Block = "literal"
    """A layer of the graph transformer: `literal` is eq. 4 alone; `standard` has residual, norm
    and feed-forward layer around it."""

    layers: int = 1
    """Layers of the graph transformer."""

    attention_heads: int | None = None
    """Attention heads of the graph transformer; None for the text encoder's number if it divides
    the size of the image vectors, else 1."""

    most_images: int = 8
    """Number of vectors in eq. 3, or of learned positions; images beyond it share the last."""

    dropout: float = 0.1
    """Dropout in standard blocks and on the word states, 0 to 1."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("ablation", Ablation),
            ("block", Block),
            ("positions", Positions),
        ):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise ConfigError(
                    f"head.gifr.{name} is {getattr(self, name)!r}; choose from: {choices}"
                )
        for name in ("layers", "attention_heads", "most_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"head.gifr.{name} is {value}; at least 1 is needed")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.gifr.dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def columns(self) -> tuple[str, ...]:
        """The ViT vectors, and R if the ablation keeps it."""
        return ("vit_cls", RANKED) if self.ablation in {"none", "no-p"} else ("vit_cls",)

    def build(self, sizes: HeadSizes) -> CrfHead:
        """Build a GIFR head with fresh weights.

        Raises:
            ConfigError: The attention heads do not divide the size of the image vectors.
        """
        d_image = sizes.columns["vit_cls"]
        attention_heads = self.attention_heads or (
            sizes.text_heads if d_image % sizes.text_heads == 0 else 1
        )
        if d_image % attention_heads:
            raise ConfigError(
                f"head.gifr.attention_heads is {attention_heads}, which does not divide the "
                f"{d_image} dimensions of the image vectors"
            )
        fusion = Gifr(self, sizes, d_image=d_image, attention_heads=attention_heads)
        return CrfHead(fusion, d_text=sizes.d_text, n_tags=sizes.n_tags, dropout=self.dropout)


class Gifr(Fusion):
    """GIFR, "A Graph Interaction Framework on Relevance for … Multiple Images".

    Zhao, Huang and Lin. For a post with images i = 1 … m, and each layer l of the text encoder:

        R_i = σ(r(I_i) − r(I_blank))                                     (2)
        h_i = V_i + z_deg(V_i)                                           (3)
        U   = (softmax(Q Kᵀ / √d) ⊙ R) V                                 (4)
        P^l = W_p^l Uᵀ                                                   (5)
        K_P^l = W_k^l P^l,  V_P^l = W_v^l P^l                            (6)
        H^l = softmax(Q^l [K_P^l, K^l]ᵀ / √d) [V_P^l, V^l]               (7)

    followed by emissions and CRF (8, 9; see `CrfHead`). Eqs. 1 and 2, the discriminator and its
    rewards r, come from the cache (see `mnerfeat.preference`); eq. 7 is the text encoder's own
    attention, which takes the prompts as a prefix (see `TextEncoder`).

    | paper              | here                        | range                                  |
    |--------------------|-----------------------------|----------------------------------------|
    | V_i                | column `vit_cls`            | (the V of eq. 4 is the values' matrix) |
    | R                  | column `ranked_relevance`   | 0 to 1; 0.5 at the blank image         |
    | z_deg              | `embedding`                 |                                        |
    | Q, K, V of eq. 4   | `graph[…].attention`        |                                        |
    | U                  | `images` of `prefix`        |                                        |
    | W_p, W_k, W_v      | `prompts`                   | matrices without offset                |

    R scales the columns of the softmax, so its rows sum to less than 1 and irrelevant images
    fade. With one image the softmax is 1 and R is a plain gate: unlike weights that compete
    within a post, R also works on posts with a single image. All images of a post are linked, so
    deg(V_i) = m − 1 and z encodes only the number of images.

    Differs from the paper:

    - The image encoders (ViT and CLIP) are frozen: their outputs come from the cache. The paper
      does not say whether it trains them. `rank.tune_clip` trains CLIP for the discriminator.
    - Eq. 4 divides by √d_v and calls d "the number of attention heads"; here each head divides by
      the square root of its own size. V stands for the values' matrix in eq. 4 and for the images
      before it.
    - Eq. 7 drops the text encoder's heads, residuals, norms and feed-forward layers; the encoder
      keeps them.
    - Each group of parameters has a learning rate of its own, with warm-up and decay, where the
      paper has one rate for all (docs/training.md).

    Not stated in the paper:

    - `layers` of the graph transformer, and what surrounds its attention: eq. 4 once, by itself;
      `block = "standard"` puts it into a post-norm transformer block with GELU and four times as
      many hidden units.
    - `attention_heads`: as many as the text encoder has, if they divide the image vectors.
    - `most_images`: eq. 3 has 8 vectors; posts with more images share the last. They start as
      small as BERT's embeddings.
    - Positions of the text: from 0; the prompts have none. Counted on from the prompts, they
      would depend on how many images the widest post of the batch has.
    - Images that do not exist or cannot be read are masked out of eqs. 4 and 7. A post without
      images is read as the text encoder alone reads it.
    - The matrices of eqs. 5 and 6 are new ones, without bias.
    - `dropout`: 0.1, as in BERT.
    - `positions` of the ablation `no-p`, "the regular positional embedding used in a standard
      transformer": sinusoidal, added to the ViT's vectors as they are; or learned.
    - A word's state is that of its first piece (`text.pooling`).
    - The discriminator's network and training, the blank image and the size of D_dis: see
      `Discriminator`.

    As in the authors' code, by option; the default differs:

    - `rank.network.activation = "tanh"`; `rank.pairs = "neighbours"` (pairs of neighbours in a
      ranking, where eq. 1 reads all pairs).
    - `train.ranked_posts = "as-ranked"` keeps the ranked posts in the tagger's training set, with
      R = 1 for images before the blank and 0 after it; `"keep"` keeps them with the
      discriminator's R.
    - Not available: a fixed picture for the blank, which also stands in for unreadable images;
      R = 1 for an image without a reward.

    As in the paper:

    - `ablation`, Table 3: `no-d`: R = 1; `no-p`: ordinary positions replace z; `no-g`: U = V, so
      neither R nor eqs. 3 and 4.

    The output has two values per image: `ranked_relevance`, which is R, and `before_blank`,
    whether the discriminator ranks the image before the blank one (Table 4).

    Args:
        config: The options.
        sizes: Of the text encoder.
        d_image: Size of a `vit_cls` vector.
        attention_heads: Of the graph transformer.
    """

    def __init__(
        self, config: GifrConfig, sizes: HeadSizes, *, d_image: int, attention_heads: int
    ) -> None:
        super().__init__()
        self.columns = config.columns
        self.embedding: nn.Module | None = None
        self.graph = nn.ModuleList()
        if config.ablation != "no-g":
            self.embedding = _embedding(config, d_image)
            self.graph.extend(
                GraphLayer(
                    d_image,
                    attention_heads=attention_heads,
                    standard=config.block == "standard",
                    dropout=config.dropout,
                )
                for _ in range(config.layers)
            )
        self.prompts = ImagePrompts(
            d_image, sizes.d_text, layers=sizes.text_layers, attention_heads=sizes.text_heads
        )

    def scalars(self) -> list[nn.Parameter]:
        """Return an empty list: there are no trainable scalars."""
        return []

    def prefix(self, images: Images) -> KeyValues | None:
        """Return the prompts of each text layer, by equations 3 to 6."""
        return self.prompts(self.interact(images))  # type: ignore[no-any-return]

    def interact(self, images: Images) -> Float[Tensor, "batch images d_image"]:
        """Return U, by equations 3 and 4."""
        image = images["vit_cls"]
        relevance = images[RANKED].float() if RANKED in self.columns else ones(images.mask)
        if self.embedding is not None:
            image = self.embedding(image, images.mask)  # eq. 3: (batch, images, d_image)
        for layer in self.graph:
            image = layer(image, relevance, images.mask)  # eq. 4: (batch, images, d_image)
        return image

    def forward(self, words: Words, images: Images) -> Fused:
        """Return the word states unchanged: eq. 7, in the text encoder, has fused the images."""
        values: dict[str, Tensor] = {}
        if RANKED in self.columns:
            relevance = images[RANKED].float().detach() * images.mask
            values = {RANKED: relevance, "before_blank": (relevance > 0.5) & images.mask}
        return Fused(states=words.states, images=values)


def _embedding(config: GifrConfig, d_image: int) -> nn.Module:
    """Return what eq. 3, or the ablation w/o P, adds to the images."""
    if config.ablation != "no-p":
        return DegreeEmbedding(config.most_images, d_image)
    if config.positions == "learned":
        return LearnedPositions(config.most_images, d_image)
    return SinusoidalPositions()
