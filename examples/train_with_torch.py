"""Train a small network on cached features in a plain PyTorch loop.

    python examples/train_with_torch.py features.h5 labels.csv

`labels.csv` has a line `name,label` for each image, names as they were extracted.
"""
# ruff: noqa: T201

import csv
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, StackDataset, Subset

from mnerfeat.cache import FeatureCache


def main(cache_path: Path, labels_path: Path, epochs: int = 20) -> float:
    """Train on all images; the share of them that is classified right in the end."""
    with labels_path.open(newline="") as file:
        names, labels = zip(*csv.reader(file), strict=True)
    kinds = sorted(set(labels))
    with FeatureCache(cache_path) as cache:
        vit = cache["vit_cls"]
        rows = cache.rows(names).tolist()
    targets = torch.tensor([kinds.index(label) for label in labels])
    # A column: the loader's workers map the file, and no rows are sent to them.
    data = StackDataset(image=Subset(vit, rows), label=targets)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(vit.row_shape[0], 64), torch.nn.ReLU(), torch.nn.Linear(64, len(kinds))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(epochs):
        for batch in DataLoader(data, batch_size=64, shuffle=True):
            loss = torch.nn.functional.cross_entropy(
                network(batch["image"].float()), batch["label"]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        # Or all images at once: a tensor that shows the file and takes no memory of its own.
        guessed = network(vit.tensor(allow_missing=True)[rows].float()).argmax(dim=1)
    return float((guessed == targets).float().mean())


if __name__ == "__main__":
    print(f"accuracy: {main(Path(sys.argv[1]), Path(sys.argv[2])):.3f}")
