"""Make the golden file of the present version of the cache format.

    python tools/cache_golden.py tests/cache/golden-v1.h5

It was run once for each version. The file is never made anew: tests compare what the reader gives
with what is spelled out there, so that caches stay readable for good. The script is kept to show
where the file came from, and to be run for the next version.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from mnerfeat.cache import (
    FAILED,
    MISSING,
    OK,
    CacheWriter,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    pack,
    pair_id,
    stack_ids,
    text_id,
    unreadable_id,
)


def main(target: Path) -> None:
    """Write the file; one that is there is never replaced."""
    if target.exists():
        raise SystemExit(f"{target} is there already, and a golden file is never made anew")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        write(path)
        target.write_bytes(path.read_bytes())


def write(path: Path) -> None:
    """A packed cache of three parts with everything that the format knows."""
    writer = CacheWriter(path)
    vit = Provenance(
        {
            "model": "google/vit-base-patch16-224",
            "numerics": {"dtype": "float32", "device": "cpu"},
            "text": 'ünïcode, "quotes", \\ and \n',
            "long": "x" * 5000,
        }
    )
    names = [
        ("one.jpg", 0),
        ("sub/folder/copy of one.jpg", 0),
        ("zwei-ü-二.jpg", 1),
        (b"not utf-8 \xff\xfe.jpg".decode("utf-8", "surrogateescape"), 2),
        ("line\nfeed and blank .jpg", 3),
    ]
    images = [content_id(name) for name in (b"one", b"two", b"three", b"four")]
    writer.put(
        images=TableRows(
            ids=stack_ids(images),
            names=names,
            size=np.array([[640, 480], [1, 1], [0, 0], [10_000, 20]], np.int32),
            features={
                "vit_cls": FeatureRows(
                    data=np.array(
                        [[1, 2, 3], [0.5, -0.25, 65504], [0, 0, 0], [6e-8, -0.0, 1]], np.float16
                    ),
                    state=np.array([OK, OK, FAILED, OK], np.uint8),
                    reasons={2: "cannot identify image file: ünïcode 'reason'"},
                    provenance=vit,
                ),
                "grid": FeatureRows(
                    data=np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3) / 3,
                    state=np.array([OK, MISSING, MISSING, OK], np.uint8),
                    provenance=Provenance({"model": "resnet", "revision": 1}),
                ),
            },
        )
    )
    gone = "no permission.jpg"
    writer.put(
        images=TableRows(
            ids=stack_ids([unreadable_id(gone), images[1]]),
            names=[(gone, 0)],
            features={
                "vit_cls": FeatureRows(
                    data=np.zeros((2, 3), np.float16),
                    state=np.array([FAILED, FAILED], np.uint8),
                    reasons={0: "permission denied", 1: "out of memory"},
                    provenance=vit,
                ),
                "boxes": FeatureRows(
                    data=np.array([[-1, 2**31 - 1], [3, -4]], np.int32),
                    state=np.array([MISSING, OK], np.uint8),
                    provenance=Provenance({}),
                ),
            },
        )
    )
    texts = [text_id(""), text_id("RT @a : ünï 😀 \u00a0")]
    pairs = [(texts[1], images[0]), (texts[1], images[3]), (texts[0], images[0])]
    writer.put(
        texts=TableRows(
            ids=stack_ids(texts),
            features={
                "clip_text": FeatureRows(
                    data=np.array([[1, 2], [3, 4]], np.float32),
                    state=np.array([OK, OK], np.uint8),
                    provenance=Provenance({"model": "clip"}),
                )
            },
        ),
        pairs=TableRows(
            ids=stack_ids([pair_id(*pair) for pair in pairs]),
            text=stack_ids([text for text, _ in pairs]),
            image=stack_ids([image for _, image in pairs]),
            features={
                "reward": FeatureRows(
                    data=np.array([0.5, -1.5, 0], np.float32),
                    state=np.array([OK, OK, FAILED], np.uint8),
                    reasons={2: "empty text"},
                    provenance=Provenance({"discriminator": "abc", "cut": None, "tokens": 77}),
                )
            },
        ),
    )
    pack(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
