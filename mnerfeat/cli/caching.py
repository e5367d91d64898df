"""`mnerfeat cache …`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import settings

app = typer.Typer(
    no_args_is_help=True, help="Look into a feature cache, check, mend, join and export it."
)

CachePath = Annotated[
    Path | None, typer.Argument(metavar="CACHE", help="The .h5 file.  [default: features.h5]")
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
    from mnerfeat.cache import verify
    from mnerfeat.reports.caches import render_faults

    path = path or settings(None).cache
    with _bar("row") as progress:
        faults = verify(path, progress)
    if faults:
        typer.echo(render_faults(path, faults), err=True)
        raise typer.Exit(1)
    typer.echo(f"{path} is sound")


@app.command("repair")
def repair_command(path: CachePath = None) -> None:
    """Keep what is sound of a damaged cache; the next `mnerfeat extract` makes the rest anew.

    A file of which nothing can be read is renamed, never deleted.
    """
    from mnerfeat.cache import repair
    from mnerfeat.reports.caches import render_repair

    typer.echo(render_repair(repair(path or settings(None).cache)))


@app.command("merge")
def merge_command(
    sources: Annotated[list[Path], typer.Argument(metavar="CACHE…", help="The .h5 files.")],
    out: Annotated[
        Path,
        typer.Option("--out", help="The merged cache: a new file, or one of those to be merged."),
    ],
    folders: Annotated[
        list[str] | None,
        typer.Option(
            "--folder",
            help="What to put before the names of a cache, once for each in their order: keeps "
            "projects apart that call different images the same.",
        ),
    ] = None,
) -> None:
    """Make one cache of several; an image that several of them hold is one row of it.

    The caches stay as they are. A feature that different models have made is an error.
    """
    from mnerfeat.cache import merge
    from mnerfeat.reports.caches import render_merge

    with _bar("B") as progress:
        report = merge(out, sources, folders=folders, progress=progress)
    typer.echo(render_merge(report))


@app.command("export")
def export_command(
    path: CachePath = None,
    out: Annotated[
        Path, typer.Option("--out", help="The file, or the folder of a data set.")
    ] = ...,  # type: ignore[assignment]  # how typer wants an option that must be given
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="npz, safetensors, parquet or datasets.  [default: the suffix of OUT]"
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", help="Some, as in vit_cls,clip_image.  [default: all]"),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option("--table", help="images, texts or pairs.  [default: that of the features]"),
    ] = None,
) -> None:
    """Write a table for other programs: numpy, safetensors, parquet, Hugging Face datasets."""
    from mnerfeat.cache import export
    from mnerfeat.reports.caches import render_export

    report = export(
        path or settings(None).cache,
        out,
        format=format_,
        features=features.split(",") if features else None,
        table=table,
    )
    typer.echo(render_export(report))


@app.command("prune")
def prune_command(
    path: CachePath = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Remove what is no longer in this folder of images."),
    ] = None,
    posts: Annotated[
        Path | None,
        typer.Option(
            "--posts",
            help="Remove texts that are not in this folder of train, dev and test, or this file.",
        ),
    ] = None,
    features: Annotated[
        str | None, typer.Option("--features", help="Remove these whole, as in vit_cls,reward.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without this, only say what would be removed.")
    ] = False,
) -> None:
    """Remove images that no name leads to, and what else is asked for; pack what is left."""
    from mnerfeat.cache import prune
    from mnerfeat.reports.caches import render_prune

    texts = None
    if posts:
        from mnerfeat.datasets import read_texts

        texts = read_texts(posts)
    with _bar("B") as progress:
        report = prune(
            path or settings(None).cache,
            folder=images,
            texts=texts,
            features=features.split(",") if features else (),
            dry_run=not yes,
            progress=progress,
        )
    typer.echo(render_prune(report))


@app.command("pack")
def pack_command(path: CachePath = None) -> None:
    """Join a cache and the parts that an interrupted extraction has left beside it."""
    from mnerfeat.cache import info, pack
    from mnerfeat.reports.caches import render_info

    path = path or settings(None).cache
    info(path)  # or packing nothing would be said to have worked
    with _bar("B") as progress:
        pack(path, progress)
    typer.echo(render_info(info(path)))


@app.command("migrate")
def migrate_command(path: CachePath = None) -> None:
    """Bring a cache of an older format version to the present one."""
    from mnerfeat.cache import migrate
    from mnerfeat.reports.caches import render_migration

    path = path or settings(None).cache
    typer.echo(render_migration(path, migrate(path)))


@contextlib.contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal for what takes long; it is told what is done, and of how much."""
    from tqdm.auto import tqdm

    with tqdm(unit=unit, unit_scale=True, delay=1, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
