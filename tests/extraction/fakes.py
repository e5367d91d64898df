"""Extractors without torch, for tests of everything around the models.

`main` extracts with them: it takes IMAGES CACHE [OPTION=VALUE …] from the command line.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.extraction import local, recorder, runner
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.extractors import registry
from mnerfeat.extractors.base import ExtractorOptions, FeatureSpec, Prepared, UnreadableImageError
from mnerfeat.extractors.device import Compute

FEATURES = {"vit": "vit_cls", "clip": "clip_image", "quality": "quality"}
SHAPES = {"vit": (6,), "clip": (3,), "quality": ()}

KILLER, HANGER, REFUSED, CHOKER, INFINITE = (13, 7), (17, 5), (19, 3), (23, 3), (29, 3)
"""Sizes of images that kill their worker, hang it, are refused, make it raise, overflow."""


class FakePrepare:
    """Every byte of the image counts."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, image: Image.Image) -> Prepared:
        if image.size == KILLER:
            os.kill(os.getpid(), signal.SIGKILL)
        if image.size == HANGER:
            time.sleep(1000)
        if image.size == REFUSED and self.name == "quality":
            raise UnreadableImageError("too odd for it")
        if image.size == CHOKER:
            raise ValueError(f"choked at {image!r}")
        pixels = np.asarray(image).astype(np.float32)
        sums = [pixels.mean((0, 1)), pixels[::2].mean((0, 1)) if len(pixels) else pixels]
        infinite = np.float32(np.inf if image.size == INFINITE else 1)
        return {"sums": np.concatenate(sums) * infinite, "all": np.asarray(image)}


class FakeExtractor:
    """Means of colours. It notes what it was given."""

    def __init__(self, name: str, model: str, *, delay: float = 0.0) -> None:
        self.name = name
        self.model = model
        self.delay = delay
        self.seen: list[int] = []
        self.memory = 1000
        feature = FEATURES[name]
        self.features = {feature: FeatureSpec(shape=SHAPES[name], dtype=np.dtype(np.float32))}
        facts = {"extractor": name, "model": model, "preprocessing": {"size": len(model)}}
        self.provenance = {feature: Provenance(facts)}

    @property
    def prepare(self) -> FakePrepare:
        return FakePrepare(self.name)

    def default_size(self, compute: Compute) -> int:
        return 4

    def images_at_once(self, size: int) -> int:
        return size

    def load(self, compute: Compute) -> None:
        if self.model == "broken":
            raise RuntimeError("weights are broken")

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, Any]:
        if size > self.memory:
            raise MemoryError
        time.sleep(self.delay * len(batch))
        self.seen.append(len(batch))
        width = SHAPES[self.name]
        rows = [image["sums"][: width[0]] if width else image["sums"].mean() for image in batch]
        return {FEATURES[self.name]: np.array(rows, np.float32)}


class FakeTextExtractor(FakeExtractor):
    """It also counts letters."""

    def __init__(self, name: str, model: str, *, delay: float = 0.0) -> None:
        super().__init__(name, model, delay=delay)
        self.context_length = 5
        self.text_features = {"clip_text": FeatureSpec(shape=(3,), dtype=np.dtype(np.float32))}
        self.provenance["clip_text"] = Provenance({"extractor": name, "texts": model})

    def extract_texts(self, texts: Sequence[str], size: int) -> tuple[Mapping[str, Any], int]:
        rows = np.array([[len(text), text.count("a"), text.count(" ")] for text in texts])
        return {"clip_text": rows.astype(np.float32)}, sum(len(t.split()) > 5 for t in texts)


def make(name: str, model: str, delay: float = 0.0) -> FakeExtractor:
    kind = FakeTextExtractor if name == "clip" else FakeExtractor
    return kind(name, model, delay=delay)


def install(*, delay: float = 0.0, part_rows: int = 4) -> dict[str, FakeExtractor]:
    """Put the fakes where the real ones are; gives those that are made, by name."""
    made: dict[str, FakeExtractor] = {}

    def maker(name: str) -> Any:
        def build(wanted: ExtractorOptions) -> FakeExtractor:
            made[name] = make(name, wanted.model(registry.OPTIONS[name]), delay)
            return made[name]

        return build

    for name in FEATURES:
        registry.EXTRACTORS[name] = replace(registry.EXTRACTORS[name], make=maker(name))
    recorder.PART_ROWS = part_rows  # type: ignore[misc]
    device = SimpleNamespace(type="cpu")
    local.choose_computes = lambda names, _: [  # type: ignore[assignment]
        Compute(device=device, half=False)  # type: ignore[arg-type]
        for _ in names.split(",")
    ]
    runner.is_out_of_memory = lambda error: isinstance(error, MemoryError)
    return made


def main() -> None:
    images, cache, *options = sys.argv[1:]
    given = {key: json.loads(value) for key, value in (o.split("=", 1) for o in options)}
    limit = given.pop("file_limit", None)
    install(delay=given.pop("delay", 0.002), part_rows=16)
    texts = given.pop("texts", [])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    print("ready", flush=True)  # noqa: T201
    config = ExtractConfig(images=Path(images), cache=Path(cache), **given)
    print(extract(config, texts=texts))  # noqa: T201
