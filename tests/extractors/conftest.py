"""Models for tests, made here with random weights: small ones of every kind."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from mnerfeat.extractors.device import Compute


@dataclass(frozen=True)
class Models:
    """Folders of random models."""

    vit: Path
    clip: Path
    quality: Path


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return Compute(device=torch.device("cpu"), half=False)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No hub, and no hashes remembered in the user's own cache folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-home"))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of one product wait for each other for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    return Models(
        vit=save_vit(folder / "vit", hidden_size=32, image_size=32, patch_size=8, layers=2),
        clip=save_clip(folder / "clip", image_size=32, patch_size=8, width=32, layers=2),
        quality=save_quality(folder / "quality"),
    )


def save_vit(
    folder: Path, *, hidden_size: int, image_size: int, patch_size: int, layers: int
) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 16 if hidden_size < 128 else hidden_size // 64,
        intermediate_size=4 * hidden_size,
        image_size=image_size,
        patch_size=patch_size,
        initializer_range=0.1,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return folder


def save_quality(folder: Path) -> Path:
    torch.manual_seed(1)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=1
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_clip(
    folder: Path,
    *,
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    preprocessing: dict[str, Any] | None = None,
) -> Path:
    torch.manual_seed(2)
    vision = {
        "image_size": image_size,
        "layers": layers,
        "width": width,
        "patch_size": patch_size,
        "head_width": 16 if width < 128 else 64,
    }
    text = {
        "context_length": 77 if width > 128 else 16,
        "vocab_size": 49408,
        "width": 16 if width < 128 else 512,
        "heads": 2 if width < 128 else 8,
        "layers": layers,
    }
    config = {"embed_dim": 24 if width < 128 else 512, "vision_cfg": vision, "text_cfg": text}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_clip.model.CLIP(**config)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()},
              folder / "open_clip_model.safetensors")  # fmt: skip
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing or {}})
    )
    return folder
