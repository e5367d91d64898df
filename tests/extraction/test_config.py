"""What a run may be asked to do, what it says, and on which device."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnerfeat.config import field_docs
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.summary import ExtractSummary
from mnerfeat.extractors.base import ExtractorOptions
from mnerfeat.extractors.device import Compute, choose_compute, is_out_of_memory, matrix_precision
from mnerfeat.extractors.registry import OPTIONS, PRESETS, make_extractor


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"features": ("vit", "vti")}, "features: 'vti'; choose from: vit, clip, quality"),
        ({"features": ()}, "features: nothing given"),
        ({"preset": "huge"}, "preset: 'huge'; choose from: base, tiny"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"image_timeout": 0}, "image_timeout is 0"),
        ({"numerics": "quick"}, "numerics: 'quick'"),
        ({"dtype": "float64"}, "dtype: 'float64'"),
    ],
)
def test_what_cannot_be_asked_for_names_its_option(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ExtractConfig(**given)
    assert said in str(refused.value)


def test_every_option_is_explained() -> None:
    docs = field_docs(ExtractConfig)
    assert set(docs) == set(ExtractConfig.__dataclass_fields__)


def test_the_base_preset_names_every_model_of_every_extractor() -> None:
    models = {name for name, option in OPTIONS.items() if not option.is_file}
    assert models == set(PRESETS["base"])


@pytest.mark.parametrize(
    ("feature", "lacking", "option"),
    [("caption", "captioner", "captions"), ("tags", "detector", "tags"),
     ("regions", "detector", "regions")],
)  # fmt: skip
def test_what_the_tiny_preset_has_no_model_for_names_the_file_to_give(
    feature: str, lacking: str, option: str
) -> None:
    with pytest.raises(ConfigError, match=f"no {lacking}") as refused:
        ExtractConfig(preset="tiny", features=(feature,)).extractors()
    assert f"--{option} FILE" in str(refused.value)


def test_the_tiny_preset_is_inside_the_package() -> None:
    made = ExtractConfig(preset="tiny").extractors()
    assert [extractor.name for extractor in made] == ["vit", "clip", "quality"]
    models = {e.provenance[f].facts["model"] for e in made for f in e.features}
    assert models == {f"mnerfeat/toy/weights/{name}" for name in ("vit", "clip", "quality")}


@pytest.mark.parametrize(("name", "preset"), [("vti", "tiny"), ("vit", "small")])
def test_unknown_extractors_and_presets_are_told(name: str, preset: str) -> None:
    options = ExtractorOptions(preset=preset, dtype=np.dtype("float16"), numerics="fast")
    with pytest.raises(ConfigError, match="choose from"):
        make_extractor(name, options)


class TestDevices:
    def test_automatic_says_which_one_it_took(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            compute = choose_compute("auto", "fast")
        assert f"device: {compute.device}" in caplog.text
        assert compute.half == (compute.device.type == "cuda")

    @pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta"])
    def test_one_that_is_not_there_is_told(self, name: str) -> None:
        with pytest.raises(ConfigError, match="device: "):
            choose_compute(name, "fast")

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    @pytest.mark.parametrize(("numerics", "half"), [("fast", True), ("strict", False)])
    def test_numerics_choose_the_numbers_on_a_gpu(self, numerics: Any, half: bool) -> None:
        assert choose_compute("cuda", numerics).half == half

    def test_torchs_own_settings_are_put_back(self) -> None:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        with matrix_precision(Compute(device=torch.device("cuda"), half=False)):
            assert torch.backends.cuda.matmul.allow_tf32
            assert torch.backends.cudnn.allow_tf32
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before

    @pytest.mark.parametrize(
        ("error", "is_one"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), True),
            (MemoryError(), True),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
            (RuntimeError("MPS backend out of memory (MPS allocated)"), True),
            (RuntimeError("shapes do not match"), False),
            (ValueError("can't allocate memory"), False),
        ],
    )
    def test_running_out_of_memory_is_recognised(self, error: Exception, is_one: bool) -> None:
        assert is_out_of_memory(error) == is_one


def summary(**changes: Any) -> ExtractSummary:
    given: dict[str, Any] = {
        "cache": Path("features.h5"), "dry_run": False, "features": ("vit", "clip"),
        "device": "cpu", "ids": {str(i): b"" for i in range(1200)}, "new": 1000, "reused": 100,
        "copies": 50, "context_length": 77, "seconds": 10.0,
    }  # fmt: skip
    return ExtractSummary(**(given | changes))


class TestSummary:
    def test_it_says_what_was_done(self) -> None:
        assert str(summary()).splitlines() == [
            "1,200 image files (vit, clip): 1,000 new, 100 reused, 50 copies, 0 failed",
            "10.0 s on cpu, 120.0 images/s; the features are in features.h5",
        ]

    def test_colours_that_are_not_as_in_the_file_are_counted(self) -> None:
        text = str(summary(profiles_ignored=3, transparency_dropped=1200))
        assert (
            "of the new images, 3 with a colour profile, read as sRGB; 1,200 with transparency, "
            "which is dropped"
        ) in text

    def test_texts_that_were_cut_are_told(self) -> None:
        text = str(summary(texts=30, new_texts=20, cut_texts=3))
        assert "30 texts: 20 new, 3 of them cut at 77 tokens" in text

    def test_failures_come_with_their_reasons_and_odd_names_are_printable(self) -> None:
        failed = [("a\n\x1b[31m\udcff.jpg", "an empty file")] + [("b.jpg", "x")] * 30
        text = str(summary(failed=tuple(failed), others=2, closed=(("c", "permission denied"),)))
        assert "\x1b" not in text
        assert r"a\n\x1b[31m\udcff.jpg: an empty file" in text
        assert "… and 21 more" in text
        assert "2 other files skipped" in text
        assert "folder c could not be entered: permission denied" in text
        text.encode()
