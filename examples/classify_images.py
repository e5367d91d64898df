"""Classify images by their cached features with scikit-learn.

    python examples/classify_images.py features.h5 labels.csv

`labels.csv` has a line `name,label` for each image, names as they were extracted.
"""
# ruff: noqa: T201

import csv
import sys
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from mnerfeat.cache import FeatureCache


def main(cache_path: Path, labels_path: Path) -> float:
    """Train on three quarters of the images; the share of the others that are classified right."""
    with labels_path.open(newline="") as file:
        names, labels = zip(*csv.reader(file), strict=True)
    with FeatureCache(cache_path) as cache:
        vectors = cache["vit_cls"][cache.rows(names)]  # every missing name in one error
    seen, held_out, seen_labels, held_out_labels = train_test_split(
        vectors.astype("float32"), labels, random_state=0, stratify=labels
    )
    classifier = LogisticRegression(max_iter=1000).fit(seen, seen_labels)
    return float(classifier.score(held_out, held_out_labels))


if __name__ == "__main__":
    print(f"accuracy on held-out images: {main(Path(sys.argv[1]), Path(sys.argv[2])):.3f}")
