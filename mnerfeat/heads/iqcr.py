"""IQCR-MI: images weighted by their quality and by their relevance to the text."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig, HeadSizes, Images, KeyValues, Words
from mnerfeat.heads.blocks import Norm, TransformerBlock, real_rows
from mnerfeat.heads.crf import CrfHead, Fused, Fusion

Ablation = Literal["none", "no-iqw", "no-cmw", "unweighted"]

SCORES: dict[Ablation, tuple[str, ...]] = {
    "none": ("quality", "relevance"),
    "no-iqw": ("relevance",),
    "no-cmw": ("quality",),
    "unweighted": (),
}
"""The scores that each ablation keeps in the weights and in the gate."""


@dataclass(frozen=True, kw_only=True)
class IqcrConfig(HeadConfig):
    """Options of IQCR-MI."""

    ablation: Ablation = "none"
    """Part left out: `no-iqw` (image quality) or `no-cmw` (cross-modal relevance), as in Table 3,
    or `unweighted` (both: images enter unchanged)."""

    renormalise: bool = False
    """Scale the combined weights of a post to sum to 1; eq. 7 does not."""

    norm: Norm = "post"
    """Form of the blocks of eqs. 9 to 11: `post`, the standard transformer block, whose norms
    undo most of what eq. 8 does to the length of the image vectors; `pre`, norms in front of the
    layers; `bare`, attention with a residual connection only."""

    layers: int = 1
    """Blocks of each kind (eqs. 9, 10 and 11)."""

    attention_heads: int | None = None
    """Attention heads of each block; None for the text encoder's number."""

    dropout: float = 0.1
    """Dropout in the blocks and on the word states, 0 to 1."""

    def __post_init__(self) -> None:
        for name, kind in (("ablation", Ablation), ("norm", Norm)):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise ConfigError(
                    f"head.iqcr.{name} is {getattr(self, name)!r}; choose from: {choices}"
                )
        if self.layers < 1:
            raise ConfigError(f"head.iqcr.layers is {self.layers}; at least 1 is needed")
        if self.attention_heads is not None and self.attention_heads < 1:
            raise ConfigError(
                f"head.iqcr.attention_heads is {self.attention_heads}; at least 1 is needed"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.iqcr.dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def columns(self) -> tuple[str, ...]:
        """The ViT vectors, and the scores that the ablation keeps."""
        return ("vit_cls", *SCORES[self.ablation])

    def build(self, sizes: HeadSizes) -> CrfHead:
        """Build an IQCR-MI head with fresh weights.

        Raises:
            ConfigError: The attention heads do not divide the size of the text states.
        """
        attention_heads = self.attention_heads or sizes.text_heads
        if sizes.d_text % attention_heads:
            raise ConfigError(
                f"head.iqcr.attention_heads is {attention_heads}, which does not divide the text "
                f"encoder's {sizes.d_text} dimensions"
            )
        fusion = Iqcr(
            self,
            d_text=sizes.d_text,
            d_image=sizes.columns["vit_cls"],
            attention_heads=attention_heads,
        )
        return CrfHead(fusion, d_text=sizes.d_text, n_tags=sizes.n_tags, dropout=self.dropout)


class Iqcr(Fusion):
    """IQCR-MI, "Image Quality and Cross-Modal Relevance Guided Multi-Image Integration".

    For a post with images i = 1 … m:

        W_qual = softmax_i(α Q_i)                                        (5)
        W_corr = softmax_i(β C_i)                                        (6)
        W      = W_qual ⊙ W_corr                                         (7)
        G_i    = σ(MLP([h_CLS; h_i; Q_i; C_i]))                          (after 7)
        h_i    ← G_i W_i h_i + (1 − G_i) h_i                             (8)
        H̄_text = Self-ATT(H_text), H̄_img = Self-ATT(H_img)               (9, 10)
        H̄      = Cross-ATT(H̄_text, H̄_img, H̄_img)                        (11)

    followed by emissions and CRF (12, 13; see `CrfHead`). H_text and Q, C and the ViT's [CLS]
    (1 to 4) come from the text encoder and the cache.

    | paper        | here                | range                                        |
    |--------------|---------------------|----------------------------------------------|
    | H_text       | `words.states`      |                                              |
    | h_CLS        | `words.sentence`    |                                              |
    | H_img        | column `vit_cls`    |                                              |
    | Q            | column `quality`    | MANIQA, about 0 to 1, higher is better       |
    | C            | column `relevance`  | cosine of CLIP text and image, −1 to 1       |
    | α, β         | `weighting.scales`  | trainable, start at 1                        |
    | W            | `weight`            | 0 to 1; a post's sum to at most 1            |
    | G            | `gate`              | 0 to 1                                       |

    With one image both softmaxes are 1 and eq. 8 is the identity. Since W ≤ 1, eq. 8 can only
    shrink an image, and shrinks it more the larger its gate is. The paper's prose says that a
    small gate keeps "more original image features" if quality is low, the opposite of removing
    noise. This head follows the equations.

    Differs from the paper:

    - The image encoders (ViT, CLIP, MANIQA) are frozen: their outputs come from the cache. The
      paper does not say whether it trains them.
    - The sums in eqs. 5 and 6 run over the post's real images, without the batch's padding. A
      post without images gets nothing from the cross-attention.
    - Self-ATT and Cross-ATT are whole transformer blocks, with residual connections, LayerNorm
      and feed-forward layer (`norm`). By eq. 11 as printed the CRF would see values of images
      only, and never the words.
    - The LayerNorm at the end of eq. 10's block undoes most of what eq. 8 does to an image's
      length; the ratio between a post's images survives (figures in docs/errata.md). `norm =
      "pre"` and `norm = "bare"` keep the length.
    - Eq. 13 lacks its minus sign.
    - Each group of parameters has a learning rate of its own, with warm-up and decay, where the
      paper has one rate for all (docs/training.md). At the encoder's rate, α and β stay near 1.

    Not stated in the paper:

    - The gate's MLP: one hidden layer of `d_text` ReLU units, and one scalar per image.
    - α and β start at 1.
    - A linear projection precedes eq. 8 if the ViT and the text encoder differ in size.
    - `layers`: one block of each kind; the paper speaks of "multiple layers" once, without a
      number.
    - `attention_heads`: as many as the text encoder has. The feed-forward layers have four times
      as many units as `d_text`, and GELU.
    - `dropout`: 0.1, as in BERT.
    - `renormalise` divides W by its sum over the post; off, as eq. 7 reads.
    - The scale of Q: MANIQA's own, 0 to 1. On that of Fig. 3, 0 to 100, eq. 5 would be one-hot.
    - A word's state is that of its first piece (`text.pooling`).

    As in the paper:

    - `ablation`, Table 3: `no-iqw`: W = W_corr, and Q leaves the gate; `no-cmw`: W = W_qual, and
      C leaves the gate. `unweighted`, without eqs. 5 to 8, is not in the paper.

    Args:
        config: The options.
        d_text: Size of a word state.
        d_image: Size of a `vit_cls` vector.
        attention_heads: Attention heads of each block.
    """

    def __init__(
        self, config: IqcrConfig, *, d_text: int, d_image: int, attention_heads: int
    ) -> None:
        super().__init__()
        self.columns = config.columns
        self.projection = nn.Identity() if d_image == d_text else nn.Linear(d_image, d_text)
        scores = SCORES[config.ablation]
        self.weighting = (
            ImageWeighting(d_text, scores, renormalise=config.renormalise) if scores else None
        )

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                TransformerBlock(
                    d_text,
                    attention_heads=attention_heads,
                    dropout=config.dropout,
                    norm=config.norm,
                )
                for _ in range(config.layers)
            )

        self.text_blocks, self.image_blocks, self.cross_blocks = blocks(), blocks(), blocks()

    def scalars(self) -> list[nn.Parameter]:
        """Return α and β, if the ablation keeps them."""
        return list(self.weighting.scales.values()) if self.weighting else []

    def prefix(self, images: Images) -> KeyValues | None:  # noqa: ARG002
        """Return None: images and text are fused after the encoder."""
        return None

    def forward(self, words: Words, images: Images) -> Fused:
        """Fuse text and images, by equations 5 to 11."""
        text, mask = words.states, images.mask
        image = self.projection(images["vit_cls"].to(text.dtype))
        values: dict[str, Tensor] = {}
        if self.weighting is not None:
            image, values = self.weighting(words.sentence, image, images)  # eqs. 5 to 8
        rows = real_rows(words.mask)
        for block in self.text_blocks:
            text = block(text, text, words.mask, rows)  # eq. 9: (batch, words, d_text)
        for block in self.image_blocks:
            image = block(image, image, mask)  # eq. 10: (batch, images, d_text)
        for block in self.cross_blocks:
            text = block(text, image, mask, rows)  # eq. 11: (batch, words, d_text)
        return Fused(states=text, images=values)


