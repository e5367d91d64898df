"""Writes a toy world: posts, drawn images, and the truth about them.

```
data/train.jsonl dev.jsonl test.jsonl   posts, in the format of MNER-MI
images/                                 PNG, 48 × 48 pixels
rankings.jsonl                          images best first, and the position of the blank
captions.jsonl tags.jsonl regions.jsonl what is drawn where
mnerfeat.toml                           settings that fit a world this small; a user's is kept
world.json                              how it was made; written last
```
"""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mnerfeat.datasets import write_json_lines
from mnerfeat.errors import ConfigError, DataError, StorageError
from mnerfeat.toy.language import Share
from mnerfeat.toy.plan import Mixture, ToyPost, plan_posts
from mnerfeat.toy.views import ViewMixture, plan_view_posts, render

logger = logging.getLogger(__name__)

VERSION = 1
"""Goes up when the same arguments give another world."""

SETTINGS = """\
# The backbones inside the package, which know this world and no other.
preset = "tiny"

[extract]
images = "images"
# What a captioner and a detector would tell: for --features grid,regions,tags,caption.
captions = "captions.jsonl"
tags = "tags.jsonl"
regions = "regions.jsonl"
workers = 0  # small images are decoded before a worker process has started

# Models this small, on data this small, learn at higher rates than real ones.
[train]
epochs = 10
batch_size = 32
encoder_lr = 5e-4
fusion_lr = 1e-3
crf_lr = 1e-2
patience = 0
"""

_STARTED, _FINISHED = "world.json.unfinished", "world.json"


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A toy world."""

    seed: int = 0
    """The same seed and sizes give the same world on every machine."""

    train: int = 1200
    """Posts to train on."""

    dev: int = 200
    """Posts to select on."""

    test: int = 300
    """Posts to score on."""

    mixture: Mixture | ViewMixture = field(default_factory=Mixture)
    """How often what happens."""

    def __post_init__(self) -> None:
        for name in ("seed", "train", "dev", "test"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class World:
    """A toy world on disk.

    Attributes:
        folder: Where it lies.
        config: What it was made by.
        splits: By name, its posts with the truth about them.
    """

    folder: Path
    config: WorldConfig
    splits: dict[str, list[ToyPost]]

    @property
    def data(self) -> Path:
        """The folder of the posts."""
        return self.folder / "data"

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.folder / "images"

    @property
    def rankings(self) -> Path:
        """One JSON object a line: `id`, `images` best first, `blank`: its position among them."""
        return self.folder / "rankings.jsonl"

    @property
    def captions(self) -> Path:
        """One JSON object a line: `image`, `caption`."""
        return self.folder / "captions.jsonl"

    @property
    def tags(self) -> Path:
        """One JSON object a line: `image`, `tags`: five words."""
        return self.folder / "tags.jsonl"

    @property
    def regions(self) -> Path:
        """One JSON object a line: `image`, `boxes` (pixels, XYXY), `labels`; three of each."""
        return self.folder / "regions.jsonl"


def make_world(
    folder: Path | str,
    *,
    seed: int = 0,
    train: int = 1200,
    dev: int = 200,
    test: int = 300,
    mixture: Mixture | ViewMixture | None = None,
) -> World:
    """Makes a toy world in a folder.

    A world that is already there and was made by the same arguments is left as it is; one that
    was interrupted is written anew.

    Args:
        folder: Created where it does not exist; other files in it are left alone.
        seed: The same seed and sizes give the same world on every machine.
        train: Posts to train on.
        dev: Posts to select on.
        test: Posts to score on.
        mixture: How often what happens: a `Mixture`, or a `ViewMixture` for the world in which
            one representation of an image tells the type.

    Raises:
        ConfigError: A negative number.
        DataError: The folder holds another world, or `data` or `images` that are no toy world.
        StorageError: The folder cannot be written.
    """
    config = WorldConfig(seed=seed, train=train, dev=dev, test=test, mixture=mixture or Mixture())
    world = plan_world(Path(folder), config)
    made_by = json.dumps({"version": VERSION, **asdict(config)}, sort_keys=True) + "\n"
    if _is_there(world, made_by):
        logger.info("the toy world in %s is already there", folder)
        return world
    try:
        _write(world, made_by)
    except OSError as error:
        raise StorageError(
            f"the toy world cannot be written to {folder}: {error.strerror or error}",
            hint="free some space or choose another folder, then run it again",
        ) from error
    return world


def plan_world(folder: Path, config: WorldConfig) -> World:
    """The world that `make_world` would write, without writing it."""
    sizes: dict[Share, int] = {"train": config.train, "dev": config.dev, "test": config.test}
    splits = {}
    for split, count in sizes.items():
        if isinstance(config.mixture, ViewMixture):
            posts = plan_view_posts(count, seed=config.seed, share=split, mixture=config.mixture)
        else:
            posts = plan_posts(count, seed=config.seed, share=split, mixture=config.mixture)
        splits[str(split)] = posts
    return World(folder=folder, config=config, splits=splits)


def _is_there(world: World, made_by: str) -> bool:
    finished, started = world.folder / _FINISHED, world.folder / _STARTED
    hint = "choose another folder, or move what is there away"
    if finished.is_file():
        if finished.read_text(encoding="utf-8") == made_by:
            return True
        raise DataError(f"{world.folder} holds another toy world ({_FINISHED} differs)", hint=hint)
    taken = [path.name for path in (world.data, world.images) if path.exists()]
    if taken and not started.is_file():
        raise DataError(
            f"{world.folder} already holds {' and '.join(taken)}, which no toy world made",
            hint=hint,
        )
    return False


def _write(world: World, made_by: str) -> None:
    world.images.mkdir(parents=True, exist_ok=True)
    # The mark comes before anything else, so that what an interruption leaves is known as ours.
    _write_lines(world.folder / _STARTED, [made_by.rstrip("\n")])
    world.data.mkdir(exist_ok=True)
    for split, posts in world.splits.items():
        write_json_lines((toy.post for toy in posts), world.data / f"{split}.jsonl")
    toys = [toy for posts in world.splits.values() for toy in posts]
    captions, tags, regions = [], [], []
    for image in (image for toy in toys for image in toy.images):
        shown = render(image)
        Image.fromarray(shown.pixels).save(world.images / image.name, compress_level=1)
        captions.append({"image": image.name, "caption": shown.caption})
        tags.append({"image": image.name, "tags": list(shown.tags)})
        boxes, labels = [list(box) for box in shown.boxes], list(shown.labels)
        regions.append({"image": image.name, "boxes": boxes, "labels": labels})
    rankings = []
    for toy in toys:
        if toy.images:
            ranked, blank = toy.ranking()
            rankings.append({"id": toy.post.id, "images": ranked, "blank": blank, "source": "toy"})
    _write_objects(world.rankings, rankings)
    _write_objects(world.captions, captions)
    _write_objects(world.tags, tags)
    _write_objects(world.regions, regions)
    if not (world.folder / "mnerfeat.toml").exists():
        _write_lines(world.folder / "mnerfeat.toml", SETTINGS.splitlines())
    (world.folder / _STARTED).replace(world.folder / _FINISHED)
    logger.info("a toy world of %d posts and %d images in %s", len(toys), len(tags), world.folder)


def _write_objects(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    _write_lines(path, (json.dumps(item, ensure_ascii=False) for item in objects))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
