"""A toy world on disk: the field's format, the truth beside it, nothing of the user's lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnerfeat.datasets import read_folder
from mnerfeat.errors import ConfigError, DataError, StorageError
from mnerfeat.toy import world as world_module
from mnerfeat.toy.drawing import SIDE, draw
from mnerfeat.toy.views import render
from mnerfeat.toy.world import World, make_world

SIZES = {"train": 12, "dev": 5, "test": 6}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("toy") / "world", seed=2, **SIZES)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_posts_read_back_as_planned(world):
    data = read_folder(world.data)
    for split in data:
        assert split.posts == tuple(toy.post for toy in world.splits[split.name])
        assert len(split.posts) == SIZES[split.name]


def test_images_are_what_their_scenes_draw(world):
    named = [image for posts in world.splits.values() for toy in posts for image in toy.images]
    assert {path.name for path in world.images.iterdir()} == {image.name for image in named}
    for image in named:
        with Image.open(world.images / image.name) as picture:
            assert picture.mode == "RGB"
            assert (np.asarray(picture) == draw(image.scene)[0]).all()


def test_truth_covers_every_post_with_images_and_every_image(world):
    toys = {toy.post.id: toy for posts in world.splits.values() for toy in posts}
    rankings = _lines(world.rankings)
    assert [r["id"] for r in rankings] == [id_ for id_, toy in toys.items() if toy.images]
    for ranking in rankings:
        assert (ranking["images"], ranking["blank"]) == toys[ranking["id"]].ranking()
        assert ranking["source"] == "toy"
    names = [image.name for toy in toys.values() for image in toy.images]
    for path in (world.captions, world.tags, world.regions):
        assert [line["image"] for line in _lines(path)] == names
    for line in _lines(world.tags):
        assert len(line["tags"]) == 5
    for line in _lines(world.regions):
        assert len(line["boxes"]) == len(line["labels"]) == 3
        assert all(0 <= c <= SIDE for box in line["boxes"] for c in box)


def test_same_arguments_give_the_same_files(world, tmp_path):
    again = make_world(tmp_path / "again", seed=2, **SIZES)
    assert _contents(again.folder) == _contents(world.folder)


def test_another_seed_gives_other_posts(world, tmp_path):
    other = make_world(tmp_path / "other", seed=3, **SIZES)
    assert _contents(other.data) != _contents(world.data)


def test_world_that_is_there_is_left_alone(tmp_path):
    made = make_world(tmp_path, seed=2, **SIZES)
    (tmp_path / "features.h5").write_bytes(b"a cache")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_world(tmp_path, seed=2, **SIZES) == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_arguments_do_not_overwrite_a_world(tmp_path):
    make_world(tmp_path, seed=2, **SIZES)
    before = _contents(tmp_path)
    with pytest.raises(DataError, match="another toy world"):
        make_world(tmp_path, seed=3, **SIZES)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("taken", ["data", "images"])
def test_folders_of_the_user_are_not_touched(tmp_path, taken):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "train.jsonl").write_text("mine")
    with pytest.raises(DataError, match=f"already holds {taken}"):
        make_world(tmp_path, seed=2, **SIZES)
    assert _contents(tmp_path) == {f"{taken}/train.jsonl": b"mine"}


@pytest.mark.parametrize("after", [0, 1, 7, 30])
def test_interrupted_world_is_completed_by_the_next_run(world, tmp_path, monkeypatch, after):
    drawn = 0

    def interrupted(image):
        nonlocal drawn
        drawn += 1
        if drawn > after:
            raise KeyboardInterrupt
        return render(image)

    monkeypatch.setattr(world_module, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path, seed=2, **SIZES)
    assert not (tmp_path / "world.json").exists()
    monkeypatch.undo()
    make_world(tmp_path, seed=2, **SIZES)
    assert _contents(tmp_path) == _contents(world.folder)


def test_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        make_world(tmp_path / "file" / "world", seed=2, **SIZES)


def test_negative_sizes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="dev is -1"):
        make_world(tmp_path, seed=0, train=1, dev=-1, test=1)
    assert not any(tmp_path.iterdir())


def test_splits_may_be_empty(tmp_path):
    made = make_world(tmp_path, seed=0, train=3, dev=0, test=0)
    assert len(_lines(made.data / "train.jsonl")) == 3
    assert (made.data / "dev.jsonl").read_bytes() == b""


def test_world_needs_no_torch():
    code = "import sys, mnerfeat.toy; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
