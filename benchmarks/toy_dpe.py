"""DPE-MNER, its ablations and BERT-Iterative on toy worlds with the tiny backbones.

World `one`: posts have one image at most, as in the data sets that DPE-MNER was made for. World
`images`: up to four, where the head has to find the telling one; that of the other benchmarks.
World `views`: exactly one of an image's four representations tells the type, and many posts have a
misleading image beside the telling one. Captions, tags and boxes are those that the world writes.
The epoch and the threshold are chosen on dev; test is scored once per seed. Beside F1, each
training reports recall of spans by number of gold entities, F1 with one view swapped for another
post's, F1 by number of reasoning steps, and how well relevance tells the telling images.

    python benchmarks/toy_dpe.py --world one
    python benchmarks/toy_dpe.py --world images --fusion-lr 4e-4
    python benchmarks/toy_dpe.py --world views --seeds 1 2 3 4 5

write `benchmarks/results/toy_dpe_one.md` and so on. With `--scores FILE`, an
interrupted run continues, and several runs may share the work: a training is done again only if
no line of the file has the same world, head, options and seed.
"""

import argparse
import hashlib
import json
import logging
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from recording import RESULTS, chosen_options, ending, machine, publish, spread
from toy_heads import f1, look, trained

from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import Post
from mnerfeat.datasets.tags import entities
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.dpe.diffusion import Diffusion
from mnerfeat.heads.dpe.fusion import COLUMNS
from mnerfeat.heads.dpe.head import DiffusionHead
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.tagger import Tagger
from mnerfeat.toy import Mixture, ViewMixture, World, make_world
from mnerfeat.training import TrainingConfig

WORLDS: Mapping[str, Mixture | ViewMixture] = {
    "one": Mixture(images=(1.0,)),
    "images": Mixture(),
    "views": ViewMixture(),
}

