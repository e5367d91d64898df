"""Grids against the model of transformers itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, BitImageProcessor, ViTImageProcessor

from mnerfeat.errors import ModelError
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.grid import GridExtractor
from mnerfeat.extractors.loader import find_model
from tests.extractors.contract import ExtractorContract
from tests.extractors.pictures import picture
from tests.extractors.random_models import RandomModels, save_grid, save_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> RandomModels:
    return save_models(tmp_path_factory.mktemp("models"))


class TestGrid(ExtractorContract):
    @classmethod
    def factory(cls, models: RandomModels) -> str:
        return f"GridExtractor({str(models.grid)!r}, dtype=np.dtype('float16'), numerics='fast')"


def grid(folder: Path, compute: Compute) -> GridExtractor:
    extractor = GridExtractor(str(folder), dtype=np.dtype(np.float32), numerics="fast")
    extractor.load(compute)
    return extractor


def test_cells_are_the_models_last_feature_map(models: RandomModels, cpu: Compute) -> None:
    images = [picture(40, 30, 1), picture(100, 200, 2), picture(7, 300, 3)]
    extractor = grid(models.grid, cpu)
    ours = extractor.extract([extractor.prepare(image) for image in images], 3)["grid"]
    model = AutoModel.from_pretrained(models.grid).eval()
    processor = AutoImageProcessor.from_pretrained(models.grid)
    with torch.inference_mode():
        theirs = model(**processor(images, return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [32, 40, 47])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_its_shape_is_known_before_it_is_loaded(
    tmp_path: Path, cpu: Compute, side: int, first: bool, kind: str
) -> None:
    folder = save_grid(
        tmp_path / "grid", side=side, downsample_in_first_stage=first, layer_type=kind
    )
    extractor = grid(folder, cpu)
    (rows,) = extractor.extract([extractor.prepare(picture())], 1).values()
    assert rows.shape[1:] == extractor.features["grid"].shape


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size={"height": 24, "width": 40}),
        BitImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 36, "width": 44}),
    ],
)
def test_its_shape_follows_the_processor(
    tmp_path: Path, cpu: Compute, processor: ViTImageProcessor
) -> None:
    folder = save_grid(tmp_path / "grid")
    processor.save_pretrained(folder)
    extractor = grid(folder, cpu)
    (rows,) = extractor.extract([extractor.prepare(picture())], 1).values()
    assert rows.shape[1:] == extractor.features["grid"].shape


def test_that_of_resnet_50_is_7_by_7_by_2048(tmp_path: Path) -> None:
    folder = tmp_path / "resnet-50"
    shutil.copytree(save_grid(tmp_path / "grid"), folder)
    config = {"model_type": "resnet", "hidden_sizes": [256, 512, 1024, 2048],
              "downsample_in_first_stage": False}  # fmt: skip
    preprocessing = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224,
                     "crop_pct": 0.875, "do_resize": True, "do_normalize": True}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    extractor = GridExtractor(str(folder), dtype=np.dtype(np.float16), numerics="fast")
    assert extractor.features["grid"].shape == (7, 7, 2048)


def test_another_kind_of_model_is_refused(models: RandomModels) -> None:
    assert find_model(str(models.detector), option="detector").config["model_type"] == "detr"
    with pytest.raises(ModelError, match="wanted a ResNet"):
        GridExtractor(str(models.detector), dtype=np.dtype(np.float16), numerics="fast")


def test_a_processor_that_names_no_size_is_refused(tmp_path: Path) -> None:
    folder = save_grid(tmp_path / "grid")
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ModelError, match="does not define the image size"):
        GridExtractor(str(folder), dtype=np.dtype(np.float16), numerics="fast")
