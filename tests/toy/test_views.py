"""The world of views: exactly one representation of an image tells the type."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from mnerfeat.cache import FeatureCache
from mnerfeat.datasets.tags import entities
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.toy import ViewMixture, make_world
from mnerfeat.toy.figures import KINDS, TYPES
from mnerfeat.toy.language import CUES, WALL_WORDS, share_of
from mnerfeat.toy.views import CORNER, VIEWS, plan_view_posts, render

POSTS = plan_view_posts(600, seed=3, share="train")
IMAGES = [image for toy in POSTS for image in toy.images]


def test_the_same_arguments_give_the_same_world(tmp_path):
    assert plan_view_posts(600, seed=3, share="train") == POSTS
    assert plan_view_posts(600, seed=4, share="train") != POSTS
    contents = []
    for name in ("a", "b"):
        make_world(tmp_path / name, train=4, dev=2, test=2, mixture=ViewMixture())
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_posts_have_one_to_four_entities_of_one_to_three_words():
    found = [entities(toy.post.tags) for toy in POSTS]
    counts = Counter(map(len, found))
    lengths = Counter(one.end - one.start for each in found for one in each)
    assert set(counts) == {1, 2, 3, 4}
    assert set(lengths) == {1, 2, 3}
    assert min(counts.values()) > 60
    assert min(lengths.values()) > 200


def test_an_entity_is_told_by_a_cue_or_by_an_image_of_its_type():
    told = Counter()
    for toy in POSTS:
        telling = [image for image in toy.images if image.role == "telling"]
        for entity, by_image in zip(entities(toy.post.tags), toy.told, strict=True):
            before = " ".join(toy.post.words[: entity.start])
            cued = [type_ for type_ in TYPES for cue in CUES[type_] if before.endswith(cue)]
            assert cued == ([] if by_image else [entity.type])
            if by_image:
                assert [image.scene.type for image in telling] == [entity.type]
            told[by_image] += 1
        assert len(telling) == any(toy.told)
        for name in {w for w, t in zip(toy.post.words, toy.post.tags, strict=True) if t != "O"}:
            assert share_of(name.lower()) == "train"
    assert 0.3 < told[False] / told.total() < 0.4


def test_the_text_hints_at_the_wall_of_the_telling_image_and_not_of_the_misleading_one():
    misleading = 0
    for toy in POSTS:
        hinted = [w for w, words in WALL_WORDS.items() if set(words) & set(toy.post.words)]
        assert hinted == ([toy.wall] if toy.wall else [])
        for image in toy.images:
            assert (image.scene.wall == toy.wall) == (image.role == "telling")
        types = [image.scene.type for image in toy.images]
        assert len(set(types)) == len(types)
        misleading += any(image.role == "distractor" for image in toy.images)
    assert 0.35 < misleading / len(POSTS) < 0.45
    views = Counter(image.view for image in IMAGES if image.role == "telling")
    assert set(views) == set(VIEWS)
    assert min(views.values()) > 80


def test_caption_and_tags_name_a_figure_only_if_they_tell():
    for image in IMAGES:
        shown = render(image)
        kinds = {kind for kind in KINDS if kind in shown.caption.split()}
        assert kinds == ({image.scene.kind} if image.view == "caption" else set())
        assert set(shown.tags) & set(KINDS) == (
            {image.scene.kind} if image.view == "tags" else set()
        )
        assert len(shown.tags) == 5
        assert len(shown.boxes) == 3
        assert (CORNER in shown.boxes) == (image.view != "regions")
        assert not set(shown.labels) & set(KINDS)


def accuracy(vectors: NDArray[np.float64], types: NDArray[np.int64]) -> float:
    """Of a ridge regression, on the half of the images that it was not fitted on."""
    scaled = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-3)
    half = len(scaled) // 2
    seen, new = scaled[:half], scaled[half:]
    wanted = np.eye(len(TYPES))[types[:half]]
    weights = seen.T @ np.linalg.solve(seen @ seen.T + 100 * np.eye(half), wanted)
    return float(((new @ weights).argmax(axis=1) == types[half:]).mean())


def test_a_linear_probe_finds_the_type_in_the_view_that_tells_it_and_in_no_other(tmp_path):
    world = make_world(tmp_path / "w", train=500, dev=0, test=0, mixture=ViewMixture())
    cache = tmp_path / "features.h5"
    options = {"captions": world.captions, "tags": world.tags, "regions": world.regions}
    extract(
        ExtractConfig(
            images=world.images,
            cache=cache,
            preset="tiny",
            features=("grid", "regions", "tags", "caption"),
            workers=0,
            device="cpu",
            **options,
        )
    )
    images = [image for toy in world.splits["train"] for image in toy.images]
    types = np.array([TYPES.index(image.scene.type) for image in images])
    views = np.array([image.view for image in images])
    columns = {"grid": "grid", "regions": "regions_grid"}
    with FeatureCache(cache) as opened:
        rows = opened.images.find_names([image.name for image in images]).tolist()
        for view in VIEWS:
            feature = opened[columns.get(view, f"{view}_states")]
            values = np.stack([np.asarray(feature[row], np.float64) for row in rows])
            if view == "grid":
                vectors = values.reshape(len(values), -1)
            else:  # the parts of an image come in any order
                parts = values.reshape(len(values), values.shape[1], -1)
                vectors = np.concatenate([parts.max(axis=1), parts.mean(axis=1)], axis=1)
            for telling in VIEWS:
                chosen = views == telling
                found = accuracy(vectors[chosen], types[chosen])
                assert found > 0.7 if telling == view else found < 0.5, (view, telling, found)


@pytest.mark.parametrize(
    "change",
    [
        {"easy": 1.5},
        {"misleading": -0.1},
        {"entities": (0.5, 0.4)},
        {"lengths": ()},
        {"uses_per_name": 0.0},
    ],
)
def test_impossible_mixtures_are_refused(change):
    with pytest.raises(ConfigError, match=f"mixture.{next(iter(change))}"):
        ViewMixture(**change)


def test_unknown_shares_and_negative_counts_are_refused():
    with pytest.raises(ConfigError, match="unknown share"):
        plan_view_posts(1, seed=0, share="tests")
    with pytest.raises(ConfigError, match="negative"):
        plan_view_posts(-1, seed=0, share="test")
