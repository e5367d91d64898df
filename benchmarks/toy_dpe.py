"""DPE-MNER, its ablations and BERT-Iterative on the toy world with the tiny backbones.

The images alone tell the types there: BERT-Iterative, the same head without images, can find the
names but not what they are. Posts have one image each, as in the data sets that DPE-MNER was made
for; `--images 4` takes the mixture of the other benchmarks, where the head has to find the telling
one among up to four. Captions, tags and boxes are those that the world writes. The epoch is chosen
on dev; test is scored once a seed. Run it as

    python benchmarks/toy_dpe.py
    python benchmarks/toy_dpe.py --images 4 --fusion-lr 4e-4 \
        --heads BERT-Iterative DPE-MNER "w/o CRM"

and it writes its records to `benchmarks/results/toy_dpe.md` and `toy_dpe_images.md`. With
`--scores FILE` an interrupted run goes on where it was, and several runs may share the work.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from recording import RESULTS, chosen_options, ending, machine, publish, spread
from toy_heads import f1, trained

from mnerfeat.checkpoint import library_versions
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.dpe.head import DiffusionHead
from mnerfeat.toy import Mixture, World, WorldConfig, make_world
from mnerfeat.training import TrainingConfig

RECORDS = {1: RESULTS / "toy_dpe.md", 4: RESULTS / "toy_dpe_images.md"}

HEADS: Mapping[str, HeadConfig] = {
    "BERT-Iterative": IterativeConfig(),
    "DPE-MNER": DpeConfig(),
    "w/o CRM": DpeConfig(ablation="no-crm"),
    "w/o DMF": DpeConfig(ablation="no-dmf"),
    "w/o PMI": DpeConfig(ablation="no-pmi"),
    "schedule intent": DpeConfig(schedule="intent"),
}
FULL = "DPE-MNER"
THRESHOLDS = (DpeConfig().threshold, 1.5)
Found = dict[str, dict[int, tuple[float, ...]]]
"""F1 in percent, by threshold, of each head and seed."""
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
    parser.add_argument(
        "--scores",
        type=Path,
        default=None,
        help="file of one line a training: those that it holds are not run again",
    )
    parser.add_argument("--record", type=Path, default=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Found:
    """F1 on test in percent, at both thresholds, by head and seed."""
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
        done = chosen.scores or Path(folder) / "scores.jsonl"
        look(world, cache)
        for name in chosen.heads:
            head = replace(HEADS[name], spans=chosen.spans)  # type: ignore[call-arg]
            for seed in chosen.seeds:
                if seed in scored(done).get(name, {}):
                    continue
                started = time.process_time()
                pair = scores(world, cache, head, replace(training, seed=seed), Path(folder))
                seconds = round(time.process_time() - started)
                line = json.dumps({"head": name, "seed": seed, "f1": pair, "seconds": seconds})
                print(line, flush=True)
                with done.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        found = scored(done)
    publish(record(found, world.config, training, chosen), chosen.record or RECORDS[chosen.images])
    return found


def scored(path: Path) -> Found:
    """What has been measured already."""
    found: Found = {name: {} for name in HEADS}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        one = json.loads(line)
        found[one["head"]][one["seed"]] = tuple(one["f1"])
    return {name: seeds for name, seeds in found.items() if seeds}


def scores(
    world: World, cache: Path, head: HeadConfig, config: TrainingConfig, runs: Path
) -> tuple[float, ...]:
    """Lenient micro F1 of one training, in percent, at each of the thresholds."""
    tagger, posts, images = trained(world, cache, head, config, runs)
    assert isinstance(tagger.head, DiffusionHead)
    found = []
    for threshold in THRESHOLDS:
        tagger.head.config = replace(tagger.head.config, threshold=threshold)
        found.append(f1(tagger, posts, images))
    return tuple(found)


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
    found: Found, world: WorldConfig, training: TrainingConfig, chosen: argparse.Namespace
) -> str:
    rows = []
    for name, seeds in found.items():
        cells = [name]
        for place in range(len(THRESHOLDS)):
            values = [pair[place] for _, pair in sorted(seeds.items())]
            each = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"**{spread(values)}** ({each})")
        if FULL in found:
            mean, full = (
                statistics.fmean(pair[0] for pair in found[key].values()) for key in (name, FULL)
            )
            cells.append(f"{mean - full:+.1f}")
        rows.append(f"| {' | '.join(cells)} |")
    sure, unsure = THRESHOLDS
    return "\n".join(
        [
            "# DPE-MNER on the toy world",
            "",
            "`python benchmarks/toy_dpe.py`: lenient micro F1 on test, in percent, mean, standard",
            "deviation and each seed of training. The epoch is chosen on dev, at the default",
            f"threshold of {sure}: an entity is kept where the probabilities of its first word,",
            f"last word and type add up to more. With {unsure} the same networks keep what they",
            "are less sure of, too.",
            "",
            f"| head | F1, threshold {sure} | F1, threshold {unsure} | against {FULL} |",
            "|---|---|---|---|",
            *rows,
            "",
            f"- World: seed {world.seed}, {world.train} / {world.dev} / {world.test} posts.",
            f"- Images of a post: {chosen.images} at most.",
            "- Captions, tags and boxes: as the world writes them.",
            f"- Noisy spans: {chosen.spans}.",
            f"- Options other than the defaults: {chosen_options(training)}.",
            "- Each training in turn or beside others, by whatever time it took.",
            *ending(machine(), library_versions()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
