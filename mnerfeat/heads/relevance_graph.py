"""The graph of a post's images, and the transformer over it (GIFR, eqs. 3 and 4)."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnerfeat.heads.blocks import feed_forward

SMALL = 0.02
"""Standard deviation that the vectors added to images start with, as in BERT and Graphormer."""


class ImageEmbedding(nn.Module, ABC):
    """Adds a learned vector to every image.

    Args:
        most_images: Number of vectors; indices beyond it share the last one.
        d_image: Size of an image's vector.
    """

    def __init__(self, most_images: int, d_image: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(most_images, d_image)
        nn.init.normal_(self.vectors.weight, std=SMALL)

    @abstractmethod
    def index(self, mask: Bool[Tensor, "batch images"]) -> Int[Tensor, "batch places"]:
        """Return the index of each image's vector, or (batch, 1); arbitrary for absent images."""

    def forward(
        self, image: Float[Tensor, "batch images d_image"], mask: Bool[Tensor, "batch images"]
    ) -> Float[Tensor, "batch images d_image"]:
        """Return the images with their vectors added."""
        last = self.vectors.num_embeddings - 1
        added: Tensor = self.vectors(self.index(mask).clamp(0, last))
        return image + added


@final
class DegreeEmbedding(ImageEmbedding):
    """Eq. 3: h_i = V_i + z_deg(V_i).

    Images are nodes, and all images of a post are linked by its text, so each of m images has
    degree m − 1: the vector encodes the number of images and nothing else.
    """

    def index(self, mask: Bool[Tensor, "batch images"]) -> Int[Tensor, "batch 1"]:
        """Return the degree, the same for all images of a post."""
        return mask.sum(dim=1, keepdim=True) - 1


@final
class LearnedPositions(ImageEmbedding):
    """Replaces eq. 3 in the ablation w/o P: one learned vector per position, as in BERT."""

    def index(self, mask: Bool[Tensor, "batch images"]) -> Int[Tensor, "batch images"]:
        """Return the position among the post's images."""
        return image_positions(mask)


@final
class SinusoidalPositions(nn.Module):
    """Replaces eq. 3 in the ablation w/o P: the positions of the original transformer.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5: at position p, numbers
    2i and 2i + 1 are the sine and cosine of p / 10000^(2i / d_image). There is nothing to train.
    """

    def forward(
        self, image: Float[Tensor, "batch images d_image"], mask: Bool[Tensor, "batch images"]
    ) -> Float[Tensor, "batch images d_image"]:
        """Return the images with the vectors of their positions added."""
        d_image = image.shape[2]
        even = torch.arange(0, d_image, 2, device=image.device)
        angle = image_positions(mask).unsqueeze(2) / 10_000 ** (even / d_image)
        added = torch.stack([angle.sin(), angle.cos()], dim=3).flatten(2)[..., :d_image]
        return image + added.to(image.dtype)


def image_positions(mask: Bool[Tensor, "batch images"]) -> Int[Tensor, "batch images"]:
    """Return each image's position among the images of its post, from 0; -1 before the first."""
    return mask.cumsum(dim=1) - 1


class GraphAttention(nn.Module):
    """Eq. 4: U = (softmax(Q Kᵀ / √d) ⊙ R) V, with several heads side by side.

    R follows the softmax and has one number per image, so it scales the columns: how much of an
    image reaches the others and itself. Rows then sum to less than 1. With one image the
    softmax is 1, and U = R V.

    Args:
        d_image: Size of an image's vector.
        attention_heads: They share the vector evenly.
    """

    def __init__(self, d_image: int, *, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.query = nn.Linear(d_image, d_image)
        self.key = nn.Linear(d_image, d_image)
        self.value = nn.Linear(d_image, d_image)

    def forward(
        self,
        image: Float[Tensor, "batch images d_image"],
        relevance: Float[Tensor, "batch images"],
        mask: Bool[Tensor, "batch images"],
    ) -> Float[Tensor, "batch images d_image"]:
        """Return U; rows of absent images have no meaning."""
        batch, images, d_image = image.shape

        def split(x: Tensor) -> Tensor:
            return x.view(batch, images, self.attention_heads, -1).transpose(1, 2)

        query, key, value = (
            split(self.query(image)),
            split(self.key(image)),
            split(self.value(image)),
        )
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        # A softmax over nothing is NaN: posts without images attend to all, and are masked later.
        visible = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        weights = scores.float().masked_fill(~visible, float("-inf")).softmax(dim=3)
        weights = weights * relevance[:, None, None, :]  # eq. 4: (batch, heads, images, images)
        attended: Tensor = weights.to(value.dtype) @ value
        return attended.transpose(1, 2).reshape(batch, images, d_image)


class GraphLayer(nn.Module):
    """One layer of the graph transformer: eq. 4 alone, or in a standard transformer block.

    The standard block is that of Vaswani et al. (2017), post-norm, with an output projection
    after the attention: x ← LayerNorm(x + W_o U); x ← LayerNorm(x + FFN(x)).

    Args:
        d_image: Size of an image's vector.
        attention_heads: Of eq. 4.
        standard: Whether residual connections, norms and a feed-forward layer surround eq. 4.
        dropout: In the standard block.
    """

    def __init__(
        self, d_image: int, *, attention_heads: int, standard: bool, dropout: float
    ) -> None:
        super().__init__()
        self.attention = GraphAttention(d_image, attention_heads=attention_heads)
        self.standard = standard
        if standard:
            self.output = nn.Linear(d_image, d_image)
            self.feed_forward = feed_forward(d_image, dropout=dropout)
            self.norms = nn.ModuleList(nn.LayerNorm(d_image) for _ in range(2))
            self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        image: Float[Tensor, "batch images d_image"],
        relevance: Float[Tensor, "batch images"],
        mask: Bool[Tensor, "batch images"],
    ) -> Float[Tensor, "batch images d_image"]:
        """Return the images after one layer."""
        attended: Tensor = self.attention(image, relevance, mask)
        if not self.standard:
            return attended
        image = self.norms[0](image + self.dropout(self.output(attended)))
        out: Tensor = self.norms[1](image + self.dropout(self.feed_forward(image)))
        return out


class ImagePrompts(nn.Module):
    """Eqs. 5 and 6: per text layer l, P = W_p U, K_P = W_k P, V_P = W_v P.

    The matrices are new, not the text encoder's. Keys and values are prepended to the text's own
    (eq. 7, in the text encoder) and split over its attention heads.

    Args:
        d_image: Size of an image's vector.
        d_text: Size of the text encoder's states.
        layers: Of the text encoder.
        attention_heads: Of each of its layers.
    """

    def __init__(self, d_image: int, d_text: int, *, layers: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads

        def matrices(d_in: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(d_in, d_text, bias=False) for _ in range(layers))

        self.prompt, self.key, self.value = matrices(d_image), matrices(d_text), matrices(d_text)

    def forward(self, image: Float[Tensor, "batch images d_image"]) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values by text layer, each (batch, heads, images, d_text / heads)."""

        def split(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self.attention_heads, -1).transpose(1, 2)

        found = []
        for prompt, key, value in zip(self.prompt, self.key, self.value, strict=True):
            p = prompt(image)  # eq. 5: (batch, images, d_text)
            found.append((split(key(p)), split(value(p))))  # eq. 6
        return found


def ones(mask: Bool[Tensor, "batch images"]) -> Float[Tensor, "batch images"]:
    """Return R without a discriminator: 1 for every image."""
    return torch.where(mask, 1.0, 0.0)
