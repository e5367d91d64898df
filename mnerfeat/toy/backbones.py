"""The tiny trained backbones in the package.

Each has its own folder in the format of the usual loader: `vit`, `quality`, `grid` and `text` for
`transformers`, `clip` for open_clip (`local-dir:`). They were trained on the toy world alone.
`tools/train_tiny_backbones.py` trains them again and writes its measurements to `record.json`.
"""

from pathlib import Path

from mnerfeat.errors import ConfigError, ModelError

WEIGHTS = Path(__file__).parent / "weights"
"""Parent folder of the backbones."""

BACKBONES = {
    "vit": "ViT whose [CLS] vector (64 numbers) shows the drawn figure, and so the entity type",
    "clip": "CLIP whose cosine is high where a post hints at the wall in an image",
    "quality": "ResNet that scores how far an image can be trusted, about 0 to 1, higher is better",
    "grid": "ResNet whose 3 × 3 cells (64 numbers each) show figure, wall and damage",
    "text": "BERT of 2 layers and 128 dimensions, trained on toy posts",
}
"""Descriptions by name."""


def backbone(name: str) -> Path:
    """Return the folder of a tiny backbone.

    Args:
        name: One of `BACKBONES`.

    Raises:
        ConfigError: There is no such backbone.
        ModelError: Its weights are not in this installation.
    """
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone '{name}'; choose from: {', '.join(BACKBONES)}")
    folder = WEIGHTS / name
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"the tiny backbone '{name}' is not in this installation: no weights in {folder}",
            hint="python tools/train_tiny_backbones.py",
        )
    return folder
