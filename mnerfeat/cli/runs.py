"""`mnerfeat train`, `mnerfeat eval` and `mnerfeat predict`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mnerfeat.cli.options import Cache, Data, Preset, Run, Runs, Set, settings


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("train")(train_command)
    app.command("eval")(eval_command)
    app.command("predict")(predict_command)


def train_command(
    head: Annotated[
        str | None,
        typer.Option(
            "--head", help="The system: dpe, gifr, iqcr, iterative, text.  [default: iqcr]"
        ),
    ] = None,
    ablation: Annotated[
        str | None, typer.Option("--ablation", help="Part of the head to leave out.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Text encoder, by Hugging Face id or folder."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", help="May be repeated: one run each, and their mean and spread."),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="At most.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Posts a step.")] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Highest learning rate of the text encoder.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu or cuda.  [default: auto]")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the run.  [default: date, time and head]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that was interrupted last.")
    ] = False,
    data: Data = None,
    cache: Cache = None,
    runs: Runs = None,
    preset: Preset = None,
    overrides: Set = None,
) -> None:
    """Train a system on train, choose its best epoch on dev.

    It reads the cache only; images are not opened. `mnerfeat settings` shows all settings.
    """
    from mnerfeat.config.plans import plan_training
    from mnerfeat.reports.runs import render_training
    from mnerfeat.training import Plan, carry_out

    found = settings(overrides, data=data, cache=cache, runs=runs, preset=preset)
    if resume:
        plan = Plan.resuming(found.runs, name, data=found.data, cache=found.cache)
    else:
        plan = plan_training(
            found,
            head=head,
            name=name,
            seeds=seed or (),
            text={"encoder": encoder},
            options={"ablation": ablation},
            training={
                "epochs": epochs,
                "batch_size": batch_size,
                "encoder_lr": lr,
                "device": device,
            },
        )
    typer.echo(render_training(carry_out(plan, progress=sys.stderr.isatty())))


def eval_command(
    split: Annotated[str, typer.Option("--split", help="train, dev or test.")] = "test",
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            help="A run's name or folder; may be repeated, for mean and spread."
            "  [default: the newest]",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Score this JSONL file, whoever made it, not a run."),
    ] = None,
    data: Data = None,
    cache: Cache = None,
    runs: Runs = None,
    overrides: Set = None,
) -> None:
    """Score a run on a split: micro precision, recall and F1, per type, lenient and strict."""
    from mnerfeat.prediction import evaluate_predictions, evaluate_runs
    from mnerfeat.reports.runs import render_evaluation

    found = settings(overrides, data=data, cache=cache, runs=runs)
    if predictions:
        evaluations = [evaluate_predictions(predictions, found.data, split)]
    else:
        evaluations = evaluate_runs(
            run or [None],
            found.runs,
            data=found.data,
            cache=found.cache,
            split=split,
            progress=sys.stderr.isatty(),
        )
    typer.echo(render_evaluation(evaluations))


def predict_command(
    posts: Annotated[
        Path | None,
        typer.Option("--posts", help="A file of posts, labelled or not, in any format."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="One post's text.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="An image of that post; may be repeated.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of the posts' images: extract what is missing."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A JSONL file.  [default: standard output]")
    ] = None,
    run: Run = None,
    cache: Cache = None,
    runs: Runs = None,
    preset: Preset = None,
    overrides: Set = None,
) -> None:
    """Find the entities of posts, with what the head made of each image, as JSONL.

    Give a file with --posts, whose images are in the cache or, with --images, are extracted now;
    or one post with --text and --image.
    """
    from mnerfeat.config.plans import plan_extraction
    from mnerfeat.prediction import (
        predict_file,
        predict_post,
        predictions_text,
        write_predictions,
    )

    found = settings(overrides, cache=cache, runs=runs, preset=preset)
    config = plan_extraction(found, images=images)
    if (posts is None) == (text is None):
        raise typer.BadParameter("give either --posts FILE or --text TEXT")
    if posts is not None:
        predictions = predict_file(posts, config, found.runs, run, extract_first=images is not None)
    else:
        predictions = [predict_post(text or "", image or [], config, found.runs, run)]
    if out is None:
        typer.echo(predictions_text(predictions), nl=False)
    else:
        write_predictions(predictions, out)
        typer.echo(f"{len(predictions):,} posts in {out}", err=True)
