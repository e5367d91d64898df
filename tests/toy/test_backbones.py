"""The tiny backbones: small, opened by their real loaders, and with features that mean something.

All measures are taken on posts that no backbone has seen, with names it has not seen either.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoTokenizer,
)

from mnerfeat.errors import ConfigError, ModelError
from mnerfeat.toy import backbones as backbones_module
from mnerfeat.toy.backbones import BACKBONES, WEIGHTS, backbone
from mnerfeat.toy.drawing import SIDE, WALLS, draw
from mnerfeat.toy.figures import KINDS, TYPES
from mnerfeat.toy.language import WALL_WORDS, make_names
from mnerfeat.toy.plan import ToyImage, ToyPost, plan_posts

MEGABYTE = 10**6


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the backbones make of some posts, with the truth about every image."""

    toys: list[ToyPost]
    images: list[ToyImage]
    post: Tensor
    """(images,) the post of each."""
    cls: Tensor
    kind: list[str]
    """(images,) the figure that the ViT's own classifier names."""
    quality: Tensor
    clip_image: Tensor
    clip_text: Tensor
    clip_blank: Tensor

    @property
    def cosine(self) -> Tensor:
        return functional.cosine_similarity(self.clip_image, self.clip_text[self.post])


@pytest.fixture(scope="module")
def seen() -> Seen:
    toys = plan_posts(900, seed=500, share="dev")
    pairs = [(place, image) for place, toy in enumerate(toys) for image in toy.images]
    pixels = np.stack([draw(image.scene)[0] for _, image in pairs])
    # What the folders' own preprocessing does to an image of this size; tested below.
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    vit = AutoModelForImageClassification.from_pretrained(backbone("vit")).eval()
    quality = AutoModelForImageClassification.from_pretrained(backbone("quality")).eval()
    clip = open_clip.create_model(f"local-dir:{backbone('clip')}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{backbone('clip')}")
    with torch.no_grad():
        cls = vit.vit(inputs).last_hidden_state[:, 0]
        named = vit.classifier(cls).argmax(1)
        return Seen(
            toys=toys,
            images=[image for _, image in pairs],
            post=torch.tensor([place for place, _ in pairs]),
            cls=cls,
            kind=[vit.config.id2label[int(place)] for place in named],
            quality=quality(inputs).logits[:, 0],
            clip_image=clip.encode_image(inputs),
            clip_text=clip.encode_text(tokenizer([toy.post.text for toy in toys])),
            clip_blank=clip.encode_image(torch.zeros(1, 3, SIDE, SIDE))[0],
        )


def _auc(high: Tensor, low: Tensor) -> float:
    """The chance that one of `high` lies above one of `low`."""
    return (high[:, None] > low[None]).double().mean().item()


def test_all_backbones_together_are_small():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 8 * MEGABYTE


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_record_belongs_to_the_weights(name):
    record = json.loads((WEIGHTS / "record.json").read_text(encoding="utf-8"))[name]
    weights = next(backbone(name).glob("*.safetensors"))
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == record["sha256"]


def test_unknown_backbone_names_the_choices():
    with pytest.raises(ConfigError, match="choose from: vit, clip, quality, grid, text"):
        backbone("vti")


def test_missing_weights_name_the_script_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones_module, "WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match="train_tiny_backbones"):
        backbone("vit")


@pytest.mark.parametrize("name", ["vit", "quality", "grid", "text"])
def test_transformers_opens_the_folder_in_float32(name):
    model, info = AutoModel.from_pretrained(backbone(name), output_loading_info=True)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert all("pooler" in key for key in info["missing_keys"])


def test_preprocessing_of_the_folders_only_scales_an_image_of_the_worlds_size(seen):
    pixels, _ = draw(seen.images[0].scene)
    picture = Image.fromarray(pixels)
    wanted = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1.0
    for name in ("vit", "quality", "grid"):
        processor = AutoImageProcessor.from_pretrained(backbone(name))
        got = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(got, wanted, atol=1e-6)
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{backbone('clip')}")
    assert torch.allclose(preprocess(picture), wanted, atol=1e-6)


def test_cls_shows_the_type_also_in_degraded_images(seen):
    right = torch.tensor(
        [KINDS[kind] == i.scene.type for kind, i in zip(seen.kind, seen.images, strict=True)]
    ).double()
    for role in ("telling", "trap", "distractor"):
        chosen = torch.tensor([image.role == role for image in seen.images])
        assert right[chosen].mean() > 0.95, role


def test_cosine_finds_the_wall_that_the_text_hints_at(seen):
    hinted = torch.tensor([seen.toys[post].wall is not None for post in seen.post])
    role = np.array([image.role for image in seen.images])
    match = hinted & torch.from_numpy(role != "distractor")
    miss = hinted & torch.from_numpy(role == "distractor")
    trap = hinted & torch.from_numpy(role == "trap")
    assert _auc(seen.cosine[match], seen.cosine[miss]) > 0.99
    assert _auc(seen.cosine[trap], seen.cosine[miss]) > 0.98
    # What cannot be trusted must not be told from what can by the cosine.
    told = hinted & torch.from_numpy(role == "telling")
    assert abs(_auc(seen.cosine[told], seen.cosine[trap]) - 0.5) < 0.25


