"""The plan of `mnerfeat train`: one run for each seed."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnerfeat.checkpoint import Origin, Run, find_runs
from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig
from mnerfeat.text import TextConfig
from mnerfeat.training.config import TrainingConfig
from mnerfeat.training.data import load_training_data
from mnerfeat.training.trainer import train


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train on what.

    Attributes:
        data: Folder of train and dev.
        cache: Feature cache; not opened if the head reads no images.
        runs: Folder that gets the run folders.
        text: Options of the text encoder.
        head: Options of the head.
        training: Options of training; `seeds` replace its seed.
        seeds: One run for each; empty for one run with the seed of `training`.
        name: Name of the run; with several seeds, the beginning of their names.
        resume: An interrupted run to continue; the remaining seeds of its plan follow.
        discriminator: Folder of the discriminator; if it exists, rewards must be its own.
        models: Models and files of extraction that the settings name, by option, for
            `extractors_of`.
        command: Command line, for the record.
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
    models: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds are given twice: {', '.join(map(str, self.seeds))}")


def carry_out(plan: Plan, *, progress: bool = False) -> Sequence[Run]:
    """Train every run of a plan; data and cache are read once.

    Returns:
        The complete runs in the order of their seeds, including those of a resumed plan that
        were complete before.

    Raises:
        MnerfeatError: As `load_training_data` and `train` do.
        KeyboardInterrupt: Training was interrupted; a note says how to resume it.
    """
    seeds = plan.seeds or (plan.training.seed,)
    origin = Origin(
        command=plan.command,
        data=str(plan.data.resolve()),
        cache=str(plan.cache.resolve()),
        models=dict(plan.models),
        plan=uuid.uuid4().hex,
        seeds=seeds,
        name=plan.name,
    )
    begun: dict[int, Run] = {}
    if plan.resume:
        origin = plan.resume.manifest.origin
        begun = {plan.resume.manifest.training["seed"]: plan.resume}
        if origin.plan:
            of_plan = [r for r in find_runs(plan.runs) if r.manifest.origin.plan == origin.plan]
            begun = {run.manifest.training["seed"]: run for run in of_plan} | begun
    data = load_training_data(
        plan.data,
        plan.cache,
        plan.head,
        ranked_posts=plan.training.ranked_posts,
        discriminator=plan.discriminator,
    )
    data = replace(data, origin=origin)
    runs = []
    for seed in seeds:
        earlier = begun.get(seed)
        if earlier and earlier.complete:
            runs.append(earlier)
            continue
        several = len(seeds) > 1
        runs.append(
            train(
                data,
                text=plan.text,
                head=plan.head,
                config=replace(plan.training, seed=seed),
                runs=plan.runs,
                name=f"{plan.name}-seed{seed}" if several and plan.name else plan.name,
                resume=earlier,
                progress=progress,
            )
        )
    return runs
