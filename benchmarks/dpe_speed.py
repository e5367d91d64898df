"""What DPE-MNER costs: a training step against BERT-CRF's, and five reasoning steps in use.

Both sides run in this process, in turn, on the same encoder and the same posts: a training step
(forward, backward, optimiser) with 150 noisy spans and the relevance losses of all pairs in the
batch, against one of text-only BERT-CRF; and five reasoning steps (tagging less the encoder's
forward pass), against that forward pass. Weights and image tensors are random and of the papers'
sizes. Run it as

    python benchmarks/dpe_speed.py --data ../shared/data/twitter2017

and it writes its record to `benchmarks/results/dpe_speed.md`.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from recording import machine
from text_twitter2017 import ENCODER
from transformers import BertConfig, BertModel

from mnerfeat.checkpoint import library_versions
from mnerfeat.datasets import Post, TagSet, read_folder
from mnerfeat.heads.base import HeadConfig, Images
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.tagger import Tagger, gold_ids, pad_ids
from mnerfeat.text import PieceBatch, TextConfig, TextEncoder
from mnerfeat.text.encoder import load_tokenizer

RECORD = Path(__file__).parent / "results" / "dpe_speed.md"

SIZES = {
    "grid": 2048,
    "caption_states": 768,
    "caption_length": 1,
    "regions_grid": 2048,
    "regions_count": 1,
    "tags_states": 768,
    "tags_length": 1,
}
SHAPES: Mapping[str, tuple[int, ...]] = {
    "grid": (7, 7, 2048),
    "caption_states": (40, 768),
    "regions_grid": (3, 7, 7, 2048),
    "tags_states": (24, 768),
}
COUNTS = {"caption_length": 14.0, "regions_count": 3.0, "tags_length": 8.0}
"""As is usual of photographs."""
HEADS: Mapping[str, HeadConfig] = {
    "BERT-CRF": TextOnlyConfig(),
    "BERT-Iterative": IterativeConfig(),
    "DPE-MNER": DpeConfig(),
}
LIMITS = {"training": 3.0, "use": 2.0}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What DPE-MNER costs")
    parser.add_argument("--data", type=Path, required=True, help="folder of posts")
    parser.add_argument("--encoder", choices=("base", "minilm"), default="minilm")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=1, help="of each post")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Ratios, by what is compared."""
    chosen = options(argv)
    torch.set_num_threads(chosen.threads)
    posts = read_folder(chosen.data)["train"].posts[: chosen.batch]
    sides = {name: Side(head, posts, chosen) for name, head in HEADS.items()}
    works: dict[str, Callable[[], None]] = {}
    for name, side in sides.items():
        works[f"{name}: a training step"] = side.train
        works[f"{name}: tagging"] = side.tag
    works["the encoder's forward pass"] = sides["BERT-CRF"].encode
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(chosen.rounds + 1):
        for name, work in works.items():
            taken = timed(work, chosen.device)
            if turn:  # the first one warms up
                seconds[name].append(taken)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    forward = found["the encoder's forward pass"]
    step = found["BERT-CRF: a training step"]
    ratios = {}
    for name in ("BERT-Iterative", "DPE-MNER"):
        ratios[f"{name}, training"] = found[f"{name}: a training step"] / step
        ratios[f"{name}, use"] = (found[f"{name}: tagging"] - forward) / forward
    text = record(found, ratios, chosen)
    chosen.record.parent.mkdir(parents=True, exist_ok=True)
    chosen.record.write_text(text, "utf-8")
    print(text)
    return ratios


class Side:
    """A tagger with one batch of posts."""

    def __init__(self, head: HeadConfig, posts: Sequence[Post], chosen: argparse.Namespace) -> None:
        tag_set = TagSet()
        text = TextConfig(encoder=str(ENCODER))
        encoder = TextEncoder.from_pretrained(text)
        if chosen.encoder == "base":
            base = BertModel(BertConfig(), add_pooling_layer=False)
            encoder = TextEncoder(base, load_tokenizer(text), text)
        self.device = torch.device(chosen.device)
        self.tagger = Tagger.build(encoder, head, tag_set, column_sizes=SIZES, seed=1)
        self.tagger.to(self.device)
        texts = encoder.tokenizer([post.words for post in posts])
        self.pieces: PieceBatch = encoder.tokenizer.batch(texts).to(self.device)
        self.gold = pad_ids(gold_ids(posts, tag_set)).to(self.device)
        self.seed = torch.arange(len(posts))
        self.images = pictures(len(posts), chosen.images, head.columns, self.device)
        self.optimizer = torch.optim.AdamW(self.tagger.parameters(), lr=1e-5, fused=True)

    def train(self) -> None:
        """One optimiser step."""
        self.tagger.train()
        loss = self.tagger(self.pieces, self.images, self.gold, seed=self.seed, decode=False).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def tag(self) -> None:
        """The whole way from pieces to tags."""
        self.tagger.eval()
        self.tagger(self.pieces, self.images, seed=self.seed)

    @torch.no_grad()
    def encode(self) -> None:
        """The encoder alone."""
        self.tagger.eval()
        self.tagger.encoder(self.pieces, None, None)


def pictures(posts: int, images: int, columns: Sequence[str], device: torch.device) -> Images:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in columns:
        if name in COUNTS:
            found[name] = torch.full((posts, images), COUNTS[name], device=device)
        else:
            found[name] = torch.randn(posts, images, *SHAPES[name], generator=generator).to(device)
    return Images(mask=torch.ones(posts, images, dtype=torch.bool, device=device), columns=found)


def timed(work: Callable[[], None], device: str) -> float:
    """Seconds of the clock on a GPU; of the processor on a CPU, which others may be using too."""
    if not device.startswith("cuda"):
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def record(
    found: Mapping[str, float], ratios: Mapping[str, float], chosen: argparse.Namespace
) -> str:
    rows = [f"| {name} | {1000 * value:.0f} |" for name, value in found.items()]
    lines = [
        f"| {name} | **{value:.2f}** | {LIMITS[name.split(', ')[1]]:.0f} |"
        for name, value in ratios.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    size = {"base": "BERT-base (12 layers, 768)", "minilm": "BERT of 6 layers, 384"}
    command = (
        f"benchmarks/dpe_speed.py --data ../shared/data/twitter2017 --encoder {chosen.encoder}"
    )
    batch = f"{chosen.batch} posts of Twitter-2017 at a time, {chosen.images} image(s) each"
    where = f"{machine(chosen.device)}, {chosen.threads} thread(s), on {chosen.device}"
    return "\n".join(
        [
            "# What DPE-MNER costs",
            "",
            f"`python {command}`:",
            f"medians of {chosen.rounds} rounds, in which all take turns. Training is against",
            "BERT-CRF's step. Use is five reasoning steps, that is tagging less the encoder's",
            "forward pass, against that forward pass.",
            "",
            "| | ms (of the processor, on a CPU) |",
            "|---|---|",
            *rows,
            "",
            "| | times | at most wanted |",
            "|---|---|---|",
            *lines,
            "",
            f"- Encoder: {size[chosen.encoder]}; {batch}, 150 noisy spans.",
            f"- Machine: {where}; load average at the end {os.getloadavg()[0]:.1f}.",
            f"- Versions: {versions}.",
            f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
