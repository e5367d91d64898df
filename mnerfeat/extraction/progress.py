"""Progress bars that tell the truth, on standard error."""

import sys
from typing import Any

from tqdm import tqdm

from mnerfeat.extraction.config import ExtractConfig


def progress_bar(config: ExtractConfig, *, total: int | None, what: str, unit: str) -> "tqdm[Any]":
    """A progress bar on standard error, where that is a terminal or one was asked for."""
    shown = sys.stderr.isatty() if config.progress is None else config.progress
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=not shown,
        dynamic_ncols=True,
        leave=total is not None,
    )
