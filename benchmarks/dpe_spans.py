"""When the spans of a post part during training: what ends the plateau of DPE-MNER's loss.

At first all noisy spans of a post point to its likeliest entity, and posts with several entities
lose the others. Every few steps this reports, on test: recall of spans by number of gold entities
at threshold 0; the mean cosine between the states of a post's spans, as pooled, after SpanAggr
(x_s) and before decoding (H_m); and how stable the matching is: the share of noisy spans, in posts
with several entities, that are matched with the same entity as at the report before, from the same
noise. Run it as

    python benchmarks/dpe_spans.py                        # BERT-Iterative
    python benchmarks/dpe_spans.py --head dpe --world views
    python benchmarks/dpe_spans.py --set pointer=relu --steps 1280

and it writes its record to `benchmarks/results/dpe_spans.md`, one section for each call.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from recording import RESULTS, ending, machine
from torch import Tensor, nn
from toy_dpe import WORLDS, extract_views, span_recall

from mnerfeat.cache import FeatureCache
from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import Post, TagSet
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.heads.base import Words
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.dpe.diffusion import to_words
from mnerfeat.heads.dpe.entities import find_targets, gold_entities
from mnerfeat.heads.dpe.fusion import Timestep
from mnerfeat.heads.dpe.head import DiffusionHead
from mnerfeat.heads.dpe.packing import Packed, Spans
from mnerfeat.tagger import Tagger, gold_ids, pad_ids, post_seed
from mnerfeat.text import TextConfig, TextEncoder
from mnerfeat.toy import WorldConfig, backbone, make_world, plan_world
from mnerfeat.training import TrainingConfig
from mnerfeat.training.arguments import optimizer

LAYERS = ("pooled", "x_s", "H_m")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="When the spans of a post part")
    parser.add_argument("--head", choices=("iterative", "dpe"), default="iterative")
    parser.add_argument("--world", choices=WORLDS, default="one")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", dest="given")
    parser.add_argument("--train", type=int, default=1000, help="posts to train on")
    parser.add_argument("--test", type=int, default=300, help="posts to report on")
    parser.add_argument("--steps", type=int, default=640, help="optimiser steps")
    parser.add_argument("--every", type=int, default=80, help="steps between reports")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--fusion-lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path, default=RESULTS / "dpe_spans.md")
    return parser.parse_args(argv)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Posts with their images."""

    posts: Sequence[Post]
    images: VisionTable


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is seen after so many steps."""

    step: int
    loss: float
    recall: Mapping[str, str]
    cosine: Mapping[str, float]
    stable: float | None


def main(argv: Sequence[str] | None = None) -> list[Report]:
    """Train once, and report on the way."""
    chosen = options(argv)
    torch.set_num_threads(chosen.threads)
    given = {name: number(value) for name, value in (one.split("=") for one in chosen.given)}
    kind = DpeConfig if chosen.head == "dpe" else IterativeConfig
    head: Any = kind(**{"spans": 60, "threshold": 0.0, **given})
    with tempfile.TemporaryDirectory() as folder:
        train, test = splits(head, chosen, Path(folder))
        encoder = TextEncoder.from_pretrained(TextConfig(encoder=str(backbone("text"))))
        sizes = train.images.column_sizes if head.columns else {}
        tagger = Tagger.build(encoder, head, TagSet(), column_sizes=sizes, seed=chosen.seed)
        started = time.process_time()
        reports = follow(tagger, train, test, chosen)
        seconds = time.process_time() - started
    text = record(reports, chosen, seconds)
    print(text)
    chosen.record.parent.mkdir(parents=True, exist_ok=True)
    with chosen.record.open("a", encoding="utf-8") as file:
        file.write(text)
    return reports


def number(value: str) -> Any:
    """Read an option's value."""
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value


def splits(head: Any, chosen: argparse.Namespace, folder: Path) -> tuple[Split, Split]:
    """Return the posts of train and test, with images only if the head reads them."""
    config = WorldConfig(train=chosen.train, dev=0, test=chosen.test, mixture=WORLDS[chosen.world])
    world = plan_world(folder, config)
    posts = [[toy.post for toy in world.splits[name]] for name in ("train", "test")]
    if not head.columns:
        found = [Split(posts=one, images=VisionTable.without_images(len(one))) for one in posts]
        return found[0], found[1]
    made = make_world(
        folder, train=chosen.train, dev=0, test=chosen.test, mixture=WORLDS[chosen.world]
    )
    extract_views(made, folder / "features.h5")
    with FeatureCache(folder / "features.h5") as cache:
        found = [
            Split(posts=one, images=VisionTable.from_cache(cache, one, head.columns))
            for one in posts
        ]
    return found[0], found[1]


