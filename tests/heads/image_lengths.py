"""How far the fused text of IQCR-MI moves if images change their length."""

import torch

from mnerfeat.heads.base import HeadSizes, Images, Words
from mnerfeat.heads.blocks import Norm
from mnerfeat.heads.iqcr import IqcrConfig

POSTS, WORDS, SIZE = 16, 10, 768


def movement(norm: Norm, factors: list[float]) -> float:
    """Return how far the fused text moves if three images are scaled by `factors`.

    Measured at fresh weights in BERT-base's size, on vectors from a standard normal distribution,
    as a fraction of the distance to the fused text of the same posts without images.
    """
    sizes = HeadSizes(
        n_tags=9, d_text=SIZE, text_layers=12, text_heads=12, columns={"vit_cls": SIZE}
    )
    torch.manual_seed(0)
    fusion = IqcrConfig(ablation="unweighted", norm=norm, dropout=0.0).build(sizes).fusion.eval()
    states, vectors = torch.randn(POSTS, WORDS, SIZE), torch.randn(POSTS, len(factors), SIZE)
    words = Words(
        states=states,
        mask=torch.ones(POSTS, WORDS, dtype=torch.bool),
        sentence=states[:, 0],
    )

    @torch.no_grad()
    def fused(scale: torch.Tensor, *, images: bool = True) -> torch.Tensor:
        mask = torch.full((POSTS, len(factors)), images)
        columns = {"vit_cls": vectors * scale[:, None]}
        return fusion(words, Images(mask=mask, columns=columns)).states

    unscaled = torch.ones(len(factors))
    whole = fused(unscaled)
    contribution = (whole - fused(unscaled, images=False)).norm()
    return ((fused(torch.tensor(factors)) - whole).norm() / contribution).item()