FULL = "DPE-MNER"
HEADS: Mapping[str, HeadConfig] = {
    "text-CRF": TextOnlyConfig(),
    "BERT-Iterative": IterativeConfig(),
    "IQCR-MI": IqcrConfig(),
    FULL: DpeConfig(),
    "w/o grid": DpeConfig(ablation="no-grid"),
    "w/o caption": DpeConfig(ablation="no-caption"),
    "w/o regions": DpeConfig(ablation="no-regions"),
    "w/o tags": DpeConfig(ablation="no-tags"),
    "w/o CRM": DpeConfig(ablation="no-crm"),
    "w/o DMF": DpeConfig(ablation="no-dmf"),
    "w/o PMI": DpeConfig(ablation="no-pmi"),
    "reverse grain": DpeConfig(ablation="reverse-grain"),
    "reverse gap": DpeConfig(ablation="reverse-gap"),
    "schedule intent": DpeConfig(schedule="intent"),
}
STEPS = (1, 2, 5, 10)
VIEWS = {
    columns[0].removesuffix("_states").removesuffix("_grid"): columns
    for columns in COLUMNS.values()
}
Found = dict[str, dict[int, dict[str, Any]]]
"""The measurements of each head and seed."""


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="DPE-MNER on toy worlds")
    parser.add_argument("--world", choices=WORLDS, default="one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1200, help="posts to train on")
    parser.add_argument("--dev", type=int, default=100, help="posts to select on")
    parser.add_argument("--test", type=int, default=300, help="posts to score on")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--fusion-lr", type=float, default=1e-3)
    parser.add_argument("--spans", type=int, default=60, help="noisy spans (N_s)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--scores", type=Path, default=None, help="file of finished trainings")
    parser.add_argument("--record", type=Path, default=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Found:
    """Measure every head and seed that is asked for."""
    chosen = options(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(chosen.threads)
    training = TrainingConfig(
        epochs=chosen.epochs,
        batch_size=chosen.batch,
        encoder_lr=5e-4,
        fusion_lr=chosen.fusion_lr,
        crf_lr=1e-2,
        patience=0,
        device="cpu",
    )
    found: Found = {name: {} for name in chosen.heads}
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(
            folder,
            seed=chosen.world_seed,
            train=chosen.train,
            dev=chosen.dev,
            test=chosen.test,
            mixture=WORLDS[chosen.world],
        )
        cache, runs = Path(folder) / "features.h5", Path(folder) / "runs"
        done = chosen.scores or Path(folder) / "scores.jsonl"
        columns = {column for name in chosen.heads for column in HEADS[name].columns}
        if "vit_cls" in columns:
            look(world, cache)
        extract_views(world, cache)
        for name in chosen.heads:
            head = HEADS[name]
            if isinstance(head, DpeConfig | IterativeConfig):
                head = replace(head, spans=chosen.spans)
            for seed in chosen.seeds:
                config = replace(training, seed=seed)
                key = fingerprint(world, head, config)
                measured = finished(done).get(key)
                if measured is None:
                    started = time.process_time()
                    measured = measure(world, cache, head, config, runs)
                    measured |= {"head": name, "seed": seed, "key": key}
                    measured["seconds"] = round(time.process_time() - started)
                    line = json.dumps(measured)
                    print(line, flush=True)
                    with done.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
                found[name][seed] = measured
    path = chosen.record or RESULTS / f"toy_dpe_{chosen.world}.md"
    publish(record(found, world, training, chosen), path)
    return found


def fingerprint(world: World, head: HeadConfig, config: TrainingConfig) -> str:
    """Return a digest of everything that a measurement depends on."""
    made_of = [asdict(world.config), type(head).__name__, asdict(head), asdict(config)]
    text = json.dumps(made_of, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """Read the measurements of a file, by fingerprint."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {one["key"]: one for one in map(json.loads, lines)}


def extract_views(world: World, cache: Path) -> None:
    """Extract what DPE-MNER reads of a world, from the world's own captions, tags and boxes."""
    extract(
        ExtractConfig(
            images=world.images,
            cache=cache,
            preset="tiny",
            features=("grid", "regions", "tags", "caption"),
            workers=0,
            captions=world.captions,
            tags=world.tags,
            regions=world.regions,
            device="cpu",
        )
    )


def measure(
    world: World, cache: Path, head: HeadConfig, config: TrainingConfig, runs: Path
) -> dict[str, Any]:
    """Train once; return F1 in percent and what tells where it comes from."""
    tagger, posts, images = trained(world, cache, head, config, runs)
    found: dict[str, Any] = {
        "f1": f1(tagger, posts, images),
        "recall": span_recall(tagger, posts, images),
    }
    if isinstance(tagger.head, DiffusionHead):
        found["threshold"] = float(tagger.head.threshold)
        found["steps"] = {steps: with_steps(tagger, steps, posts, images) for steps in STEPS}
    if isinstance(head, DpeConfig):
        found["auc"] = relevance_auc(tagger, world, images)
        found["swapped"] = {
            view: f1(tagger, posts, Swapped(images, columns))
            for view, columns in VIEWS.items()
            if columns[0] in head.columns
        }
    return found


def span_recall(tagger: Tagger, posts: Sequence[Post], images: VisionTable) -> dict[str, str]:
    """Return how many gold spans are found, whatever their type, by gold entities of the post."""
    hits: Counter[int] = Counter()
    totals: Counter[int] = Counter()
    for post, tagged in zip(posts, tagger.tag(posts, images), strict=True):
        gold = {(one.start, one.end) for one in entities(post.tags or ())}
        totals[len(gold)] += len(gold)
        hits[len(gold)] += len(gold & {(one.start, one.end) for one in entities(tagged.tags)})
    return {
        str(count): f"{hits[count]}/{total}" for count, total in sorted(totals.items()) if count
    }


def relevance_auc(tagger: Tagger, world: World, images: VisionTable) -> float | None:
    """Return how well relevance tells telling images from all others, 0.5 to 1; None if it cannot.

    It is the chance that a telling image has a higher relevance than another image.
    """
    toys = world.splits["test"]
    told: dict[bool, list[float]] = {True: [], False: []}
    tagged = tagger.tag([toy.post for toy in toys], images)
    for toy, found in zip(toys, tagged, strict=True):
        for image, values in zip(toy.images, found.images, strict=True):
            if values is not None and "relevance" in values:
                told[image.role == "telling"].append(float(values["relevance"]))
    if not told[True] or not told[False]:
        return None
    wins = [(a > b) + (a == b) / 2 for a in told[True] for b in told[False]]
    return statistics.fmean(wins)


def with_steps(tagger: Tagger, steps: int, posts: Sequence[Post], images: VisionTable) -> float:
    """Return F1 with another number of reasoning steps."""
    head = cast("DiffusionHead", tagger.head)
    usual = head.diffusion
    head.diffusion = Diffusion("linear", timesteps=usual.timesteps, steps=steps)
    try:
        return f1(tagger, posts, images)
    finally:
        head.diffusion = usual


class Swapped(VisionTable):
    """A table of images in which one view is that of the next post with images.

    Args:
        table: The images.
        columns: The columns of the view.
    """

    def __init__(self, table: VisionTable, columns: Sequence[str]) -> None:
        self.table = table
        self.columns = columns
        some = [post for post in range(len(table)) if table.batch(torch.tensor([post]))[0].any()]
        self.other = torch.arange(len(table))
        self.other[some] = torch.tensor(some).roll(1)

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, posts: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return mask and columns; an image that the other post lacks keeps its own."""
        mask, own = self.table.batch(posts)
        other_mask, other = self.table.batch(self.other[posts])
        width = min(mask.shape[1], other_mask.shape[1])
        found = dict(own)
        for name in self.columns:
            column = own[name].clone()
            both = mask[:, :width] & other_mask[:, :width]
            column[:, :width][both] = other[name][:, :width][both].to(column.dtype)
            found[name] = column
        return mask, found


def record(found: Found, world: World, training: TrainingConfig, chosen: argparse.Namespace) -> str:
    rows, recalls, steps, swaps, aucs = [], [], [], [], []
    full = found.get(FULL, {})
    for name, seeds in found.items():
        values = [one["f1"] for one in seeds.values()]
        each = ", ".join(f"{value:.1f}" for value in values)
        pairs = [one["f1"] - full[seed]["f1"] for seed, one in seeds.items() if seed in full]
        rows.append(
            f"| {name} | **{spread(values)}** | {spread(pairs) if pairs else ''} | {each} |"
        )
        recalls += [
            f"| {name}, seed {seed} | {', '.join(f'{n}: {r}' for n, r in one['recall'].items())} |"
            for seed, one in seeds.items()
        ]
        some = list(seeds.values())
        if "steps" in some[0]:
            cells = [spread([one["steps"][key] for one in some]) for key in some[0]["steps"]]
            steps.append(f"| {name} | {' | '.join(cells)} |")
        known = [one["auc"] for one in some if one.get("auc") is not None]
        if known:
            each = ", ".join(f"{value:.3f}" for value in known)
            aucs.append(f"| {name} | {statistics.fmean(known):.3f} | {each} |")
        if "swapped" in some[0]:
            cost = {
                view: statistics.fmean(one["swapped"][view] - one["f1"] for one in some)
                for view in some[0]["swapped"]
            }
            cells = [f"{cost[view]:+.1f}" if view in cost else "" for view in VIEWS]
            swaps.append(f"| {name} | {' | '.join(cells)} |")
    config = world.config
    sizes = f"{config.train} / {config.dev} / {config.test}"
    return "\n".join(
        [
            "# DPE-MNER on the toy world",
            "",
            f"`python benchmarks/toy_dpe.py --world {chosen.world}`: lenient micro F1 on test, in",
            "percent, mean and standard deviation over seeds of training, and the same of the",
            f"paired differences from {FULL}. Epoch and threshold are chosen on dev.",
            "",
            f"| head | F1 | against {FULL} | by seed |",
            "|---|---|---|---|",
            *rows,
            "",
            "Gold spans that are found, of any type, by number of gold entities of the post:",
            "",
            "| training | found of all |",
            "|---|---|",
            *recalls,
            "",
            "F1 by number of reasoning steps:",
            "",
            f"| head | {' | '.join(map(str, STEPS))} |",
            f"|---|{'---|' * len(STEPS)}",
            *steps,
            "",
            "What it costs in F1 that one view is another post's:",
            "",
            f"| head | {' | '.join(VIEWS)} |",
            f"|---|{'---|' * len(VIEWS)}",
            *swaps,
            "",
            "Relevance (eq. 4) of telling images against all others, area under the ROC curve:",
            "",
            "| head | mean | by seed |",
            "|---|---|---|",
            *aucs,
            "",
            f"- World: `{chosen.world}`, seed {config.seed}, {sizes} posts.",
            f"- Noisy spans: {chosen.spans}.",
            f"- Options other than the defaults: {chosen_options(training)}.",
            *ending(machine(), library_versions()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
