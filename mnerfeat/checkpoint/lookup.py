"""Runs by name, by an unambiguous prefix, or the newest."""

import difflib
import logging
from pathlib import Path

from mnerfeat.checkpoint.manifest import State
from mnerfeat.checkpoint.run import MANIFEST, Run
from mnerfeat.errors import RunError

logger = logging.getLogger(__name__)


def find_runs(runs: Path) -> list[Run]:
    """Return all runs of a folder, the newest first.

    Complete runs are ordered by the time they were completed, others by the time they began.
    Other folders are skipped, and so are runs that this version cannot read, with a warning.
    """
    if not runs.is_dir():
        return []
    found = []
    for path in sorted(runs.glob(f"*/{MANIFEST}")):
        try:
            found.append(Run.open(path.parent))
        except RunError as error:
            logger.warning("%s", error)

    def age(run: Run) -> tuple[str, str]:
        return run.manifest.completed or run.manifest.created, run.name

    return sorted(found, key=age, reverse=True)


def find_run(runs: Path, name: str | None = None, *, state: State = "complete") -> Run:
    """Return the run with a name or path, or the newest one in a state.

    Args:
        runs: Folder of run folders.
        name: Name of a run, the beginning of exactly one name, or the path of a run folder; None
            for the run that was completed last (or, while training, begun last).
        state: State that the newest run must have.

    Raises:
        RunError: There is no such run, or several names begin so.
    """
    if name is not None:
        return _named(runs, name)
    every = find_runs(runs)
    fit = [run for run in every if run.manifest.state == state]
    if fit:
        return fit[0]
    if state == "training":
        raise RunError(f"no run in {runs} is waiting to be resumed")
    if every:
        raise RunError(
            f"no run in {runs} is complete; {every[0].name} was interrupted",
            hint=every[0].resume_command,
        )
    raise RunError(f"there are no runs in {runs}", hint="mnerfeat train --head iqcr")


def _named(runs: Path, name: str) -> Run:
    for folder in (runs / name, Path(name)):
        if (folder / MANIFEST).exists():
            return Run.open(folder)
    names = sorted(path.parent.name for path in runs.glob(f"*/{MANIFEST}"))
    fit = [one for one in names if one.startswith(name)]
    if len(fit) == 1:
        return Run.open(runs / fit[0])
    if fit:
        raise RunError(
            f"{name!r} is the beginning of {len(fit)} names of runs in {runs}:",
            faults=fit,
            hint="give more of the name",
        )
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    raise RunError(
        f"there is no run {name!r} in {runs}"
        + (f"; did you mean {' or '.join(close)}?" if close else ""),
        hint=None if names else "mnerfeat train --head iqcr",
    )
