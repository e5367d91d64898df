"""The tiny ViT: its CLS vector tells which figure is drawn, and as little else as possible."""

from pathlib import Path

import torch
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from mnerfeat.toy.drawing import SIDE
from mnerfeat.toy.figures import KINDS
from tiny.fitting import fit, halve, in_batches
from tiny.pictures import KIND_NAMES, Pictures


def train(folder: Path, pictures: Pictures, held_out: Pictures, *, steps: int) -> dict[str, float]:
    """Trains it, writes a `transformers` folder, and measures it.

    Beside the figure's class, the loss draws the CLS vectors of one figure to their mean. So the
    wall (what a post hints at) and the damage leave the vector: a system must get them from CLIP
    and from the quality score, as the ablations of IQCR-MI suppose.
    """
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=SIDE,
        patch_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(KIND_NAMES)),
        label2id={kind: place for place, kind in enumerate(KIND_NAMES)},
    )
    model = ViTForImageClassification(config)
    centres = torch.zeros(len(KIND_NAMES), config.hidden_size)

    def loss_of(rows: torch.Tensor, done: float) -> torch.Tensor:
        kinds = pictures.kinds[rows]
        cls = model.vit(pictures.batch(rows)).last_hidden_state[:, 0]
        with torch.no_grad():
            for kind in set(kinds.tolist()):
                centres[kind] = 0.9 * centres[kind] + 0.1 * cls[kinds == kind].mean(0)
        spread = (cls - centres[kinds]).pow(2).mean()
        pull = 15.0 * min(1.0, max(0.0, 2.0 * (done - 0.3)))
        loss: torch.Tensor = functional.cross_entropy(model.classifier(cls), kinds) + pull * spread
        return loss

    fit("vit", model.parameters(), loss_of, rows=len(pictures.kinds), steps=steps, rate=1.5e-3)
    model.eval()
    cls = in_batches(
        lambda rows: model.vit(held_out.batch(rows)).last_hidden_state[:, 0], len(held_out.kinds)
    )
    model.save_pretrained(folder)
    halve(folder / "model.safetensors")
    ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    with torch.no_grad():
        return _measure(cls, model.classifier(cls), held_out)


def _measure(cls: torch.Tensor, logits: torch.Tensor, held_out: Pictures) -> dict[str, float]:
    names = sorted(set(KINDS.values()))
    types = torch.tensor([names.index(KINDS[kind]) for kind in KIND_NAMES])
    right = (types[logits.argmax(1)] == types[held_out.kinds]).float()
    poor = held_out.quality < 0.35
    spread = sum(
        (cls[held_out.kinds == kind] - cls[held_out.kinds == kind].mean(0)).pow(2).sum().item()
        for kind in set(held_out.kinds.tolist())
    )
    return {
        "figure accuracy": (logits.argmax(1) == held_out.kinds).float().mean().item(),
        "type accuracy, clear": right[~poor].mean().item(),
        "type accuracy, degraded": right[poor].mean().item(),
        "variance within figures": spread / (cls - cls.mean(0)).pow(2).sum().item(),
    }
