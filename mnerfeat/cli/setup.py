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
    folder: Annotated[Path, typer.Argument(help="New folder for posts, images and settings.")],
    train: Annotated[int | None, typer.Option("--train", help="Number of train posts.")] = None,
    dev: Annotated[int | None, typer.Option("--dev", help="Number of dev posts.")] = None,
    test: Annotated[int | None, typer.Option("--test", help="Number of test posts.")] = None,
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
    """Generate a small synthetic data set on which everything can be tried offline.

    The text does not tell the type of an entity; an image of the post does. The mnerfeat.toml of
    the folder selects the tiny backbones inside the package.
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
    """Print all settings of mnerfeat.toml and --set with their defaults."""
    from mnerfeat.config.reference import render_settings

    typer.echo(render_settings(section))
