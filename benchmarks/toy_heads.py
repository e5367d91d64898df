"""IQCR-MI and its ablations against text alone, on the toy world with the tiny backbones.

The images alone tell the types there, so a head that fuses them well is far ahead, and one that
lacks the quality or the relevance of images falls behind. The epoch is chosen on dev; test is
scored once a seed. Run it as

    python benchmarks/toy_heads.py

and it writes its record to `benchmarks/results/toy_heads.md`.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from recording import RESULTS, chosen_options, ending, f1_rows, machine, publish

from mnerfeat.cache import FeatureCache
from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import Post, read_folder, read_split
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.evaluation import gold_tags, score
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.tagger import Tagger
from mnerfeat.text import TextConfig
from mnerfeat.toy import World, WorldConfig, backbone, make_world
from mnerfeat.training import TrainingConfig, train
from mnerfeat.training.data import load_training_data

RECORD = RESULTS / "toy_heads.md"
WHOLE = "IQCR-MI"

HEADS: Mapping[str, HeadConfig] = {
    "text only": TextOnlyConfig(),
    WHOLE: IqcrConfig(),
    "w/o IQW": IqcrConfig(ablation="no-iqw"),
    "w/o CMW": IqcrConfig(ablation="no-cmw"),
}


def toy_options(
    description: str, heads: Mapping[str, HeadConfig], record: Path
) -> argparse.ArgumentParser:
    """What every benchmark on the toy world may be asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--train", type=int, default=1200, help="posts to train on")
    parser.add_argument("--dev", type=int, default=200, help="posts to select on")
    parser.add_argument("--test", type=int, default=600, help="posts to score on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--heads", nargs="+", choices=heads, default=list(heads))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, default=record)
    return parser


def toy_training(epochs: int) -> TrainingConfig:
    """What the toy world is learned well with."""
    return TrainingConfig(
        epochs=epochs,
        batch_size=32,
        encoder_lr=5e-4,
        fusion_lr=1e-3,
        crf_lr=1e-2,
        patience=0,
        device="cpu",
    )


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """F1 on test in percent, by head and seed."""
    chosen = toy_options("Heads on the toy world", HEADS, RECORD).parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(chosen.threads)
    training = toy_training(chosen.epochs)
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
    publish(record(found, seconds, world.config, training, chosen.threads), chosen.record)
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
    return f1(*trained(world, cache, head, config, runs))


def trained(
    world: World, cache: Path, head: HeadConfig, config: TrainingConfig, runs: Path
) -> tuple[Tagger, Sequence[Post], VisionTable]:
    """A tagger after one training, and the posts of test with their images."""
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
    return run.load_tagger(), posts, images


def f1(tagger: Tagger, posts: Sequence[Post], images: VisionTable) -> float:
    """Lenient micro F1, in percent."""
    tags = [tagged.tags for tagged in tagger.tag(posts, images)]
    return 100 * score(gold_tags(posts), tags).lenient.overall.f1


def record(
    found: Mapping[str, list[float]],
    seconds: Mapping[str, float],
    world: WorldConfig,
    training: TrainingConfig,
    threads: int,
) -> str:
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return "\n".join(
        [
            "# Heads on the toy world",
            "",
            "`python benchmarks/toy_heads.py`: lenient micro F1 on test, in percent, mean and",
            "standard deviation over seeds of training. The epoch is chosen on dev.",
            "",
            "| head | F1 | against IQCR-MI | by seed |",
            "|---|---|---|---|",
            *f1_rows(found, WHOLE),
            "",
            f"- World: seed {world.seed}, {world.train} / {world.dev} / {world.test} posts.",
            f"- Options other than the defaults: {chosen_options(training)}.",
            f"- Time: {times}, with {threads} thread(s).",
            *ending(machine(), library_versions()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
