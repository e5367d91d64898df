"""`caption` and `tags`: images turned into text, by a model or by a file, and then into states.

Wang et al. 2022, "ITA: Image-Text Alignments for Multi-Modal Named Entity Recognition".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.cache import Provenance
from mnerfeat.extractors.base import RECIPE, FeatureSpec, Prepare, Prepared, usual_size
from mnerfeat.extractors.decoder import DECODING
from mnerfeat.extractors.device import Compute, Numerics
from mnerfeat.extractors.imports import Imported
from mnerfeat.extractors.token_states import TokenStates

CAPTION_PIECES: Final = 40
TAG_PIECES: Final = 24
TAGS: Final = 5
"""Objects whose labels are kept, the surest first."""

_TEXT = "text"


class Teller(Protocol):
    """A model that says something about images."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """For provenances."""
        ...

    @property
    def prepare(self) -> Prepare:
        """What worker processes do for it."""
        ...

    def load(self, compute: Compute) -> None:
        """Load the weights, unless they are there already."""
        ...

    def tell(self, batch: Sequence[Prepared], size: int) -> list[str]:
        """A text for each image, which depends on that image alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A text that is known before its image is looked at."""

    text: str

    def __call__(self, image: Image.Image) -> Prepared:  # noqa: ARG002 - not looked at
        return {_TEXT: np.frombuffer(self.text.encode("utf-8"), np.uint8)}


@dataclass(frozen=True, kw_only=True)
class ImportPrepare:
    """Finds what a file says of an image; the pixels are not looked at."""

    said: Imported[str]

    def of(self, path: Path) -> Prepare:
        """See `FilePrepare.of`."""
        return _Known(text=self.said.of(path))

    def __call__(self, image: Image.Image) -> Prepared:
        """Never called: `of` comes first."""
        raise NotImplementedError


@final
class ImageTextExtractor:
    """`<name>_states` and `<name>_length`: token states of a text about each image.

    Args:
        name: `caption` or `tags`.
        source: A model that tells, or what a file says.
        bert: The text encoder: a folder, or a hub id.
        pieces: Kept of each text.
        dtype: In which states are stored.
        numerics: See `mnerfeat.extractors.device`.

    Raises:
        ModelError: Where a model is not there or is of another kind.
    """

    def __init__(
        self,
        name: str,
        source: Teller | Imported[str],
        *,
        bert: str,
        pieces: int,
        dtype: np.dtype[Any],
        numerics: Numerics,
    ) -> None:
        self.name = name
        self._source = source
        self._states = TokenStates(bert, name=name, length=pieces, dtype=dtype)
        self.features: Mapping[str, FeatureSpec] = self._states.features
        if isinstance(source, Imported):
            told: Mapping[str, Any] = {"imported": source.file}
        else:
            told = {"told_by": dict(source.facts), "decoding": DECODING}
        self.provenance: Mapping[str, Provenance] = self._states.provenance(
            {"extractor": name, "recipe": RECIPE, "numerics": numerics, **told}
        )

    @property
    def prepare(self) -> Prepare:
        """What the model that tells needs, or what the file says."""
        if isinstance(self._source, Imported):
            return ImportPrepare(said=self._source)
        return self._source.prepare

    def default_size(self, compute: Compute) -> int:
        """See `Extractor.default_size`."""
        return usual_size(compute)

    def images_at_once(self, size: int) -> int:
        """See `Extractor.images_at_once`."""
        return size

    def load(self, compute: Compute) -> None:
        """See `Extractor.load`."""
        if not isinstance(self._source, Imported):
            self._source.load(compute)
        self._states.load(compute)

    def extract(self, batch: Sequence[Prepared], size: int) -> Mapping[str, NDArray[Any]]:
        """See `Extractor.extract`."""
        if isinstance(self._source, Imported):
            texts = [prepared[_TEXT].tobytes().decode("utf-8") for prepared in batch]
        else:
            texts = self._source.tell(batch, size)
        return self._states.of(texts, size)


def joined_tags(tags: Sequence[str]) -> str:
    """The first tags as one text."""
    return " ".join(tags[:TAGS])
