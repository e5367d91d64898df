"""Objects in images by a detector of `transformers` (DETR, RT-DETR, YOLOS)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import Prepared
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.imports import Box
from mnerfeat.extractors.loading import find_model
from mnerfeat.extractors.texts_of_images import joined_tags
from mnerfeat.extractors.vision import load_companion, load_whole

_OPTION = "detector"
LEAST_SCORE: Final = 0.3
"""Of an object that counts as seen, 0 to 1."""

IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object.

    Attributes:
        label: What it is.
        box: Where, in pixels of the upright image.
    """

    label: str
    box: Box


class WholeImage:
    """Sends an image as it is: a detector's crops are only known after it has run."""

    def __call__(self, image: Image.Image) -> Prepared:
        """`image`: (height, width, 3) uint8 RGB."""
        return {IMAGE: np.asarray(image)}


@final
class Detector:
    """What the model's own `post_process_object_detection` finds, the surest first.

    Images run one by one, for they are of all sizes.

    Args:
        reference: A folder, or a hub id.

    Raises:
        ModelError: Where the model is not there or names no objects.
    """

    def __init__(self, reference: str) -> None:
        self._files = find_model(reference, option=_OPTION)
        labels = self._files.config.get("id2label")
        if not isinstance(labels, Mapping):
            raise ModelError(
                f"detector: the configuration of {self._files.name} names no objects (id2label)",
                hint="name an object detector of transformers, such as PekingU/rtdetr_r50vd",
            )
        self._labels = {int(key): str(label) for key, label in labels.items()}
        self._processor: Any = None
        self._model: Any = None
        self._compute: Compute | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """For provenances."""
        labels = json.dumps(self._labels, sort_keys=True)
        return {
            **self._files.facts,
            "labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
            "least_score": LEAST_SCORE,
        }

    @property
    def prepare(self) -> WholeImage:
        """Nothing but the pixels."""
        return WholeImage()

    def load(self, compute: Compute) -> None:
        """Load processor and weights, unless they are there already."""
        if compute == self._compute:
            return
        self._processor = load_companion(self._files, auto="AutoImageProcessor", option=_OPTION)
        model = load_whole(self._files, auto="AutoModelForObjectDetection", option=_OPTION)
        self._model = model.to(compute.device).eval()
        self._compute = compute

    def find(self, pixels: NDArray[np.uint8]) -> list[Found]:
        """The objects of one image, (height, width, 3) RGB."""
        compute = self._compute
        assert compute is not None, "load comes first"
        image = Image.fromarray(pixels)
        inputs = self._processor(images=image, return_tensors="pt").to(compute.device)
        with compute.running():
            output = self._model(**inputs)
        (objects,) = self._processor.post_process_object_detection(
            output, threshold=LEAST_SCORE, target_sizes=[(image.height, image.width)]
        )
        order = objects["scores"].float().argsort(descending=True, stable=True).tolist()
        boxes, labels = objects["boxes"].float().tolist(), objects["labels"].tolist()
        return [Found(label=self._labels[labels[i]], box=tuple(boxes[i])) for i in order]

    def tell(self, batch: Sequence[Prepared], size: int) -> list[str]:  # noqa: ARG002
        """The labels of each image's surest objects, as one text."""
        return [joined_tags([one.label for one in self.find(image[IMAGE])]) for image in batch]
