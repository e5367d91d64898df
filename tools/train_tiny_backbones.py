"""Trains the tiny backbones of `--preset tiny` and writes them where the package keeps them.

    python tools/train_tiny_backbones.py

takes about ten minutes on one CPU core. `--scale miniature` shows in half a minute that it runs.
Nothing is read but this repository: all pictures and posts are made on the spot, with names and
seeds that no toy world uses.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import open_clip
import torch
import transformers
from tiny import clip, grid, quality, text, vit
from tiny.pictures import draw_pictures
from tiny.texts import make_posts

HOME = Path(__file__).resolve().parent.parent / "mnerfeat" / "toy" / "weights"
NAMES = ("vit", "clip", "quality", "grid", "text")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to train on."""

    pictures: int
    posts: int
    held_out: int
    steps: dict[str, int]


SCALES = {
    "full": Scale(
        pictures=40_000,
        posts=12_000,
        held_out=2_000,
        steps={"vit": 4_000, "clip": 2_500, "quality": 2_500, "grid": 2_500, "text": 3_000},
    ),
    "miniature": Scale(pictures=200, posts=100, held_out=100, steps=dict.fromkeys(NAMES, 3)),
}


def main(arguments: list[str] | None = None) -> None:
    """Trains what is asked for and writes the record beside it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=HOME, help="folder of the backbones")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much to train on")
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES, help="which ones")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # One thread adds up in one order: the same machine gives the same weights again.
    torch.set_num_threads(1)
    scale = SCALES[asked.scale]
    record = _train(asked.out, scale, tuple(asked.only))
    for name in asked.only:
        for figure, value in record[name].items():
            print(f"{name}: {figure} {value:.3f}")
    _write_record(asked.out, record)


def _train(out: Path, scale: Scale, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    record: dict[str, dict[str, float]] = {}
    if set(names) - {"text"}:
        pictures = draw_pictures(scale.pictures, seed=1_000)
        unseen = draw_pictures(scale.held_out, seed=1_001)
        if "vit" in names:
            record["vit"] = vit.train(out / "vit", pictures, unseen, steps=scale.steps["vit"])
        if "quality" in names:
            record["quality"] = quality.train(
                out / "quality", pictures, unseen, steps=scale.steps["quality"]
            )
        if "grid" in names:
            record["grid"] = grid.train(out / "grid", pictures, unseen, steps=scale.steps["grid"])
        if "clip" in names:
            posts = make_posts(scale.posts, seed=1_002)
            record["clip"] = clip.train(
                out / "clip", pictures, unseen, posts, steps=scale.steps["clip"]
            )
    if "text" in names:
        posts, others = make_posts(scale.posts, seed=1_003), make_posts(scale.held_out, seed=1_004)
        record["text"] = text.train(out / "text", posts, others, steps=scale.steps["text"])
    return record


def _write_record(out: Path, figures: dict[str, dict[str, float]]) -> None:
    path = out / "record.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, measured in figures.items():
        weights = next((out / name).glob("*.safetensors"))
        record[name] = {
            "held out": {figure: round(value, 4) for figure, value in measured.items()},
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "bytes": sum(file.stat().st_size for file in (out / name).iterdir()),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "open_clip": open_clip.__version__,
            },
        }
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
