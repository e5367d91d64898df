"""Options that several commands share, and the settings they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

Cache = Annotated[
    Path | None, typer.Option("--cache", help="The feature cache.  [default: features.h5]")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of train, dev and test.  [default: data]")
]
Runs = Annotated[
    Path | None, typer.Option("--runs", help="Folder of run folders.  [default: runs]")
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Backbones: base (the papers' own) or tiny (inside the package, for the toy world)."
        "  [default: base]",
    ),
]
Run = Annotated[
    str | None, typer.Option("--run", help="A run's name or folder.  [default: the newest]")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of mnerfeat.toml, for example train.epochs=5; may be repeated.",
    ),
]


def settings(overrides: list[str] | None, **options: Any) -> Any:
    """The settings of this folder, with what the command line says on top."""
    from mnerfeat.config import load_settings

    return load_settings(Path(), overrides or (), **options)
