"""Options that several commands share, and the settings that they give."""

from pathlib import Path
from typing import Annotated, Any

import typer

Cache = Annotated[
    Path | None, typer.Option("--cache", help="Feature cache.  [default: features.h5]")
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
        help="Backbones: base (those of the papers) or tiny (inside the package, for the toy "
        "world).  [default: base]",
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="Name of a run, its beginning, or a run folder.  [default: the run completed last]",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of mnerfeat.toml, for example train.epochs=5; may be repeated.",
    ),
]


def settings(overrides: list[str] | None, *, check: bool = True, **options: Any) -> Any:
    """Return the settings of this folder with the options of the command line.

    Args:
        overrides: Values of `--set`.
        check: Whether to check the names in all tables, which imports torch if there are any.
        options: Top-level settings; None counts as not given.
    """
    from mnerfeat.config import load_settings

    found = load_settings(Path(), overrides or (), **options)
    if check and found.sections:
        from mnerfeat.config.reference import check_names

        check_names(found)
    return found
