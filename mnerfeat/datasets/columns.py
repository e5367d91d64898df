"""Image columns: the features of a data set's images, in memory or in the cache's file."""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mnerfeat.cache import Feature

log = logging.getLogger(__name__)

IN_MEMORY = 1 << 30
"""Maximum size in bytes of a column in memory; batches of a larger one are read from the file."""

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class StoredColumn:
    """A column that stays in the cache's file and takes no memory of its own.

    Attributes:
        values: A memory map of the feature, (rows of the cache, …).
        rows: The row of `values` for each row of the column.
    """

    values: Tensor
    rows: Int[Tensor, " rows"]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, …)."""
        return (len(self.rows), *self.values.shape[1:])

    @property
    def nbytes(self) -> int:
        """Size in bytes if it were in memory."""
        return math.prod(self.shape) * self.values.element_size()

    def take(self, index: Int[Tensor, "..."]) -> Tensor:
        """Return some rows, on the host."""
        return self.values[self.rows[index.cpu()]]

    def to(self, device: torch.device) -> Tensor:
        """Return the column on a device, copied in parts, so that it never fills the host."""
        moved = torch.empty(self.shape, dtype=self.values.dtype, device=device)
        for start in range(0, len(self.rows), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            moved[some] = self.values[self.rows[some]].to(device)
        return moved


Column = Tensor | StoredColumn
"""(rows, …): one value per image."""


def load_column(feature: Feature, rows: NDArray[np.int64]) -> Column:
    """Return some rows of a feature; large ones stay in the file of a packed cache."""
    size = len(rows) * math.prod(feature.row_shape) * feature.dtype.itemsize
    if size > IN_MEMORY and feature.mapped:
        log.info("%s (%.1f GiB) stays in the cache's file", feature.name, size / 2**30)
        values = feature.tensor(allow_missing=True)
        return StoredColumn(values=values, rows=torch.from_numpy(rows))
    return torch.from_numpy(feature[rows])


def take(column: Column, index: Int[Tensor, "..."]) -> Tensor:
    """Return some rows of a column, on its device (of a stored one, on the host)."""
    if isinstance(column, StoredColumn):
        return column.take(index)
    return column[index.to(column.device)]
