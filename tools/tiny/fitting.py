"""One training loop for all tiny backbones."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, float], Tensor]
"""Rows to learn from (`batch`,) and the share of the training done → the loss."""


def fit(
    name: str,
    parameters: Iterable[nn.Parameter],
    loss_of: Loss,
    *,
    rows: int,
    steps: int,
    batch: int = 64,
    rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """AdamW with warm-up and decay over random batches of `rows` examples.

    Args:
        name: For the log.
        parameters: What is trained.
        loss_of: The loss of a batch, given its rows and the share of the training done.
        rows: How many examples there are.
        steps: How many batches to take.
        batch: Examples a batch.
        rate: Highest learning rate.
        seed: Of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(list(parameters), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps + 1, pct_start=0.1)
    started = time.monotonic()
    for step in range(steps):
        loss = loss_of(torch.randint(rows, (batch,), generator=generator), step / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            seconds = time.monotonic() - started
            logger.info(
                "%s: step %d of %d, loss %.4f, %.0f s", name, step + 1, steps, loss.item(), seconds
            )


def in_batches(function: Callable[[Tensor], Tensor], rows: int, *, batch: int = 500) -> Tensor:
    """`function` of all rows, without gradients."""
    starts = range(0, rows, batch)
    with torch.no_grad():
        return torch.cat([function(torch.arange(at, min(at + batch, rows))) for at in starts])


def store(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes safetensors in 16 bits; loaders widen them again, as `dtype` in the config says."""
    small = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in tensors.items()
    }
    save_file(small, path, metadata={"format": "pt"})
    path.chmod(0o644)


def halve(path: Path) -> None:
    """Rewrites a safetensors file in 16 bits."""
    store(load_file(path), path)
