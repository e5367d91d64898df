"""Image models of `transformers`: the model's own image processor, split between two places.

A worker resizes and crops, and sends the pixels as bytes; the device rescales and normalises
them, with the processor's own method. That is a quarter of the traffic. Where a processor cannot
be split without changing a bit of its result, it runs as a whole in the worker.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import Prepared, run_padded
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.loading import ModelFiles, require

if TYPE_CHECKING:
    import torch

PIXELS: Final = "pixels"
_UNUSED_WEIGHTS = ("pooler.",)
"""Parts that may be missing from a checkpoint: they are not looked at."""

Output = Callable[[Any], "torch.Tensor"]
"""From a model's output to (images, …)."""


class ProcessorPrepare:
    """An image through the model's own processor.

    Where all that is left to it is resizing, its resizing is called without it, which gives the
    same bytes in a third of the time.

    Args:
        processor: Of `transformers`.
        split: Leave rescaling and normalising to the device.
    """

    def __init__(self, processor: Any, *, split: bool) -> None:
        self._processor = processor
        self._split = split
        self._resizing = _only_resizes(processor) if split else None

    def __call__(self, image: Image.Image) -> Prepared:
        """`pixels`: (3, height, width), uint8 where split, float32 otherwise."""
        if self._resizing:
            return {PIXELS: _resize(image, *self._resizing)}
        later = {"do_rescale": False, "do_normalize": False} if self._split else {}
        pixels = self._processor(image, return_tensors="np", **later)["pixel_values"][0]
        return {PIXELS: np.asarray(pixels)}


class VisionModel:
    """A model of `transformers` and its processor, from files that are here.

    Args:
        files: Of the model.
        auto: The name of the `transformers` class that loads it.
        option: The option that named it, for messages.
    """

    def __init__(self, files: ModelFiles, *, auto: str, option: str) -> None:
        for module, package in (("transformers", "transformers"), ("torchvision", "torchvision")):
            require(module, package, "extract", option=option)
        self._files = files
        self._auto = auto
        self._option = option
        self._processor: Any = None
        self._split = False
        self._model: Any = None
        self._compute: Compute | None = None

    @property
    def prepare(self) -> ProcessorPrepare:
        """What worker processes do."""
        self._load_processor()
        return ProcessorPrepare(self._processor, split=self._split)

    def load(self, compute: Compute) -> None:
        """Load the weights, unless they are there already.

        Raises:
            ModelError: Where they do not fit the model, or code of its own would have to run.
        """
        if compute == self._compute:
            return
        self._load_processor()
        model = load_whole(self._files, auto=self._auto, option=self._option)
        self._compute = compute
        self._model = model.to(compute.device).eval()

    def run(self, batch: Sequence[Prepared], size: int, output: Output) -> NDArray[np.float32]:
        """The model's output for some images.

        Args:
            batch: From `prepare`.
            size: How many images run at once.
            output: From the model's output to (images, …).

        Returns:
            (images, …) float32.
        """
        shapes = {image[PIXELS].shape for image in batch}
        if len(shapes) > 1:
            raise ModelError(
                f"{self._option}: the processor of {self._files.name} makes images of different "
                f"sizes ({', '.join(map(str, sorted(shapes)))}), which cannot be put in one batch"
            )
        compute = self._compute
        assert compute is not None, "load comes first"

        def step(pixels: NDArray[Any]) -> NDArray[np.float32]:
            with compute.running():
                images = compute.put(pixels)
                if self._split:
                    images = self._normalise(images)
                result = output(self._model(pixel_values=images))
            host: NDArray[np.float32] = result.float().cpu().numpy()
            return host

        return run_padded(np.stack([image[PIXELS] for image in batch]), size, step)

    def generate(self, pixels: NDArray[Any], **options: Any) -> "torch.Tensor":
        """What the model's `generate` writes of some images, (images, tokens), on the CPU.

        Args:
            pixels: (images, 3, height, width), from `prepare`.
            options: Of `generate`; the likeliest token is taken at each step.
        """
        compute = self._compute
        assert compute is not None, "load comes first"
        with compute.running():
            images = compute.put(pixels)
            if self._split:
                images = self._normalise(images)
            written: torch.Tensor = self._model.generate(
                pixel_values=images, do_sample=False, num_beams=1, **options
            )
        return written.cpu()

    def _load_processor(self) -> None:
        if self._processor is not None:
            return
        self._processor = load_companion(
            self._files, auto="AutoImageProcessor", option=self._option
        )
        self._split = self._can_be_split()

    def _can_be_split(self) -> bool:
        """Whether resizing first and normalising later is the same, bit for bit."""
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
        normalised: torch.Tensor = processor.rescale_and_normalize(
            images,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            _hashable(processor.image_mean),
            _hashable(processor.image_std),
        )
        return normalised


