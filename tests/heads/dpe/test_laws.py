"""Every form of both diffusion heads keeps the laws of heads."""

from typing import Any, get_args

import pytest
import torch

from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.dpe.config import Ablation
from tests.heads.contract import SIZES, HeadContract, draw

SMALL: dict[str, Any] = {"spans": 8, "steps": 2, "dropout": 0.0, "threshold": 1.0}


class TestIterative(HeadContract):
    config = IterativeConfig(spans=24, dropout=0.0)


class TestDpe(HeadContract):
    config = DpeConfig(**SMALL)
    compares_posts = True


class TestIntent(HeadContract):
    config = DpeConfig(**SMALL, schedule="intent")
    compares_posts = True


class TestRelu(HeadContract):
    config = IterativeConfig(spans=24, dropout=0.0, pointer="relu", noise="cosine", loss="sum")


@pytest.mark.parametrize("ablation", get_args(Ablation), scope="class")
class TestAblations(HeadContract):
    """Tables 2, 3 and 4, by name."""

    compares_posts = True

    @pytest.fixture(autouse=True)
    def ablated(self, ablation: Any) -> None:
        self.config = DpeConfig(**SMALL, ablation=ablation)

    @pytest.fixture
    def head(self, ablated: None, ablation: Any) -> Any:
        torch.manual_seed(0)
        head = self.config.build(SIZES)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.1)
        return head.eval()

    @pytest.fixture
    def batch(self, ablated: None) -> Any:
        return draw(self.config)
