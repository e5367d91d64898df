"""IQCR-MI and its ablations against text alone, on the toy world with the tiny backbones.

The images alone tell the types there, so a head that fuses them well is far ahead, and one that
lacks the quality or the relevance of images falls behind. The epoch is chosen on dev; test is
scored once a seed. Run it as

    python benchmarks/toy_heads.py

and it writes its record to `benchmarks/results/toy_heads.md`.
"""

import argparse
import logging
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageClassification

from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import TagSet
from mnerfeat.datasets.vision import RELEVANCE, VisionTable
from mnerfeat.evaluation import gold_tags, score
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.text import TextConfig
from mnerfeat.toy import Mixture, ToyPost, World, WorldConfig, backbone, plan_world
from mnerfeat.toy.drawing import draw
from mnerfeat.training import TrainingConfig, TrainingData, train

RECORD = Path(__file__).parent / "results" / "toy_heads.md"

HEADS: Mapping[str, HeadConfig] = {
    "text only": TextOnlyConfig(),
    "IQCR-MI": IqcrConfig(),
    "w/o IQW": IqcrConfig(ablation="no-iqw"),
    "w/o CMW": IqcrConfig(ablation="no-cmw"),
}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Heads on the toy world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--train", type=int, default=1200, help="posts to train on")
    parser.add_argument("--dev", type=int, default=200, help="posts to select on")
    parser.add_argument("--test", type=int, default=600, help="posts to score on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """F1 on test in percent, by head and seed."""
    chosen = options(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(chosen.threads)
    config = WorldConfig(
        seed=chosen.world, train=chosen.train, dev=chosen.dev, test=chosen.test, mixture=Mixture()
    )
    world = plan_world(Path("toy"), config)
    started = time.perf_counter()
    images = {split: see(toys) for split, toys in world.splits.items()}
    seconds = {"drawing and looking at the images": time.perf_counter() - started}
    found: dict[str, list[float]] = {}
    training = TrainingConfig(
        epochs=chosen.epochs,
        batch_size=32,
        encoder_lr=5e-4,
        fusion_lr=1e-3,
        crf_lr=1e-2,
        scalar_lr=5e-2,
        patience=0,
        device="cpu",
    )
    for name in chosen.heads:
        started = time.perf_counter()
        found[name] = [
            f1_on_test(world, images, HEADS[name], TrainingConfig(**asdict(training) | {"seed": s}))
            for s in chosen.seeds
        ]
        seconds[name] = (time.perf_counter() - started) / len(chosen.seeds)
        print(f"{name}: {', '.join(f'{value:.1f}' for value in found[name])}", flush=True)
    text = record(found, seconds, config, training, chosen.threads)
    chosen.record.parent.mkdir(parents=True, exist_ok=True)
    chosen.record.write_text(text, "utf-8")
    print(text)
    return found


def see(toys: list[ToyPost]) -> VisionTable:
    """Every column of some posts' images, straight from the backbones."""
    vit = AutoModelForImageClassification.from_pretrained(backbone("vit")).eval()
    quality = AutoModelForImageClassification.from_pretrained(backbone("quality")).eval()
    clip = open_clip.create_model(f"local-dir:{backbone('clip')}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{backbone('clip')}")
    drawn = [draw(image.scene)[0] for toy in toys for image in toy.images]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    rows = torch.full((len(toys), max(len(toy.images) for toy in toys)), -1)
    rows[torch.tensor([[i < len(toy.images) for i in range(rows.shape[1])] for toy in toys])] = (
        torch.arange(len(drawn))
    )
    with torch.no_grad():
        cls, scores, images = (
            torch.cat([look(pixels[at : at + 250]) for at in range(0, len(pixels), 250)])
            for look in (
                lambda part: vit.vit(part).last_hidden_state[:, 0],
                lambda part: quality(part).logits[:, 0],
                clip.encode_image,
            )
        )
        texts = clip.encode_text(tokenizer([toy.post.text for toy in toys]))
    cosines = _normalised(texts)[:, None] * _normalised(images)[rows]
    relevance = cosines.sum(-1) * (rows >= 0)
    return VisionTable.from_tensors(
        rows, {"vit_cls": cls.half(), "quality": scores}, {RELEVANCE: relevance}
    )


def _normalised(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)


def f1_on_test(
    world: World, images: Mapping[str, VisionTable], head: HeadConfig, config: TrainingConfig
) -> float:
    """Lenient micro F1 of one training, in percent."""
    posts = {split: [toy.post for toy in toys] for split, toys in world.splits.items()}
    with tempfile.TemporaryDirectory() as runs:
        run = train(
            TrainingData(
                train=posts["train"],
                dev=posts["dev"],
                train_images=images["train"],
                dev_images=images["dev"],
                tag_set=TagSet(),
            ),
            text=TextConfig(encoder=str(backbone("text"))),
            head=head,
            config=config,
            runs=Path(runs),
        )
        tagged = run.load_tagger().tag(posts["test"], images["test"])
    scores = score(gold_tags(posts["test"]), [one.tags for one in tagged])
    return 100 * scores.lenient.overall.f1


def record(
    found: Mapping[str, list[float]],
    seconds: Mapping[str, float],
    world: WorldConfig,
    training: TrainingConfig,
    threads: int,
) -> str:
    rows = []
    full = found.get("IQCR-MI")
    for name, values in found.items():
        mean = statistics.fmean(values)
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        behind = "" if full is None else f"{mean - statistics.fmean(full):+.1f}"
        each = ", ".join(f"{value:.1f}" for value in values)
        rows.append(f"| {name} | **{mean:.1f}**{spread} | {behind} | {each} |")
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    changed = {
        name: value
        for name, value in asdict(training).items()
        if value != getattr(TrainingConfig(), name)
    }
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return "\n".join(
        [
            "# Heads on the toy world",
            "",
            "`python benchmarks/toy_heads.py`: lenient micro F1 on test, in percent, mean and",
            "standard deviation over seeds of training. The epoch is chosen on dev.",
            "",
            "| head | F1 | against IQCR-MI | by seed |",
            "|---|---|---|---|",
            *rows,
            "",
            f"- World: seed {world.seed}, {world.train} / {world.dev} / {world.test} posts.",
            f"- Options other than the defaults: {changed}.",
            f"- Time: {times} (a training), with {threads} thread(s).",
            f"- Machine: {machine()}; load average at the end {os.getloadavg()[0]:.1f}.",
            f"- Versions: {versions}.",
            f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
            "",
        ]
    )


def machine() -> str:
    lscpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    fields = dict(line.split(":", 1) for line in lscpu.splitlines() if ":" in line)
    model = fields.get("Model name", platform.processor()).strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} vCPU {model}, {memory:.0f} GiB"


if __name__ == "__main__":
    main()
