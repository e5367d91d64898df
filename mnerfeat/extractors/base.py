"""The contract of extractors: images in, rows of features out, and a record of what made them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeGuard, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError
from mnerfeat.extractors.device import Compute, Numerics

if TYPE_CHECKING:
    from torch import Tensor

Prepared = Mapping[str, NDArray[Any]]
"""One image ready for the device: arrays by name, sent from a decoder process to the run."""

RECIPE: Final = 1
"""Part of every provenance. Raise it if the same model and settings now give other numbers."""


class UnreadableImageError(Exception):
    """An image that cannot be used. Its text is the reason, the same on every machine.

    It never reaches a user as an exception: the reason is recorded with the image.
    """


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Shape and type of a feature's rows.

    Attributes:
        shape: Shape of one row, for example `(768,)`; `()` for a number.
        dtype: Type in which rows are stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Prepare(Protocol):
    """Turns a decoded image into arrays, in a decoder process.

    It can be pickled, holds no weights, always returns the same arrays for the same image, and is
    unpickled without importing torch.
    """

    def __call__(self, image: Image.Image) -> Prepared:
        """Return arrays from an upright RGB image.

        Raises:
            UnreadableImageError: This extractor cannot use the image; others may.
        """
        ...


class FilePrepare(Prepare, Protocol):
    """A `Prepare` that needs to know which file it prepares, to look it up in annotations."""

    def of(self, path: Path) -> Prepare:
        """Return the `Prepare` of one file.

        Raises:
            UnreadableImageError: The annotations do not contain the file.
        """
        ...


def knows_files(prepare: Prepare) -> TypeGuard[FilePrepare]:
    """Return whether a `Prepare` needs to know which file it prepares."""
    return hasattr(type(prepare), "of")


class Extractor(ABC):
    """A model that turns images into one or more features.

    Making one reads configuration files and hashes weights, which is quick. `load` loads the
    weights, so that a run with nothing to do stays quick.

    Args:
        features: The features of images, by name in the cache.
        text_features: The features of texts, by name, of a `TextExtractor`.
        facts: What made all of them, for provenances.
        own_facts: What each feature is, for its provenance: `output`, and what differs.

    Attributes:
        name: Name in `--features`.
        features: As given.
        text_features: As given.
        provenance: What makes each feature, text features included.
        cuda_size: Default batch size on a CUDA GPU; the defaults suit 224 × 224 pixels.
        mps_size: Default batch size on an Apple GPU.
        cpu_size: Default batch size on a CPU.
        inputs_an_image: Usual number of inputs of the model for one image.
    """

    name: str
    cuda_size: ClassVar[int] = 128
    mps_size: ClassVar[int] = 32
    cpu_size: ClassVar[int] = 16
    inputs_an_image: ClassVar[int] = 1

    def __init__(
        self,
        features: Mapping[str, FeatureSpec],
        text_features: Mapping[str, FeatureSpec] = MappingProxyType({}),
        *,
        facts: Mapping[str, Any],
        own_facts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.features = features
        self.text_features = dict(text_features)
        common = {"recipe": RECIPE, **facts, "extractor": self.name}
        specs = {**features, **text_features}
        self.provenance: Mapping[str, Provenance] = {
            feature: Provenance({**common, "dtype": specs[feature].dtype.name, **own})
            for feature, own in own_facts.items()
        }
        self._compute: Compute | None = None

    @property
    @abstractmethod
    def prepare(self) -> Prepare:
        """The part of the work that decoder processes do."""

    @abstractmethod
    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """Extract features. A row depends on its image alone, to the last bit.

        Args:
            batch: One or more images, from `prepare`.
            size: Batch size on the device, in inputs of the model.

        Returns:
            For each of `features`, (images, …) float32.
        """

    @abstractmethod
    def _load(self, compute: Compute) -> None:
        """Load the weights to a device."""

    @final
    def load(self, compute: Compute) -> None:
        """Load the weights, if they are not on the device yet.

        Raises:
            ModelError: They do not fit the model.
        """
        if compute != self._compute:
            self._load(compute)
            self._compute = compute

    @final
    @property
    def compute(self) -> Compute:
        """The device of `load`."""
        assert self._compute is not None, "load comes first"
        return self._compute

    @final
    def default_size(self, compute: Compute) -> int:
        """Return the default batch size on a device, in inputs of the model."""
        sizes = {"cuda": self.cuda_size, "mps": self.mps_size}
        return sizes.get(compute.device.type, self.cpu_size)

    @final
    def images_at_once(self, size: int) -> int:
        """Return how many images fill a batch of `size` inputs."""
        return -(-size // self.inputs_an_image)


class TextExtractor(Extractor):
    """An extractor that also reads the texts of posts.

    Attributes:
        context_length: Maximum number of tokens of a text, special ones included.
    """

    context_length: int

    @abstractmethod
    def extract_texts(
        self, texts: Sequence[str], size: int
    ) -> tuple[Mapping[str, NDArray[Any]], int]:
        """Extract features of texts.

        Returns:
            For each of `text_features`, (texts, …) float32; and how many of the texts were cut
            to `context_length`.
        """


def reads_texts(extractor: Extractor) -> TypeGuard[TextExtractor]:
    """Return whether an extractor also reads texts."""
    return bool(getattr(extractor, "text_features", None))


@dataclass(frozen=True, kw_only=True)
class ModelOption:
    """An option that names a model (`--vit google/vit-base-patch16-224`) or a file.

    Attributes:
        name: Name of the option, without dashes.
        base: Model in the preset `base`, or None.
        tiny: Model in the preset `tiny`, or None.
        is_file: Whether it names a file that is read in place of running a model.
        file_instead: Option that names such a file, for a model that the file replaces.
    """

    name: str
    base: str | None = None
    tiny: str | None = None
    is_file: bool = False
    file_instead: str | None = None

    def default(self, preset: str) -> str | None:
        """Return the model of a preset, or None if it has none."""
        return {"base": self.base, "tiny": self.tiny}[preset]


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions:
    """Models, files and number formats to make extractors with.

    Attributes:
        preset: `base` or `tiny`: the models of options that are not given.
        given: Models and files by name of their option; None counts as not given.
        dtype: Type in which vectors are stored.
        numerics: See `mnerfeat.extractors.device`.
    """

    preset: str
    given: Mapping[str, str | Path | None] = field(default_factory=dict)
    dtype: np.dtype[Any]
    numerics: Numerics

    def model(self, option: ModelOption) -> str:
        """Return the model that an option names, or else that of the preset.

        Raises:
            ConfigError: Neither names one.
        """
        found = self.given.get(option.name) or option.default(self.preset)
        if not found:
            instead = option.file_instead
            raise ConfigError(
                f"the preset {self.preset} has no {option.name}",
                hint=f"name a file to read in its place with --{instead} FILE (`mnerfeat toy` "
                f"writes {instead}.jsonl), or a model with --{option.name}"
                if instead
                else f"name a model with --{option.name}",
            )
        return str(found)

    def file(self, option: ModelOption) -> Path | None:
        """Return the file that an option names, or None."""
        found = self.given.get(option.name)
        return Path(found) if found else None


@dataclass(frozen=True, kw_only=True)
class ExtractorFactory:
    """Makes an extractor: an entry of `mnerfeat.extractors.registry.EXTRACTORS`.

    Attributes:
        help: What it extracts, for help texts.
        options: The options it reads, and where its provenance names the same model or file:
            the keys on the way there, separated by dots.
        make: Makes the extractor. Models are found and hashed, but not loaded.
        default: Whether it runs if `--features` is not given.
    """

    help: str
    options: Mapping[ModelOption, str]
    make: Callable[[ExtractorOptions], Extractor]
    default: bool = False


def run_padded(
    inputs: NDArray[Any], size: int, compute: Compute, step: "Callable[[Tensor], Tensor]"
) -> NDArray[Any]:
    """Run a model in batches of exactly `size`, the last one padded with zeros.

    Matrix products of another shape round differently. With a single shape, a row has the same
    bits whichever images share its batch, so an interrupted run ends in the same cache as one
    that was not interrupted.

    Args:
        inputs: (n, …).
        size: At least 1.
        compute: The device.
        step: From (size, …) to (size, …), both on the device.

    Returns:
        (n, …), float32 if the model returns floating-point numbers.
    """
    outputs = []
    for start in range(0, len(inputs), size):
        piece = inputs[start : start + size]
        count = len(piece)
        if count < size:
            piece = np.concatenate([piece, np.zeros((size - count, *piece.shape[1:]), piece.dtype)])
        with compute.running():
            result = step(compute.put(piece))
        host = result.float() if result.is_floating_point() else result
        outputs.append(host.cpu().numpy()[:count])
    return np.concatenate(outputs)
