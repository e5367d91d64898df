"""The tiny trained backbones that come with the package.

Each lies in a folder of its own, in the format that its real loader reads: `vit`, `quality`,
`grid` and `text` in that of `transformers`, `clip` in that of `open_clip` (`local-dir:`). They know
the toy world and nothing else. `tools/train_tiny_backbones.py` trains them anew; `record.json`
beside them holds what it measured.
"""

from pathlib import Path

from mnerfeat.errors import ConfigError, ModelError

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the backbones' folders."""

BACKBONES = {
    "vit": "ViT whose [CLS] vector (64 numbers) shows the drawn figure, and so the entity type",
    "clip": "CLIP whose cosine is high where a post hints at the wall in an image",
    "quality": "ResNet that scores how far an image can be trusted, about 0 to 1, higher is better",
    "grid": "ResNet whose 3 × 3 cells (64 numbers each) tell figure, wall and damage",
    "text": "BERT of 2 layers and 128 dimensions that has read toy posts",
}
"""By name, what each is."""


def backbone(name: str) -> Path:
    """The folder of a tiny backbone.

    Args:
        name: One of `BACKBONES`.

    Raises:
        ConfigError: There is none of that name.
        ModelError: Its folder is not in this installation.
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
