"""What every extractor is: images in, rows out, and a statement of what made them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError
from mnerfeat.extractors.device import Compute, Numerics


class UnreadableImageError(Exception):
    """An image that cannot be used. Its text is the reason, the same on every machine.

    It never reaches a user as an exception: the reason is recorded with the image.
    """


Prepared = Mapping[str, NDArray[Any]]
"""One image, ready for the device: arrays by name. They cross from a worker to the run."""

RECIPE: Final = 1
"""Goes up when the same model and settings give other numbers than before."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """The rows of a feature.

    Attributes:
        shape: Of one row, for example `(768,)`; `()` for a number.
        dtype: As stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Prepare(Protocol):
    """Turns one decoded image into arrays, in a worker process.

    It can be pickled, holds no weights, and gives the same arrays for the same image always.
    """

    def __call__(self, image: Image.Image) -> Prepared:
        """Arrays from an upright RGB image.

        Raises:
            UnreadableImageError: Where this extractor cannot use the image; the others may.
        """
        ...


class FilePrepare(Prepare, Protocol):
    """A `Prepare` that knows more of some files than their pixels: what was imported of them."""

    def of(self, path: Path) -> Prepare:
        """What prepares this file.

        Raises:
            UnreadableImageError: Where it knows nothing of the file.
        """
        ...


def knows_files(prepare: Prepare) -> TypeGuard[FilePrepare]:
    """Whether a `Prepare` has to be told which file it prepares."""
    return hasattr(type(prepare), "of")


class Extractor(Protocol):
    """A model that looks at images and fills one or more features.

    Making one reads configuration files and hashes weights, which is quick; the weights
    themselves are loaded by `load`, so that a run that finds nothing to do stays quick.
    """

    @property
    def name(self) -> str:
        """As in `--features`."""
        ...

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """What it fills in the cache's table of images, by name."""
        ...

    @property
    def provenance(self) -> Mapping[str, Provenance]:
        """What makes each feature, text features included."""
        ...

    @property
    def prepare(self) -> Prepare:
        """What worker processes do for it."""
        ...

    def default_size(self, compute: Compute) -> int:
        """How many inputs of the model run on a device at once, where nothing else is asked."""
        ...

    def images_at_once(self, size: int) -> int:
        """How many images to hand to `extract` so that inputs run `size` at once."""
        ...

    def load(self, compute: Compute) -> None:
        """Load the weights, unless they are there already.

        Raises:
            ModelError: Where they do not fit the model.
        """
        ...

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """Look at some images. A row depends on its image alone, never on the others.

        Args:
            batch: One or more, from `prepare`.
            size: How many inputs of the model run on the device at once.

        Returns:
            For each of `features`, (images, …) float32.
        """
        ...


class TextExtractor(Extractor, Protocol):
    """An extractor that also looks at posts' texts."""

    @property
    def text_features(self) -> Mapping[str, FeatureSpec]:
        """What it fills in the cache's table of texts, by name."""
        ...

    @property
    def context_length(self) -> int:
        """How many tokens of a text it reads, special ones included."""
        ...

    def extract_texts(
        self, texts: Sequence[str], size: int
    ) -> tuple[Mapping[str, NDArray[Any]], int]:
        """Look at some texts.

        Returns:
            For each of `text_features`, (texts, …) float32; and how many of the texts were cut
            because they are longer than `context_length`.
        """
        ...


def reads_texts(extractor: Extractor) -> TypeGuard[TextExtractor]:
    """Whether an extractor also looks at texts."""
    # Not by isinstance, which would compute every property of the protocol.
    return hasattr(type(extractor), "extract_texts")


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


def usual_size(compute: Compute) -> int:
    """How many images of about 224 × 224 pixels run at once on a device."""
    return {"cuda": 128, "mps": 32}.get(compute.device.type, 16)


def run_padded(
    inputs: NDArray[Any], size: int, step: Callable[[NDArray[Any]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Run a model over inputs, always `size` of them at once, the last ones filled up by zeros.

    Matrix products of another shape round otherwise. With one shape only, a row has the same
    bits whichever images it shares its batch with, so a run that was interrupted ends in the
    very cache of one that was not.

    Args:
        inputs: (n, …).
        size: At least 1.
        step: From (size, …) to (size, …).

    Returns:
        (n, …).
    """
    outputs = []
    for start in range(0, len(inputs), size):
        piece = inputs[start : start + size]
        count = len(piece)
        if count < size:
            piece = np.concatenate([piece, np.zeros((size - count, *piece.shape[1:]), piece.dtype)])
        outputs.append(step(piece)[:count])
    return np.concatenate(outputs)
