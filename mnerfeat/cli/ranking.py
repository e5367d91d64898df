"""`mnerfeat rank …`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnerfeat.cli.options import Cache, Data, Preset, Set, settings

app = typer.Typer(
    no_args_is_help=True,
    help="Rank images by relevance: collect rankings, learn from them (GIFR's discriminator).",
)

Rankings = Annotated[
    Path, typer.Option("--rankings", help="A file of rankings: images best first, and the blank.")
]
Out = Annotated[Path, typer.Option("--out", help="The file of rankings.")]
Discriminator = Annotated[
    Path | None,
    typer.Option("--discriminator", help="Its folder.  [default: discriminator]"),
]
Clip = Annotated[
    str | None, typer.Option("--clip", help="The CLIP that filled the cache, where not the preset.")
]
Blank = Annotated[
    str | None, typer.Option("--blank", help="The blank image: mean, white or black.")
]
Split = Annotated[str, typer.Option("--split", help="Of the posts: train, dev or test.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite what is there.")]


@app.command("train")
def train_command(
    rankings: Rankings = Path("rankings.jsonl"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the discriminator.")] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", help="Of all train posts, at most, whose rankings are used."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draws posts and weights.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Make R readable as a probability.")
    ] = False,
    tune_clip: Annotated[
        bool, typer.Option("--tune-clip", help="Train CLIP's towers too; needs --images.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of images, for --tune-clip.")
    ] = None,
    blank: Blank = None,
    clip: Clip = None,
    data: Data = None,
    cache: Cache = None,
    preset: Preset = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Learn from rankings of train posts which images are relevant.

    The posts that were learned from are left out when a head trains on the rewards.
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
    typer.echo(render_discriminator(saved, folder))


@app.command("eval")
def eval_command(
    rankings: Rankings = Path("rankings.jsonl"),
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Only posts of this one.  [default: all that were not learned from]"
        ),
    ] = None,
    discriminator: Discriminator = None,
    data: Data = None,
    cache: Cache = None,
    overrides: Set = None,
) -> None:
    """Compare the discriminator with rankings of posts that it did not learn from."""
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
            help="Cosine above which an image ranks before the blank.  [default: the blank's own]",
        ),
    ] = None,
    blank: Annotated[
        Literal["mean", "white", "black"], typer.Option("--blank", help="The blank image.")
    ] = "mean",
    clip: Clip = None,
    data: Data = None,
    cache: Cache = None,
    preset: Preset = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Rank images by CLIP similarity, in place of people; every ranking is marked as proxy."""
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
        f"{out}: {len(written):,} proxy rankings by CLIP similarity; no person has ranked them\n"
        f"next: mnerfeat rank train --rankings {out}"
    )


@app.command("tasks")
def tasks_command(
    images: Annotated[
        str,
        typer.Option(
            "--images-at", help="What stands before an image's name where a browser finds it."
        ),
    ] = "/data/local-files/?d=images/",
    out: Annotated[Path, typer.Option("--out", help="The file of tasks.")] = Path(
        "ranking-tasks.json"
    ),
    split: Split = "train",
    share: Annotated[
        float, typer.Option("--share", help="Of all posts of the split, above 0 up to 1.")
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Draws the posts.")] = 0,
    data: Data = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Write tasks for people who rank images in Label Studio, with the interface beside them."""
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
    path: Annotated[Path, typer.Argument(help="Rankings of another format.")],
    out: Out = Path("rankings.jsonl"),
    format_: Annotated[
        Literal["auto", "jsonl", "label-studio", "gifr"],
        typer.Option(
            "--format",
            help="Label Studio's JSON export, or preference2.txt of GIFR's authors.",
        ),
    ] = "auto",
    data: Data = None,
    replace: Replace = False,
    overrides: Set = None,
) -> None:
    """Turn rankings of another format into a file of rankings, checked against the posts."""
    from mnerfeat.preference.rankings import sources
    from mnerfeat.reports.rankings import render_sources
    from mnerfeat.training.ranking_files import import_rankings

    found = settings(overrides, data=data)
    rankings = import_rankings(path, found.data, out, format_=format_, replace=replace)
    typer.echo(
        f"{out}: {render_sources(sources(rankings))}\nnext: mnerfeat rank train --rankings {out}"
    )