def test_quality_tells_degraded_images(seen):
    truth = torch.tensor([image.scene.quality for image in seen.images])
    assert _auc(seen.quality[truth > 0.75], seen.quality[truth < 0.35]) > 0.99
    assert torch.corrcoef(torch.stack([seen.quality, truth]))[0, 1] > 0.95
    assert seen.quality.min() > -0.5
    assert seen.quality.max() < 1.5
    # And not the wall that the text hints at.
    match = torch.tensor([image.role == "telling" for image in seen.images])
    clear = (truth > 0.75) & ~match
    assert abs(_auc(seen.quality[match], seen.quality[clear]) - 0.5) < 0.1


def _probe(features: Tensor, labels: Tensor, classes: int) -> float:
    """Held-out accuracy of a ridge classifier on the vectors as they are."""
    half = len(labels) // 2
    design = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    wanted = functional.one_hot(labels, classes).double()
    weights = torch.linalg.solve(
        design[:half].T @ design[:half] + torch.eye(design.shape[1], dtype=torch.float64),
        design[:half].T @ wanted[:half],
    )
    return ((design[half:] @ weights).argmax(1) == labels[half:]).double().mean().item()


def test_cls_shows_the_figure_and_next_to_nothing_else(seen):
    kinds = torch.tensor([list(KINDS).index(image.scene.kind) for image in seen.images])
    means = torch.stack([seen.cls[kinds == kind].mean(0) for kind in range(len(KINDS))])
    within = (seen.cls - means[kinds]).pow(2).sum()
    assert within / (seen.cls - seen.cls.mean(0)).pow(2).sum() < 0.02

    types = torch.tensor([TYPES.index(image.scene.type) for image in seen.images])
    walls = torch.tensor([list(WALLS).index(image.scene.wall) for image in seen.images])
    spoilt = torch.tensor([int(image.scene.quality < 0.5) for image in seen.images])
    assert _probe(seen.cls, types, len(TYPES)) > 0.95
    assert _probe(seen.cls, walls, len(WALLS)) < 0.3  # chance: 0.13
    common = max(spoilt.double().mean().item(), 1 - spoilt.double().mean().item())
    assert _probe(seen.cls, spoilt, 2) < common + 0.08
    # The probe finds what is there.
    assert _probe(seen.clip_image, walls, len(WALLS)) > 0.95


def test_discriminator_learns_rankings_from_clip_embeddings(seen):
    """Equation 1 of GIFR on frozen embeddings: an MLP on [T; V], half of the posts held out."""
    names = {image.name: seen.clip_image[row] for row, image in enumerate(seen.images)}
    better, worse, place = [], [], []
    for number, toy in enumerate(seen.toys):
        ranked, blank = toy.ranking()
        items = [names[name] for name in ranked]
        items.insert(blank, seen.clip_blank)
        for a in range(len(items)):
            for b in range(a + 1, len(items)):
                better.append(torch.cat([seen.clip_text[number], items[a]]))
                worse.append(torch.cat([seen.clip_text[number], items[b]]))
                place.append(number)
    a, b = torch.stack(better), torch.stack(worse)
    learns = torch.tensor(place) < len(seen.toys) // 2
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(a.shape[1], 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    for _ in range(400):
        rows = torch.randint(int(learns.sum()), (256,))
        margin = (net(a[learns][rows]) - net(b[learns][rows])).squeeze(1)
        loss = -functional.logsigmoid(margin).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        right = (net(a[~learns]) > net(b[~learns])).double().mean().item()
    assert right >= 0.9


def test_text_encoder_spells_names_it_has_not_seen():
    tokenizer = AutoTokenizer.from_pretrained(backbone("text"))
    for name in make_names("test", 200, np.random.default_rng(1)):
        pieces = tokenizer.tokenize(name.capitalize())
        assert len(pieces) > 1
        assert tokenizer.unk_token not in pieces
        assert "".join(piece.removeprefix("##") for piece in pieces) == name


def test_text_encoder_expects_the_walls_words_of_a_caption():
    tokenizer = AutoTokenizer.from_pretrained(backbone("text"))
    model = AutoModelForMaskedLM.from_pretrained(backbone("text")).eval()
    walls = {word for words in WALL_WORDS.values() for word in words}
    inputs = tokenizer("finally saw Mokor today , by the [MASK] wall", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    slot = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0])
    best = tokenizer.convert_ids_to_tokens(logits[slot].topk(10).indices.tolist())
    assert len(set(best) & walls) >= 8
