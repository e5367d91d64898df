"""The examples for other projects run, and do what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    pack,
    stack_ids,
)
from tests.scripts import ROOT, load


@pytest.fixture
def cache_and_labels(tmp_path: Path) -> tuple[Path, Path]:
    """Two kinds of images, which a straight line tells apart."""
    names = [f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(60)]
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((120, 16)).astype(np.float16)
    vectors[60:, 3] += 6
    CacheWriter(tmp_path / "features.h5").put(
        images=TableRows(
            ids=stack_ids([content_id(name.encode()) for name in names]),
            names=[(name, row) for row, name in enumerate(names)],
            features={
                "vit_cls": FeatureRows(
                    data=vectors,
                    state=np.ones(120, np.uint8),
                    provenance=Provenance({"model": "vit"}),
                )
            },
        )
    )
    pack(tmp_path / "features.h5")
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{name},{name[:3]}\n" for name in names))
    return tmp_path / "features.h5", labels


def test_classifying_with_scikit_learn(cache_and_labels: tuple[Path, Path]) -> None:
    pytest.importorskip("sklearn")
    assert load("examples/classify_images.py").main(*cache_and_labels) > 0.9


def test_training_with_torch(cache_and_labels: tuple[Path, Path]) -> None:
    pytest.importorskip("torch")
    assert load("examples/train_with_torch.py").main(*cache_and_labels) > 0.95


def test_reading_with_plain_h5py(cache_and_labels: tuple[Path, Path]) -> None:
    script = ROOT / "examples" / "read_with_h5py.py"
    command = [sys.executable, str(script), str(cache_and_labels[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "(10, 16) {'model': 'vit'}\n"
