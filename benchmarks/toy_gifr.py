"""GIFR and its ablations against text alone, on the toy world with the tiny backbones.

For each seed a discriminator learns from the rankings of a tenth of the training posts, and is
measured on the rankings of the test posts; its rewards go into the cache; then every head is
trained. The images alone tell the types there, and only one of a post does, so a head that knows
which is far ahead. The epoch is chosen on dev; test is scored once a seed. Run it as

    python benchmarks/toy_gifr.py

and it writes its record to `benchmarks/results/toy_gifr.md`.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from recording import machine
from toy_heads import f1_on_test

from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import every_post
from mnerfeat.extractors.config import ExtractConfig
from mnerfeat.extractors.run import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.preference import RankConfig
from mnerfeat.toy import World, WorldConfig, make_world
from mnerfeat.training import TrainingConfig
from mnerfeat.training.ranking import RankEvaluation, RankPlan, evaluate_ranker, train_ranker

RECORD = Path(__file__).parent / "results" / "toy_gifr.md"

WHOLE = "GIFR"

HEADS: Mapping[str, HeadConfig] = {
    "text only": TextOnlyConfig(),
    WHOLE: GifrConfig(),
    "w/o D": GifrConfig(ablation="no-d"),
    "w/o P": GifrConfig(ablation="no-p"),
    "w/o G": GifrConfig(ablation="no-g"),
}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="GIFR on the toy world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--world", type=int, default=0, help="seed of the world")
    parser.add_argument("--train", type=int, default=1200, help="posts to train on")
    parser.add_argument("--dev", type=int, default=200, help="posts to select on")
    parser.add_argument("--test", type=int, default=600, help="posts to score on")
    parser.add_argument("--share", type=float, default=0.1, help="of the training posts: D_dis")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--measured", type=Path, help="JSON lines of what is measured; what is there is not redone"
    )
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> tuple[dict[str, list[float]], list[float]]:
    """F1 on test in percent, by head and seed; and the discriminators' pairs right, by seed."""
    chosen = options(argv)
    logging.basicConfig(level=logging.ERROR)
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
    measured = Measured(chosen.measured)
    found: dict[str, list[float]] = defaultdict(list)
    judged: list[RankEvaluation] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = make_world(
            folder, seed=chosen.world, train=chosen.train, dev=chosen.dev, test=chosen.test
        )
        extraction = ExtractConfig(
            images=world.images,
            cache=folder / "features.h5",
            features=("vit", "clip"),
            preset="tiny",
            device="cpu",
            workers=0,
            discriminator=folder / "discriminator",
            replace=True,
        )
        extract(extraction, posts=every_post(world.data))
        for seed in chosen.seeds:
            judged.append(judge(world, extraction, RankConfig(share=chosen.share, seed=seed)))
            print(f"seed {seed}: {100 * judged[-1].scores.pairwise:.1f} % of pairs", flush=True)
            for head in chosen.heads:
                f1 = measured.get(seed, head)
                if f1 is None:
                    config = replace(training, seed=seed)
                    f1 = f1_on_test(world, extraction.cache, HEADS[head], config, folder)
                    measured.add(seed, head, f1)
                found[head].append(f1)
                print(f"seed {seed}: {head} {f1:.1f}", flush=True)
    text = record(
        found,
        judged,
        world.config,
        training,
        share=chosen.share,
        seconds=time.perf_counter() - started,
        threads=chosen.threads,
    )
    chosen.record.parent.mkdir(parents=True, exist_ok=True)
    chosen.record.write_text(text, "utf-8")
    print(text)
    return dict(found), [one.scores.pairwise for one in judged]


class Measured:
    """F1 by seed and head, kept in a file so that a benchmark can be interrupted.

    Args:
        path: The file, or None to keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path and path.exists() else []
        self.found = {(one["seed"], one["head"]): one["f1"] for one in map(json.loads, lines)}

    def get(self, seed: int, head: str) -> float | None:
        """What was measured before."""
        return self.found.get((seed, head))

    def add(self, seed: int, head: str, f1: float) -> None:
        """Keep a measurement."""
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"seed": seed, "head": head, "f1": f1}) + "\n")


def judge(world: World, extraction: ExtractConfig, config: RankConfig) -> RankEvaluation:
    """Train a discriminator, measure it on test, and put its rewards into the cache."""
    plan = RankPlan(
        rankings=world.rankings,
        data=world.data,
        out=extraction.discriminator,
        extraction=extraction,
        config=config,
        replace=True,
    )
    train_ranker(plan)
    extract(replace(extraction, features=("reward",)), posts=every_post(world.data))
    return evaluate_ranker(plan.out, world.rankings, world.data, extraction.cache, split="test")


def record(
    found: Mapping[str, list[float]],
    judged: Sequence[RankEvaluation],
    world: WorldConfig,
    training: TrainingConfig,
    *,
    share: float,
    seconds: float,
    threads: int,
) -> str:
    rows = []
    full = found.get(WHOLE)
    for name, values in found.items():
        behind = "" if full is None else f"{statistics.fmean(values) - statistics.fmean(full):+.1f}"
        each = ", ".join(f"{value:.1f}" for value in values)
        rows.append(f"| {name} | **{spread(values)}** | {behind} | {each} |")
    scores = {
        "discriminator": [one.scores for one in judged],
        "CLIP similarity": [one.clip_similarity for one in judged],
    }
    judges = [
        f"| {name} | **{spread([100 * one.pairwise for one in some])}** "
        f"| {statistics.fmean(one.tau for one in some):.3f} "
        f"| {spread([100 * one.relevant for one in some])} |"
        for name, some in scores.items()
    ]
    changed = {
        name: value
        for name, value in asdict(training).items()
        if value != getattr(TrainingConfig(), name)
    }
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    learned = len(judged[0].discriminator.learned_from["train"])
    tested = judged[0].scores.rankings
    return "\n".join(
        [
            "# GIFR on the toy world",
            "",
            "`python benchmarks/toy_gifr.py`: lenient micro F1 on test, in percent, mean and",
            "standard deviation over seeds, each of which has a discriminator of its own. The",
            "epoch is chosen on dev. A head that reads rewards trains without the posts that the",
            "discriminator learned from; w/o D and w/o G read none, and train on all.",
            "",
            "| head | F1 | against GIFR | by seed |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Discriminators that learned from {learned} posts, on {tested:,} rankings of test:",
            "",
            "| ranked by | pairs right, % | Kendall's τ | images on the right side of blank, % |",
            "|---|---|---|---|",
            *judges,
            "",
            f"- World: seed {world.seed}, {world.train} / {world.dev} / {world.test} posts.",
            f"- D_dis: at most {100 * share:.0f} % of train.",
            f"- Options other than the defaults: {changed}.",
            f"- Time: {seconds:.0f} s in all, with {threads} thread(s).",
            f"- Machine: {machine()}; load average at the end {os.getloadavg()[0]:.1f}.",
            f"- Versions: {versions}.",
            f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
            "",
        ]
    )


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{sd}"


if __name__ == "__main__":
    main()
