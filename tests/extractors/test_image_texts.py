"""Captions and tags as token states, against the upstream calls."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BlipForConditionalGeneration,
)

from mnerfeat.errors import ModelError
from mnerfeat.extractors.annotations import Annotations
from mnerfeat.extractors.base import Prepared, UnreadableImageError
from mnerfeat.extractors.captions import NEW_TOKENS, Captioner
from mnerfeat.extractors.detector import Detector
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.image_texts import ImageTextExtractor
from mnerfeat.extractors.tags import DetectedTags, join_tags
from tests.extractors.contract import ExtractorContract
from tests.extractors.pictures import picture
from tests.extractors.random_models import BERT, RandomModels, save_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> RandomModels:
    return save_models(tmp_path_factory.mktemp("models"))


class TestCaption(ExtractorContract):
    repeats = frozenset({"caption_length"})

    @classmethod
    def factory(cls, models: RandomModels) -> str:
        return (
            f"ImageTextExtractor('caption', Captioner({str(models.captioner)!r}), "
            f"bert={str(BERT)!r}, tokens=30, dtype=np.dtype('float16'), numerics='fast')"
        )


class TestTags(ExtractorContract):
    # A random detector sees one thing everywhere.
    repeats = frozenset({"tags_length", "tags_states"})

    @classmethod
    def factory(cls, models: RandomModels) -> str:
        return (
            f"ImageTextExtractor('tags', DetectedTags(Detector({str(models.detector)!r})), "
            f"bert={str(BERT)!r}, tokens=20, dtype=np.dtype('float16'), numerics='fast')"
        )


def extractor_of(
    texts: Sequence[str], compute: Compute, *, tokens: int, name: str = "caption"
) -> tuple[ImageTextExtractor, list[Prepared]]:
    """An extractor of texts from a file, and what it extracts from."""
    entries = {f"{i}.png": text for i, text in enumerate(texts)}
    extractor = ImageTextExtractor(
        name,
        Annotations(file=f"{name}.jsonl", entries=entries),
        bert=str(BERT),
        tokens=tokens,
        dtype=np.dtype(np.float32),
        numerics="fast",
    )
    extractor.load(compute)
    image = Image.new("RGB", (3, 3))
    return extractor, [extractor.prepare.of(Path("images") / file)(image) for file in entries]


def upstream(text: str, **options: object) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(BERT)
    model = AutoModel.from_pretrained(BERT, add_pooling_layer=False).eval()
    with torch.inference_mode():
        output = model(**tokenizer(text, return_tensors="pt", **options))
    return output.last_hidden_state[0].numpy()


def test_states_are_the_encoders_on_the_text_alone(cpu: Compute) -> None:
    texts = ["a picture of a lamp", "", "before the red wall", "zug"]
    extractor, prepared = extractor_of(texts, cpu, tokens=16)
    rows = extractor.extract(prepared, 3)
    for text, row, length in zip(
        texts, rows["caption_states"], rows["caption_length"], strict=True
    ):
        wanted = upstream(text) if text else np.zeros((0, 128), np.float32)
        assert length == len(wanted)
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-3, atol=1e-4)
        assert not row[len(wanted) :].any()


def test_a_text_that_is_too_long_is_cut_and_said_so_once(
    cpu: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    extractor, prepared = extractor_of(["a picture of a wall before a wall"] * 2, cpu, tokens=6)
    with caplog.at_level(logging.WARNING):
        rows = extractor.extract(prepared, 2)
    assert caplog.text.count("is cut to 6") == 1
    wanted = upstream("a picture of a wall before a wall", truncation=True, max_length=6)
    assert rows["caption_length"].tolist() == [6, 6]
    np.testing.assert_allclose(rows["caption_states"][0], wanted, rtol=1e-3, atol=1e-4)


def test_captions_are_what_the_model_generates(models: RandomModels, cpu: Compute) -> None:
    images = [picture(40, 30, 1), picture(100, 200, 2), picture(32, 32, 3)]
    captioner = Captioner(str(models.captioner))
    captioner.load(cpu)
    ours = captioner.describe([captioner.prepare(image) for image in images], 2, cpu)
    model = BlipForConditionalGeneration.from_pretrained(models.captioner).eval()
    processor = AutoImageProcessor.from_pretrained(models.captioner)
    tokenizer = AutoTokenizer.from_pretrained(models.captioner)
    for image, caption in zip(images, ours, strict=True):
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            ids = model.generate(pixel_values=pixels, do_sample=False, max_new_tokens=NEW_TOKENS)
        assert caption == " ".join(tokenizer.decode(ids[0], skip_special_tokens=True).split())
    assert len(set(ours)) == 3


def test_tags_are_the_labels_of_the_five_surest_objects(models: RandomModels, cpu: Compute) -> None:
    detector = Detector(str(models.detector))
    detector.load(cpu)
    image = np.asarray(picture(60, 90, 1))
    labels = [one.label for one in detector.find(image, cpu)]
    assert len(labels) == 6
    assert DetectedTags(detector).describe([{"image": image}], 1, cpu) == [" ".join(labels[:5])]


def test_what_a_file_says_needs_no_model_that_tells(cpu: Compute) -> None:
    texts = [join_tags(("lamp", "red wall"))]
    extractor, prepared = extractor_of(texts, cpu, tokens=8, name="tags")
    rows = extractor.extract(prepared, 2)
    wanted = upstream("lamp red wall")
    assert rows["tags_length"].tolist() == [len(wanted)]
    np.testing.assert_allclose(rows["tags_states"][0, : len(wanted)], wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(UnreadableImageError, match=r"not in tags\.jsonl"):
        extractor.prepare.of(Path("images/b.png"))


def test_a_text_encoder_without_a_tokenizer_is_refused(models: RandomModels) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        ImageTextExtractor(
            "tags",
            Annotations(file="tags.jsonl", entries={}),
            bert=str(models.grid),
            tokens=4,
            dtype=np.dtype(np.float32),
            numerics="fast",
        )
