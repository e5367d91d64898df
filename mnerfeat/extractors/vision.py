"""Image models of `transformers`: preparation by the model's own image processor, split in two.

A decoder process resizes and crops, and sends the pixels as bytes, a quarter of the traffic. The
device rescales and normalises them with the processor's own method. A processor that cannot be
split without changing a bit of its result runs as a whole in the decoder process.
"""

import pickle
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import (
    Extractor,
    FeatureSpec,
    Prepare,
    Prepared,
    run_padded,
)
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.loader import ModelFiles, require, versions

if TYPE_CHECKING:
    import torch

PIXELS: Final = "pixels"
_LATER = {"do_rescale": False, "do_normalize": False}


@dataclass(frozen=True, kw_only=True)
class ResizePrepare:
    """Resizes by torchvision in bytes, as processors of `transformers` do.

    Three times as fast as the processor itself, for the same bytes.

    Attributes:
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        mode: Name of torchvision's interpolation mode.
    """

    height: int
    width: int
    mode: str

    def __call__(self, image: Image.Image) -> Prepared:
        """Return `pixels`: (3, height, width) uint8."""
        import torch  # noqa: PLC0415
        from torchvision.transforms.v2 import functional  # type: ignore[import-untyped]  # noqa: PLC0415

        resized = functional.resize(
            torch.from_numpy(np.array(image)).permute(2, 0, 1),
            [self.height, self.width],
            interpolation=functional.InterpolationMode(self.mode),
            antialias=True,
        )
        return {PIXELS: np.ascontiguousarray(resized.numpy())}


