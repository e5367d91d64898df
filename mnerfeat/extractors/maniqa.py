"""Image quality by MANIQA, on crops of images of any size batched together.

pyiqa 0.1.16 scores an image by twenty crops (`uniform_crop`): if the shorter side is at most 224
pixels, the image is scaled up bilinearly until that side is 225; then the first twenty of a 5 × 5
grid of crops of 224 × 224 are taken, in steps of (side − 224) // 4. A side below 228 has step 0,
so crops repeat: all twenty of a 224 × 224 image are the same. Here each distinct crop runs once.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import Extractor, FeatureSpec, Prepared, run_padded
from mnerfeat.extractors.decoder import DECODING, Pixels
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loader import versions
from mnerfeat.extractors.weights import hash_files, read_weights
from mnerfeat.hub import download

if TYPE_CHECKING:
    import torch

    from mnerfeat.extractors.maniqa_network import ManiqaNetwork

VARIANTS: Final[Mapping[str, tuple[str, float]]] = {
    "maniqa": ("ckpt_koniq10k.pt", 0.8),
    "maniqa-kadid": ("ckpt_kadid10k.pt", 0.8),
    "maniqa-pipal": ("MANIQA_PIPAL-ae6d356b.pth", 0.13),
}
"""pyiqa's checkpoints: the file, and the scale of the Swin layers it was trained with."""

CROP: Final = 224
CROPS: Final = 20
_GRID = 5
_HUB = "chaofengc/IQA-PyTorch-Weights"
_OPTION = "quality"
_CROPS, _COUNTS = "crops", "counts"


class ManiqaPrepare:
    """Cuts an image into its distinct crops."""

    def __call__(self, image: Image.Image) -> Prepared:
        """Return `crops`: see `uniform_crops`; `counts`: (crops,)."""
        crops, counts = uniform_crops(np.asarray(image))
        return {_CROPS: crops, _COUNTS: counts}


@final
class ManiqaExtractor(Extractor):
    """`quality`: the weighted mean of the scores of all patches of all crops; a number.

    Higher is better, about 0 to 1 but without an upper bound. Equals pyiqa's score of the upright
    image within 1e-3.

    Args:
        reference: One of `VARIANTS`, with `:CHECKPOINT` if that is not where pyiqa or the hub
            client keep it.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: The checkpoint is missing.
    """

    name = "quality"
    cuda_size, mps_size, cpu_size = 64, 1, 1  # crops
    inputs_an_image = 4
    prepare: Final = ManiqaPrepare()

    def __init__(self, reference: str, *, numerics: Numerics) -> None:
        variant, _, path = reference.partition(":")
        file, self._scale = VARIANTS[variant]
        self._weights = find_checkpoint(file, path)
        super().__init__(
            {"quality": FeatureSpec(shape=(), dtype=np.dtype(np.float32))},
            facts={
                "model": variant,
                "architecture": "MANIQA",
                "weights_sha256": hash_files([self._weights]),
                "preprocessing": {
                    "crops": f"{CROPS} uniform ones of 224 × 224",
                    "mean": 0.5,
                    "std": 0.5,
                    "scale": self._scale,
                },
                "decoding": DECODING,
                "numerics": numerics,
                "libraries": versions("torch", "timm", "pyiqa"),
            },
            own_facts={"quality": {"output": "score, higher is better"}},
        )
        self._network: ManiqaNetwork | None = None

    def _load(self, compute: Compute) -> None:
        from mnerfeat.extractors.maniqa_network import load_maniqa  # noqa: PLC0415

        weights = read_weights(self._weights, option=_OPTION)
        network = load_maniqa(weights, self._weights, scale=self._scale)
        self._network = network.to(compute.device)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        scores = np.zeros(len(batch), np.float32)
        for dtype in {image[_CROPS].dtype for image in batch}:  # bytes, and scaled up images
            chosen = [i for i, image in enumerate(batch) if image[_CROPS].dtype == dtype]
            crops = [batch[i][_CROPS] for i in chosen]
            ends = np.cumsum([len(some) for some in crops])[:-1]
            patches = np.split(self._run(np.concatenate(crops), size), ends)
            scores[chosen] = [
                pool(some, batch[i][_COUNTS]) for i, some in zip(chosen, patches, strict=True)
            ]
        return {"quality": scores}

    def _run(self, crops: NDArray[Any], size: int) -> NDArray[np.float32]:
        """Return scores and weights of the patches, (crops, 2, 784)."""
        network = self._network
        assert network is not None, "load comes first"

        def step(piece: "torch.Tensor") -> "torch.Tensor":
            pixels = piece.permute(0, 3, 1, 2).float()
            unit = pixels if piece.is_floating_point() else pixels.div_(255)
            scores: torch.Tensor = network(unit.sub_(0.5).div_(0.5))
            return scores

        return run_padded(crops, size, self.compute, step)


