"""DPE-MNER, its ablations and BERT-Iterative on the toy world with the tiny backbones.

The images alone tell the types there: BERT-Iterative, the same head without images, can find the
names but not what they are. Posts have one image each, as in the data sets that DPE-MNER was made
for; `--images 4` takes the mixture of the other benchmarks, where the head would have to find the
telling one among up to four. Captions, tags and boxes are those that the world writes. The epoch
is chosen on dev; test is scored once a seed. Run it as

    python benchmarks/toy_dpe.py

and it writes its record to `benchmarks/results/toy_dpe.md`.
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
from toy_heads import f1_on_test

from mnerfeat.checkpoint import library_versions
from mnerfeat.extractors.config import ExtractConfig
from mnerfeat.extractors.run import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.toy import Mixture, World, WorldConfig, make_world
from mnerfeat.training import TrainingConfig

RECORD = Path(__file__).parent / "results" / "toy_dpe.md"

HEADS: Mapping[str, HeadConfig] = {
    "BERT-Iterative": IterativeConfig(),
    "DPE-MNER": DpeConfig(),
    "w/o CRM": DpeConfig(ablation="no-crm"),
    "w/o DMF": DpeConfig(ablation="no-dmf"),
    "w/o PMI": DpeConfig(ablation="no-pmi"),
    "schedule intent": DpeConfig(schedule="intent"),
}
FULL = "DPE-MNER"
FEATURES = ("grid", "regions", "tags", "caption")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="DPE-MNER on the toy world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--train", type=int, default=1200, help="posts to train on")
    parser.add_argument("--dev", type=int, default=100, help="posts to select on")
    parser.add_argument("--test", type=int, default=300, help="posts to score on")
    parser.add_argument("--images", type=int, choices=(1, 4), default=1, help="of a post, at most")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fusion-lr", type=float, default=1e-3)
    parser.add_argument("--spans", type=int, default=60, help="noisy spans (N_s)")
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
        batch_size=16,
        encoder_lr=5e-4,
        fusion_lr=chosen.fusion_lr,
        patience=0,
        device="cpu",
    )
    found: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(
            folder,
            seed=chosen.world,
            train=chosen.train,
            dev=chosen.dev,
            test=chosen.test,
            mixture=Mixture(images=(1.0,)) if chosen.images == 1 else Mixture(),
        )
        cache = Path(folder) / "features.h5"
        started = time.perf_counter()
        look(world, cache)
        seconds["extraction"] = time.perf_counter() - started
        for name in chosen.heads:
            started = time.perf_counter()
            head = replace(HEADS[name], spans=chosen.spans)  # type: ignore[call-arg]
            found[name] = []
            for seed in chosen.seeds:
                config = replace(training, seed=seed)
                found[name].append(f1_on_test(world, cache, head, config, Path(folder)))
                print(f"{name}, seed {seed}: {found[name][-1]:.1f}", flush=True)
            seconds[f"a training of {name}"] = (time.perf_counter() - started) / len(chosen.seeds)
    text = record(found, seconds, world.config, training, chosen)
    chosen.record.parent.mkdir(parents=True, exist_ok=True)
    chosen.record.write_text(text, "utf-8")
    print(text)
    return found


def look(world: World, cache: Path) -> None:
    """Extract what DPE-MNER reads of a world, from the world's own captions, tags and boxes."""
    extract(
        ExtractConfig(
            images=world.images,
            cache=cache,
            preset="tiny",
            features=FEATURES,
            workers=0,
            captions=world.captions,
            tags=world.tags,
            regions=world.regions,
            device="cpu",
        )
    )


def record(
    found: Mapping[str, list[float]],
    seconds: Mapping[str, float],
    world: WorldConfig,
    training: TrainingConfig,
    chosen: argparse.Namespace,
) -> str:
    rows = []
    full = found.get(FULL)
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
            "# DPE-MNER on the toy world",
            "",
            "`python benchmarks/toy_dpe.py`: lenient micro F1 on test, in percent, mean and",
            "standard deviation over seeds of training. The epoch is chosen on dev.",
            "",
            "| head | F1 | against DPE-MNER | by seed |",
            "|---|---|---|---|",
            *rows,
            "",
            f"- World: seed {world.seed}, {world.train} / {world.dev} / {world.test} posts.",
            f"- Images of a post: {chosen.images} at most.",
            "- Captions, tags and boxes: as the world writes them.",
            f"- Noisy spans: {chosen.spans}.",
            f"- Options other than the defaults: {changed}.",
            f"- Time: {times}, with {chosen.threads} thread(s).",
            f"- Machine: {machine()}; load average at the end {os.getloadavg()[0]:.1f}.",
            f"- Versions: {versions}.",
            f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
