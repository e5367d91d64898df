"""The main job on the embedded default, from nothing to one table: `make demo`.

It does what these commands do, in one process, so that libraries are loaded once:

    mnerfeat toy demo
    cd demo
    mnerfeat extract --images images
    mnerfeat rank train
    mnerfeat extract --features reward
    mnerfeat train --head text        # and iqcr, iqcr with --ablation no-iqw, no-cmw, and gifr
    mnerfeat eval --split test
"""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mnerfeat.config import build, load_settings
from mnerfeat.config.plans import plan_extraction, plan_training
from mnerfeat.config.settings import Settings
from mnerfeat.datasets import every_post
from mnerfeat.evaluation import Scores
from mnerfeat.extraction.extract import extract
from mnerfeat.prediction import evaluate_runs
from mnerfeat.preference import RankConfig
from mnerfeat.reports.rankings import render_discriminator
from mnerfeat.toy import make_world
from mnerfeat.training import carry_out
from mnerfeat.training.ranking import RankPlan, train_ranker

HEADS = {
    "text only": ("text", None, "the words, no image"),
    "IQCR-MI": ("iqcr", None, "images, weighted by quality and by relevance to the text"),
    "w/o IQW": ("iqcr", "no-iqw", "relevance alone: degraded images that fit the text mislead it"),
    "w/o CMW": ("iqcr", "no-cmw", "quality alone: clear images of something else mislead it"),
    "GIFR": ("gifr", None, "images, weighted by what people (here: the truth) find relevant"),
}


def main() -> None:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    parser.add_argument("--train", type=int, default=800, help="posts to train on")
    folder, posts = (chosen := parser.parse_args()).folder, chosen.train
    logging.basicConfig(level=logging.WARNING, format="  %(message)s", stream=sys.stdout)
    torch.set_num_threads(1)  # models this small are slower on several
    started = time.monotonic()

    with step(f"mnerfeat toy {folder}"):
        make_world(folder, train=posts, dev=150, test=300)
    os.chdir(folder)
    settings = load_settings()
    with step("mnerfeat extract --images images"):
        summary = extract(
            plan_extraction(settings, images=Path("images")), posts=every_post(settings.data)
        )
        say(summary)
    with step("mnerfeat rank train && mnerfeat extract --features reward"):
        learn_relevance(settings)
    table: dict[str, Scores] = {}
    for name, (head, ablation, _) in HEADS.items():
        option = f" --ablation {ablation}" if ablation else ""
        with step(f"mnerfeat train --head {head}{option} && mnerfeat eval --split test"):
            plan = plan_training(
                settings,
                head=head,
                options={"ablation": ablation} if ablation else {},
                training={"device": "cpu"},
            )
            (run,) = carry_out(plan, progress=sys.stderr.isatty())
            (evaluation,) = evaluate_runs(
                [run.name], settings.runs, data=settings.data, cache=settings.cache, split="test"
            )
            table[name] = evaluation.scores

    print(f"\n{'micro scores on test, lenient':32}{'P':>7}{'R':>7}{'F1':>7}")
    for name, scores in table.items():
        overall = scores.lenient.overall
        figures = "".join(
            f"{100 * value:7.2f}" for value in (overall.precision, overall.recall, overall.f1)
        )
        print(f"{name:32}{figures}   {HEADS[name][2]}")
    print(
        "\nIn this made-up world no text tells the type of its names: that shows in one of the "
        "post's\nimages, the one that fits the text and is clear. So text alone guesses among four "
        "types;\nIQCR-MI needs both of its weights to look at the right image; GIFR learned which "
        "it is from\nthe rankings of a tenth of the posts. One seed; real data sets are far less "
        f"extreme.\nIt took {time.monotonic() - started:.0f} s; everything is in {folder}: try "
        "there\n"
        '  mnerfeat predict --text "finally saw Gorbo today , by the red wall" '
        "--image images/test-00000-0.png"
    )


def learn_relevance(settings: Settings) -> None:
    """Train a discriminator on the world's rankings, and put its rewards into the cache."""
    extraction = plan_extraction(settings)
    plan = RankPlan(
        rankings=Path("rankings.jsonl"),
        data=settings.data,
        out=extraction.discriminator,
        extraction=extraction,
        config=build(RankConfig, "rank", settings.section("rank")),
        replace=True,
    )
    saved = train_ranker(plan)
    say(render_discriminator(saved, plan.out).rsplit("\n", maxsplit=1)[0])
    chosen = plan_extraction(settings, features=("reward",), replace=True)
    say(extract(chosen, posts=every_post(settings.data)))


def say(what: object) -> None:
    """Print, a little to the right."""
    print(f"  {what}".replace("\n", "\n  "))


@contextlib.contextmanager
def step(command: str) -> Iterator[None]:
    """Show the command that does the same, and how long it took."""
    print(f"$ {command}", flush=True)
    started = time.monotonic()
    yield
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
