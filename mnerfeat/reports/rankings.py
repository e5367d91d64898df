"""What came of training and measuring a discriminator, as text."""

from collections.abc import Mapping
from pathlib import Path

from mnerfeat.preference import RankingScores, SavedDiscriminator
from mnerfeat.preference.folder import reward_command
from mnerfeat.preference.rankings import HUMAN, PROXY
from mnerfeat.training.ranking import RankEvaluation


def render_discriminator(saved: SavedDiscriminator, folder: Path) -> str:
    """A discriminator that was just trained, and what to do next."""
    learned = sum(len(ids) for ids in saved.learned_from.values())
    held = sum(len(ids) for ids in saved.held_out.values())
    fitted = RankingScores.from_json(saved.scores["fitted"])
    lines = [
        f"{folder}: learned from {render_sources(saved.sources)} of {learned - held:,} posts, "
        f"{fitted.pairs:,} pairs" + ("; CLIP was tuned" if saved.tuned_clip else "")
    ]
    scores = saved.held_out_scores
    if scores is not None:
        similarity = RankingScores.from_json(saved.scores["clip_similarity"])
        lines.append(f"on {held:,} posts held out:")
        lines += _table({"discriminator": scores, "CLIP similarity": similarity})
        after = saved.scores["calibration_error_after"]
        lines.append(
            f"R as a probability: calibration error {scores.calibration_error:.3f}; a temperature "
            f"of {saved.scores['temperature']:.2f} would fit it best"
            + ("" if after is None else f" (then {after:.3f})")
            + (", and is used" if saved.training.get("calibrate") else "")
        )
    lines.append(f"next: {reward_command(folder, tuned_clip=saved.tuned_clip)}")
    return "\n".join(lines)


def render_rank_evaluation(evaluation: RankEvaluation) -> str:
    """How well a discriminator agrees with rankings."""
    learned = render_sources(evaluation.discriminator.sources)
    left_out = (
        f" ({evaluation.left_out:,} of posts that it learned from are left out)"
        if evaluation.left_out
        else ""
    )
    on = evaluation.split or "all splits"
    what = f"{render_sources(evaluation.sources)}{left_out}"
    return "\n".join(
        [
            f"a discriminator that learned from {learned}, on {on}: {what}",
            *_table(
                {
                    "discriminator": evaluation.scores,
                    "CLIP similarity": evaluation.clip_similarity,
                }
            ),
            f"calibration error of R: {evaluation.scores.calibration_error:.3f}",
        ]
    )


def render_sources(sources: Mapping[str, int]) -> str:
    """`600 human rankings`; a proxy is called what it is."""
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
