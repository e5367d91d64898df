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
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from recording import RESULTS, chosen_options, ending, f1_rows, machine, publish, spread
from toy_heads import f1_on_test, toy_options, toy_training

from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import every_post
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.preference import RankConfig
from mnerfeat.toy import World, WorldConfig, make_world
from mnerfeat.training import TrainingConfig
from mnerfeat.training.ranking import RankEvaluation, RankPlan, evaluate_ranker, train_ranker

RECORD = RESULTS / "toy_gifr.md"

WHOLE = "GIFR"

HEADS: Mapping[str, HeadConfig] = {
    "text only": TextOnlyConfig(),
    WHOLE: GifrConfig(),
    "w/o D": GifrConfig(ablation="no-d"),
    "w/o P": GifrConfig(ablation="no-p"),
    "w/o G": GifrConfig(ablation="no-g"),
}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = toy_options("GIFR on the toy world", HEADS, RECORD)
    parser.add_argument("--share", type=float, default=0.1, help="of the training posts: D_dis")
    parser.add_argument(
        "--measured", type=Path, help="JSON lines of what is measured; what is there is not redone"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> tuple[dict[str, list[float]], list[float]]:
    """F1 on test in percent, by head and seed; and the discriminators' pairs right, by seed."""
    chosen = options(argv)
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(chosen.threads)
    training = toy_training(chosen.epochs)
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
    publish(text, chosen.record)
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
            *f1_rows(found, WHOLE),
            "",
            f"Discriminators that learned from {learned} posts, on {tested:,} rankings of test:",
            "",
            "| ranked by | pairs right, % | Kendall's τ | images on the right side of blank, % |",
            "|---|---|---|---|",
            *judges,
            "",
            f"- World: seed {world.seed}, {world.train} / {world.dev} / {world.test} posts.",
            f"- D_dis: at most {100 * share:.0f} % of train.",
            f"- Options other than the defaults: {chosen_options(training)}.",
            f"- Time: {seconds:.0f} s in all, with {threads} thread(s).",
            *ending(machine(), library_versions()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
