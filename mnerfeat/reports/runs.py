"""What came of training and evaluation, as text."""

from collections.abc import Sequence

from mnerfeat.checkpoint import METRICS, Run
from mnerfeat.evaluation import Scores, mean_sd, render
from mnerfeat.prediction import Evaluation


def render_training(runs: Sequence[Run]) -> str:
    """The runs that a training left, with their scores on dev, and what to do next."""
    lines = []
    scores = []
    for run in runs:
        metrics = run.read_json(METRICS)
        scores.append(Scores.from_json(metrics["dev"]))
        lines.append(
            f"{run.folder}: dev F1 {100 * scores[-1].lenient.overall.f1:.2f} lenient, "
            f"{100 * scores[-1].strict.overall.f1:.2f} strict (best of {metrics['epochs']} epochs: "
            f"{metrics['best_epoch']})"
        )
    if len(runs) > 1:
        lines.append(f"dev, {render_spread(scores)}")
    chosen = "".join(f" --run {run.name}" for run in runs) if len(runs) > 1 else ""
    lines.append(f"next: mnerfeat eval --split test{chosen}")
    return "\n".join(lines)


def render_evaluation(evaluations: Sequence[Evaluation]) -> str:
    """Scores of one run in full, or of several with mean and standard deviation."""
    lines = []
    for one in evaluations:
        lines.append(f"{one.name} on {one.split}: {render(one.scores)}")
        if len(one.by_images) > 1:
            parts = [
                f"{name} {100 * scores.lenient.overall.f1:.2f} ({scores.posts:,} posts)"
                for name, scores in one.by_images.items()
            ]
            lines.append(f"\nlenient F1 of posts with images: {', '.join(parts)}")
        lines.append("")
    if len(evaluations) > 1:
        lines.append(
            f"{evaluations[0].split}, {render_spread([one.scores for one in evaluations])}"
        )
    return "\n".join(lines).rstrip()


def render_spread(scores: Sequence[Scores]) -> str:
    """`mean ± sd of 3 runs: F1 78.10 ± 0.35 lenient, 77.90 ± 0.30 strict`."""
    spread = mean_sd(scores)
    found = []
    for convention in ("lenient", "strict"):
        figure = spread[f"{convention}/f1"]
        sd = f" ± {100 * figure.sd:.2f}" if figure.sd is not None else ""
        found.append(f"{100 * figure.mean:.2f}{sd} {convention}")
    return f"mean ± sd of {len(scores)} runs: F1 {', '.join(found)}"
