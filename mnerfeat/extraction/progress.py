"""Progress on standard error: a bar at a terminal, a logged line a minute elsewhere."""

import logging
import sys
from typing import Any, Final

from tqdm import tqdm

from mnerfeat.extraction.config import ExtractConfig

logger = logging.getLogger(__name__)

LINE_SECONDS: Final = 60.0
"""Seconds between lines in a log."""


def show_progress(config: ExtractConfig, *, total: int | None, what: str, unit: str) -> "tqdm[Any]":
    """Show the progress of one step of a run.

    Args:
        config: Configuration of the run; its `progress` turns bars on or off.
        total: Number of units; None if it is not known yet.
        what: Name of the step.
        unit: Name of what is counted.

    Returns:
        A context manager; its `update` takes how many more are done.
    """
    terminal = sys.stderr.isatty()
    if config.progress is None and not terminal:
        count = "{n_fmt}" if total is None else "{n_fmt} of {total_fmt}"
        left = "" if total is None else ", {remaining} left"
        return tqdm(
            total=total,
            desc=what,
            unit=f" {unit}",
            file=_Log(),
            mininterval=LINE_SECONDS,
            maxinterval=LINE_SECONDS,
            miniters=1,
            delay=LINE_SECONDS,
            bar_format=f"{{desc}}: {count} {unit}, {{rate_fmt}}{left}",
            leave=False,
        )
    return tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        disable=not (terminal if config.progress is None else config.progress),
        dynamic_ncols=True,
        leave=total is not None,
    )


class _Log:
    """A file for tqdm, whose lines go to the log."""

    def write(self, text: str) -> None:
        if line := text.strip():
            logger.info("%s", line)

    def flush(self) -> None:
        pass
