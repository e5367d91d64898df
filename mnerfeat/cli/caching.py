"""`mnerfeat cache …`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import Cache, settings

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
    feature: Annotated[
        str | None,
        typer.Option("--feature", help="Show the histogram of a feature such as quality instead."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="With --feature: show the shares below and above this."),
    ] = None,
) -> None:
    """Show what a cache holds."""
    from mnerfeat.cache import FeatureCache, info
    from mnerfeat.reports.caches import render_info
    from mnerfeat.reports.histograms import render_histogram

    path = path or settings(None, check=False).cache
    if feature is not None:
        shown = FeatureCache(path)[feature]
        typer.echo(render_histogram(shown, threshold=threshold, provenance=provenance))
    elif threshold is not None:
        raise typer.BadParameter("--threshold needs --feature")
    else:
        typer.echo(render_info(info(path), provenance=provenance))


@app.command("verify")
def verify_command(
    path: CachePath = None,
    untrusted: Annotated[
        bool,
        typer.Option(
            "--untrusted",
            help="The file is from a stranger: read it in a child process with limits on memory "
            "and time.",
        ),
    ] = False,
) -> None:
    """Check every checksum, count, name and pair of a cache."""
    from mnerfeat.cache import verify
    from mnerfeat.reports.caches import render_faults

    path = path or settings(None, check=False).cache
    with _bar("row") as progress:
        faults = verify(path, progress, untrusted=untrusted)
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

    typer.echo(render_repair(repair(path or settings(None, check=False).cache)))


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
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing file.")] = False,
) -> None:
    """Write a table for other programs: numpy, safetensors, parquet, Hugging Face datasets."""
    from mnerfeat.cache import export
    from mnerfeat.reports.caches import render_export

    report = export(
        path or settings(None, check=False).cache,
        out,
        format=format_,
        features=features.split(",") if features else None,
        table=table,
        replace=replace,
    )
    typer.echo(render_export(report))


@app.command("import")
def import_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="HDF5, npy, npz, safetensors or parquet files; several are read as one.",
        ),
    ],
    feature: Annotated[
        str, typer.Option("--feature", help="The feature's name in the cache, as in vit_cls.")
    ],
    stated: Annotated[
        list[str] | None,
        typer.Option(
            "--provenance",
            metavar="KEY=VALUE|FILE.json",
            help="What made the features, as precisely as you know it; may be repeated.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="The dataset or column that holds the rows, or a group with a dataset for each "
            "image (/ is the whole file).  [default: the feature's name]",
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            help="The dataset or column with the images' names, or a text file with a name on each "
            "line. A group needs none.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="The folder of the images, whose bytes identify them.  [default: the cache must "
            "know the names]",
        ),
    ] = None,
    cache: Cache = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out rows whose image is not found.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace rows of the feature that something else made."),
    ] = False,
    memory: Annotated[
        float, typer.Option("--memory", help="Memory limit of the reading process, in GiB.")
    ] = 4,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time limit for each piece that it reads.")
    ] = 120,
) -> None:
    """Write features that another program made into a cache.

    The files may be anybody's: a process of its own reads them, and nothing in them is executed.
    """
    from mnerfeat.cache import ImportConfig, import_features, read_provenance
    from mnerfeat.reports.caches import render_import

    with _bar("B") as progress:
        report = import_features(
            cache or settings(None).cache,
            sources,
            ImportConfig(
                feature=feature,
                provenance=read_provenance(stated or ()),
                data=data,
                names=names,
                images=images,
                skip_missing=skip_missing,
                replace=replace,
            ),
            memory_bytes=int(memory * 2**30),
            seconds=seconds,
            progress=progress,
        )
    typer.echo(render_import(report))


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
            path or settings(None, check=False).cache,
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

    path = path or settings(None, check=False).cache
    info(path)  # or packing nothing would be said to have worked
    with _bar("B") as progress:
        pack(path, progress)
    typer.echo(render_info(info(path)))


@app.command("migrate")
def migrate_command(path: CachePath = None) -> None:
    """Bring a cache of an older format version to the present one."""
    from mnerfeat.cache import migrate
    from mnerfeat.reports.caches import render_migration

    path = path or settings(None, check=False).cache
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
