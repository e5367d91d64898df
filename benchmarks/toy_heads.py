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
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from recording import machine

from mnerfeat.cache import FeatureCache
from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import read_folder, read_split
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.evaluation import gold_tags, score
from mnerfeat.extractors.config import ExtractConfig
from mnerfeat.extractors.run import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.text import TextConfig
from mnerfeat.toy import World, WorldConfig, backbone, make_world
from mnerfeat.training import TrainingConfig, train
from mnerfeat.training.data import load_training_data

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
    training = TrainingConfig(
        epochs=chosen.epochs,
        batch_size=32,
        encoder_lr=5e-4,
        fusion_lr=1e-3,
        crf_lr=1e-2,
        patience=0,
        device="cpu",
    )
    found: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        world = make_world(
            folder, seed=chosen.world, train=chosen.train, dev=chosen.dev, test=chosen.test
        )
        seconds["the world"] = time.perf_counter() - started
        cache = Path(folder) / "features.h5"
        started = time.perf_counter()
        look(world, cache)
        seconds["extraction"] = time.perf_counter() - started
        for name in chosen.heads:
            started = time.perf_counter()
            found[name] = [
                f1_on_test(world, cache, HEADS[name], replace(training, seed=seed), Path(folder))
                for seed in chosen.seeds
            ]
            seconds[f"a training of {name}"] = (time.perf_counter() - started) / len(chosen.seeds)
            print(f"{name}: {', '.join(f'{value:.1f}' for value in found[name])}", flush=True)
    text = record(found, seconds, world.config, training, chosen.threads)
    chosen.record.parent.mkdir(parents=True, exist_ok=True)
    chosen.record.write_text(text, "utf-8")
    print(text)
    return found


def look(world: World, cache: Path) -> None:
    """Extract all features of a world with the tiny backbones."""
    data = read_folder(world.data)
    extract(
        ExtractConfig(images=world.images, cache=cache, preset="tiny", device="cpu"),
        texts=[post.text for split in data for post in split.posts],
    )


def f1_on_test(
    world: World, cache: Path, head: HeadConfig, config: TrainingConfig, runs: Path
) -> float:
    """Lenient micro F1 of one training, in percent."""
    run = train(
        load_training_data(world.data, cache, head),
        text=TextConfig(encoder=str(backbone("text"))),
        head=head,
        config=config,
        runs=runs,
    )
    posts = read_split(world.data, "test").posts
    with FeatureCache(cache) as opened:
        images = VisionTable.from_cache(opened, posts, head.columns)
    tagged = run.load_tagger().tag(posts, images)
    scores = score(gold_tags(posts), [one.tags for one in tagged])
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
            f"- Time: {times}, with {threads} thread(s).",
            f"- Machine: {machine()}; load average at the end {os.getloadavg()[0]:.1f}.",
            f"- Versions: {versions}.",
            f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
