"""`mnerfeat cache …`."""

from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import settings

app = typer.Typer(no_args_is_help=True, help="Look into a feature cache and check it.")

CachePath = Annotated[
    Path | None, typer.Argument(metavar="[CACHE]", help="The .h5 file.  [default: features.h5]")
]


@app.command("info")
def info_command(
    path: CachePath = None,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Show what made each feature.")
    ] = False,
) -> None:
    """Show what a cache holds."""
    from mnerfeat.cache import info
    from mnerfeat.reports.caches import render_info

    typer.echo(render_info(info(path or settings(None).cache), provenance=provenance))


@app.command("verify")
def verify_command(path: CachePath = None) -> None:
    """Check every checksum, count, name and pair of a cache."""
    from tqdm.auto import tqdm

    from mnerfeat.cache import verify

    path = path or settings(None).cache
    with tqdm(unit="row", unit_scale=True, delay=1, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        faults = verify(path, progress)
    if faults:
        typer.echo(f"{path}: {len(faults)} faults", err=True)
        for fault in faults:
            typer.echo(f"  {fault}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{path} is sound")
