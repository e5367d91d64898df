"""What images add to a training step, and what the cache saves of it.

    python benchmarks/train_step.py

One step is what training does with a batch: pad it, look up its images in the cached columns,
forward, backward, clip, AdamW. Text only (BERT-CRF), IQCR-MI and GIFR share one text encoder, a
random BERT-base, and take the same batches in turns, so that other work on the machine weighs on
all alike. Posts are drawn with lengths and numbers of images like those of MNER-MI. "Towers in the
loop" runs the frozen ViT-B/16 and CLIP ViT-B/32 over the images of the same batches before the
step, as a system without a cache would; decoding them is left out, and so is MANIQA, which would
take minutes a step here. The record goes to `benchmarks/results/`.
"""

import argparse
import platform
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from recording import CLOCKS, RESULTS, add_run, begin, ending, machine, publish

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import TagSet
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.heads.base import HeadConfig
from mnerfeat.heads.crf import crf_loss
from mnerfeat.heads.gifr import GifrConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.tagger import Tagger
from mnerfeat.text import TextConfig, TextEncoder
from mnerfeat.training import TrainingConfig
from mnerfeat.training.arguments import optimizer
from mnerfeat.training.model import Collator, Examples, TrainingStep

SYSTEMS: Mapping[str, HeadConfig] = {
    "text only": TextOnlyConfig(),
    "IQCR-MI": IqcrConfig(),
    "GIFR": GifrConfig(),
}
TARGETS = {"text only": "", "IQCR-MI": "1.15×", "GIFR": "1.25×"}
STEMS = ["".join((a, b, c)) for a in "bdgkl" for b in "aeiou" for c in "mnrst"]
ENDINGS = ["ing", "ed", "er", "ly", "ness"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one system.

    Attributes:
        name: Of the system.
        seconds: Of each step.
        update: Of these, AdamW and clipping; the median.
        towers: Seconds a step that the towers would take on top, where they were run.
    """

    name: str
    seconds: Sequence[float]
    update: float
    towers: float | None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What images add to a training step")
    parser.add_argument("--batch", type=int, default=16, help="posts in a step")
    parser.add_argument("--steps", type=int, default=7, help="steps that are timed")
    parser.add_argument("--layers", type=int, default=12, help="of the text encoder")
    parser.add_argument("--width", type=int, default=768, help="of the text encoder's states")
    parser.add_argument("--towers", type=int, default=1, help="steps with the towers in the loop")
    add_run(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Result]:
    chosen = options(argv)
    begin(chosen.threads)
    posts = draw_posts(chosen.batch * (chosen.steps + 1))
    images = draw_images(posts, torch.device(chosen.device))
    with tempfile.TemporaryDirectory() as folder:
        encoder = make_encoder(Path(folder), chosen)
    steppers = {
        name: Stepper(encoder, head, posts, images, chosen) for name, head in SYSTEMS.items()
    }
    for number in range(chosen.steps + 1):
        names = list(steppers)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            steppers[name].run(number)
    towers = look(posts[: chosen.batch * chosen.towers], chosen) if chosen.towers else None
    results = [
        Result(
            name=name,
            seconds=stepper.seconds[1:],  # the first one warms up
            update=statistics.median(stepper.updates[1:]),
            towers=towers if name != "text only" else None,
        )
        for name, stepper in steppers.items()
    ]
    name = "train_step_gpu.md" if chosen.device.startswith("cuda") else "train_step.md"
    text = record(chosen, posts, results, crf_seconds(chosen))
    publish(text, chosen.record or RESULTS / name)
    return results


def draw_posts(count: int) -> list[Post]:
    """Posts of 6 to 34 words, about 18, and of 1 to 4 images, about 2.8."""
    draw = random.Random(0)
    made = []
    for number in range(count):
        length = min(34, max(6, round(draw.gauss(18, 7))))
        words = tuple(
            draw.choice(STEMS) + (draw.choice(ENDINGS) if draw.random() < 0.3 else "")
            for _ in range(length)
        )
        tags = tuple(draw.choice(["O", "O", "O", "B-PER"]) for _ in words)
        several = draw.choices([1, 2, 3, 4], weights=[20, 20, 20, 40])[0]
        names = tuple(f"{number}_{i}.jpg" for i in range(several))
        made.append(Post(id=str(number), words=words, tags=tags, images=names))
    return made


def draw_images(posts: Sequence[Post], device: torch.device) -> VisionTable:
    """Cached columns of these posts' images, random."""
    torch.manual_seed(0)
    rows = torch.full((len(posts), 4), -1)
    count = 0
    for number, post in enumerate(posts):
        rows[number, : len(post.images)] = torch.arange(count, count + len(post.images))
        count += len(post.images)
    return VisionTable(
        rows,
        {"vit_cls": torch.randn(count, 768).half(), "quality": torch.rand(count)},
        {"relevance": torch.rand(rows.shape), "ranked_relevance": torch.rand(rows.shape)},
    ).to(device)


def make_encoder(folder: Path, chosen: argparse.Namespace) -> TextEncoder:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *STEMS, *(f"##{ending}" for ending in ENDINGS)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertConfig(  # the vocabulary's size, too, is BERT's
        hidden_size=chosen.width,
        num_hidden_layers=chosen.layers,
        num_attention_heads=chosen.width // 64,
        intermediate_size=4 * chosen.width,
    ).save_pretrained(folder)
    return TextEncoder.from_folder(folder, TextConfig(encoder=str(folder)))


class Stepper:
    """One system: a head on the shared encoder, with an optimiser of its own."""

    def __init__(
        self,
        encoder: TextEncoder,
        head: HeadConfig,
        posts: Sequence[Post],
        images: VisionTable,
        chosen: argparse.Namespace,
    ) -> None:
        sizes = images.column_sizes
        tagger = Tagger.build(encoder, head, TagSet(), column_sizes=sizes, seed=0)
        self.device = torch.device(chosen.device)
        self.batch = chosen.batch
        self.clock = clock_of(chosen)
        self.examples = Examples(posts, tagger)
        self.collate = Collator(encoder.tokenizer)
        self.step = TrainingStep(tagger, train=images, dev=images).to(self.device).train()
        self.parameters = [x for group in tagger.parameter_groups().values() for x in group]
        self.optimizer = optimizer(tagger, TrainingConfig())
        self.seconds: list[float] = []
        self.updates: list[float] = []

    def run(self, number: int) -> None:
        """Take a step with a batch, and note how long it took."""
        start = self.clock()
        chosen = range(number * self.batch, (number + 1) * self.batch)
        batch = self.collate([self.examples[i] for i in chosen])
        moved = {
            name: x if name == "number" else x.to(self.device, non_blocking=True)
            for name, x in batch.items()
        }
        with precision(self.device):
            loss = self.step(**moved)["loss"]
        loss.backward()
        before = self.clock()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = self.clock()
        self.seconds.append(end - start)
        self.updates.append(end - before)


def clock_of(chosen: argparse.Namespace) -> Callable[[], float]:
    read = CLOCKS[chosen.clock]

    def now() -> float:
        if chosen.device.startswith("cuda"):
            torch.cuda.synchronize()
        return read()

    return now


def precision(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def look(posts: Sequence[Post], chosen: argparse.Namespace) -> float:
    """Seconds a step that ViT and CLIP take over the images of its posts."""
    count = sum(len(post.images) for post in posts)
    vit = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    clip = open_clip.create_model("ViT-B-32")
    vit, clip = vit.eval().to(chosen.device), clip.eval().to(chosen.device)
    pixels = torch.randn(count, 3, 224, 224, device=chosen.device)
    clock = clock_of(chosen)
    with torch.inference_mode(), precision(torch.device(chosen.device)):
        vit(pixels[:1]), clip.encode_image(pixels[:1])
        start = clock()
        vit(pixels)
        clip.encode_image(pixels)
        seconds: float = clock() - start
    steps: int = len(posts) // chosen.batch
    return seconds / steps


def crf_seconds(chosen: argparse.Namespace) -> float:
    """Seconds of a step that the CRF's loss takes, forward and backward."""
    from torchcrf import CRF  # noqa: PLC0415

    words, tags = 34, len(TagSet())
    crf = CRF(tags, batch_first=True).to(chosen.device)
    emissions = torch.randn(chosen.batch, words, tags, device=chosen.device, requires_grad=True)
    gold = torch.zeros(chosen.batch, words, dtype=torch.long, device=chosen.device)
    mask = torch.ones(chosen.batch, words, dtype=torch.bool, device=chosen.device)
    clock = clock_of(chosen)
    seconds = []
    for _ in range(12):
        start = clock()
        loss = crf_loss(crf, emissions, gold, mask)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds.append(clock() - start)
    return statistics.median(seconds[2:])


def record(
    chosen: argparse.Namespace, posts: Sequence[Post], results: Sequence[Result], crf: float
) -> str:
    base = results[0].median
    lines = []
    for result in results:
        pairs = zip(result.seconds, results[0].seconds, strict=True)
        ratio = statistics.median(ours / alone for ours, alone in pairs)
        least = min(result.seconds) / min(results[0].seconds)
        towers = (
            "not run"
            if result.towers is None
            else f"{result.median + result.towers:.3g} s, "
            f"{(result.median + result.towers) / result.median:.1f}×"
        )
        lines.append(
            f"| {result.name} | {result.median:.3f} | {min(result.seconds):.3f} | "
            f"{result.update:.3f} | **{ratio:.2f}×** | {least:.2f}× | {TARGETS[result.name]} | "
            f"{'' if result is results[0] else towers} |"
        )
    some = posts[chosen.batch :]
    words = statistics.mean(len(post.words) for post in some)
    images = statistics.mean(len(post.images) for post in some)
    clock = "clock on the wall" if chosen.clock == "wall" else "processor, all threads together"
    where = f"{machine(chosen.device)}; torch threads: {chosen.threads}"
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return f"""# What images add to a training step

`python benchmarks/train_step.py --device {chosen.device} --batch {chosen.batch}`:
batches of {chosen.batch} posts ({words:.1f} words, {images:.1f} images on average), one shared
text encoder of {chosen.layers} layers × {chosen.width}, the systems in turns, median of
{chosen.steps} steps each; "against text only" is the median of what the same batch took. Seconds
are those of the {clock}.

| | s a step | fastest | of it AdamW | against text only | fastest | target | towers in the loop |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

"Towers in the loop": ViT-B/16 and CLIP ViT-B/32, frozen, over the images of every batch before the
step, and how many times as long a step then takes; without decoding, and without MANIQA, whose
work is 138 times that of these two. The cache saves that in every step of every epoch.

The CRF's loss, forward and backward, takes {1000 * crf:.1f} ms of a step at
34 words: {crf / base:.1%} of text only, which has it too.

{chr(10).join(ending(where, versions))}
"""


if __name__ == "__main__":
    main()
