"""The program: all commands, and the handling of errors."""

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from mnerfeat import __version__
from mnerfeat.cli import caching, checking, extracting, ranking, runs, setup
from mnerfeat.errors import ConfigError, MnerfeatError

app = typer.Typer(
    name="mnerfeat",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
extracting.register(app)
runs.register(app)
app.add_typer(caching.app, name="cache")
app.add_typer(checking.data_app, name="data")
app.add_typer(ranking.app, name="rank")
checking.register(app)
setup.register(app)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"mnerfeat {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Verbose output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Named-entity recognition in posts with several images.

    In a folder with `data/` (train, dev, test) and some images:

    mnerfeat extract --images DIR, then mnerfeat train --head iqcr, then mnerfeat eval --split test.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mnerfeat").setLevel(level)


def main() -> None:
    """Run the program; our errors become a message and an exit code other than 0."""
    try:
        app()
    except MnerfeatError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        # The reader of our output has ended (`| head`), which is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(128 + signal.SIGINT)
