"""MANIQA on our inference path against pyiqa's own, with random weights.

The quick tests shrink the vision transformer inside it and keep everything else, crops and
pooling included; the slow ones run the real size, and forty shapes of images. The environment
variable MNERFEAT_MANIQA may name a checkpoint of pyiqa (ckpt_koniq10k.pt): the forty shapes are
then compared with its weights at the real size, on a GPU where there is one, for on a processor
that takes hours.
"""

import os
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pyiqa.archs import maniqa_arch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mnerfeat.errors import ModelError
from mnerfeat.extractors import maniqa_network
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.maniqa import ManiqaExtractor, pool
from tests.extractors.pictures import picture

TOLERANCE = 1e-3
"""What may be promised; what is measured is about 1e-7: sums in another order."""


def small_vit() -> Any:
    return VisionTransformer(img_size=224, patch_size=8, embed_dim=16, depth=12, num_heads=1)


def make_stock(vit: Any) -> Any:
    """pyiqa's MANIQA with random weights that give scores of ordinary size."""
    with mock.patch.object(maniqa_arch.timm, "create_model", return_value=vit):
        stock = maniqa_arch.MANIQA(
            pretrained=False, scale=0.8, embed_dim=vit.embed_dim, num_heads=[4, 4]
        )
    torch.nn.init.constant_(stock.fc_score[3].bias, 0.5)
    return stock.eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ManiqaExtractor]:
    torch.manual_seed(0)
    stock = make_stock(small_vit())
    path = tmp_path_factory.mktemp("maniqa") / "checkpoint.pt"
    torch.save(stock.state_dict(), path)
    extractor = ManiqaExtractor(f"maniqa:{path}", numerics="fast")
    with mock.patch("timm.create_model", return_value=small_vit()):
        extractor.load(Compute(device=torch.device("cpu"), half=False))
    return stock, extractor


def stock_score(stock: Any, image: Image.Image) -> float:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return float(stock(pixels.to(next(stock.parameters()).device)))


SHAPES = [
    (100, 60),
    (300, 260),
    *(pytest.param(size, marks=pytest.mark.slow)
      for size in [(224, 224), (500, 375), (375, 500), (1, 1), (900, 30)]),
]  # fmt: skip


@pytest.mark.parametrize("size", SHAPES)
def test_scores_are_pyiqas(small: tuple[Any, ManiqaExtractor], size: tuple[int, int]) -> None:
    stock, extractor = small
    image = picture(*size, seed=size[0])
    (score,) = extractor.extract([extractor.prepare(image)], 1)["quality"]
    assert abs(score - stock_score(stock, image)) <= 1e-5


MIXED = [
    (1, 1), (5, 3), (30, 900), (60, 100), (100, 60), (160, 160), (223, 223), (223, 400),
    (224, 224), (224, 225), (225, 224), (224, 500), (500, 224), (225, 225), (226, 300),
    (227, 227), (228, 228), (229, 231), (231, 229), (240, 320), (320, 240), (256, 256),
    (260, 300), (300, 260), (300, 400), (333, 250), (375, 500), (400, 225), (480, 360),
    (500, 333), (500, 375), (512, 512), (600, 240), (640, 480), (700, 228), (768, 432),
    (800, 600), (900, 30), (1024, 300), (1200, 675),
]  # fmt: skip
"""Width and height: scaled up, on both sides of every step of the crop grid, long and thin."""


@pytest.mark.slow
def test_scores_of_forty_shapes_are_pyiqas(small: tuple[Any, ManiqaExtractor]) -> None:
    assert len(set(MIXED)) == 40
    stock, extractor = small
    checkpoint = os.environ.get("MNERFEAT_MANIQA")
    device = torch.device("cpu")
    if checkpoint:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        stock = make_stock(timm.create_model("vit_base_patch8_224", pretrained=False))
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
        stock.load_state_dict(weights.get("params", weights))
        extractor = ManiqaExtractor(f"maniqa:{checkpoint}", numerics="fast")
        extractor.load(Compute(device=device, half=device.type == "cuda"))
    images = [picture(*size, seed=i) for i, size in enumerate(MIXED)]
    scores = extractor.extract([extractor.prepare(image) for image in images], 4)["quality"]
    wanted = [stock_score(stock.to(device), image) for image in images]
    assert np.ptp(wanted) > 1e-4
    assert np.abs(scores - wanted).max() <= (TOLERANCE if checkpoint else 1e-5)


