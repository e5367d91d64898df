"""Regions: boxes of a detector or of a file, and the grids of their crops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForObjectDetection

from mnerfeat.errors import ModelError
from mnerfeat.extractors.annotations import Annotations, Box
from mnerfeat.extractors.base import UnreadableImageError
from mnerfeat.extractors.detector import LEAST_SCORE, Detector
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.regions import RegionsExtractor
from tests.extractors.contract import ExtractorContract
from tests.extractors.pictures import picture
from tests.extractors.random_models import LABELS, RandomModels, save_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> RandomModels:
    return save_models(tmp_path_factory.mktemp("models"))


class TestRegions(ExtractorContract):
    repeats = frozenset({"regions_count"})

    @classmethod
    def factory(cls, models: RandomModels) -> str:
        return (
            f"RegionsExtractor({str(models.grid)!r}, Detector({str(models.detector)!r}), "
            "dtype=np.dtype('float16'), numerics='fast')"
        )


def imported(models: RandomModels, boxes: list[Box], compute: Compute) -> RegionsExtractor:
    extractor = RegionsExtractor(
        str(models.grid),
        Annotations(file="regions.jsonl", entries={"a.png": tuple(boxes)}),
        dtype=np.dtype(np.float32),
        numerics="fast",
    )
    extractor.load(compute)
    return extractor


def test_objects_are_the_detectors_own_the_surest_first(models: RandomModels, cpu: Compute) -> None:
    image = picture(60, 90, 1)
    detector = Detector(str(models.detector))
    detector.load(cpu)
    found = detector.find(np.asarray(image), cpu)
    model = AutoModelForObjectDetection.from_pretrained(models.detector).eval()
    processor = AutoImageProcessor.from_pretrained(models.detector)
    with torch.inference_mode():
        output = model(**processor(images=image, return_tensors="pt"))
    (wanted,) = processor.post_process_object_detection(
        output, threshold=LEAST_SCORE, target_sizes=[(90, 60)]
    )
    order = wanted["scores"].argsort(descending=True)
    assert len(found) == len(order) > 1
    assert [one.label for one in found] == [LABELS[int(i)] for i in wanted["labels"][order]]
    np.testing.assert_allclose([one.box for one in found], wanted["boxes"][order], rtol=1e-4)


def test_grids_are_those_of_the_crops(models: RandomModels, cpu: Compute) -> None:
    image = picture(60, 90, 2)
    boxes = [(3.0, 4.0, 30.0, 40.0), (0.4, 10.6, 59.2, 20.1)]
    extractor = imported(models, boxes, cpu)
    rows = extractor.extract([extractor.prepare.of(Path("images/a.png"))(image)], 4)
    model = AutoModel.from_pretrained(models.grid).eval()
    processor = AutoImageProcessor.from_pretrained(models.grid)
    # Every pixel that a box touches belongs to its crop.
    crops = [image.crop((3, 4, 30, 40)), image.crop((0, 10, 60, 21))]
    for place, crop in enumerate(crops):
        with torch.inference_mode():
            states = model(**processor(crop, return_tensors="pt")).last_hidden_state[0]
        wanted = states.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(rows["regions_grid"][0, place], wanted, rtol=1e-4, atol=1e-5)
    assert rows["regions_count"].tolist() == [2]
    np.testing.assert_allclose(rows["regions_boxes"][0, :2], boxes, rtol=1e-6)
    assert not rows["regions_boxes"][0, 2].any()
    assert not rows["regions_grid"][0, 2].any()


def test_three_boxes_are_kept_and_cut_to_the_image(models: RandomModels, cpu: Compute) -> None:
    outside: Box = (100.0, 100.0, 120.0, 110.0)
    boxes: list[Box] = [(-5.0, -1.0, 10.0, 99.0), outside, (1.0, 1.0, 2.0, 2.0)]
    boxes += [(5.0, 5.0, 9.0, 9.0), (0.0, 0.0, 1.0, 1.0)]
    extractor = imported(models, boxes, cpu)
    rows = extractor.extract([extractor.prepare.of(Path("a.png"))(picture(40, 30))], 4)
    wanted = [[0, 0, 10, 30], [1, 1, 2, 2], [5, 5, 9, 9]]
    assert rows["regions_boxes"][0].tolist() == wanted
    assert rows["regions_count"][0] == 3


def test_an_image_may_have_no_region(models: RandomModels, cpu: Compute) -> None:
    extractor = imported(models, [], cpu)
    rows = extractor.extract([extractor.prepare.of(Path("a.png"))(picture())], 4)
    assert all(not values.any() for values in rows.values())


def test_boxes_of_another_image_are_told(models: RandomModels, cpu: Compute) -> None:
    extractor = imported(models, [(50.0, 2.0, 70.0, 9.0)], cpu)
    with pytest.raises(UnreadableImageError, match="outside of its 40 × 30 pixels"):
        extractor.prepare.of(Path("a.png"))(picture(40, 30))


def test_a_model_that_names_no_objects_is_refused(models: RandomModels, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="id2label"):
        Detector(str(models.grid))
