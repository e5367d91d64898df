"""Objects in images by a detector of `transformers` (DETR, RT-DETR, YOLOS)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnerfeat.errors import ModelError
from mnerfeat.extractors.annotations import Box
from mnerfeat.extractors.base import ModelOption, Prepared
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.loader import find_model, json_sha256

DETECTOR: Final = ModelOption(name="detector", base="facebook/detr-resnet-50@no_timm")
LEAST_SCORE: Final = 0.3
"""Minimum confidence of an object, 0 to 1."""
IMAGE: Final = "image"


@dataclass(frozen=True, kw_only=True)
class DetectedObject:
    """An object in an image.

    Attributes:
        label: Name of its class.
        box: Its place, in pixels of the upright image.
    """

    label: str
    box: Box


class WholeImage:
    """Sends the whole image: where the objects are is only known after the detector has run."""

    def __call__(self, image: Image.Image) -> Prepared:
        """Return `image`: (height, width, 3) uint8 RGB."""
        return {IMAGE: np.asarray(image)}


@final
class Detector:
    """Finds objects with the model's own `post_process_object_detection`.

    Images run one by one, because they differ in size.

    Args:
        reference: A folder or hub id.

    Raises:
        ModelError: The model is missing, or its configuration names no classes.
    """

    prepare: Final = WholeImage()

    def __init__(self, reference: str) -> None:
        self._files = find_model(reference, option=DETECTOR.name)
        labels = self._files.config.get("id2label")
        if not isinstance(labels, Mapping):
            raise ModelError(
                f"detector: the configuration of {self._files.name} names no classes (id2label)",
                hint="name an object detector of transformers, such as PekingU/rtdetr_r50vd",
            )
        self._labels = {int(key): str(label) for key, label in labels.items()}
        self._processor: Any = None
        self._model: Any = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """The model, for provenances."""
        return {
            **self._files.facts,
            "labels_sha256": json_sha256(self._labels),
            "least_score": LEAST_SCORE,
        }

    def load(self, compute: Compute) -> None:
        """Load processor and weights to a device."""
        self._processor = self._files.load_companion("AutoImageProcessor")
        model = self._files.load_model("AutoModelForObjectDetection")
        self._model = model.to(compute.device)

    def find(self, pixels: NDArray[np.uint8], compute: Compute) -> list[DetectedObject]:
        """Return the objects of one image, the most confident first.

        Args:
            pixels: (height, width, 3) RGB.
            compute: The device that the model was loaded to.
        """
        image = Image.fromarray(pixels)
        inputs = self._processor(images=image, return_tensors="pt").to(compute.device)
        with compute.running():
            output = self._model(**inputs)
        (objects,) = self._processor.post_process_object_detection(
            output, threshold=LEAST_SCORE, target_sizes=[(image.height, image.width)]
        )
        order = objects["scores"].float().argsort(descending=True, stable=True).tolist()
        boxes, labels = objects["boxes"].float().tolist(), objects["labels"].tolist()
        return [DetectedObject(label=self._labels[labels[i]], box=tuple(boxes[i])) for i in order]
