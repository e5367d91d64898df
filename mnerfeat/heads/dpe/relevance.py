"""Cross-modal relevance of DPE-MNER: the gates of eq. 4 and the losses of eqs. 17 to 19."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mnerfeat.heads.dpe.pairing import pair_scores


@dataclass(frozen=True, kw_only=True)
class Halves:
    """The first layer of a gate, kept apart by what it reads, so that any text meets any image.

    Attributes:
        text: Of each post's text.
        image: Of each of its images.
        mask: True where there is an image.
    """

    text: Float[Tensor, "batch hidden"]
    image: Float[Tensor, "batch images hidden"]
    mask: Bool[Tensor, "batch images"]


class RelevanceGate(nn.Module):
    """Eq. 4: rel = σ(FC[x; y; y_text]), of mean-pooled inputs and with one hidden layer.

    With a single linear layer the text would add the same to the scores of all images, and the
    losses could never learn which image belongs to a text. For all pairs of a batch only the second
    layer runs on pairs: batch² · hidden products, not batch² passes through the whole gate.

    The paper's posts have one image. Each of several has a relevance of its own; that of a post's
    images together is the mean.

    Args:
        d_model: Size of the vectors.
        means: How many vectors of an image are read together.
        hidden: Hidden units.
    """

    def __init__(self, d_model: int, *, means: int, hidden: int) -> None:
        super().__init__()
        self.text = nn.Linear(d_model, hidden)
        self.image = nn.Linear(means * d_model, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, halves: Halves) -> Float[Tensor, "batch images"]:
        """Rel of each post with each of its own images, 0 to 1."""
        hidden = torch.relu(halves.text.unsqueeze(1) + halves.image)
        relevance: Tensor = self.score(hidden).squeeze(2).float().sigmoid()
        return relevance

    def pairs(self, halves: Halves) -> Float[Tensor, "batch batch"]:
        """rel(a, b) of the text of post a with the images of post b, 0 to 1; 0 where b has none."""
        posts, images = halves.mask.shape
        scores = pair_scores(
            halves.text.unsqueeze(0),
            halves.image.flatten(0, 1).unsqueeze(0),
            self.score.weight[0],
            torch.ones(1, posts, dtype=torch.bool, device=halves.mask.device),
            torch.ones(1, posts * images, dtype=torch.bool, device=halves.mask.device),
        )
        relevance = (scores + self.score.bias).float().sigmoid().view(posts, posts, images)
        there = halves.mask.float()
        return (relevance * there).sum(dim=2) / there.sum(dim=1).clamp(min=1)


def contrast(
    pairs: Float[Tensor, "batch batch"],
    with_images: Bool[Tensor, " batch"],
    *,
    temperature: float,
    text_share: float,
) -> Float[Tensor, ""]:
    """Eqs. 17 to 19: texts have to find their images among those of the batch, and images texts.

    Args:
        pairs: rel(a, b).
        with_images: Posts that have images; the others take no part.
        temperature: τ.
        text_share: λ_rel, the share of the first direction.

    Returns:
        The mean over the posts that take part, 0 where none does.
    """
    outside = ~(with_images.unsqueeze(1) & with_images.unsqueeze(0))
    scores = (pairs / temperature).masked_fill(outside, float("-inf"))
    # A row of nothing but −inf has no softmax; such posts are left out below.
    scores = torch.where(with_images.unsqueeze(1) | with_images.unsqueeze(0), scores, 0.0)
    own = pairs.diagonal() / temperature
    text_to_image = scores.logsumexp(dim=1) - own  # eq. 17
    image_to_text = scores.logsumexp(dim=0) - own  # eq. 18
    both = text_share * text_to_image + (1 - text_share) * image_to_text  # eq. 19
    chosen = torch.where(with_images, both, 0.0)
    return chosen.sum() / with_images.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The cross-modal relevance loss: which texts, and how.

    Attributes:
        texts: Text granularities that take part.
        temperature: τ of eqs. 17 and 18.
        text_share: λ_rel of eq. 19.
    """

    texts: tuple[str, ...]
    temperature: float
    text_share: float

    def loss(
        self, pairs: Mapping[str, Float[Tensor, "batch batch"]], with_images: Bool[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The alignment terms of eq. 20."""
        terms = [
            contrast(
                pairs[text],
                with_images,
                temperature=self.temperature,
                text_share=self.text_share,
            )
            for text in self.texts
        ]
        return torch.stack(terms).sum()
