"""A file of version 1 is read as it was meant, for good. It is never made anew."""

import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnerfeat.cache import (
    FAILED,
    MISSING,
    OK,
    CacheWriter,
    FeatureCache,
    content_id,
    info,
    pack,
    pair_id,
    text_id,
    unreadable_id,
    verify,
)
from tests.cache.builders import feature, images

GOLDEN = Path(__file__).with_name("golden-v1.h5")

NAMES = {
    "one.jpg": content_id(b"one"),
    "sub/folder/copy of one.jpg": content_id(b"one"),
    "zwei-ü-二.jpg": content_id(b"two"),
    "not utf-8 \udcff\udcfe.jpg": content_id(b"three"),
    "line\nfeed and blank .jpg": content_id(b"four"),
    "no permission.jpg": unreadable_id("no permission.jpg"),
}


@pytest.fixture
def cache() -> FeatureCache:
    return FeatureCache(GOLDEN)


def rows(cache: FeatureCache, *names: str) -> list[int]:
    found: list[int] = cache.rows(names).tolist()
    return found


def test_the_file_is_the_one_that_was_made_once() -> None:
    digest = hashlib.sha256(GOLDEN.read_bytes()).hexdigest()
    assert digest == "5555556f08f87c6238af0bb719650b82439081ddf12e65528f58036722904039"


def test_it_is_sound() -> None:
    assert verify(GOLDEN) == []


def test_names(cache: FeatureCache) -> None:
    ids = cache.images.ids
    assert {name: ids[row].tobytes() for name, row in cache.images.names()} == NAMES
    assert [ids[row].tobytes() for row in rows(cache, *NAMES)] == list(NAMES.values())


def test_sizes(cache: FeatureCache) -> None:
    sizes = cache.images.sizes[rows(cache, *NAMES)].tolist()
    assert sizes == [[640, 480], [640, 480], [1, 1], [0, 0], [10_000, 20], [0, 0]]


def test_float16_with_a_failure(cache: FeatureCache) -> None:
    vit = cache["vit_cls"]
    assert (vit.dtype, vit.row_shape, vit.table) == (np.float16, (3,), "images")
    one, two, three, four, gone = rows(cache, *(name for name in NAMES if "copy" not in name))
    assert vit[[one, two, four]].tolist() == [
        [1, 2, 3],
        [0.5, -0.25, 65504],
        [np.float16(6e-8), 0, 1],
    ]
    assert np.signbit(vit[four][1])
    assert vit.state[[one, two, three, four, gone]].tolist() == [OK, OK, FAILED, OK, FAILED]
    assert vit.failures == {
        three: "cannot identify image file: ünïcode 'reason'",
        gone: "permission denied",
    }
    assert vit.provenance.facts == {
        "model": "google/vit-base-patch16-224",
        "numerics": {"dtype": "float32", "device": "cpu"},
        "text": 'ünïcode, "quotes", \\ and \n',
        "long": "x" * 5000,
    }


def test_rows_of_two_dimensions_and_missing_ones(cache: FeatureCache) -> None:
    grid = cache["grid"]
    one, two, four = rows(cache, "one.jpg", "zwei-ü-二.jpg", "line\nfeed and blank .jpg")
    expected = np.arange(24, dtype=np.float32).reshape(4, 2, 3) / 3
    assert grid[[one, four]].tolist() == expected[[0, 3]].tolist()
    assert grid.state[two] == MISSING
    data, fine = grid.read([two])
    assert (data.tolist(), fine.tolist()) == ([[[0, 0, 0], [0, 0, 0]]], [False])


def test_whole_numbers(cache: FeatureCache) -> None:
    boxes = cache["boxes"]
    (two,) = rows(cache, "zwei-ü-二.jpg")
    assert (boxes.dtype, boxes[two].tolist()) == (np.int32, [3, -4])
    assert np.flatnonzero(boxes.state == OK).tolist() == [two]
    assert boxes.provenance.facts == {}


def test_texts_and_pairs(cache: FeatureCache) -> None:
    empty, tweet = cache.text_rows(["", "RT @a : ünï 😀 \u00a0"])
    assert cache["clip_text"][[empty, tweet]].tolist() == [[1, 2], [3, 4]]
    texts = [text_id("RT @a : ünï 😀 \u00a0"), text_id("")]
    pairs = [
        (texts[0], content_id(b"one")),
        (texts[0], content_id(b"four")),
        (texts[1], content_id(b"one")),
    ]
    found = cache.pairs.find([pair_id(*pair) for pair in pairs])
    data, fine = cache["reward"].read(found)
    assert (data.tolist(), fine.tolist()) == ([0.5, -1.5, 0], [True, True, False])
    assert list(cache["reward"].failures.values()) == ["empty text"]
    text, image = cache.pairs.pair_ids
    assert [
        (t.tobytes(), i.tobytes()) for t, i in zip(text[found], image[found], strict=True)
    ] == pairs


def test_what_it_says_of_itself(cache: FeatureCache) -> None:
    counted = info(GOLDEN)
    assert (counted.images, counted.names, counted.texts, counted.pairs) == (5, 6, 2, 3)
    assert counted.created_by == "mnerfeat 0.1.0"
    assert len(cache.files[0].absorbed) == 3


def test_its_digests_stay_the_same(cache: FeatureCache) -> None:
    """Runs remember these: a change would make every checkpoint's cache look like another one."""
    assert cache.digest() == {
        "boxes": "b2c2b339bf32632f2de59048f685ddca88afccc5c9fe18204138e383b487e962",
        "clip_text": "3e536737c27bdce7eaf5c208e9688b828b638a0e816d8b34f982dff0e058fe9c",
        "grid": "ceb6d0ec60b3277a792dfd28f8ba101173302ded2f02cba584555185036193a8",
        "reward": "18db0f153a64fb7eda913a6a42046f12d65bc0f214b66738cb95ad05d86d7b71",
        "vit_cls": "589fd200097504ee36a7f492e8a906b6b1183515499dc849b899b85f61279740",
        "names": "f0001913821a9d65f6edebb5ea7266965282ad2fd85e1ca8761487f22fccdb39",
    }


def test_plain_h5py_reads_it(cache: FeatureCache) -> None:
    with h5py.File(GOLDEN) as file:
        assert file.attrs["format"] == "mnerfeat-cache"
        assert file.attrs["format_version"] == 1
        one = cache.rows(["one.jpg"])[0]
        assert file["images/vit_cls/data"][one].tolist() == [1, 2, 3]
        assert file["images/id"][one].tobytes() == content_id(b"one")


def test_work_goes_on_with_it(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    shutil.copy(GOLDEN, path)
    before = FeatureCache(path)
    CacheWriter(path).put(
        images=images(
            {"new.jpg": b"new"}, vit_cls=feature([[7, 8, 9]], before["vit_cls"].provenance, "<f2")
        )
    )
    pack(path)
    after = FeatureCache(path)
    assert verify(path) == []
    assert after["vit_cls"][after.rows(["new.jpg", "one.jpg"])].tolist() == [[7, 8, 9], [1, 2, 3]]
    assert after["vit_cls"].generation == before["vit_cls"].generation
    assert {n for n, _ in after.images.names()} == {*NAMES, "new.jpg"}
