"""`mnerfeat train`, `mnerfeat eval` and `mnerfeat predict`."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

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
        typer.Option(
            "--seed", help="Random seed; may be repeated for one run each, with mean and spread."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Maximum number of epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Posts per optimizer step.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Highest learning rate of the text encoder.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu or cuda.  [default: auto]")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Run name.  [default: date, time and head]")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted run with its own options (--name; by default the last), "
            "then train the remaining seeds.",
        ),
    ] = False,
    data: Data = None,
    cache: Cache = None,
    runs: Runs = None,
    preset: Preset = None,
    overrides: Set = None,
) -> None:
    """Train a system on train and choose its best epoch on dev.

    It reads the cache only; images are not opened. `mnerfeat settings` shows all settings.
    """
    from dataclasses import replace

    from mnerfeat.config.plans import plan_resume, plan_training
    from mnerfeat.reports.runs import render_training
    from mnerfeat.training import carry_out

    found = settings(overrides, data=data, cache=cache, runs=runs, preset=preset)
    options: dict[str, dict[str, Any]] = {
        "text": {"encoder": encoder},
        "head": {"ablation": ablation},
        "train": {
            "epochs": epochs,
            "batch_size": batch_size,
            "encoder_lr": lr,
            "device": device,
        },
    }
    if resume:
        plan = plan_resume(
            found,
            name=name,
            overrides=overrides or (),
            head=head,
            seeds=seed or (),
            options=options,
        )
        plan = replace(plan, data=data or plan.data, cache=cache or plan.cache)
    else:
        plan = plan_training(
            found,
            head=head,
            name=name,
            seeds=seed or (),
            text=options["text"],
            options=options["head"],
            training=options["train"],
        )
    plan = replace(plan, command=shlex.join(["mnerfeat", *sys.argv[1:]]))
    try:
        trained = carry_out(plan, progress=sys.stderr.isatty())
    except KeyboardInterrupt as stop:
        hints = [f"next: {note}" for note in getattr(stop, "__notes__", ())]
        typer.echo("\n".join(["interrupted", *hints]), err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    typer.echo(render_training(trained))


def eval_command(
    split: Annotated[str, typer.Option("--split", help="train, dev or test.")] = "test",
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            help="Name of a run, its beginning, or a run folder; may be repeated, for mean and "
            "spread of each configuration.  [default: the run completed last]",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Score a predictions file instead of a run."),
    ] = None,
    data: Data = None,
    cache: Cache = None,
    runs: Runs = None,
    overrides: Set = None,
) -> None:
    """Score runs on a split: micro precision, recall and F1, per type, lenient and strict."""
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
        typer.Option("--posts", help="File of posts, labelled or not, in any format."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Text of one post.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="Image of that post; may be repeated.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="Folder of the posts' images; features that are not cached are extracted.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSONL file.  [default: standard output]")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print JSONL, as without a terminal.")
    ] = False,
    run: Run = None,
    cache: Cache = None,
    runs: Runs = None,
    overrides: Set = None,
) -> None:
    """Find the entities of posts, and show how the head weighs each image.

    Give a file with --posts, whose images are in the cache or in the folder --images; or one post
    with --text and --image. Features are extracted by the models that the run was trained with;
    the cache is only read.
    """
    from mnerfeat.config.plans import plan_extraction
    from mnerfeat.prediction import (
        predict_file,
        predict_post,
        predictions_text,
        write_predictions,
    )
    from mnerfeat.reports.predictions import render_predictions

    found = settings(overrides, cache=cache, runs=runs)
    config = plan_extraction(found, images=images)
    if (posts is None) == (text is None):
        raise typer.BadParameter("give either --posts FILE or --text TEXT")
    if posts is not None:
        predictions = predict_file(posts, config, found.runs, run, images=images)
    else:
        predictions = [predict_post(text or "", image or [], config, found.runs, run)]
    if out is not None:
        write_predictions(predictions, out)
        typer.echo(f"{len(predictions):,} posts in {out}", err=True)
    elif json_lines or not sys.stdout.isatty():
        typer.echo(predictions_text(predictions), nl=False)
    else:
        typer.echo(render_predictions(predictions))
