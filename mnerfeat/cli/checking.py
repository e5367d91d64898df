"""`mnerfeat data check`, `mnerfeat data convert` and `mnerfeat doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import Preset, settings

data_app = typer.Typer(no_args_is_help=True, help="Check and convert data sets.")


@data_app.callback()
def data_group() -> None:
    """Check and convert data sets."""


@data_app.command("check")
def check_command(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of train, dev and test.  [default: data]")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Images folder; decodes every image of the posts."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", help="Text encoder; counts words without a piece in its vocabulary."
        ),
    ] = None,
) -> None:
    """Count posts, entities and images, and report what is unusual about them."""
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
            folder or settings(None, check=False).data,
            images=images,
            pieces=pieces,
            progress=progress,
        )
    typer.echo(render(report))


@data_app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="File of posts, or folder of train, dev, test.")],
    target: Annotated[Path, typer.Argument(help="File or folder to write.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Format: json, conll, cmner, csv or tsv.  [default: by suffix; json in a folder]",
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="Folder of images named <id>_*, which become the posts' images; repeatable.",
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite files that exist.")] = False,
) -> None:
    """Convert a data set to another file format."""
    from mnerfeat.datasets.convert import convert

    for file in convert(source, target, to=to, images=images or (), overwrite=replace):
        typer.echo(file)


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
