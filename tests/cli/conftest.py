"""The program, called in this process as a shell would call it."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mnerfeat.cli import main


class Result(NamedTuple):
    """What a shell sees of a command."""

    code: int
    out: str
    err: str


Program = Callable[..., Result]


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Program]:
    """`program("cache", "info")` runs `mnerfeat cache info` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root, package = logging.getLogger(), logging.getLogger("mnerfeat")
    handlers, level = root.handlers[:], package.level

    def run(*arguments: str | Path) -> Result:
        root.handlers[:] = []  # as in a fresh process
        monkeypatch.setattr(sys, "argv", ["mnerfeat", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Result(code, *capsys.readouterr())

    yield run
    root.handlers[:] = handlers
    package.setLevel(level)
    torch.set_num_threads(threads)