def pool(patches: NDArray[np.float32], counts: NDArray[np.float32]) -> float:
    """Return Σ w s / Σ w over all patches of all crops, which is not the mean of crop scores.

    Args:
        patches: (crops, 2, 784): scores and weights.
        counts: (crops,): how often each crop occurs.
    """
    scores, weights = patches.astype(np.float64).transpose(1, 0, 2)
    weights = weights * counts[:, None]
    return float((weights * scores).sum() / (weights.sum() + 1e-8))


def uniform_crops(pixels: Pixels) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the distinct crops of an image.

    Args:
        pixels: (height, width, 3).

    Returns:
        Crops, (crops, 224, 224, 3): uint8 in [0, 255], or float32 in [0, 1] if the image was
        scaled up; and how often each occurs, (crops,), twenty in all.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    scale = (CROP + 1) / shorter if shorter <= CROP else 1.0
    tall, wide = int(height * scale), int(width * scale)
    counts: dict[tuple[int, int], int] = {}
    for place in range(CROPS):
        row, column = divmod(place, _GRID)
        corner = (row * ((tall - CROP) // (_GRID - 1)), column * ((wide - CROP) // (_GRID - 1)))
        counts[corner] = counts.get(corner, 0) + 1
    crops: list[NDArray[Any]] = [
        pixels[top : top + CROP, left : left + CROP]
        if shorter > CROP
        else _crop_scaled(pixels, top, left, scale)
        for top, left in counts
    ]
    return np.stack(crops), np.fromiter(counts.values(), np.float32)


def _crop_scaled(pixels: Pixels, top: int, left: int, scale: float) -> NDArray[np.float32]:
    """Return a crop of the scaled image, without making the rest of it, which may be gigabytes."""
    height, width = pixels.shape[:2]
    above, below, down = _neighbours(top, height, scale)
    before, after, right = _neighbours(left, width, scale)
    down, right = down[:, None, None], right[None, :, None]
    # Columns first: the rows of a long image are long.
    upper, lower = (
        pixels[rows[:, None], before] * (1 - right) + pixels[rows[:, None], after] * right
        for rows in (above, below)
    )
    crop = (upper * (1 - down) + lower * down) / np.float32(255)
    return crop.astype(np.float32, copy=False)


def _neighbours(
    start: int, length: int, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two source pixels of each of `CROP` scaled pixels, and the weight of the second.

    Pixel centres are at halves, as in `torch.nn.functional.interpolate` without aligned corners.
    """
    centres = np.arange(start, start + CROP, dtype=np.float32) + np.float32(0.5)
    source = np.maximum(centres * np.float32(1 / scale) - np.float32(0.5), np.float32(0))
    first = np.minimum(source.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), (source - first).astype(np.float32)


def find_checkpoint(file: str, path: str) -> Path:
    """Find a checkpoint of MANIQA: at a path, among pyiqa's downloads, or on the hub.

    Raises:
        ModelError: It is nowhere, and cannot be downloaded.
    """
    if path:
        named = Path(path).expanduser()
        if named.is_file():
            return named
        raise ModelError(f"{_OPTION}: there is no checkpoint {named}")
    # `torch.hub.get_dir()/pyiqa`, without the seconds that importing torch takes.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    downloads = Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "pyiqa"
    if (downloads / file).is_file():
        return downloads / file
    try:
        return download(_HUB, [(file,)], option=_OPTION) / file
    except ModelError as error:
        raise ModelError(
            f"{_OPTION}: {file}, the weights of MANIQA, is not in {downloads} and cannot be "
            "downloaded",
            faults=[error.what],
            hint=f"on a machine with a network, `hf download {_HUB} {file} --local-dir .`; copy "
            f"that file here and name it with --quality maniqa:{file}. Or use --quality piqe, "
            "which has no weights, or --preset tiny",
        ) from error
