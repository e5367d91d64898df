"""A toy world with its features, and a discriminator that learned from its rankings."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mnerfeat.datasets import Post, read_folder
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.preference import RankConfig, SavedDiscriminator
from mnerfeat.toy import World, make_world
from mnerfeat.training.ranking import RankPlan, train_ranker


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A world and its cache.

    Attributes:
        world: On disk.
        cache: With `vit_cls`, CLIP embeddings and, where they were asked for, rewards.
        plain: The same cache before there were rewards.
        discriminator: The folder of one, where there is one.
    """

    world: World
    cache: Path
    plain: Path
    discriminator: Path

    @property
    def extraction(self) -> ExtractConfig:
        return ExtractConfig(
            images=self.world.images,
            cache=self.cache,
            features=("vit", "clip"),
            preset="tiny",
            discriminator=self.discriminator,
            device="cpu",
            workers=0,
            progress=False,
        )

    @property
    def posts(self) -> list[Post]:
        return [post for split in read_folder(self.world.data) for post in split.posts]

    def plan(self, **changes: object) -> RankPlan:
        plan = RankPlan(
            rankings=self.world.rankings,
            data=self.world.data,
            out=self.discriminator,
            extraction=self.extraction,
            config=RankConfig(share=0.8, epochs=30),
        )
        return replace(plan, **changes)  # type: ignore[arg-type]

    def rewards(self, **changes: object) -> str:
        config = replace(self.extraction, features=("reward",), **changes)  # type: ignore[arg-type]
        return str(extract(config, posts=self.posts))


@pytest.fixture(scope="session")
def shared_toy(tmp_path_factory) -> Toy:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("toy")
    world = make_world(folder / "world", seed=3, train=150, dev=20, test=40)
    toy = Toy(
        world=world,
        cache=folder / "features.h5",
        plain=folder / "plain.h5",
        discriminator=folder / "discriminator",
    )
    extract(toy.extraction, posts=toy.posts)
    shutil.copy(toy.cache, toy.plain)
    return toy


@pytest.fixture(scope="session")
def trained(shared_toy) -> tuple[Toy, SavedDiscriminator]:
    """With a discriminator and its rewards; not to be changed."""
    saved = train_ranker(shared_toy.plan())
    shared_toy.rewards()
    return shared_toy, saved


@pytest.fixture
def toy(trained, tmp_path) -> Toy:
    """A copy of the cache and of the discriminator, to do with as a test likes."""
    shared, _ = trained
    mine = replace(shared, cache=tmp_path / "features.h5", discriminator=tmp_path / "discriminator")
    shutil.copy(shared.cache, mine.cache)
    shutil.copytree(shared.discriminator, mine.discriminator)
    return mine
