"""Object tags by a detector, or from a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mnerfeat.extractors.annotations import Annotations, read_tags
from mnerfeat.extractors.base import (
    Extractor,
    ExtractorFactory,
    ExtractorOptions,
    ModelOption,
    Prepare,
    Prepared,
)
from mnerfeat.extractors.detector import DETECTOR, IMAGE, Detector
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.image_texts import BERT, ImageTextExtractor

TAG_DETECTOR: Final = replace(DETECTOR, file_instead="tags")
FILE: Final = ModelOption(name="tags", is_file=True)
TAGS: Final = 5
"""Tags kept of an image, the most confident first."""
TOKENS: Final = 24
"""Tokens kept of all tags of an image."""


@dataclass(frozen=True)
class DetectedTags:
    """Describes images by the labels of their objects.

    Attributes:
        detector: Finds the objects.
    """

    detector: Detector

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `ImageTextModel.facts`."""
        return self.detector.facts

    @property
    def prepare(self) -> Prepare:
        """See `ImageTextModel.prepare`."""
        return self.detector.prepare

    def load(self, compute: Compute) -> None:
        """See `ImageTextModel.load`."""
        self.detector.load(compute)

    def describe(self, batch: Sequence[Prepared], size: int, compute: Compute) -> list[str]:  # noqa: ARG002
        """See `ImageTextModel.describe`; images run one by one."""
        found = [self.detector.find(image[IMAGE], compute) for image in batch]
        return [join_tags([one.label for one in objects]) for objects in found]


def join_tags(tags: Sequence[str]) -> str:
    """Return the first tags as one text."""
    return " ".join(tags[:TAGS])


def _make(options: ExtractorOptions) -> Extractor:
    source: DetectedTags | Annotations[str]
    if file := options.file(FILE):
        read = read_tags(file)
        texts = {image: join_tags(tags) for image, tags in read.entries.items()}
        source = Annotations(file=read.file, entries=texts)
    else:
        source = DetectedTags(Detector(options.model(TAG_DETECTOR)))
    return ImageTextExtractor.of_options("tags", source, options, tokens=TOKENS)


FACTORY: Final = ExtractorFactory(
    help="token states of the labels of objects",
    options={BERT: "model", TAG_DETECTOR: "told_by.model", FILE: "imported"},
    make=_make,
)
