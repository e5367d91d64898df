"""`mnerfeat extract`."""

from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import Cache, Preset, Set, settings


def register(app: typer.Typer) -> None:
    """Add `extract` to the program."""
    app.command("extract")(extract_command)


def extract_command(
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images, searched with all folders in it."),
    ] = None,
    posts: Annotated[
        Path | None,
        typer.Option(
            "--posts",
            help="Folder of train, dev and test, or a file of posts, for the CLIP embeddings of "
            "their texts and for rewards.  [default: data, where it exists]",
        ),
    ] = None,
    cache: Cache = None,
    preset: Preset = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="Some of vit, clip, quality, reward, grid, regions, tags, caption."
            "  [default: the first three]",
        ),
    ] = None,
    vit: Annotated[
        str | None, typer.Option("--vit", help="A ViT of transformers, by id or folder.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option("--clip", help="A model of open_clip: NAME:TAG, or a folder.")
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option("--quality", help="maniqa, piqe, or an image model with one output."),
    ] = None,
    grid: Annotated[
        str | None, typer.Option("--grid", help="A ResNet of transformers, by id or folder.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="An object detector of transformers.")
    ] = None,
    captioner: Annotated[
        str | None, typer.Option("--captioner", help="A model of transformers that captions.")
    ] = None,
    bert: Annotated[
        str | None, typer.Option("--bert", help="The text encoder of captions and tags.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", help="JSONL: captions, in place of a captioner.")
    ] = None,
    tags: Annotated[
        Path | None, typer.Option("--tags", help="JSONL: object tags, in place of a detector.")
    ] = None,
    regions: Annotated[
        Path | None, typer.Option("--regions", help="JSONL: boxes, in place of a detector.")
    ] = None,
    discriminator: Annotated[
        Path | None,
        typer.Option(
            "--discriminator",
            help="Folder of the discriminator that gives rewards.  [default: discriminator]",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="auto, cpu, cuda, mps, or several: cuda:0,cuda:1.  [default: auto]"
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="local (this machine) or ray (a cluster's nodes).  [default: local]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Inputs of a model that run at once.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that decode images.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Make features anew that another model has made."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do, and do nothing.")
    ] = False,
    overrides: Set = None,
) -> None:
    """Look at every image once, and write what the models see into the cache.

    Only what is missing is done: run it again after adding images or after an interruption.
    """
    from mnerfeat.config.plans import plan_extraction
    from mnerfeat.datasets import every_post
    from mnerfeat.extraction.extract import extract

    found = settings(overrides, cache=cache, preset=preset)
    config = plan_extraction(
        found,
        images=images,
        features=tuple(features.split(",")) if features else None,
        vit=vit,
        clip=clip,
        quality=quality,
        grid=grid,
        detector=detector,
        captioner=captioner,
        bert=bert,
        captions=captions,
        tags=tags,
        regions=regions,
        discriminator=discriminator,
        device=device,
        engine=engine,
        batch_size=batch_size,
        workers=workers,
        replace=replace or None,
        dry_run=dry_run or None,
    )
    folder = posts or (found.data if found.data.is_dir() else None)
    typer.echo(extract(config, posts=every_post(folder) if folder else ()))
