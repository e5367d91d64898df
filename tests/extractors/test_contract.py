"""Every extractor keeps the laws of extractors."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests.extractors.conftest import Models
from tests.extractors.contract import ExtractorContract


class TestVit(ExtractorContract):
    @classmethod
    def factory(cls, models: Models) -> str:
        return f"VitExtractor({str(models.vit)!r}, dtype=np.dtype('float16'), numerics='fast')"


class TestClip(ExtractorContract):
    @classmethod
    def factory(cls, models: Models) -> str:
        return f"ClipExtractor({str(models.clip)!r}, dtype=np.dtype('float32'), numerics='fast')"


class TestScore(ExtractorContract):
    @classmethod
    def factory(cls, models: Models) -> str:
        return f"quality_extractor({str(models.quality)!r}, numerics='strict')"


class TestPiqe(ExtractorContract):
    @classmethod
    def factory(cls, models: Models) -> str:
        return "quality_extractor('piqe', numerics='fast')"


class TestManiqa(ExtractorContract):
    checkpoint: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def small_network(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        """The real network is too slow for the laws; the path around it is the same."""

        class Network(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.mix = torch.nn.Conv2d(3, 2, 8, 8)

            def forward(self, crops: torch.Tensor) -> torch.Tensor:
                return self.mix(crops).flatten(2).sigmoid()

        cls.checkpoint = tmp_path_factory.mktemp("maniqa") / "checkpoint.pt"
        torch.save({"a": torch.zeros(1)}, cls.checkpoint)
        with mock.patch("mnerfeat.extractors.maniqa_network.load_maniqa", return_value=Network()):
            yield

    @classmethod
    def factory(cls, models: Models) -> str:
        return f"quality_extractor('maniqa:{cls.checkpoint}', numerics='fast')"