@pytest.mark.slow
def test_scores_of_photographs_are_pyiqas(small: tuple[Any, ManiqaExtractor], shared: Path) -> None:
    stock, extractor = small
    paths = sorted((shared / "data" / "images").iterdir())[::3]
    images = [Image.open(path).convert("RGB") for path in paths]
    scores = extractor.extract([extractor.prepare(image) for image in images], 4)["quality"]
    wanted = [stock_score(stock, image) for image in images]
    assert np.ptp(wanted) > 1e-4  # the images are told apart at all
    assert np.abs(scores - wanted).max() <= 1e-5


def test_the_last_two_blocks_are_never_run(small: tuple[Any, ManiqaExtractor]) -> None:
    _, extractor = small
    assert len(extractor._network.vit.blocks) == 10  # type: ignore[union-attr]


def test_a_pooled_score_is_no_mean_of_the_crops_scores() -> None:
    patches = np.array([[[1.0, 0.0], [1.0, 1.0]], [[4.0, 4.0], [0.5, 0.0]]], np.float32)
    counts = np.array([3, 1], np.float32)
    # Σ w s = 3 (1·1 + 1·0) + 0.5·4 = 5, Σ w = 3·2 + 0.5 = 6.5
    assert pool(patches, counts) == pytest.approx(5 / 6.5)


def test_a_checkpoint_under_params_loads_too(
    small: tuple[Any, ManiqaExtractor], tmp_path: Path, cpu: Compute
) -> None:
    stock, extractor = small
    torch.save({"params": stock.state_dict()}, tmp_path / "nested.pth")
    other = ManiqaExtractor(f"maniqa:{tmp_path / 'nested.pth'}", numerics="fast")
    with mock.patch("timm.create_model", return_value=small_vit()):
        other.load(cpu)
    image = [extractor.prepare(picture(224, 224))]
    assert np.array_equal(
        other.extract(image, 1)["quality"], extractor.extract(image, 1)["quality"]
    )


def test_weights_of_something_else_are_refused(tmp_path: Path, cpu: Compute) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    extractor = ManiqaExtractor(f"maniqa:{tmp_path / 'other.safetensors'}", numerics="fast")
    with (
        mock.patch("timm.create_model", return_value=small_vit()),
        pytest.raises(ModelError, match="weights of MANIQA"),
    ):
        extractor.load(cpu)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, cpu: Compute) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"params": Evil()}))
    torch.save({"params": Evil()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        extractor = ManiqaExtractor(f"maniqa:{tmp_path / name}", numerics="fast")
        with pytest.raises(ModelError, match="cannot be loaded safely"):
            extractor.load(cpu)
    assert not marker.exists()


def test_a_missing_checkpoint_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError) as missing:
        ManiqaExtractor("maniqa", numerics="fast")
    assert str(tmp_path / "torch" / "hub" / "pyiqa") in str(missing.value)
    assert "--quality piqe" in str(missing.value)


def test_pyiqas_own_downloads_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "pyiqa" / "ckpt_koniq10k.pt"
    kept.parent.mkdir(parents=True)
    torch.save({"a": torch.zeros(1)}, kept)
    ManiqaExtractor("maniqa", numerics="fast")
    assert str(kept.parent) == str(Path(torch.hub.get_dir()) / "pyiqa")


def test_folding_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    block = maniqa_arch.TABlock(49).eval()
    x = torch.randn(2, 10, 49)
    with torch.inference_mode():
        assert torch.allclose(maniqa_network.FoldedAttention(block)(x), block(x), atol=1e-5)


@pytest.mark.slow
def test_scores_at_real_size_are_pyiqas(tmp_path: Path, cpu: Compute) -> None:
    torch.manual_seed(0)
    stock = make_stock(timm.create_model("vit_base_patch8_224", pretrained=False))
    torch.save(stock.state_dict(), tmp_path / "checkpoint.pt")
    extractor = ManiqaExtractor(f"maniqa:{tmp_path / 'checkpoint.pt'}", numerics="fast")
    extractor.load(cpu)
    for size in ((224, 224), (500, 375), (60, 100)):
        image = picture(*size)
        (score,) = extractor.extract([extractor.prepare(image)], 1)["quality"]
        assert abs(score - stock_score(stock, image)) <= TOLERANCE