def load_whole(files: ModelFiles, *, auto: str, option: str) -> Any:
    """A model of `transformers` in float32 on the CPU, with all of its weights.

    Args:
        files: Of the model.
        auto: The name of the `transformers` class that loads it.
        option: The option that named it, for messages.

    Raises:
        ModelError: Where the weights do not fit the model, or code of its own would have to run.
    """
    import transformers  # noqa: PLC0415

    safe = files.weights[0].suffix == ".safetensors"
    try:
        with _quiet():
            model, told = getattr(transformers, auto).from_pretrained(
                files.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safe,
                dtype="float32",
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises nearly anything on a folder that is odd
        raise _unusable(files, option, error) from error
    lost = [
        *sorted(name for name in told["missing_keys"] if not name.startswith(_UNUSED_WEIGHTS)),
        *sorted(str(entry[0]) for entry in told["mismatched_keys"]),
    ]
    if lost:
        raise ModelError(
            f"{option}: {files.folder} lacks weights of a "
            f"{type(model).__name__}, so its numbers would be random:",
            faults=lost,
            hint="name a model of the right kind, or download it again",
        )
    return model


def load_companion(files: ModelFiles, *, auto: str, option: str) -> Any:
    """The image processor or the tokenizer that lies beside a model's weights.

    Args:
        files: Of the model.
        auto: The name of the `transformers` class that loads it.
        option: The option that named the model, for messages.

    Raises:
        ModelError: Where it cannot be made, or code of its own would have to run.
    """
    import transformers  # noqa: PLC0415

    try:
        with _quiet():
            return getattr(transformers, auto).from_pretrained(
                files.folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises nearly anything on a folder that is odd
        raise _unusable(files, option, error) from error


def _unusable(files: ModelFiles, option: str, error: Exception) -> ModelError:
    """What to raise where `transformers` cannot make something of a model's folder."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"{option}: {files.folder} cannot be loaded as a model of transformers: {lines[0]}",
        hint="name another model; one that brings code of its own is not run",
    )


def _only_resizes(processor: Any) -> tuple[int, int, str] | None:
    """Height, width and filter, where a processor that is split does nothing but resize.

    That it is so is tried out, on images that grow and shrink, bit by bit.
    """
    size, resample = getattr(processor, "size", None), getattr(processor, "resample", None)
    height, width = getattr(size, "height", None), getattr(size, "width", None)
    if not height or not width or resample not in {2, 3}:
        return None
    found = (int(height), int(width), "bilinear" if resample == 2 else "bicubic")
    random = np.random.default_rng(0)
    for shape in ((9, 13, 3), (61, 97, 3), (int(height), 40, 3), (520, 300, 3)):
        image = Image.fromarray(random.integers(0, 256, shape, np.uint8))
        whole = processor(image, return_tensors="np", do_rescale=False, do_normalize=False)
        if not np.array_equal(whole["pixel_values"][0], _resize(image, *found)):
            return None
    return found


def _resize(image: Image.Image, height: int, width: int, mode: str) -> NDArray[np.uint8]:
    """As processors of `transformers` do it: by torchvision, in bytes, (3, height, width)."""
    import torch  # noqa: PLC0415
    from torchvision.transforms.v2 import functional  # type: ignore[import-untyped]  # noqa: PLC0415

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    way = functional.InterpolationMode(mode)
    resized = functional.resize(pixels, [height, width], interpolation=way, antialias=True)
    array: NDArray[np.uint8] = np.ascontiguousarray(resized.numpy())
    return array


def _hashable(values: Any) -> Any:
    return tuple(values) if isinstance(values, list) else values


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports that transformers writes while it loads."""
    from transformers.utils import logging as reports  # noqa: PLC0415

    bar, level = reports.is_progress_bar_enabled(), reports.get_verbosity()
    reports.disable_progress_bar()
    reports.set_verbosity_error()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bar:
            reports.enable_progress_bar()


def positive_int(config: Mapping[str, Any], key: str, *, option: str) -> int:
    """An entry of a model's configuration.

    Raises:
        ModelError: Where it is not there.
    """
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelError(
            f"{option}: its configuration has no {key}",
            hint="name a model of transformers of the ViT kind (ViT, DeiT, BEiT, DINOv2, …)",
        )
    return value
