"""[CLS] vectors against the pipeline of transformers, and models that must be refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ViTImageProcessor,
    pipeline,
)

from mnerfeat.errors import ModelError
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.vision import PIXELS, ProcessorPrepare, ResizePrepare, fastest_prepare
from mnerfeat.extractors.vit import VitExtractor
from tests.extractors.conftest import Models, save_vit
from tests.extractors.pictures import picture

TOLERANCE = 2e-5
"""Of float32 sums in another order, relative to the largest number of a vector: the pipeline
runs images one by one, we run them in batches. The pixels are the same to the last bit."""


def vit(folder: Path, compute: Compute) -> VitExtractor:
    extractor = VitExtractor(str(folder), dtype=np.dtype(np.float32), numerics="fast")
    extractor.load(compute)
    return extractor


def upstream(folder: Path, images: list[Image.Image]) -> np.ndarray:
    run = pipeline("image-feature-extraction", model=str(folder), return_tensors=True)
    return np.stack([run(image)[0, 0].numpy() for image in images])


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float((np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)).max())


def test_vectors_are_the_pipelines(models: Models, cpu: Compute) -> None:
    images = [picture(40, 30, 1), picture(100, 200, 2), picture(32, 32, 3), picture(7, 300, 4)]
    extractor = vit(models.vit, cpu)
    ours = extractor.extract([extractor.prepare(image) for image in images], 4)["vit_cls"]
    assert distance(ours, upstream(models.vit, images)) <= TOLERANCE


@pytest.mark.parametrize("step", [21, pytest.param(1, marks=pytest.mark.slow)])
def test_vectors_of_photographs_are_the_pipelines_at_real_size(
    shared: Path, tmp_path: Path, cpu: Compute, step: int
) -> None:
    folder = save_vit(
        tmp_path / "vit-b-16", hidden_size=768, image_size=224, patch_size=16, layers=12
    )
    paths = sorted((shared / "data" / "images").iterdir())[::step]
    images = [Image.open(path).convert("RGB") for path in paths]
    extractor = vit(folder, cpu)
    ours = extractor.extract([extractor.prepare(image) for image in images], 4)["vit_cls"]
    assert ours.shape == (len(paths), 768)
    assert distance(ours, upstream(folder, images)) <= TOLERANCE


def test_stored_as_float16_a_vector_is_rounded_and_no_more(models: Models, cpu: Compute) -> None:
    extractor = VitExtractor(str(models.vit), dtype=np.dtype(np.float16), numerics="fast")
    assert extractor.features["vit_cls"].dtype == np.float16
    assert extractor.provenance["vit_cls"].facts["dtype"] == "float16"


@pytest.mark.parametrize(
    ("processor", "splits"),
    [
        (ViTImageProcessor(size={"height": 32, "width": 32}), True),
        (ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False), True),
        (
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
            True,
        ),
        (
            BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
            True,
        ),
    ],
)
def test_a_processor_split_between_worker_and_device_is_the_whole_one(
    models: Models, tmp_path: Path, cpu: Compute, processor: Any, splits: bool
) -> None:
    folder = tmp_path / "vit"
    shutil.copytree(models.vit, folder)
    processor.save_pretrained(folder)
    extractor = vit(folder, cpu)
    image = picture(50, 70)
    sent = extractor.prepare(image)[PIXELS]
    assert (sent.dtype == np.uint8) == splits
    model = extractor._model
    model._load_processor()
    whole = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(model._normalise(torch.from_numpy(sent)[None]), whole)


def test_a_processor_that_cannot_be_split_runs_whole(models: Models, cpu: Compute) -> None:
    class Odd:
        """It darkens an image by its own mean, after resizing."""

        def __call__(self, image: Image.Image, **_: Any) -> dict[str, np.ndarray]:
            pixels = np.asarray(image.resize((32, 32))).transpose(2, 0, 1).astype(np.float32)
            return {"pixel_values": (pixels - pixels.mean())[None] / 255}

    extractor = VitExtractor(str(models.vit), dtype=np.dtype(np.float32), numerics="fast")
    model = extractor._model
    model._processor = Odd()
    assert not model._can_be_split()
    extractor.load(cpu)
    prepared = ProcessorPrepare(Odd(), split=False)(picture(50, 70))
    assert prepared[PIXELS].dtype == np.float32
    assert extractor.extract([prepared], 2)["vit_cls"].shape == (1, 32)


class TestRefused:
    def copy(self, models: Models, folder: Path, **changes: Any) -> Path:
        shutil.copytree(models.vit, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    def test_weights_that_are_not_all_there(
        self, models: Models, tmp_path: Path, cpu: Compute
    ) -> None:
        folder = self.copy(models, tmp_path / "vit")
        weights = load_file(folder / "model.safetensors")
        lost = sorted(name for name in weights if "layer" in name)[0]
        del weights[lost]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="random"):
            vit(folder, cpu)

    def test_another_kind_of_model(self, models: Models, cpu: Compute) -> None:
        with pytest.raises(ModelError, match="no hidden_size"):
            vit(models.quality, cpu)

    def test_code_of_its_own(self, models: Models, tmp_path: Path, cpu: Compute) -> None:
        folder = self.copy(
            models,
            tmp_path / "vit",
            model_type="evil",
            auto_map={"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"},
        )
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        with pytest.raises(ModelError, match="cannot be loaded"):
            vit(folder, cpu)
        assert not (tmp_path / "ran").exists()

    def test_weights_that_would_run_code(
        self, models: Models, tmp_path: Path, cpu: Compute
    ) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "ran",))

        folder = self.copy(models, tmp_path / "vit")
        (folder / "model.safetensors").unlink()
        torch.save({"embeddings.cls_token": Evil()}, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match="cannot be loaded"):
            vit(folder, cpu)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("side", [(32, 32), (24, 40)])
def test_resizing_without_the_processor_gives_its_bytes(
    side: tuple[int, int], resample: int
) -> None:
    processor = ViTImageProcessor(size={"height": side[0], "width": side[1]}, resample=resample)
    prepare = fastest_prepare(processor, split=True)
    assert isinstance(prepare, ResizePrepare)
    for i, size in enumerate([(1, 1), (7, 90), (500, 375), (31, 33)]):
        image = picture(*size, seed=i)
        wanted = processor(image, return_tensors="np", do_rescale=False, do_normalize=False)
        assert np.array_equal(prepare(image)["pixels"], wanted["pixel_values"][0])


def test_a_processor_that_crops_is_called_itself() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    assert isinstance(fastest_prepare(processor, split=True), ProcessorPrepare)
