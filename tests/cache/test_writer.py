"""What may be written, and in which order it counts."""

from pathlib import Path

import numpy as np
import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    pack,
    pair_id,
    stack_ids,
    text_id,
    verify,
)
from mnerfeat.cache.schema import TEXT_LIMIT
from mnerfeat.errors import CacheError
from tests.cache.builders import VIT, feature, images, put_numbered


def numbers(path: Path, name: str = "vit_cls") -> dict[str, float | None]:
    """Each name's first number, None where it has none."""
    cache = FeatureCache(path)
    data, fine = cache[name].read(slice(None))
    return {
        image: float(data[row, 0]) if fine[row] else None for image, row in cache.images.names()
    }


def test_features_written_apart_are_joined_by_identity(path: Path) -> None:
    put_numbered(path, [1, 2])
    clip = feature([[7, 7], [8, 8]], Provenance({"model": "clip"}), "<f2", 2)
    CacheWriter(path).put(images=images({"2.jpg": b"2", "3.jpg": b"3"}, clip_image=clip))
    for _ in range(2):
        assert numbers(path) == {"1.jpg": 1, "2.jpg": 2, "3.jpg": None}
        assert numbers(path, "clip_image") == {"1.jpg": None, "2.jpg": 7, "3.jpg": 8}
        assert verify(path) == []
        pack(path)


def test_a_newer_provenance_replaces_an_older_one_whole(path: Path) -> None:
    put_numbered(path, [1, 2])
    put_numbered(path, [2], Provenance({"model": "new"}))
    for _ in range(2):
        assert numbers(path) == {"1.jpg": None, "2.jpg": 2}
        pack(path)


def test_going_on_with_the_newer_provenance_does_not_need_the_newest_clock(path: Path) -> None:
    new = Provenance({"model": "new"})
    put_numbered(path, [1])
    put_numbered(path, [2], new)
    old_writer = CacheWriter(path)
    put_numbered(path, [3], new)
    rows = feature([[4] * 3], new)
    old_writer.put(images=images({"4.jpg": b"4"}, vit_cls=rows))
    assert numbers(path) == {"1.jpg": None, "2.jpg": 2, "3.jpg": 3, "4.jpg": 4}


def test_ok_counts_more_than_failed_whatever_came_last(path: Path) -> None:
    content = {"a.jpg": b"a"}
    CacheWriter(path).put(images=images(content, vit_cls=feature([[1, 1, 1]])))
    CacheWriter(path).put(images=images(content, vit_cls=feature(["out of memory"])))
    assert numbers(path) == {"a.jpg": 1}
    CacheWriter(path).put(images=images({"b.jpg": b"b"}, vit_cls=feature(["out of memory"])))
    CacheWriter(path).put(images=images({"b.jpg": b"b"}, vit_cls=feature([[2, 2, 2]])))
    pack(path)
    assert numbers(path) == {"a.jpg": 1, "b.jpg": 2}
    assert FeatureCache(path)["vit_cls"].failures == {}


def test_a_name_leads_to_what_it_held_last(path: Path) -> None:
    CacheWriter(path).put(images=images({"a.jpg": b"old"}, vit_cls=feature([[1, 1, 1]])))
    CacheWriter(path).put(images=images({"a.jpg": b"new"}, vit_cls=feature([[2, 2, 2]])))
    for _ in range(2):
        assert numbers(path) == {"a.jpg": 2}
        assert len(FeatureCache(path).images) == 2
        pack(path)


def test_copies_share_a_row(path: Path) -> None:
    CacheWriter(path).put(images=images({"a.jpg": b"x"}, vit_cls=feature([[1, 1, 1]])))
    CacheWriter(path).put(images=images({"copy/b.jpg": b"x"}))
    cache = FeatureCache(path)
    first, second = cache.rows(["a.jpg", "copy/b.jpg"])
    assert first == second