class ImageWeighting(nn.Module):
    """Equations 5 to 8 of IQCR-MI; see `Iqcr`.

    Args:
        d_text: Size of the vectors.
        scores: Columns that weight the images: `quality`, `relevance` or both.
        renormalise: As in `IqcrConfig`.
    """

    def __init__(self, d_text: int, scores: tuple[str, ...], *, renormalise: bool) -> None:
        super().__init__()
        self.scores = scores
        self.renormalise = renormalise
        names = {"quality": "alpha", "relevance": "beta"}
        self.scales = nn.ParameterDict(
            {names[score]: nn.Parameter(torch.ones(())) for score in scores}
        )
        self.gate = nn.Sequential(
            nn.Linear(2 * d_text + len(scores), d_text), nn.ReLU(), nn.Linear(d_text, 1)
        )

    def forward(
        self,
        sentence: Float[Tensor, "batch d_text"],
        image: Float[Tensor, "batch images d_text"],
        images: Images,
    ) -> tuple[Float[Tensor, "batch images d_text"], dict[str, Tensor]]:
        """Return the weighted images, and weights and scores, each (batch, images)."""
        mask = images.mask
        values: dict[str, Tensor] = {s: images[s].float() for s in self.scores}
        weight = mask.float()
        for score, scale in zip(self.scores, self.scales.values(), strict=True):
            values[f"{score}_weight"] = softmax(scale * values[score], mask)
            weight = weight * values[f"{score}_weight"]  # eqs. 5, 6, 7: (batch, images)
        if self.renormalise:
            weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-12)

        context = sentence.unsqueeze(1).expand_as(image)
        scores = torch.stack([values[score] for score in self.scores], dim=2).to(image.dtype)
        logit = self.gate(torch.cat([context, image, scores], dim=2)).squeeze(2)
        gate = logit.float().sigmoid() * mask  # after eq. 7: (batch, images)

        factor = gate * weight + (1 - gate)
        weighted = factor.unsqueeze(2).to(image.dtype) * image  # eq. 8: (batch, images, d_text)
        values |= {"weight": weight, "gate": gate}
        return weighted, {name: value.detach() * mask for name, value in values.items()}


def softmax(
    scores: Float[Tensor, "batch images"], mask: Bool[Tensor, "batch images"]
) -> Float[Tensor, "batch images"]:
    """Return the softmax over the real images of each post; zero if a post has none."""
    some = mask.any(dim=1, keepdim=True)
    weights = scores.masked_fill(~mask & some, float("-inf")).softmax(dim=1)
    return weights * mask
