"""Run code that may read a folder but not write to it, as root too."""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_NOBODY = 65534


def call_without_write_access(folder: Path, act: Callable[[], None]) -> None:
    """Call `act` in a child process that cannot write into `folder` or below.

    Fails:
        If `act` raises, or anything in the folder has changed.
    """
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with _read_only(folder):
        child = os.fork()
        if child == 0:
            _call(folder, act)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "see the child's traceback"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def _call(folder: Path, act: Callable[[], None]) -> None:
    try:
        if os.geteuid() == 0:  # root may write anywhere
            os.setuid(_NOBODY)
        with pytest.raises(OSError, match="denied"):
            (folder / "x").touch()
        act()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(1)


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Take the right to write from a folder and those in it; let others read it."""
    inside = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    modes = {path: path.stat().st_mode for path in [*folder.parents, *inside]}
    for above in folder.parents:  # pytest closes its folders to others
        if modes[above] & 0o555 != 0o555:
            above.chmod(modes[above] | 0o555)
    for path in inside:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            if path.stat().st_mode != mode:
                path.chmod(mode)
