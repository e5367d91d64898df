"""Image quality by MANIQA, on crops of images of any size batched together."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import RECIPE, FeatureSpec, Prepared, run_padded
from mnerfeat.extractors.crops import CROPS, uniform_crops
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loading import download, versions
from mnerfeat.extractors.weights import hash_files, read_weights

if TYPE_CHECKING:
    from mnerfeat.extractors.maniqa_network import ManiqaNetwork

QUALITY: Final = "quality"
VARIANTS: Final[Mapping[str, tuple[str, float]]] = {
    "maniqa": ("ckpt_koniq10k.pt", 0.8),
    "maniqa-kadid": ("ckpt_kadid10k.pt", 0.8),
    "maniqa-pipal": ("MANIQA_PIPAL-ae6d356b.pth", 0.13),
}
"""pyiqa's checkpoints: the file, and the scale of the Swin layers it was trained with."""

_HUB = "chaofengc/IQA-PyTorch-Weights"
_OPTION = "quality"
_CROPS, _COUNTS = "crops", "counts"


class ManiqaPrepare:
    """The different crops of an image, and how often each counts."""

    def __call__(self, image: Image.Image) -> Prepared:
        """`crops`: see `uniform_crops`; `counts`: (crops,)."""
        crops, counts = uniform_crops(np.asarray(image))
        return {_CROPS: crops, _COUNTS: counts}


@final
class ManiqaExtractor:
    """`quality`: the weighted mean of the scores of all patches of all crops; a number.

    Higher is better; about 0 to 1, though nothing bounds it above. It equals pyiqa's score of
    the upright image within 1e-3.

    Args:
        reference: One of `VARIANTS`, with a checkpoint's path after a colon where it does not
            lie where pyiqa or the hub's client keep it.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where the checkpoint is not there.
    """

    name = "quality"

    def __init__(self, reference: str, *, numerics: Numerics) -> None:
        variant, _, path = reference.partition(":")
        file, self._scale = VARIANTS[variant]
        self._weights = find_checkpoint(file, path)
        self.features = {QUALITY: FeatureSpec(shape=(), dtype=np.dtype(np.float32))}
        facts = {
            "extractor": self.name,
            "recipe": RECIPE,
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
            "output": "score, higher is better",
            "dtype": "float32",
            "numerics": numerics,
            "libraries": versions("torch", "timm", "pyiqa"),
        }
        self.provenance: Mapping[str, Provenance] = {QUALITY: Provenance(facts)}
        self._network: ManiqaNetwork | None = None
        self._compute: Compute | None = None

    @property
    def prepare(self) -> ManiqaPrepare:
        """The crops."""
        return ManiqaPrepare()

    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`; here it counts crops."""
        return 64 if compute.device.type == "cuda" else 1

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return max(1, size // 4)

    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        if compute == self._compute:
            return
        from mnerfeat.extractors.maniqa_network import load_maniqa  # noqa: PLC0415

        weights = read_weights(self._weights, option=_OPTION)
        network = load_maniqa(weights, self._weights, scale=self._scale)
        self._network = network.to(compute.device)
        self._compute = compute

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        whole = [image[_CROPS].dtype == np.uint8 for image in batch]
        patches: list[NDArray[np.float32] | None] = [None] * len(batch)
        for kind in (True, False):  # bytes, and images that were scaled up
            chosen = [i for i in range(len(batch)) if whole[i] is kind]
            if not chosen:
                continue
            crops = np.concatenate([batch[i][_CROPS] for i in chosen])
            ends = np.cumsum([len(batch[i][_CROPS]) for i in chosen])[:-1]
            for i, part in zip(chosen, np.split(self._run(crops, size), ends), strict=True):
                patches[i] = part
        return {
            QUALITY: np.array(
                [
                    pool(part, image[_COUNTS])
                    for part, image in zip(patches, batch, strict=True)
                    if part is not None
                ],
                np.float32,
            )
        }

    def _run(self, crops: NDArray[Any], size: int) -> NDArray[np.float32]:
        """(crops, 2, 784): scores and weights of the patches."""
        network, compute = self._network, self._compute
        assert network is not None, "load comes first"
        assert compute is not None

        def step(piece: NDArray[Any]) -> NDArray[np.float32]:
            with compute.running():
                pixels = compute.put(piece).permute(0, 3, 1, 2).float()
                unit = pixels.div_(255) if piece.dtype == np.uint8 else pixels
                result = network(unit.sub_(0.5).div_(0.5))
            host: NDArray[np.float32] = result.float().cpu().numpy()
            return host

        return run_padded(crops, size, step)


def pool(patches: NDArray[np.float32], counts: NDArray[np.float32]) -> float:
    """Σ w s / Σ w over all patches of all crops: not the mean of the crops' scores.

    Args:
        patches: (crops, 2, 784): scores and weights.
        counts: (crops,): how often each crop counts.
    """
    scores, weights = patches.astype(np.float64).transpose(1, 0, 2)
    weights = weights * counts[:, None]
    return float((weights * scores).sum() / (weights.sum() + 1e-8))


def find_checkpoint(file: str, path: str) -> Path:
    """A checkpoint of MANIQA: as named, where pyiqa keeps its downloads, or from the hub.

    Raises:
        ModelError: Where it is in none of these places and cannot be downloaded.
    """
    if path:
        named = Path(path).expanduser()
        if named.is_file():
            return named
        raise ModelError(f"{_OPTION}: there is no checkpoint {named}")
    kept = _pyiqa_folder() / file
    if kept.is_file():
        return kept
    try:
        return download(_HUB, [(file,)], option=_OPTION) / file
    except ModelError as error:
        raise ModelError(
            f"{_OPTION}: {file}, the weights of MANIQA, is neither in {kept.parent} nor can it be "
            "downloaded",
            faults=[error.what],
            hint=f"where there is a network, `hf download {_HUB} {file} --local-dir .`; copy that "
            f"file here and name it with --quality maniqa:{file}. Or use --quality piqe, which "
            "has no weights, or --preset tiny",
        ) from error


def _pyiqa_folder() -> Path:
    """`torch.hub.get_dir()/pyiqa`, without the seconds that importing torch takes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "pyiqa"
