"""The tiny CLIP: the cosine of a post and an image is high where the post hints at its wall."""

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional

from mnerfeat.toy.drawing import SIDE
from mnerfeat.toy.plan import ToyPost
from tiny.fitting import fit, in_batches, store
from tiny.pictures import WALL_NAMES, Pictures
from tiny.texts import make_tokenizer, wall_words

CONTEXT = 64
WIDTH = 64


def train(
    folder: Path,
    pictures: Pictures,
    held_out: Pictures,
    posts: list[ToyPost],
    *,
    steps: int,
) -> dict[str, float]:
    """Trains it, writes a folder that `open_clip` opens as `local-dir:`, and measures it.

    Every post is told from every image of its batch, as in SigLIP, by whether it hints at the
    image's wall. A linear probe, dropped afterwards, keeps the image's quality in its embedding,
    so that a discriminator on both embeddings can learn which images people trust.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer(context=CONTEXT)
    vision, text = _configs(len(tokenizer), tokenizer.sep_token_id)
    model = CLIP(WIDTH, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    probe = nn.Linear(WIDTH, 1)
    bias = nn.Parameter(torch.tensor(-2.0))
    texts = _encode(posts, tokenizer)
    hints = wall_words(posts, WALL_NAMES)
    of_rows = torch.Generator().manual_seed(1)

    def loss_of(rows: Tensor, done: float) -> Tensor:  # noqa: ARG001
        chosen = torch.randint(len(posts), (len(rows),), generator=of_rows)
        image = model.encode_image(pictures.batch(rows))
        cosines = _cosines(model.encode_text(texts[chosen]), image)
        match = (hints[chosen][:, None] == pictures.walls[rows][None]).float()
        return functional.binary_cross_entropy_with_logits(
            10.0 * cosines + bias, match
        ) + functional.mse_loss(probe(image)[:, 0], pictures.quality[rows])

    fit(
        "clip",
        [*model.parameters(), *probe.parameters(), bias],
        loss_of,
        rows=len(pictures.kinds),
        steps=steps,
    )
    model.eval()
    _write(folder, model, {"vision_cfg": vision, "text_cfg": text}, tokenizer)
    seen = in_batches(lambda rows: model.encode_image(held_out.batch(rows)), len(held_out.kinds))
    read = in_batches(lambda rows: model.encode_text(texts[rows]), len(posts))
    return _measure(_cosines(read, seen), hints, held_out)


def _configs(pieces: int, end: int) -> tuple[dict[str, Any], dict[str, Any]]:
    tower = {"width": WIDTH, "layers": 2, "mlp_ratio": 2.0}
    vision = {**tower, "image_size": SIDE, "patch_size": 8, "head_width": 16}
    text = {
        **tower,
        "heads": 4,
        "context_length": CONTEXT,
        "vocab_size": pieces,
        "hf_tokenizer_name": "tokenizer of this folder",
        "pool_type": "eos",
        "eos_id": end,
    }
    return vision, text


def _encode(posts: list[ToyPost], tokenizer: Any) -> Tensor:
    encoded = tokenizer(
        [toy.post.text for toy in posts],
        padding="max_length",
        truncation=True,
        max_length=CONTEXT,
        return_tensors="pt",
    )
    pieces: Tensor = encoded["input_ids"]
    return pieces


def _cosines(text: Tensor, image: Tensor) -> Tensor:
    return functional.normalize(text, dim=-1) @ functional.normalize(image, dim=-1).T


def _write(folder: Path, model: CLIP, towers: dict[str, Any], tokenizer: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seen = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "shortest"}
    config = {"model_cfg": {"embed_dim": WIDTH, **towers}, "preprocess_cfg": seen}
    text = json.dumps(config, indent=2) + "\n"
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    store(model.state_dict(), folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


def _measure(cosines: Tensor, hints: Tensor, held_out: Pictures) -> dict[str, float]:
    hinting = hints >= 0
    cosines, hints = cosines[hinting], hints[hinting]
    match = hints[:, None] == held_out.walls[None]
    poor = (held_out.quality < 0.35)[None].expand_as(match)
    return {
        "cosine, matching and clear": cosines[match & ~poor].mean().item(),
        "cosine, matching and degraded": cosines[match & poor].mean().item(),
        "cosine, not matching": cosines[~match].mean().item(),
    }
