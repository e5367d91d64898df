"""`mnerfeat toy` and `mnerfeat settings`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("toy")(toy_command)
    app.command("settings")(settings_command)


def toy_command(
    folder: Annotated[Path, typer.Argument(help="A new folder, for posts, images and settings.")],
    train: Annotated[int | None, typer.Option("--train", help="Posts to train on.")] = None,
    dev: Annotated[int | None, typer.Option("--dev", help="Posts to select on.")] = None,
    test: Annotated[int | None, typer.Option("--test", help="Posts to score on.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed, another world.")] = None,
) -> None:
    """Draw a small world to try everything on, offline.

    Its posts do not tell the type of an entity; one of their images does. Its mnerfeat.toml
    chooses the tiny backbones that come with the package.
    """
    from mnerfeat.config import build
    from mnerfeat.toy import WorldConfig, make_world

    given = {"train": train, "dev": dev, "test": test, "seed": seed}
    make_world(folder, **vars(build(WorldConfig, "toy", given)))
    typer.echo(
        f"next: cd {folder} && mnerfeat extract --images images && mnerfeat train --head iqcr"
    )


def settings_command(
    section: Annotated[
        str | None,
        typer.Argument(
            help="extract, text, train, rank, rank.network or head.NAME.  [default: all]"
        ),
    ] = None,
) -> None:
    """Show every setting of mnerfeat.toml and --set, with its default and what it does."""
    from mnerfeat.config.reference import render_settings

    typer.echo(render_settings(section))
