"""Scores of image quality that are not MANIQA's."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pyiqa.archs.piqe_arch import PIQE
from transformers import AutoModelForImageClassification, ViTImageProcessor

from mnerfeat.errors import ModelError
from mnerfeat.extractors import quality
from mnerfeat.extractors.base import UnreadableImageError
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.quality import quality_extractor
from tests.extractors.conftest import Models
from tests.extractors.pictures import picture


def test_piqe_is_turned_so_that_higher_is_better(cpu: Compute) -> None:
    extractor = quality_extractor("piqe", numerics="fast")
    extractor.load(cpu)
    images = [picture(100, 80, 1), picture(33, 47, 2), picture(16, 16, 3)]
    scores = extractor.extract([extractor.prepare(image) for image in images], 1)["quality"]
    for image, score in zip(images, scores, strict=True):
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        assert score == pytest.approx(1 - float(PIQE()(pixels)) / 100, abs=1e-6)
    assert "higher is better" in extractor.provenance["quality"].facts["output"]


def test_piqe_refuses_what_is_smaller_than_a_block() -> None:
    with pytest.raises(UnreadableImageError, match="15 × 40 pixels"):
        quality_extractor("piqe", numerics="fast").prepare(picture(15, 40))


def test_pyiqas_licence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    quality._warn_of_licence.cache_clear()
    with caplog.at_level(logging.WARNING):
        quality_extractor("piqe", numerics="fast")
        quality_extractor("piqe", numerics="fast")
    assert caplog.text.count("PolyForm Noncommercial") == 1


def test_a_model_with_one_output_gives_that_output(models: Models, cpu: Compute) -> None:
    extractor = quality_extractor(str(models.quality), numerics="fast")
    extractor.load(cpu)
    image = picture(60, 50)
    model = AutoModelForImageClassification.from_pretrained(models.quality).eval()
    inputs = ViTImageProcessor.from_pretrained(models.quality)(image, return_tensors="pt")
    with torch.inference_mode():
        wanted = float(model(**inputs).logits[0, 0])
    (score,) = extractor.extract([extractor.prepare(image)], 1)["quality"]
    assert score == pytest.approx(wanted, abs=1e-5)


def test_a_model_with_several_outputs_is_refused(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models.quality, tmp_path / "many")
    config = json.loads((tmp_path / "many" / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad"}
    (tmp_path / "many" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="2 outputs"):
        quality_extractor(str(tmp_path / "many"), numerics="fast")
    with pytest.raises(ModelError, match="2 outputs"):  # a plain ViT: two labels by default
        quality_extractor(str(models.vit), numerics="fast")