def follow(tagger: Tagger, train: Split, test: Split, chosen: argparse.Namespace) -> list[Report]:
    """Train with warm-up and linear decay, as the trainer does, and report every few steps."""
    config = TrainingConfig(encoder_lr=5e-4, fusion_lr=chosen.fusion_lr)
    steps, warm = chosen.steps, max(1, chosen.steps // 10)
    optimiser = optimizer(tagger, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / (steps - warm))
    )
    texts = tagger.encoder.tokenizer([post.words for post in train.posts])
    gold = gold_ids(train.posts, tagger.tag_set)
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    order: list[int] = []
    losses: list[float] = []
    reports: list[Report] = []
    matched: list[Tensor] | None = None
    for step in range(1, steps + 1):
        if len(order) < chosen.batch:
            order += torch.randperm(len(texts), generator=generator).tolist()
        batch, order = order[: chosen.batch], order[chosen.batch :]
        tagger.train()
        loss = tagger(
            tagger.encoder.tokenizer.batch([texts[post] for post in batch]),
            tagger.images(train.images, torch.tensor(batch)),
            pad_ids([gold[post] for post in batch]),
            decode=False,
        ).loss
        loss.backward()
        nn.utils.clip_grad_norm_(tagger.parameters(), config.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % chosen.every == 0:
            cosine, now = inspect(tagger, test)
            report = Report(
                step=step,
                loss=sum(losses[-chosen.every :]) / chosen.every,
                recall=span_recall(tagger, test.posts, test.images),
                cosine=cosine,
                stable=None if matched is None else stability(matched, now),
            )
            matched = now
            reports.append(report)
            print(row(report), flush=True)
    return reports


@torch.no_grad()
def inspect(tagger: Tagger, test: Split) -> tuple[dict[str, float], list[Tensor]]:
    """Take the first reasoning step on posts with several entities.

    Returns:
        The mean cosine between the states of a post's distinct spans, by layer; and for each post
        the first word of the entity that each noisy span is matched with.
    """
    head = tagger.head
    assert isinstance(head, DiffusionHead)
    gold = [gold_entities(row) for row in gold_ids(test.posts, tagger.tag_set)]
    several = [post for post, found in enumerate(gold) if len(found) > 1]
    tagger.eval()
    seen: list[Packed] = []
    hook = head.network.aggregator.register_forward_hook(
        lambda _module, given, found: seen.extend([given[0], given[0].with_states(found[0])])
    )
    sums = dict.fromkeys(LAYERS, 0.0)
    matched: list[Tensor] = []
    try:
        for start in range(0, len(several), 32):
            posts = several[start : start + 32]
            texts = tagger.encoder.tokenizer([test.posts[post].words for post in posts])
            images = tagger.images(test.images, torch.tensor(posts))
            pieces = tagger.encoder.tokenizer.batch(texts)
            states, sentence = tagger.encoder(pieces, None, None)
            seeds = torch.tensor([post_seed(test.posts[post]) for post in posts])
            words = Words(states=states, mask=pieces.word_mask, sentence=sentence, seed=seeds)
            context = head.network.context(words, images)
            time_ = torch.full((len(posts),), head.diffusion.times[0])
            last = words.mask.sum(dim=1) - 1
            noise = head.seeded_noise(words)[0]
            spans = Spans.distinct(*to_words(noise, last, scale=head.scale))
            seen.clear()
            step = Timestep(time=time_, signal=head.diffusion.signal_share(time_))
            out, _ = head.network(context, spans, step)
            scores = head.decoder(out, head.decoder.context(context.words.states), words.mask)
            targets = find_targets(scores, spans, [gold[post] for post in posts], head.loss)
            matched += list(targets.left.argmax(dim=2).gather(1, spans.index))
            for name, layer in zip(LAYERS, (*seen[:2], out), strict=True):
                sums[name] += float(cosines(layer).sum())
    finally:
        hook.remove()
    return {name: value / len(several) for name, value in sums.items()}, matched


def cosines(spans: Packed) -> Float[Tensor, " batch"]:
    """Return the mean cosine between two different spans of each post."""
    unit = nn.functional.normalize(spans.padded(), dim=2)
    real = (spans.count > 0).sum(dim=1)
    total = (unit @ unit.transpose(1, 2)).sum(dim=(1, 2)) - real
    return total / (real * (real - 1)).clamp(min=1)


def stability(before: list[Tensor], now: list[Tensor]) -> float:
    """Return the share of noisy spans that are matched with the same entity as before."""
    same = [float((old == new).float().mean()) for old, new in zip(before, now, strict=True)]
    return sum(same) / len(same)


def row(report: Report) -> str:
    recall = ", ".join(f"{count}: {found}" for count, found in report.recall.items())
    cosine = " | ".join(f"{report.cosine[name]:.2f}" for name in LAYERS)
    stable = "" if report.stable is None else f"{report.stable:.2f}"
    return f"| {report.step} | {report.loss:.2f} | {recall} | {cosine} | {stable} |"


def record(reports: Sequence[Report], chosen: argparse.Namespace, seconds: float) -> str:
    given = " ".join(chosen.given) or "defaults"
    return "\n".join(
        [
            f"# {chosen.head}, world `{chosen.world}`, {given}",
            "",
            f"`python benchmarks/dpe_spans.py`, seed {chosen.seed}: {chosen.train} posts to train",
            f"on, batch {chosen.batch}, fusion rate {chosen.fusion_lr}, threshold 0.",
            "",
            f"| step | loss | spans found by gold entities | {' | '.join(LAYERS)} | stable |",
            "|---|---|---|---|---|---|---|",
            *map(row, reports),
            "",
            f"- {seconds:.0f} s of a processor.",
            *ending(machine(), library_versions()),
            "",
            "",
        ]
    )


if __name__ == "__main__":
    main()
