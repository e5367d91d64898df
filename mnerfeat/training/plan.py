"""What `mnerfeat train` does: one run, or one for each of several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnerfeat.checkpoint import Run, find_run
from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig
from mnerfeat.text import TextConfig
from mnerfeat.training.config import TrainingConfig, training_config
from mnerfeat.training.data import load_training_data
from mnerfeat.training.trainer import train


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train, on what.

    Attributes:
        data: The folder of train and dev.
        cache: The feature cache; not opened for a head that reads no images.
        runs: The folder that gets the run folders.
        text: The text encoder.
        head: The head.
        training: How to train; its seed is replaced where there are several.
        seeds: One run each; empty for one run with the seed of `training`.
        name: Of the run folder; with several seeds, the beginning of their names.
        resume: The run to go on with; head, text and training are then its own.
        discriminator: Its folder; where it is there, rewards in the cache must be its own.
    """

    data: Path
    cache: Path
    runs: Path
    text: TextConfig
    head: HeadConfig
    training: TrainingConfig
    seeds: tuple[int, ...] = ()
    name: str | None = None
    resume: Run | None = None
    discriminator: Path | None = None

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds stand more than once: {', '.join(map(str, self.seeds))}")
        if self.resume and len(self.seeds) > 1:
            raise ConfigError("one run is resumed at a time; leave out --seed")

    @staticmethod
    def resuming(runs: Path, name: str | None, *, data: Path, cache: Path) -> "Plan":
        """Go on with an interrupted run, as it was begun.

        Args:
            runs: The folder of run folders.
            name: The run; None for the newest one that waits.
            data: As in `Plan`.
            cache: As in `Plan`.

        Raises:
            RunError: Where no run waits, or this version cannot go on with it.
        """
        run = find_run(runs, name, state="training")
        return Plan(
            data=data,
            cache=cache,
            runs=runs,
            text=run.text_config(),
            head=run.head_config(),
            training=training_config(run),
            resume=run,
        )


def carry_out(plan: Plan, *, progress: bool = False) -> Sequence[Run]:
    """Train every run of a plan, reading data and cache once.

    Raises:
        MnerfeatError: As `load_training_data` and `train` do.
    """
    data = load_training_data(
        plan.data,
        plan.cache,
        plan.head,
        ranked_posts=plan.training.ranked_posts,
        discriminator=plan.discriminator,
    )
    runs = []
    for seed in plan.seeds or (plan.training.seed,):
        several = len(plan.seeds) > 1
        runs.append(
            train(
                data,
                text=plan.text,
                head=plan.head,
                config=replace(plan.training, seed=seed),
                runs=plan.runs,
                name=f"{plan.name}-seed{seed}" if several and plan.name else plan.name,
                resume=plan.resume,
                progress=progress,
            )
        )
    return runs
