"""CLIP embeddings against open_clip's own transform and encoders."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

from mnerfeat.errors import ModelError
from mnerfeat.extractors.clip import PREPROCESSING, ClipExtractor, ClipPrepare, find_clip
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.registry import PRESETS
from tests.extractors.conftest import Models, save_clip
from tests.extractors.pictures import picture

TOLERANCE = 2e-5
"""As for the ViT: float32 sums in another order; the pixels are the same to the last bit."""

SIZES = [(1, 1), (3, 2), (224, 224), (225, 224), (223, 1000), (500, 375), (375, 500), (33, 77),
         (10, 5000), (5000, 10), (48, 48), (347, 500)]  # fmt: skip


def clip(reference: str | Path, compute: Compute) -> ClipExtractor:
    extractor = ClipExtractor(str(reference), dtype=np.dtype(np.float32), numerics="fast")
    extractor.load(compute)
    return extractor


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float((np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)).max())


def upstream(folder: Path, images: list[Image.Image], texts: list[str]) -> tuple[Any, Any]:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        shown = torch.cat([model.eval().encode_image(transform(i)[None]) for i in images])
        told = torch.cat([model.encode_text(tokenizer(text)) for text in texts])
    return shown.numpy(), told.numpy()


def pixels(prepare: ClipPrepare, image: Image.Image, preprocessing: dict[str, Any]) -> Any:
    mean, std = (torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    return torch.from_numpy(prepare(image)["pixels"]).float().div(255).sub(mean).div(std)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_open_clips_to_the_last_bit(mode: str, interpolation: str) -> None:
    preprocessing = {**PREPROCESSING, "size": 224, "resize_mode": mode}
    preprocessing["interpolation"] = interpolation
    transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
    prepare = ClipPrepare(preprocessing)
    for size in SIZES if mode != "longest" else SIZES[2:8]:
        image = picture(*size, seed=sum(size))
        if max(size) / min(size) > 200:
            continue  # scaled whole, these go beyond what the next test is about
        assert torch.equal(pixels(prepare, image, preprocessing), transform(image)), size


def test_pixels_of_photographs_are_open_clips_to_the_last_bit(shared: Path) -> None:
    preprocessing = {**PREPROCESSING, "size": 224}
    transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
    prepare = ClipPrepare(preprocessing)
    for path in sorted((shared / "data" / "images").iterdir()):
        image = Image.open(path).convert("RGB")
        assert torch.equal(pixels(prepare, image, preprocessing), transform(image)), path.name


def test_of_a_thread_only_the_middle_is_scaled_and_that_right() -> None:
    preprocessing = {**PREPROCESSING, "size": 224}
    image = picture(20_000, 10, seed=1)
    scaled = image.resize((448_000, 224), Image.Resampling.BICUBIC)
    left = (448_000 - 224) // 2
    wanted = np.asarray(scaled.crop((left, 0, left + 224, 224))).astype(int)
    ours = ClipPrepare(preprocessing)(image)["pixels"].transpose(1, 2, 0)
    assert np.abs(ours - wanted).max() <= 8
    with mock.patch("PIL.Image.MAX_IMAGE_PIXELS", None):
        enormous = Image.new("RGB", (4_000_000, 2), "red")  # scaled whole: 300 gigabytes
    assert (ClipPrepare(preprocessing)(enormous)["pixels"][0] == 255).all()


def test_embeddings_are_open_clips(models: Models, cpu: Compute) -> None:
    images = [picture(40, 30, 1), picture(100, 200, 2), picture(32, 32, 3)]
    texts = ["a red car", "RT @you: 東京 😀 <b>&amp;", ""]
    extractor = clip(models.clip, cpu)
    ours = extractor.extract([extractor.prepare(image) for image in images], 4)["clip_image"]
    rows, cut = extractor.extract_texts(texts, 4)
    shown, told = upstream(models.clip, images, texts)
    assert distance(ours, shown) <= TOLERANCE
    assert distance(rows["clip_text"], told) <= TOLERANCE
    assert cut == 0


@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_embeddings_of_photographs_are_open_clips_at_real_size(
    shared: Path, tmp_path: Path, cpu: Compute, step: int
) -> None:
    folder = save_clip(tmp_path / "clip", image_size=224, patch_size=32, width=768, layers=12)
    paths = sorted((shared / "data" / "images").iterdir())[::step]
    images = [Image.open(path).convert("RGB") for path in paths]
    texts = [path.stem.replace("_", " ") for path in paths]
    extractor = clip(folder, cpu)
    ours = extractor.extract([extractor.prepare(image) for image in images], 4)["clip_image"]
    rows, _ = extractor.extract_texts(texts, 4)
    shown, told = upstream(folder, images, texts)
    assert ours.shape == (len(paths), 512)
    assert np.linalg.norm(ours, axis=1).std() > 0  # not normalised
    assert distance(ours, shown) <= TOLERANCE
    assert distance(rows["clip_text"], told) <= TOLERANCE


class TestTexts:
    def test_a_row_depends_on_its_text_alone_to_the_last_bit(
        self, models: Models, cpu: Compute
    ) -> None:
        extractor = clip(models.clip, cpu)
        texts = ["a", "a red car", "to be or not to be that is the question", "", "é"]
        together = extractor.extract_texts(texts, 4)[0]["clip_text"]
        alone = [extractor.extract_texts([text], 4)[0]["clip_text"] for text in texts]
        assert np.array_equal(np.concatenate(alone), together)

    @pytest.mark.parametrize(("words", "cut"), [(14, 0), (15, 1)])
    def test_those_longer_than_the_context_are_counted(
        self, models: Models, cpu: Compute, words: int, cut: int
    ) -> None:
        extractor = clip(models.clip, cpu)
        assert extractor.context_length == 16
        assert extractor.extract_texts([" ".join(["a"] * words), "b"], 2)[1] == cut

    def test_a_tokenizer_of_transformers_counts_too(self, cpu: Compute) -> None:
        extractor = clip(PRESETS["tiny"]["clip"], cpu)
        length = extractor.context_length
        assert extractor.extract_texts(["w " * (2 * length), "w"], 2)[1] == 1


class TestSources:
    def test_a_listed_model_by_a_checkpoints_path(self, tmp_path: Path, cpu: Compute) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model("ViT-S-32-alt").eval()
        path = tmp_path / "weights.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        extractor = clip(f"ViT-S-32-alt:{path}", cpu)
        facts = extractor.provenance["clip_image"].facts
        assert facts["model"] == "ViT-S-32-alt:weights.safetensors"
        image = picture(300, 250)
        transform = image_transform_v2(PreprocessCfg(size=224), is_train=False)
        with torch.inference_mode():
            wanted = model.encode_image(transform(image)[None]).numpy()
        ours = extractor.extract([extractor.prepare(image)], 1)["clip_image"]
        assert distance(ours, wanted) <= TOLERANCE

    def test_a_tag_brings_its_own_preprocessing_and_activation(self, tmp_path: Path) -> None:
        """open_clip only warns that ViT-B-32 and openai do not fit, and computes with GELU."""
        (tmp_path / "open_clip_model.safetensors").write_bytes(b"weights")
        with mock.patch("mnerfeat.extractors.clip.download", return_value=tmp_path):
            openai = find_clip("ViT-B-32:openai")
            other = find_clip("ViT-B-32:laion2b_s34b_b79k")
            squashed = find_clip("ViT-B-16-SigLIP:webli")
        assert (openai.quick_gelu, other.quick_gelu) == (True, False)
        assert openai.facts["config_sha256"] != other.facts["config_sha256"]
        assert squashed.preprocessing["resize_mode"] == "squash"
        assert squashed.preprocessing["mean"] == [0.5, 0.5, 0.5]
        assert openai.preprocessing == {**PREPROCESSING, "size": 224}

    def test_our_defaults_are_open_clips(self) -> None:
        theirs = vars(PreprocessCfg())
        for key, value in PREPROCESSING.items():
            given = theirs[key]
            assert (list(given) if isinstance(given, tuple) else given) == value

    def test_the_quick_activation_is_used(
        self, models: Models, tmp_path: Path, cpu: Compute
    ) -> None:
        folder = tmp_path / "quick"
        shutil.copytree(models.clip, folder)
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["quick_gelu"] = True
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        images = [picture(40, 30, 1)]
        quick, usual = clip(folder, cpu), clip(models.clip, cpu)
        rows = quick.extract([quick.prepare(images[0])], 1)["clip_image"]
        assert distance(rows, upstream(folder, images, ["a"])[0]) <= TOLERANCE
        assert distance(rows, usual.extract([usual.prepare(images[0])], 1)["clip_image"]) > 1e-3

    @pytest.mark.parametrize(
        ("reference", "said"),
        [
            ("ViT-B-32", "neither a folder nor"),
            ("ViT-B-99:openai", "neither a folder nor"),
            ("ViT-B-32:nonsense", "laion2b_s34b_b79k"),
            ("local-dir:/nowhere", "not a folder"),
            ("ViT-B-32:openai", "hf download timm/vit_base_patch32_clip_224.openai"),
            ("hf-hub:org/name", "hf download org/name"),
        ],
    )
    def test_what_is_not_there_is_told(
        self, reference: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelError) as refused:
            find_clip(reference)
        assert said in str(refused.value)

    def test_weights_of_another_model_are_refused(
        self, models: Models, tmp_path: Path, cpu: Compute
    ) -> None:
        folder = tmp_path / "clip"
        shutil.copytree(models.clip, folder)
        weights = load_file(folder / "open_clip_model.safetensors")
        del weights["visual.proj"]
        save_file(weights, folder / "open_clip_model.safetensors")
        with pytest.raises(ModelError, match="cannot be loaded"):
            clip(folder, cpu)

    def test_a_configuration_that_wants_to_run_code_is_refused(
        self, models: Models, tmp_path: Path
    ) -> None:
        folder = tmp_path / "clip"
        shutil.copytree(models.clip, folder)
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="its own code"):
            find_clip(str(folder))

    @pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"model_cfg": {"embed_dim": 3}}'])
    def test_a_folder_with_an_odd_configuration_is_refused(
        self, tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "open_clip_config.json").write_text(content)
        with pytest.raises(ModelError, match=r"open_clip_config\.json"):
            find_clip(str(tmp_path))
