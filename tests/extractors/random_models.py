"""Random models of the kinds that see objects, write captions or give grids."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    ConvNextImageProcessor,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    ResNetConfig,
    ResNetModel,
)

from mnerfeat.extractors.registry import PRESETS

BERT = Path(PRESETS["tiny"]["bert"])
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
LABELS = {0: "person", 1: "traffic light", 2: "dog", 3: "cup"}


@dataclass(frozen=True)
class RandomModels:
    """Folders."""

    grid: Path
    detector: Path
    captioner: Path
    bert: Path = BERT


def save_models(folder: Path) -> RandomModels:
    return RandomModels(
        grid=save_grid(folder / "grid"),
        detector=save_detector(folder / "detector"),
        captioner=save_captioner(folder / "captioner"),
    )


def save_grid(folder: Path, *, side: int = 40, **changes: object) -> Path:
    """Like microsoft/resnet-50: bottlenecks, and a processor that resizes and crops to squares."""
    torch.manual_seed(3)
    config = ResNetConfig(
        **{"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1], **changes}
    )
    ResNetModel(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": side}, crop_pct=0.875).save_pretrained(folder)
    return folder


def save_detector(folder: Path) -> Path:
    torch.manual_seed(4)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        backbone=None,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=6,
        id2label=LABELS,
        label2id={label: number for number, label in LABELS.items()},
        init_std=0.4,
        init_xavier_std=3.0,
    )
    DetrForObjectDetection(config).save_pretrained(folder)
    size = {"shortest_edge": 40, "longest_edge": 64}
    DetrImageProcessor(size=size).save_pretrained(folder)
    return folder


def save_captioner(folder: Path) -> Path:
    torch.manual_seed(5)
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **small,
        "vocab_size": 624,
        "encoder_hidden_size": 16,
        "bos_token_id": 2,
        "pad_token_id": 0,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "initializer_range": 0.5,
        "max_position_embeddings": 64,
    }
    vision = {**small, "image_size": 32, "patch_size": 8, "initializer_range": 0.5}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(BERT / name, folder / name)
    return folder