def test_pairs_point_to_texts_and_images(path: Path) -> None:
    text, image = text_id("a text"), content_id(b"1")
    put_numbered(path, [1])
    pair = TableRows(
        ids=stack_ids([pair_id(text, image)]),
        text=stack_ids([text]),
        image=stack_ids([image]),
        features={"reward": feature([[0.5]], Provenance({"discriminator": "d"}), width=1)},
    )
    CacheWriter(path).put(pairs=pair)
    assert any("texts that are not there" in fault for fault in verify(path))
    CacheWriter(path).put(
        texts=TableRows(ids=stack_ids([text]), features={"clip_text": feature([[1, 2, 3]])})
    )
    for _ in range(2):
        assert verify(path) == []
        cache = FeatureCache(path)
        assert cache["reward"][cache.pairs.find([pair_id(text, image)])].tolist() == [[0.5]]
        assert cache.pairs.pair_ids[0].tobytes() == text
        pack(path)


def test_all_contradictions_are_in_one_error_and_nothing_is_written(path: Path) -> None:
    ids = stack_ids([content_id(b"a"), content_id(b"a")])
    bad = TableRows(
        ids=ids,
        names=[("a.jpg", 2)],
        size=np.zeros((3, 2), np.int32),
        text=ids,
        features={
            "id": feature([[1, 1, 1]] * 2),
            "short": feature([[1, 1, 1]]),
            "complex": FeatureRows(
                data=np.zeros((2, 1), complex), state=np.ones(2, np.uint8), provenance=VIT
            ),
            "infinite": feature([[1, 1, 1], [np.inf, 1, 1]]),
            "state": FeatureRows(
                data=np.zeros((2, 1), "<f4"), state=np.full(2, 3, np.uint8), provenance=VIT
            ),
        },
    )
    with pytest.raises(CacheError) as caught:
        CacheWriter(path).put(images=bad)
    faults = " | ".join(caught.value.faults)
    for expected in (
        "some stand more than once",
        "there is no row 2",
        "size: wanted (2, 2)",
        "text: images have none",
        "'id': not a name",
        "short: wanted 2 rows",
        "complex: type complex128",
        "infinite: row 1 is not finite",
        "state: a state is 0, 1 or 2",
    ):
        assert expected in faults
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_every_number_that_is_not_finite_is_refused(path: Path, dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    data = bits.view("<f2") if dtype == "<f2" else (bits.astype("<u4") << 16).view("<f4")
    ids = stack_ids([content_id(bytes(pair)) for pair in bits.view(np.uint8).reshape(-1, 2)])
    everything = FeatureRows(data=data, state=np.ones(len(data), np.uint8), provenance=VIT)
    with pytest.raises(CacheError) as caught:
        CacheWriter(path).put(images=TableRows(ids=ids, features={"all": everything}))
    assert list(caught.value.faults) == [
        f"all: row {row} is not finite; mark it as failed, with the reason"
        for row in np.flatnonzero(~np.isfinite(data)).tolist()
    ]


def test_a_row_that_failed_keeps_no_data(path: Path) -> None:
    rows = feature(["broken"])
    rows.data[:] = 9
    CacheWriter(path).put(images=images({"a.jpg": b"a"}, vit_cls=rows))
    assert FeatureCache(path)["vit_cls"].read([0])[0].tolist() == [[0, 0, 0]]


def test_a_provenance_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(CacheError, match="plain JSON"):
        Provenance({"x": float("nan")})
    with pytest.raises(CacheError, match="plain JSON"):
        Provenance({"x": object()})


@pytest.mark.parametrize(("features", "length"), [(1, 70_000), (2, TEXT_LIMIT - 20), (40, 60_000)])
def test_long_provenances_are_kept(path: Path, features: int, length: int) -> None:
    """libhdf5 keeps long texts elsewhere, and has to make room for many."""
    made_by = Provenance({"words": "x" * length})
    rows = {f"f{n}": feature([[n, n, n]], made_by) for n in range(features)}
    CacheWriter(path).put(images=images({"a.jpg": b"a"}, **rows))
    pack(path)
    cache = FeatureCache(path)
    assert [cache[name].provenance for name in rows] == [made_by] * features
    assert [cache[f"f{n}"][0].tolist() for n in range(features)] == [
        [n] * 3 for n in range(features)
    ]
    assert verify(path) == []
