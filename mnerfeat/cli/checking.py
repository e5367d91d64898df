"""`mnerfeat data check` and `mnerfeat doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import Preset, settings

data_app = typer.Typer(no_args_is_help=True, help="Look at a data set before using it.")


@data_app.callback()
def data_group() -> None:
    """Look at a data set before using it."""


@data_app.command("check")
def check_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of train, dev and test.  [default: data]")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Open every image that the posts name.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Count the words that this text encoder cannot see."),
    ] = None,
) -> None:
    """Count posts, entities and images, and show what is odd about them."""
    from tqdm.auto import tqdm

    from mnerfeat.datasets.checks import check
    from mnerfeat.datasets.report import render

    pieces = None
    if encoder:
        from mnerfeat.text import TextConfig, load_tokenizer

        pieces = load_tokenizer(TextConfig(encoder=encoder)).tokenize
    with tqdm(unit="image", delay=1, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check(
            folder or settings(None).data, images=images, pieces=pieces, progress=progress
        )
    typer.echo(render(report))


def register(app: typer.Typer) -> None:
    """Add `doctor` to the program."""
    app.command("doctor")(doctor_command)


def doctor_command(preset: Preset = None) -> None:
    """Show devices, versions, and which weights can be had from where."""
    from mnerfeat.config.plans import text_encoder
    from mnerfeat.reports.doctor import examine, render
    from mnerfeat.tagger import HEADS

    found = settings(None, preset=preset)
    encoders = {head: text_encoder(found, head) for head in HEADS}
    typer.echo(render(examine(found.preset, encoders)))
