"""The tiny quality model: a small ResNet that gives an image a score of about 0 to 1."""

from pathlib import Path

import torch
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from mnerfeat.toy.drawing import SIDE
from tiny.fitting import fit, halve, in_batches
from tiny.pictures import Pictures


def train(folder: Path, pictures: Pictures, held_out: Pictures, *, steps: int) -> dict[str, float]:
    """Trains it on the drawn damage, writes a `transformers` folder, and measures it."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        num_labels=1,
        id2label={0: "quality"},
        label2id={"quality": 0},
        problem_type="regression",
    )
    model = ResNetForImageClassification(config)

    def loss_of(rows: torch.Tensor, done: float) -> torch.Tensor:  # noqa: ARG001
        score = model(pictures.batch(rows)).logits[:, 0]
        return functional.mse_loss(score, pictures.quality[rows])

    fit("quality", model.parameters(), loss_of, rows=len(pictures.kinds), steps=steps, rate=3e-3)
    model.eval()
    score = in_batches(lambda rows: model(held_out.batch(rows)).logits[:, 0], len(held_out.kinds))
    model.save_pretrained(folder)
    halve(folder / "model.safetensors")
    ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    error = score - held_out.quality
    together = torch.corrcoef(torch.stack([score, held_out.quality]))[0, 1].item()
    return {"root mean square error": error.pow(2).mean().sqrt().item(), "correlation": together}
