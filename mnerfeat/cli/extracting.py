"""`mnerfeat extract`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from mnerfeat.cli.options import Cache, Preset, Set, settings


def register(app: typer.Typer) -> None:
    """Add `extract` to the program."""
    app.command("extract", cls=ExtractCommand)(extract_command)


class ExtractCommand(TyperCommand):
    """Lists the registered extractors in its help, without importing them for other commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from mnerfeat.extractors.registry import DEFAULT_EXTRACTORS, EXTRACTORS

        known = [f"{name} ({factory.help})" for name, factory in EXTRACTORS.items()]
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.name == "features":
                parameter.help = (
                    f"Features to extract, separated by commas: {', '.join(known)}, reward (by a "
                    f"trained discriminator).  [default: {','.join(DEFAULT_EXTRACTORS)}]"
                )
        super().format_help(ctx, formatter)


def extract_command(
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images, searched recursively."),
    ] = None,
    posts: Annotated[
        Path | None,
        typer.Option(
            "--posts",
            help="Folder of train, dev and test, or a file of posts, for the CLIP embeddings of "
            "their texts and for rewards.  [default: data, if it exists]",
        ),
    ] = None,
    cache: Cache = None,
    preset: Preset = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="Features to extract, separated by commas.",
        ),
    ] = None,
    vit: Annotated[
        str | None, typer.Option("--vit", help="ViT of transformers, by hub id or folder.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option("--clip", help="open_clip model: NAME:TAG, or a folder.")
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality", help="Quality model: maniqa, piqe, or an image model with one output."
        ),
    ] = None,
    grid: Annotated[
        str | None, typer.Option("--grid", help="ResNet of transformers, by hub id or folder.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="Object detector of transformers.")
    ] = None,
    captioner: Annotated[
        str | None, typer.Option("--captioner", help="Captioning model of transformers.")
    ] = None,
    bert: Annotated[
        str | None,
        typer.Option("--bert", help="Text encoder of transformers for captions and tags."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="JSONL file of captions, instead of a captioner."),
    ] = None,
    tags: Annotated[
        Path | None,
        typer.Option("--tags", help="JSONL file of object tags, instead of a detector."),
    ] = None,
    regions: Annotated[
        Path | None, typer.Option("--regions", help="JSONL file of boxes, instead of a detector.")
    ] = None,
    discriminator: Annotated[
        Path | None,
        typer.Option(
            "--discriminator",
            help="Discriminator folder, for rewards.  [default: discriminator]",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="Device: auto, cpu, cuda, mps, or several (cuda:0,cuda:1).  [default: auto]",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Engine: local (this machine) or ray (a Ray cluster).  [default: local]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Batch size.  [default: by the device]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Number of decoder processes; 0 for none.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Recompute features made by a different model."),
    ] = False,
    rename: Annotated[
        bool,
        typer.Option(
            "--rename",
            help="Let names of images from another folder lead to these images.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report what would be done, and do nothing.")
    ] = False,
    overrides: Set = None,
) -> None:
    """Run the vision models on every image once and cache the features.

    Only missing features are computed: run it again after adding images or an interruption.
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
        rename=rename or None,
        dry_run=dry_run or None,
    )
    folder = posts or (found.data if found.data.is_dir() else None)
    typer.echo(extract(config, posts=every_post(folder) if folder else ()))
