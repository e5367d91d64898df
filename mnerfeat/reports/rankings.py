"""Reports on discriminators and rankings."""

from collections.abc import Mapping
from pathlib import Path

from mnerfeat.preference import RankingScores, SavedDiscriminator
from mnerfeat.preference.checkpoint import reward_command
from mnerfeat.preference.rankings import HUMAN, PROXY
from mnerfeat.training.ranking import RankEvaluation


def render_discriminator(saved: SavedDiscriminator, folder: Path, *, replaced: bool = False) -> str:
    """Return a report on a newly trained discriminator, with the next command.

    Args:
        saved: Its manifest.
        folder: Its folder.
        replaced: Whether it replaced another one, whose rewards are stale now.
    """
    learned = sum(len(ids) for ids in saved.learned_from.values())
    held = sum(len(ids) for ids in saved.held_out.values())
    fitted = RankingScores(**saved.scores["fitted"])
    lines = [
        f"{folder}: learned from {render_sources(saved.sources)} of {learned - held:,} posts, "
        f"{fitted.pairs:,} pairs" + ("; CLIP was tuned" if saved.tuned_clip else "")
    ]
    scores = saved.held_out_scores
    if scores is not None:
        similarity = RankingScores(**saved.scores["clip_similarity"])
        lines.append(f"on {held:,} held-out posts:")
        lines += _table({"discriminator": scores, "CLIP similarity": similarity})
        after = saved.scores["calibration_error_after"]
        lines.append(
            f"R as a probability: calibration error {scores.calibration_error:.3f}; best "
            f"temperature {saved.scores['temperature']:.2f}"
            + ("" if after is None else f" (calibration error {after:.3f})")
            + (", applied" if saved.training.get("calibrate") else "")
        )
    command = reward_command(folder, replace=replaced, tuned_clip=saved.tuned_clip)
    lines.append(f"next: {command}")
    return "\n".join(lines)


def render_rank_evaluation(evaluation: RankEvaluation) -> str:
    """Return a report on the agreement of a discriminator with rankings."""
    left_out = (
        f" ({evaluation.left_out:,} of posts that it was trained on are left out)"
        if evaluation.left_out
        else ""
    )
    rows = {"discriminator": evaluation.scores, "CLIP similarity": evaluation.clip_similarity}
    title = (
        f"discriminator trained on {render_sources(evaluation.discriminator.sources)}, "
        f"evaluated on {evaluation.split or 'all splits'}: "
        f"{render_sources(evaluation.sources)}{left_out}"
    )
    return "\n".join(
        [
            title,
            *_table(rows),
            f"calibration error of R: {evaluation.scores.calibration_error:.3f}",
        ]
    )


def render_sources(sources: Mapping[str, int]) -> str:
    """Return numbers of rankings by source, such as `600 human rankings`; a proxy is marked."""
    names = {HUMAN: "human", PROXY: "PROXY (not human)"}
    parts = [f"{count:,} {names.get(source, source)}" for source, count in sources.items()]
    return f"{' and '.join(parts)} rankings"


def _table(rows: Mapping[str, RankingScores]) -> list[str]:
    lines = [f"{'':<16} {'pairs right':>12} {'Kendall τ':>10} {'side of blank':>14} {'loss':>7}"]
    lines += [
        f"{name:<16} {100 * one.pairwise:>11.1f}% {one.tau:>10.3f} {100 * one.relevant:>13.1f}% "
        f"{one.loss:>7.3f}"
        for name, one in rows.items()
    ]
    return lines
