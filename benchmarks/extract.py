"""Extraction against each model's own documented loop: same weights, images and device, one run.

    python benchmarks/extract.py --images ../shared/data/images

The weights are random, so nothing is downloaded; that changes no time. "Stock" is what the
documentation of each library shows: the `image-feature-extraction` pipeline of transformers,
open_clip's transform and `encode_image`, and a pyiqa metric, image by image. "Ours" is a whole run
of `extract` with loaded models, from the folder to the sealed cache: listing, hashing, decoding,
writing and packing included. Both are repeated in turns and the best time of each counts, so that
other work on the machine weighs little. The record goes to `benchmarks/results/`.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
import transformers
from PIL import Image
from pyiqa.models.inference_model import InferenceModel
from recording import CLOCKS, RESULTS, add_run, begin, ending, machine, publish
from safetensors.torch import load_file, save_file

from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.extractors.device import choose_compute

GFLOPS = {"vit": 35.0, "clip": 8.8, "maniqa 500×375": 6055.0, "maniqa 224×224": 6055.0}
"""Of stock per image, two for each multiply-add: ViT-B/16, CLIP ViT-B/32, MANIQA's 20 crops."""

CLOCK_WORDS = {
    "wall": "clock on the wall",
    "processor": "processor (all threads of the main process together), because others were using "
    "the\nmachine",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the record.

    Attributes:
        what: The model and its images.
        images: How many.
        stock: Images a second.
        ours: Images a second.
    """

    what: str
    images: int
    stock: float
    ours: float

    @property
    def ratio(self) -> float:
        """Ours over stock's."""
        return self.ours / self.stock


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Extraction against the models' own loops")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=64, help="images for ViT and CLIP")
    parser.add_argument("--large", type=int, default=2, help="500×375 images for MANIQA")
    parser.add_argument("--small", type=int, default=4, help="224×224 images for MANIQA")
    parser.add_argument("--files", type=int, default=6000, help="files for the second run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--numerics", default="fast")
    parser.add_argument("--only", nargs="*", default=["vit", "clip", "maniqa", "again"])
    add_run(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    chosen = options(argv)
    begin(chosen.threads)
    rows: list[Row] = []
    again = None
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photographs = photos(chosen.images, work / "photos", chosen.count)
        if "vit" in chosen.only:
            rows.append(compare("vit", photographs, stock_vit, save_vit(work / "vit"), chosen))
        if "clip" in chosen.only:
            rows.append(compare("clip", photographs, stock_clip, save_clip(work / "clip"), chosen))
        if "maniqa" in chosen.only:
            weights = save_maniqa(work / "maniqa.safetensors")
            for size, count in (((500, 375), chosen.large), ((224, 224), chosen.small)):
                name = f"maniqa {size[0]}×{size[1]}"
                some = photos(chosen.images, work / name, count, size)
                rows.append(compare(name, some, stock_maniqa, weights, chosen))
        if "again" in chosen.only:
            again = second_run(chosen, work)
        limit = peak(chosen) if rows else 0.0
        text = record(chosen, rows, (again or "not measured.", start_up(chosen)), limit)
    kind = "gpu" if chosen.device.startswith("cuda") else "cpu"
    publish(text, chosen.record or RESULTS / f"extract_{kind}.md")
    return rows


def photos(source: Path, folder: Path, count: int, size: tuple[int, int] | None = None) -> Path:
    """As many different JPEG files as asked for, from the photographs there are."""
    folder.mkdir(parents=True)
    paths = sorted(path for path in source.iterdir() if path.suffix == ".jpg")
    for i in range(count):
        path = paths[i % len(paths)]
        if size is None:
            # Bytes after the end of a JPEG make another file of the same picture.
            (folder / f"{i:05}.jpg").write_bytes(path.read_bytes() + i.to_bytes(4, "big"))
        else:
            with Image.open(path) as image:
                image.convert("RGB").resize(size).save(folder / f"{i:05}.jpg", quality=90)
    return folder


Stock = Callable[[Path, str], Callable[[Path], Any]]
"""From weights and a device to the documented call for one image."""


def compare(
    what: str, images: Path, stock: Stock, weights: Path, chosen: argparse.Namespace
) -> Row:
    """Time both ways in turns, the models of both loaded and warm."""
    paths = sorted(images.iterdir())
    look = stock(weights, chosen.device)
    look(paths[0])
    name = what.split(" ", maxsplit=1)[0]
    feature = "quality" if name == "maniqa" else name
    model = f"maniqa:{weights}" if name == "maniqa" else str(weights)
    cache = images.parent / f"{what}.h5"
    given: dict[str, Any] = {
        "images": images,
        "cache": cache,
        "features": (feature,),
        "device": chosen.device,
        "numerics": chosen.numerics,
        "workers": chosen.workers,
        "progress": False,
        feature: model,
    }
    config = ExtractConfig(**given)
    extractors = config.extractors()
    compute = choose_compute(config.device, config.numerics)
    for extractor in extractors:
        extractor.load(compute)
        extractor.prepare  # noqa: B018  (loads the processor)
    clock = CLOCKS[chosen.clock]
    best = {"stock": float("inf"), "ours": float("inf")}
    for turn in range(chosen.repeats):
        start = clock()
        for path in paths:
            look(path)
        best["stock"] = min(best["stock"], clock() - start)
        start = clock()
        summary = extract(config, extractors=extractors)
        best["ours"] = min(best["ours"], clock() - start)
        assert summary.new == len(paths), summary
        cache.unlink()
        print(f"{what}: turn {turn + 1}, load {os.getloadavg()[0]:.1f}, {best}", file=sys.stderr)
    rates = {way: len(paths) / seconds for way, seconds in best.items()}
    return Row(what=what, images=len(paths), stock=rates["stock"], ours=rates["ours"])


def stock_vit(weights: Path, device: str) -> Callable[[Path], Any]:
    run = transformers.pipeline(
        "image-feature-extraction", model=str(weights), device=device, return_tensors=True
    )
    return lambda path: run(str(path))[0, 0].cpu().numpy()


def stock_clip(weights: Path, device: str) -> Callable[[Path], Any]:
    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{weights}", device=device
    )
    model.eval()

    def look(path: Path) -> Any:
        with torch.no_grad(), Image.open(path) as image:
            return model.encode_image(transform(image)[None].to(device)).cpu().numpy()

    return look


def stock_maniqa(weights: Path, device: str) -> Callable[[Path], Any]:
    metric = make_metric(device)
    metric.net.load_state_dict(load_file(weights))
    return lambda path: metric(str(path)).item()


def make_metric(device: str) -> InferenceModel:
    """The metric of pyiqa, without the download of weights that would be overwritten."""
    create = timm.create_model
    with mock.patch.object(timm, "create_model", lambda name, **_: create(name, pretrained=False)):
        return InferenceModel("maniqa", pretrained=False, device=torch.device(device))


def save_vit(folder: Path) -> Path:
    transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    folder.mkdir()
    config = open_clip.get_model_config("ViT-B-32")
    model = open_clip.create_model("ViT-B-32")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


def save_maniqa(path: Path) -> Path:
    tensors = make_metric("cpu").net.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def second_run(chosen: argparse.Namespace, work: Path) -> str:
    """A run over a complete cache, in a process of its own: everything it costs a user."""
    images = photos(chosen.images, work / "many", chosen.files)
    config = f"images={str(images)!r}, cache={str(work / 'many.h5')!r}, preset='tiny'"
    script = (
        "import time; start = time.perf_counter()\n"
        "from pathlib import Path\n"
        "from mnerfeat.extraction.config import ExtractConfig\n"
        "from mnerfeat.extraction.extract import extract\n"
        f"given = dict({config}, progress=False)\n"
        "given = given | {k: Path(given[k]) for k in ('images', 'cache')}\n"
        "summary = extract(ExtractConfig(**given))\n"
        "print(summary.new, summary.seconds, time.perf_counter() - start)\n"
    )
    best = (float("inf"), float("inf"))
    for turn in range(chosen.repeats + 1):
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        new, seconds, whole = run.stdout.split()
        assert int(new) == (0 if turn else chosen.files), run.stdout
        if turn:
            best = min(best, (float(seconds), float(whole)))
    shutil.rmtree(images)
    return (
        f"{chosen.files:,} photographs, everything in the cache already: {best[0]:.2f} s, "
        f"**{chosen.files / best[0]:,.0f} images/s**; {best[1]:.2f} s from the start of Python, "
        f"{chosen.files / best[1]:,.0f} images/s."
    )


def peak(chosen: argparse.Namespace) -> float:
    """What one large product of matrices reaches here, in GFLOP/s: the limit to compare with."""
    device, gpu = chosen.device, chosen.device.startswith("cuda")
    clock = CLOCKS[chosen.clock]
    side, dtype = (8192, torch.float16) if gpu else (2048, torch.float32)
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        start = clock()
        a @ a
        if gpu:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return 2 * side**3 / best / 1e9


def start_up(chosen: argparse.Namespace) -> float:
    """Seconds until `mnerfeat --help` has answered, the best of a few."""

    def spent() -> float:
        if chosen.clock == "wall":
            return time.perf_counter()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    best = float("inf")
    for _ in range(5):
        start = spent()
        subprocess.run(
            [sys.executable, "-m", "mnerfeat", "--help"], capture_output=True, check=True
        )
        best = min(best, spent() - start)
    return best


def record(
    chosen: argparse.Namespace, rows: Sequence[Row], others: tuple[str, float], limit: float
) -> str:
    table = "\n".join(
        f"| {row.what} | {row.images} | {row.stock:.3g} | {row.ours:.3g} | **{row.ratio:.2f}×** | "
        f"{GFLOPS[row.what] * row.ours / limit:.0%} |"
        for row in rows
    )
    number = "float16" if chosen.device.startswith("cuda") else "float32"
    workers = "by default" if chosen.workers is None else chosen.workers
    libraries = (torch, transformers, open_clip, timm)
    versions = {library.__name__: library.__version__ for library in libraries}
    last = ending(machine(chosen.device), {"python": platform.python_version(), **versions})
    return f"""# Extraction against the models' own loops

`python benchmarks/extract.py --images {chosen.images} --device {chosen.device}`:
same weights (random), same images, same device, both in turns in one run, best of
{chosen.repeats}. Ours is a whole run of `extract`, from the folder to the sealed cache, with
loaded models. Seconds are those of the {CLOCK_WORDS[chosen.clock]}.

| | images | stock, images/s | ours, images/s | ratio | share of the limit |
|---|---|---|---|---|---|
{table}

The limit is one large {number} product of matrices, {limit:,.0f} GFLOP/s; the share counts the
FLOPs of stock at our rate, so work that we leave out (identical crops, blocks nobody reads) can
take it above 100 %.

A second run: {others[0]}

`mnerfeat --help` has answered after {others[1]:.2f} s.

- Numerics: {chosen.numerics}; workers: {workers}; torch threads: {chosen.threads}.
{chr(10).join(last)}
"""


if __name__ == "__main__":
    main()
