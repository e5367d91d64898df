"""Pruning removes what it says and nothing else, and says it before."""

from dataclasses import replace
from pathlib import Path

import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    content_id,
    pack,
    pair_id,
    prune,
    stack_ids,
    text_id,
    verify,
)
from mnerfeat.errors import CacheError, CacheLookupError
from tests.cache.builders import feature, images

CONTENTS = {"a.jpg": b"a", "b.jpg": b"b", "sub/c.jpg": b"c", "copy.jpg": b"a"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "features.h5"
    texts = [text_id("one"), text_id("two")]
    joined = [
        (texts[0], content_id(b"a")),
        (texts[1], content_id(b"a")),
        (texts[0], content_id(b"c")),
    ]
    CacheWriter(path).put(
        images=images(CONTENTS, vit_cls=feature([[1, 1, 1], "broken", [3, 3, 3]])),
        texts=TableRows(
            ids=stack_ids(texts), features={"clip_text": feature([[4, 4, 4], [5, 5, 5]])}
        ),
        pairs=TableRows(
            ids=stack_ids([pair_id(*pair) for pair in joined]),
            text=stack_ids([text for text, _ in joined]),
            image=stack_ids([image for _, image in joined]),
            features={"reward": feature([[1], [2], [3]], Provenance({"by": "us"}), width=1)},
        ),
    )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def described(path: Path) -> dict[str, object]:
    cache = FeatureCache(path)
    return {
        "names": {
            name: cache["vit_cls"].failures.get(row) or cache["vit_cls"][row].tolist()
            for name, row in cache.images.names()
        },
        "texts": sorted(cache["clip_text"][:].tolist()),
        "pairs": sorted(cache["reward"][:].tolist()) if "reward" in cache else None,
    }


@pytest.mark.parametrize("packed", [True, False])
def test_nothing_to_prune_changes_nothing(path: Path, folder: Path, packed: bool) -> None:
    if packed:
        pack(path)
    before = {file: file.read_bytes() for file in path.parent.rglob("*.h5")}
    report = prune(path, folder=folder, texts=["one", "two"], dry_run=False)
    assert (report.done, report.names, report.images, report.texts) == (False, (), 0, 0)
    assert {file: file.read_bytes() for file in path.parent.rglob("*.h5")} == before


def test_a_name_goes_with_its_file_and_an_image_with_its_last_name(
    path: Path, folder: Path
) -> None:
    (folder / "a.jpg").unlink()
    (folder / "b.jpg").unlink()
    dry = prune(path, folder=folder)
    assert len(FeatureCache(path).images) == 3
    report = prune(path, folder=folder, dry_run=False)
    assert report == replace(dry, done=True)
    assert (report.names, report.images, report.pairs) == (("a.jpg", "b.jpg"), 1, 0)
    assert described(path)["names"] == {"copy.jpg": [1, 1, 1], "sub/c.jpg": [3, 3, 3]}
    assert FeatureCache(path)["vit_cls"].failures == {}
    assert verify(path) == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.h5", "images"]


def test_pairs_go_with_their_images_and_texts(path: Path, folder: Path) -> None:
    (folder / "sub/c.jpg").unlink()
    report = prune(path, folder=folder, texts=["one", "a new one"], dry_run=False)
    assert (report.images, report.texts, report.pairs) == (1, 1, 2)
    assert described(path)["pairs"] == [[1]]
    assert described(path)["texts"] == [[4, 4, 4]]
    assert verify(path) == []


def test_images_without_names_go_by_default(path: Path) -> None:
    CacheWriter(path).put(images=images({"sub/c.jpg": b"new"}))
    report = prune(path, dry_run=False)
    assert (report.images, report.pairs) == (1, 1)
    cache = FeatureCache(path)
    assert cache.images.find([content_id(b"c")]).tolist() == [-1]


def test_a_feature_goes_whole(path: Path) -> None:
    report = prune(path, features=["reward"], dry_run=False)
    assert report.features == ("reward",)
    assert FeatureCache(path).features == ["clip_text", "vit_cls"]
    with pytest.raises(CacheLookupError, match="no feature nothing; it holds clip_text, vit_cls"):
        prune(path, features=["nothing"])


def test_what_would_empty_a_cache_by_mistake_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no folder"):
        prune(path, folder=tmp_path / "nothing")
    (tmp_path / "wrong").mkdir()
    with pytest.raises(CacheError, match="wrong folder"):
        prune(path, folder=tmp_path / "wrong")
    with pytest.raises(CacheError, match="none of the texts"):
        prune(path, texts=["three"])
    with pytest.raises(CacheError, match="no feature cache"):
        prune(tmp_path / "nothing.h5", dry_run=False)
