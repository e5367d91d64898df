"""Merging is a union by identity, and refuses what cannot be one."""

from pathlib import Path

import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    content_id,
    merge,
    pack,
    pair_id,
    stack_ids,
    text_id,
    unreadable_id,
    verify,
)
from mnerfeat.errors import CacheError, ProvenanceError
from tests.cache.builders import VIT, feature, images, put_numbered


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return tmp_path / "one.h5"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return tmp_path / "two.h5"


def test_the_same_image_is_one_row(one: Path, two: Path, tmp_path: Path) -> None:
    put_numbered(one, range(10))
    put_numbered(two, range(5, 15))
    pack(two)
    target = tmp_path / "new" / "merged.h5"
    report = merge(target, [one, two])
    together = tmp_path / "together.h5"
    put_numbered(together, range(15))
    assert FeatureCache(target).digest() == FeatureCache(together).digest()
    assert verify(target) == []
    assert report.rows["images"] == 15
    assert report.sources == {
        one: {"images": 10, "texts": 0, "pairs": 0},
        two: {"images": 10, "texts": 0, "pairs": 0},
    }
    assert (report.names, report.features) == (15, ("vit_cls",))
    assert [file.name for file in target.parent.iterdir()] == ["merged.h5"]
    assert len(FeatureCache(one).images) == len(FeatureCache(two).images) == 10


def test_features_texts_and_pairs_come_together(one: Path, two: Path, tmp_path: Path) -> None:
    put_numbered(one, [1, 2])
    clip = feature([[7, 7], [8, 8]], Provenance({"model": "clip"}), "<f2", 2)
    text = text_id("a text")
    CacheWriter(two).put(
        images=images({"2.jpg": b"2", "3.jpg": b"3"}, clip_image=clip),
        texts=TableRows(ids=stack_ids([text]), features={"clip_text": feature([[1, 2, 3]])}),
        pairs=TableRows(
            ids=stack_ids([pair_id(text, content_id(b"2"))]),
            text=stack_ids([text]),
            image=stack_ids([content_id(b"2")]),
            features={"reward": feature([[0.5]], width=1)},
        ),
    )
    merge(tmp_path / "merged.h5", [one, two])
    cache = FeatureCache(tmp_path / "merged.h5")
    assert verify(cache.path) == []
    assert cache["vit_cls"][cache.rows(["1.jpg", "2.jpg"])].tolist() == [[1] * 3, [2] * 3]
    assert cache["clip_image"][cache.rows(["2.jpg", "3.jpg"])].tolist() == [[7, 7], [8, 8]]
    assert cache["reward"][[0]].tolist() == [[0.5]]


def test_ok_counts_more_than_failed(one: Path, two: Path, tmp_path: Path) -> None:
    CacheWriter(one).put(images=images({"a.jpg": b"a"}, vit_cls=feature([[1, 1, 1]])))
    CacheWriter(two).put(images=images({"a.jpg": b"a"}, vit_cls=feature(["out of memory"])))
    for number, sources in enumerate(([one, two], [two, one])):
        merge(tmp_path / f"{number}.h5", sources)
        assert FeatureCache(tmp_path / f"{number}.h5")["vit_cls"][0].tolist() == [1, 1, 1]


def test_merging_into_one_of_them_packs_it(one: Path, two: Path) -> None:
    put_numbered(one, [1])
    pack(one)
    put_numbered(one, [2])
    put_numbered(two, [3])
    merge(one, [one, two])
    assert len(FeatureCache(one).images) == 3
    assert sorted(p.name for p in one.parent.iterdir()) == ["one.h5", "two.h5", "two.h5.d"]


def test_different_provenance_names_both(one: Path, two: Path, tmp_path: Path) -> None:
    put_numbered(one, [1])
    put_numbered(two, [1], Provenance({"model": "vit", "revision": "2"}))
    with pytest.raises(ProvenanceError) as caught:
        merge(tmp_path / "merged.h5", [one, two])
    message = str(caught.value)
    assert str(one) in message
    assert str(two) in message
    assert f"revision: 1 in {one}, 2 in {two}" in message
    assert not (tmp_path / "merged.h5").exists()


def test_rows_that_were_replaced_long_ago_do_not_count(
    one: Path, two: Path, tmp_path: Path
) -> None:
    old, new = Provenance({"model": "old"}), VIT
    put_numbered(one, [1, 2], old)
    put_numbered(one, [1], new)
    put_numbered(two, [3], new)
    merge(tmp_path / "merged.h5", [two, one])
    cache = FeatureCache(tmp_path / "merged.h5")
    data, fine = cache["vit_cls"].read(cache.rows(["1.jpg", "2.jpg", "3.jpg"]))
    assert fine.tolist() == [True, False, True]
    assert data[:, 0].tolist() == [1, 0, 3]


def test_features_that_differ_in_kind_are_all_named(one: Path, two: Path, tmp_path: Path) -> None:
    put_numbered(one, [1])
    CacheWriter(two).put(images=images({"1.jpg": b"1"}, vit_cls=feature([[1, 2]], width=2)))
    with pytest.raises(CacheError, match="differ in kind") as caught:
        merge(tmp_path / "merged.h5", [one, two])
    assert "(3,)" in caught.value.faults[0]
    assert "(2,)" in caught.value.faults[0]


def test_a_name_for_two_images_is_refused_unless_put_into_folders(
    one: Path, two: Path, tmp_path: Path
) -> None:
    CacheWriter(one).put(images=images({"a.jpg": b"x"}, vit_cls=feature([[1, 1, 1]])))
    CacheWriter(two).put(images=images({"a.jpg": b"y"}, vit_cls=feature([[2, 2, 2]])))
    with pytest.raises(CacheError, match=r"different images \(1\)"):
        merge(tmp_path / "merged.h5", [one, two])
    merge(tmp_path / "merged.h5", [one, two], folders=["", "two"])
    cache = FeatureCache(tmp_path / "merged.h5")
    assert cache["vit_cls"][cache.rows(["a.jpg", "two/a.jpg"])][:, 0].tolist() == [1, 2]
    with pytest.raises(CacheError, match="a folder for each"):
        merge(tmp_path / "merged.h5", [one, two], folders=["one"])


@pytest.mark.parametrize("turned", [False, True])
def test_a_name_leads_to_the_file_that_could_be_read(
    one: Path, two: Path, tmp_path: Path, turned: bool
) -> None:
    CacheWriter(one).put(
        images=TableRows(
            ids=stack_ids([unreadable_id("a.jpg")]),
            names=[("a.jpg", 0)],
            features={"vit_cls": feature(["no permission"])},
        )
    )
    CacheWriter(two).put(images=images({"a.jpg": b"y"}, vit_cls=feature([[2, 2, 2]])))
    merge(tmp_path / "merged.h5", [two, one] if turned else [one, two])
    cache = FeatureCache(tmp_path / "merged.h5")
    assert cache["vit_cls"][cache.rows(["a.jpg"])][:, 0].tolist() == [2]


def test_a_cache_that_is_there_is_not_overwritten(one: Path, two: Path, tmp_path: Path) -> None:
    put_numbered(one, [1])
    put_numbered(two, [2])
    target = tmp_path / "merged.h5"
    put_numbered(target, [3])
    with pytest.raises(CacheError, match="exists and is not one of"):
        merge(target, [one, two])
    with pytest.raises(CacheError, match="no feature cache"):
        merge(tmp_path / "x.h5", [tmp_path / "nothing.h5"])
    assert len(FeatureCache(target).images) == 1