class ProcessorPrepare:
    """Runs a model's own image processor.

    Pickled, it holds the processor as bytes, so that a process that only passes it on does not
    import torch.

    Args:
        processor: Image processor of `transformers`.
        split: Leave rescaling and normalising to the device.
    """

    def __init__(self, processor: Any, *, split: bool) -> None:
        self._processor = processor
        self._split = split

    def __call__(self, image: Image.Image) -> Prepared:
        """Return `pixels`: (3, height, width), uint8 if split, else float32."""
        if isinstance(self._processor, bytes):
            self._processor = pickle.loads(self._processor)  # noqa: S301 - from `__getstate__`
        later = _LATER if self._split else {}
        pixels = self._processor(image, return_tensors="np", **later)["pixel_values"][0]
        return {PIXELS: np.asarray(pixels)}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle."""
        held = self._processor
        processor = held if isinstance(held, bytes) else pickle.dumps(held)
        return {"_processor": processor, "_split": self._split}


def fastest_prepare(processor: Any, *, split: bool) -> Prepare:
    """Return a `ResizePrepare` if it gives the processor's bytes, else a `ProcessorPrepare`.

    Both are compared bit by bit, on images that grow and images that shrink.
    """
    size, resample = getattr(processor, "size", None), getattr(processor, "resample", None)
    height, width = getattr(size, "height", None), getattr(size, "width", None)
    whole = ProcessorPrepare(processor, split=split)
    if not split or not height or not width or resample not in {2, 3}:
        return whole
    mode = "bilinear" if resample == 2 else "bicubic"
    resize = ResizePrepare(height=int(height), width=int(width), mode=mode)
    random = np.random.default_rng(0)
    for shape in ((9, 13, 3), (61, 97, 3), (int(height), 40, 3), (520, 300, 3)):
        image = Image.fromarray(random.integers(0, 256, shape, np.uint8))
        if not np.array_equal(whole(image)[PIXELS], resize(image)[PIXELS]):
            return whole
    return resize


class VisionModel:
    """An image model of `transformers` with its processor.

    Args:
        files: The model's files.
        auto: Name of the `transformers` class that loads it.
    """

    def __init__(self, files: ModelFiles, *, auto: str) -> None:
        for package in ("transformers", "torchvision"):
            require(package, package, "extract", option=files.option)
        self._files = files
        self._auto = auto
        self._processor: Any = None
        self._split = False
        self._prepare: Prepare | None = None
        self._model: Any = None

    @property
    def prepare(self) -> Prepare:
        """The part of the preparation that decoder processes do."""
        self._load_processor()
        if self._prepare is None:
            self._prepare = fastest_prepare(self._processor, split=self._split)
        return self._prepare

    def load(self, compute: Compute) -> None:
        """Load processor and weights.

        Raises:
            ModelError: They cannot be loaded.
        """
        self._load_processor()
        self._model = self._files.load_model(self._auto).to(compute.device)

    def run(
        self,
        batch: Sequence[Prepared],
        size: int,
        compute: Compute,
        step: "Callable[[Any, torch.Tensor], torch.Tensor]",
    ) -> NDArray[Any]:
        """Run the model on some images.

        Args:
            batch: From `prepare`.
            size: Batch size on the device.
            compute: The device that the model was loaded to.
            step: From the model and its `pixel_values` to (images, …).

        Returns:
            (images, …).
        """
        shapes = {image[PIXELS].shape for image in batch}
        if len(shapes) > 1:
            raise ModelError(
                f"{self._files.option}: the processor of {self._files.name} makes images of "
                f"different sizes ({', '.join(map(str, sorted(shapes)))}), which do not fit into "
                "one batch"
            )

        def normalised(pixels: "torch.Tensor") -> "torch.Tensor":
            return step(self._model, self._normalise(pixels) if self._split else pixels)

        return run_padded(np.stack([image[PIXELS] for image in batch]), size, compute, normalised)

    def _load_processor(self) -> None:
        if self._processor is None:
            self._processor = self._files.load_companion("AutoImageProcessor")
            self._split = self._can_be_split()

    def _can_be_split(self) -> bool:
        """Return whether resizing first and normalising later gives the same bits."""
        if not hasattr(self._processor, "rescale_and_normalize"):
            return False
        noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)
        image = Image.fromarray(noise)
        whole = ProcessorPrepare(self._processor, split=False)(image)[PIXELS]
        first = ProcessorPrepare(self._processor, split=True)(image)[PIXELS]
        if first.dtype != np.uint8:
            return False
        import torch  # noqa: PLC0415

        later = self._normalise(torch.from_numpy(first.copy())[None])[0].numpy()
        return np.array_equal(later, whole)

    def _normalise(self, images: "torch.Tensor") -> "torch.Tensor":
        processor = self._processor
        mean, std = (
            tuple(values) if isinstance(values, list) else values
            for values in (processor.image_mean, processor.image_std)
        )
        normalised: torch.Tensor = processor.rescale_and_normalize(
            images,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            mean,
            std,
        )
        return normalised


class VisionExtractor(Extractor):
    """Base of extractors of one feature from one image model of `transformers`.

    Args:
        files: The model's files.
        auto: Name of the `transformers` class that loads it.
        feature: Name of the feature.
        spec: Shape and type of its rows.
        output: Which output of the model it is, for the provenance.
        numerics: See `mnerfeat.extractors.device`.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        auto: str,
        feature: str,
        spec: FeatureSpec,
        output: str,
        numerics: Numerics,
    ) -> None:
        libraries = versions("torch", "torchvision", "transformers")
        super().__init__(
            {feature: spec},
            facts={
                **files.facts, "decoding": DECODING, "numerics": numerics, "libraries": libraries,
            },
            own_facts={feature: {"output": output}},
        )  # fmt: skip
        self._model = VisionModel(files, auto=auto)
        self._feature = feature

    @property
    @final
    def prepare(self) -> Prepare:
        """See `Extractor.prepare`."""
        return self._model.prepare

    @final
    def _load(self, compute: Compute) -> None:
        self._model.load(compute)

    @final
    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""

        def step(model: Any, pixels: "torch.Tensor") -> "torch.Tensor":
            return self._rows(model(pixel_values=pixels))

        return {self._feature: self._model.run(batch, size, self.compute, step)}

    @abstractmethod
    def _rows(self, output: Any) -> "torch.Tensor":
        """Return the feature, (images, …), from the model's output."""
