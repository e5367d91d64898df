"""The tiny ResNet behind `grid` and `regions`: its cells tell figure, wall and damage."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from mnerfeat.toy.drawing import SIDE
from tiny.fitting import fit, halve, in_batches
from tiny.pictures import KIND_NAMES, WALL_NAMES, Pictures

_LEAST_CROP = 0.7


def train(folder: Path, pictures: Pictures, held_out: Pictures, *, steps: int) -> dict[str, float]:
    """Trains it, writes a `transformers` folder, and measures it.

    Linear layers read figure, wall and quality from the mean of the 3 × 3 cells. Half of the
    batches are cropped, because regions are crops.
    """
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic"
    )
    model = ResNetModel(config)
    readers = nn.ModuleList(nn.Linear(64, n) for n in (len(KIND_NAMES), len(WALL_NAMES), 1))
    generator = torch.Generator().manual_seed(3)

    def loss_of(rows: Tensor, done: float) -> Tensor:  # noqa: ARG001
        kind, wall, quality = _read(model, readers, _cropped(pictures.batch(rows), generator))
        loss: Tensor = (
            functional.cross_entropy(kind, pictures.kinds[rows])
            + functional.cross_entropy(wall, pictures.walls[rows])
            + 4 * functional.mse_loss(quality[:, 0], pictures.quality[rows])
        )
        return loss

    parameters = [*model.parameters(), *readers.parameters()]
    fit("grid", parameters, loss_of, rows=len(pictures.kinds), steps=steps, rate=3e-3)
    model.eval()
    answers = in_batches(
        lambda rows: torch.cat(_read(model, readers, held_out.batch(rows)), dim=1),
        len(held_out.kinds),
    )
    model.save_pretrained(folder)
    halve(folder / "model.safetensors")
    ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return _measure(answers, held_out)


def _read(model: nn.Module, readers: nn.ModuleList, pixels: Tensor) -> list[Tensor]:
    cells = model(pixels).last_hidden_state.mean(dim=(2, 3))
    return [reader(cells) for reader in readers]


def _cropped(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The batch as it is, or one random crop of all its pictures, enlarged again."""
    draw = torch.rand(4, generator=generator).tolist()
    if draw[0] < 0.5:
        return pixels
    side = int(SIDE * (_LEAST_CROP + (1 - _LEAST_CROP) * draw[1]))
    top, left = (int((SIDE - side + 1) * share) for share in draw[2:])
    crop = pixels[:, :, top : top + side, left : left + side]
    return functional.interpolate(crop, size=(SIDE, SIDE), mode="bilinear", antialias=True)


def _measure(answers: Tensor, held_out: Pictures) -> dict[str, float]:
    kind, wall, quality = torch.split(answers, [len(KIND_NAMES), len(WALL_NAMES), 1], dim=1)
    together = torch.corrcoef(torch.stack([quality[:, 0], held_out.quality]))[0, 1]
    return {
        "figure accuracy": (kind.argmax(1) == held_out.kinds).float().mean().item(),
        "wall accuracy": (wall.argmax(1) == held_out.walls).float().mean().item(),
        "correlation of quality": together.item(),
    }
