"""`mnerfeat toy` and `mnerfeat settings`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ToyWorld = Literal["images", "views"]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("toy")(toy_command)
    app.command("settings")(settings_command)


def toy_command(
    folder: Annotated[Path, typer.Argument(help="A new folder, for posts, images and settings.")],
    train: Annotated[int | None, typer.Option("--train", help="Posts to train on.")] = None,
    dev: Annotated[int | None, typer.Option("--dev", help="Posts to select on.")] = None,
    test: Annotated[int | None, typer.Option("--test", help="Posts to score on.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed.")] = None,
    world: Annotated[
        ToyWorld,
        typer.Option(
            "--world",
            help="What tells an entity's type: one of the post's "
            "images, or one view of an image (grid, regions, caption or tags).",
        ),
    ] = "images",
) -> None:
    """Draw a small world to try everything on, offline.

    Its posts do not tell the type of an entity; one of their images does. Its mnerfeat.toml
    chooses the tiny backbones that come with the package.
    """
    from mnerfeat.config import build
    from mnerfeat.toy import Mixture, ViewMixture, WorldConfig, make_world

    mixture = ViewMixture() if world == "views" else Mixture()
    given = {"train": train, "dev": dev, "test": test, "seed": seed, "mixture": mixture}
    make_world(folder, **vars(build(WorldConfig, "toy", given)))
    views = world == "views"
    features = " --features grid,regions,tags,caption" if views else ""
    head = "dpe" if views else "iqcr"
    typer.echo(
        f"next: cd {folder} && mnerfeat extract --images images{features} && "
        f"mnerfeat train --head {head}"
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
