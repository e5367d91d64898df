"""Every form of both diffusion heads keeps the laws of heads."""

from typing import Any, get_args

import pytest
import torch

from mnerfeat.heads.base import IGNORED
from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from mnerfeat.heads.dpe.config import Ablation
from tests.heads.contract import SIZES, HeadContract, draw, pad_words

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


FORMS = ("no-pmi", "no-dmf", "no-crm", "no-coarse", "moe")
"""One ablation of each kind: of priorities, layers, losses, representations, and static fusion."""
ABLATIONS = [
    pytest.param(name, marks=() if name in FORMS else pytest.mark.slow)
    for name in get_args(Ablation)
    if name != "none"
]


@pytest.mark.parametrize("ablation", ABLATIONS, scope="class")
class TestAblations(HeadContract):
    """Tables 2, 3 and 4, by name."""

    compares_posts = True

    @pytest.fixture(autouse=True)
    def ablated(self, ablation: Any) -> None:
        self.config = DpeConfig(**SMALL, ablation=ablation)

    @pytest.fixture
    def head(self, ablated: None) -> Any:
        return drawn(self.config)

    @pytest.fixture
    def batch(self, ablated: None) -> Any:
        return draw(self.config)


def drawn(config: DpeConfig) -> Any:
    """Build a head with weights large enough to show in the tags."""
    torch.manual_seed(0)
    head = config.build(SIZES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1.5).add_(torch.randn_like(parameter), alpha=0.1)
    return head.eval()


@pytest.mark.parametrize("ablation", get_args(Ablation))
def test_every_ablation_learns_with_all_its_parameters_and_ignores_padding(ablation: Any) -> None:
    config = DpeConfig(**SMALL, ablation=ablation)
    head, batch = drawn(config), draw(config)
    found = head(*batch)
    found.loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    padded = head(*pad_words(batch, 3))
    torch.testing.assert_close(padded.loss, found.loss, rtol=1e-4, atol=1e-4)
    mask = batch[0].mask
    assert torch.equal(padded.tags[:, : mask.shape[1]], found.tags)
    assert ((found.tags == IGNORED) == ~mask).all()
