"""Results of training and evaluation as text."""

from collections.abc import Sequence
from typing import TypeVar

from mnerfeat.checkpoint import METRICS, Run
from mnerfeat.evaluation import Score, Scores, Spread, mean_sd, render
from mnerfeat.prediction import Evaluation
from mnerfeat.prediction.results import configuration
from mnerfeat.training.callbacks import duration

T = TypeVar("T")


def render_training(runs: Sequence[Run]) -> str:
    """Return the scores of new runs on dev, and the next command."""
    lines = []
    scores = []
    for run in runs:
        metrics = run.read_json(METRICS)
        scores.append(Scores.from_json(metrics["dev"]))
        lines.append(
            f"{run.folder}: dev F1 {100 * scores[-1].lenient.overall.f1:.2f} lenient, "
            f"{100 * scores[-1].strict.overall.f1:.2f} strict (epoch {metrics['best_epoch']} of "
            f"{metrics['epochs']}; {duration(run.manifest.seconds)})"
        )
    groups = _groups([(configuration(run), one) for run, one in zip(runs, scores, strict=True)])
    lines += [f"dev, {render_spread(group)}" for group in groups if len(group) > 1]
    chosen = "".join(f" --run {run.argument}" for run in runs)
    lines.append(f"next: mnerfeat eval --split test{chosen}")
    return "\n".join(lines)


def render_evaluation(evaluations: Sequence[Evaluation]) -> str:
    """Return the scores of one run in full, or a table of several runs by configuration."""
    lines = []
    lines = _full(evaluations[0]) if len(evaluations) == 1 else _table(evaluations)
    for one in evaluations:
        if not one.own_data:
            lines.append(f"\n{one.name} was trained on other data; saved as {one.saved}")
    return "\n".join(lines)


def _full(one: Evaluation) -> list[str]:
    lines = [f"{one.name} on {one.split}: {render(one.scores)}"]
    if len(one.by_images) > 1:
        parts = [
            f"{name} {100 * scores.lenient.overall.f1:.2f} ({scores.posts:,} posts)"
            for name, scores in one.by_images.items()
        ]
        counted = "used" if one.configuration else "named"
        lines.append(f"\nlenient F1 by number of images {counted}: {', '.join(parts)}")
    return lines


def _table(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return P, R and F1 of each run, and mean ± sd of each configuration."""
    first = evaluations[0]
    lines = [f"{first.split}: {first.scores.posts:,} posts, {first.scores.words:,} words"]
    for convention in ("lenient", "strict"):
        lines += ["", f"{convention:<40}{'P':>16}{'R':>16}{'F1':>16}"]
        for group in _groups([(one.configuration, one) for one in evaluations]):
            for one in group:
                row = getattr(one.scores, convention).overall
                lines.append(f"{f'{one.label}  {one.name}':<40}{_row(row)}")
            if len(group) > 1:
                lines += _means(group, convention)
    for group in _groups([(one.configuration, one) for one in evaluations]):
        if len(group) > 1:
            lines += ["", f"{group[0].label}, {render_spread([one.scores for one in group])}"]
    return lines


def _means(group: Sequence[Evaluation], convention: str) -> list[str]:
    spreads = mean_sd([one.scores for one in group])
    lines = []
    for part in ("", *(f"{kind}/" for kind in group[0].scores.lenient.types)):
        figures = [
            spreads.get(f"{convention}/{part}{name}") for name in ("precision", "recall", "f1")
        ]
        cells = "".join(f"{_percent(one):>16}" for one in figures if one is not None)
        name = f"{group[0].label}  mean ± sd" if not part else f"  {part.rstrip('/')}"
        lines.append(f"{name:<40}{cells}")
    return lines


def _row(score: Score) -> str:
    return "".join(f"{100 * value:16.2f}" for value in (score.precision, score.recall, score.f1))


def render_spread(scores: Sequence[Scores]) -> str:
    """Return `mean ± sd of 3 runs (sd with n − 1): F1 78.10 ± 0.35 lenient, …`."""
    spread = mean_sd(scores)
    found = [f"{_percent(spread[f'{name}/f1'])} {name}" for name in ("lenient", "strict")]
    return f"mean ± sd of {len(scores)} runs (sd with n − 1): F1 {', '.join(found)}"


def _percent(figure: Spread) -> str:
    sd = f" ± {100 * figure.sd:.2f}" if figure.sd is not None else ""
    return f"{100 * figure.mean:.2f}{sd}"


def _groups(items: Sequence[tuple[str, T]]) -> list[list[T]]:
    """Return items by configuration, in the order in which configurations appear."""
    groups: dict[str, list[T]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    return list(groups.values())
