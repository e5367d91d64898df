"""Rows and caches for the tests, made from plain Python values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mnerfeat.cache import (
    FAILED,
    OK,
    CacheWriter,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    stack_ids,
)

VIT = Provenance({"model": "vit", "revision": "1"})


def feature(
    values: Sequence[Sequence[float] | str],
    provenance: Provenance = VIT,
    dtype: str = "<f4",
    width: int = 3,
) -> FeatureRows:
    """Rows of numbers; a text in place of numbers is the reason of a failure."""
    data = np.zeros((len(values), width), dtype)
    state = np.full(len(values), OK, np.uint8)
    reasons = {}
    for row, value in enumerate(values):
        if isinstance(value, str):
            state[row], reasons[row] = FAILED, value
        else:
            data[row] = value
    return FeatureRows(data=data, state=state, reasons=reasons, provenance=provenance)


def images(contents: Mapping[str, bytes], **features: FeatureRows) -> TableRows:
    """Images by name and content; each content stands once."""
    unique = list(dict.fromkeys(contents.values()))
    return TableRows(
        ids=stack_ids([content_id(content) for content in unique]),
        names=[(name, unique.index(content)) for name, content in contents.items()],
        size=np.full((len(unique), 2), 5, np.int32),
        features=features,
    )


def put_numbered(path: Path, numbers: Sequence[int], provenance: Provenance = VIT) -> None:
    """One part with the images `0.jpg`, `1.jpg`, …, whose feature is their number, three times."""
    rows = feature([[number] * 3 for number in numbers], provenance)
    CacheWriter(path).put(
        images=images({f"{n}.jpg": str(n).encode() for n in numbers}, vit_cls=rows),
        replace=True,
    )
