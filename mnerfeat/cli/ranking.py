"""`mnerfeat rank`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnerfeat.cli.options import Cache, Data, Preset, Set, settings

app = typer.Typer(
    no_args_is_help=True,
    help="Rank images by relevance: collect rankings and train GIFR's discriminator on them.",
)

Rankings = Annotated[Path, typer.Option("--rankings", help="File of rankings.")]
Out = Annotated[Path, typer.Option("--out", help="File of rankings to write.")]
Discriminator = Annotated[
    Path | None,
    typer.Option("--discriminator", help="Discriminator folder.  [default: discriminator]"),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP that filled the cache.  [default: the preset's]"),
]
Blank = Annotated[str | None, typer.Option("--blank", help="Blank image: mean, white or black.")]
Split = Annotated[str, typer.Option("--split", help="Split of the posts: train, dev or test.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite existing files.")]


@app.command("train")
def train_command(
    rankings: Rankings = Path("rankings.jsonl"),
    out: Annotated[Path | None, typer.Option("--out", help="Discriminator folder.")] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", help="Maximum fraction of train posts whose rankings are used."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Calibrate R as a probability on held-out rankings.")
    ] = False,
    tune_clip: Annotated[
        bool, typer.Option("--tune-clip", help="Train CLIP's towers too; needs the images.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of images, with --tune-clip.")
    ] = None,
    blank: Blank = None,
    clip: Clip = None,
    data: Data = None,
    cache: Cache = None,
    preset: Preset = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Train a discriminator on rankings of train posts.

    These posts are left out when a tagger is trained on the discriminator's rewards.
    """
    from tqdm.auto import tqdm

    from mnerfeat.config import build
    from mnerfeat.config.plans import plan_extraction
    from mnerfeat.preference import RankConfig
    from mnerfeat.reports.rankings import render_discriminator
    from mnerfeat.training.ranking import RankPlan, train_ranker

    found = settings(overrides, data=data, cache=cache, preset=preset)
    config = build(
        RankConfig,
        "rank",
        found.section("rank"),
        {
            "share": share,
            "seed": seed,
            "blank": blank,
            "calibrate": calibrate or None,
            "tune_clip": tune_clip or None,
        },
    )
    extraction = plan_extraction(found, images=images, clip=clip)
    folder = out or extraction.discriminator
    replaced = folder.exists()
    plan = RankPlan(
        rankings=rankings,
        data=found.data,
        out=folder,
        extraction=extraction,
        config=config,
        replace=replace,
    )
    with tqdm(unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.update(done - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        saved = train_ranker(plan, progress=progress)
    typer.echo(render_discriminator(saved, folder, replaced=replaced))


@app.command("eval")
def eval_command(
    rankings: Rankings = Path("rankings.jsonl"),
    split: Annotated[
        str | None,
        typer.Option("--split", help="Evaluate posts of this split only.  [default: all splits]"),
    ] = None,
    discriminator: Discriminator = None,
    data: Data = None,
    cache: Cache = None,
    overrides: Set = None,
) -> None:
    """Compare a discriminator with rankings of posts that it was not trained on."""
    from mnerfeat.config.plans import plan_extraction
    from mnerfeat.reports.rankings import render_rank_evaluation
    from mnerfeat.training.ranking import evaluate_ranker

    found = settings(overrides, data=data, cache=cache)
    folder = discriminator or plan_extraction(found).discriminator
    evaluation = evaluate_ranker(folder, rankings, found.data, found.cache, split=split)
    typer.echo(render_rank_evaluation(evaluation))


@app.command("proxy")
def proxy_command(
    out: Out = Path("proxy-rankings.jsonl"),
    split: Split = "train",
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Similarity above which an image ranks before the blank image.  "
            "[default: the blank image's similarity]",
        ),
    ] = None,
    blank: Annotated[
        Literal["mean", "white", "black"], typer.Option("--blank", help="Blank image.")
    ] = "mean",
    clip: Clip = None,
    data: Data = None,
    cache: Cache = None,
    preset: Preset = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Rank images by CLIP similarity instead of people; every ranking is marked as a proxy."""
    from mnerfeat.config.plans import plan_extraction
    from mnerfeat.training.ranking_files import write_proxy

    found = settings(overrides, data=data, cache=cache, preset=preset)
    written = write_proxy(
        found.data,
        out,
        plan_extraction(found, clip=clip),
        split=split,
        blank=blank,
        threshold=threshold,
        replace=replace,
    )
    typer.echo(
        f"{out}: {len(written):,} proxy rankings by CLIP similarity, not by people\n"
        f"next: mnerfeat rank train --rankings {out}"
    )


@app.command("tasks")
def tasks_command(
    images: Annotated[
        str,
        typer.Option("--images-at", help="URL prefix of the images."),
    ] = "/data/local-files/?d=images/",
    out: Annotated[Path, typer.Option("--out", help="File of tasks to write.")] = Path(
        "ranking-tasks.json"
    ),
    split: Split = "train",
    share: Annotated[
        float, typer.Option("--share", help="Fraction of the split's posts, above 0 up to 1.")
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    data: Data = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Write ranking tasks and a labelling interface for Label Studio."""
    from mnerfeat.training.ranking_files import write_tasks

    found = settings(overrides, data=data)
    written = write_tasks(
        found.data, out, images=images, split=split, share=share, seed=seed, replace=replace
    )
    typer.echo(
        f"{written.tasks}: {written.posts:,} tasks with {written.images:,} images; the labelling "
        f"interface is in {written.interface}\n"
        "next: import both in Label Studio; export as JSON; mnerfeat rank import FILE"
    )


@app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="File to import.")],
    out: Out = Path("rankings.jsonl"),
    format_: Annotated[
        Literal["auto", "jsonl", "label-studio", "gifr"],
        typer.Option(
            "--format",
            help="JSON lines, Label Studio's JSON export, or preference2.txt of GIFR's authors.",
        ),
    ] = "auto",
    data: Data = None,
    cache: Cache = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Import rankings, checked against the posts.

    The ranked images and texts are recorded, so that later changes to them are noticed.
    """
    from mnerfeat.preference.rankings import count_sources
    from mnerfeat.reports.rankings import render_sources
    from mnerfeat.training.ranking_files import import_rankings

    found = settings(overrides, data=data, cache=cache)
    rankings = import_rankings(
        path, found.data, out, cache=found.cache, format_=format_, replace=replace
    )
    typer.echo(
        f"{out}: {render_sources(count_sources(rankings))}\n"
        f"next: mnerfeat rank train --rankings {out}"
    )
