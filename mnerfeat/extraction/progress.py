"""Progress on standard error: a bar at a terminal, a logged line a minute elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from tqdm import tqdm

from mnerfeat.extraction.config import ExtractConfig

logger = logging.getLogger(__name__)

LINE_SECONDS: Final = 60.0
"""Seconds between lines in a log."""


class Progress(Protocol):
    """Receives how much more is done."""

    def update(self, count: int) -> Any:
        """Add to what is done."""
        ...


@contextmanager
def show_progress(
    config: ExtractConfig, *, total: int | None, what: str, unit: str
) -> Iterator[Progress]:
    """Show the progress of one step of a run.

    Args:
        config: Configuration of the run; its `progress` turns bars on or off.
        total: Number of units; None if it is not known yet.
        what: Name of the step.
        unit: Name of what is counted.
    """
    terminal = sys.stderr.isatty()
    if config.progress is None and not terminal:
        yield _LoggedProgress(total, what, unit)
        return
    with tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        disable=not (terminal if config.progress is None else config.progress),
        dynamic_ncols=True,
        leave=total is not None,
    ) as bar:
        yield bar


class _LoggedProgress:
    def __init__(self, total: int | None, what: str, unit: str) -> None:
        self._total = total
        self._what = what
        self._unit = unit
        self._done = 0
        self._start = self._last = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        rate = self._done / (now - self._start)
        line = f"{self._what}: {self._done:,}"
        if self._total:
            line += f" of {self._total:,}"
        line += f" {self._unit}, {rate:,.1f} a second"
        if self._total:
            line += f", {(self._total - self._done) / rate / 60:,.0f} min left"
        logger.info("%s", line)
