"""The image columns of a data set, against a plain look-up post by post."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    pack,
    stack_ids,
    text_id,
)
from mnerfeat.datasets import columns as columns_module
from mnerfeat.datasets import vision
from mnerfeat.datasets.columns import StoredColumn
from mnerfeat.datasets.image_rows import resolve
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.vision import RELEVANCE, VisionTable
from mnerfeat.errors import CacheLookupError
from tests.cache.builders import feature, images

COLUMNS = ("vit_cls", "quality", RELEVANCE)
CLIP = Provenance({"model": "clip"})


def post(number: int, *names: str) -> Post:
    return Post(id=str(number), words=("post", str(number)), images=names)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six images, of which `bad.jpg` failed; embeddings of posts 0 to 9."""
    rng = np.random.default_rng(0)
    names = ["images/0.jpg", "images/1.jpg", "images/2.jpg", "a/x.jpg", "b/x.jpg", "bad.jpg"]
    contents = {name: name.encode() for name in names}

    def values(width: int) -> list[list[float] | str]:
        return [*rng.normal(size=(5, width)).tolist(), "truncated"]

    path = tmp_path / "features.h5"
    CacheWriter(path).put(
        images=images(
            contents,
            vit_cls=feature(values(4), width=4),
            quality=feature(values(1), width=1),
            clip_image=feature(values(3), CLIP),
        ),
        texts=TableRows(
            ids=stack_ids([text_id(post(n).text) for n in range(10)]),
            features={"clip_text": feature(rng.normal(size=(10, 3)).tolist(), CLIP)},
        ),
    )
    return path


def test_batches_hold_what_a_look_up_post_by_post_finds(path: Path) -> None:
    cache = FeatureCache(path)
    posts = [
        post(0, "images/1.jpg", "bad.jpg", "images/0.jpg"),
        post(1),
        post(2, "gone.jpg", "2.jpg"),
        post(3, "a/x.jpg"),
        post(4, "twitter2017-0.jpg"),
    ]
    table = VisionTable.from_cache(cache, posts, COLUMNS)
    for picked in ([0, 1, 2, 3, 4], [3], [1], [2, 0]):
        mask, columns = table.batch(torch.tensor(picked))
        assert mask.shape[1] == {(0, 1, 2, 3, 4): 3, (3,): 1, (1,): 1, (2, 0): 3}[tuple(picked)]
        for b, number in enumerate(picked):
            for slot in range(mask.shape[1]):
                name = posts[number].images[slot] if slot < len(posts[number].images) else None
                name = {"2.jpg": "images/2.jpg", "twitter2017-0.jpg": "images/0.jpg"}.get(
                    str(name), name
                )
                if name in {None, "bad.jpg", "gone.jpg"}:
                    assert not mask[b, slot]
                    assert not any(column[b, slot].any() for column in columns.values())
                    continue
                assert mask[b, slot]
                row = cache.rows([str(name)])
                assert columns["vit_cls"][b, slot].tolist() == cache["vit_cls"][row][0].tolist()
                text = cache["clip_text"][cache.text_rows([posts[number].text])][0]
                image = cache["clip_image"][row][0]
                cosine = text @ image / np.linalg.norm(text) / np.linalg.norm(image)
                assert columns[RELEVANCE][b, slot].item() == pytest.approx(cosine, abs=1e-6)


def test_what_cannot_be_used_is_counted_and_named(path: Path) -> None:
    posts = [post(0, "images/1.jpg", "bad.jpg"), post(1, "gone.jpg"), post(2)]
    coverage = VisionTable.from_cache(FeatureCache(path), posts, COLUMNS).coverage
    assert coverage is not None
    assert (coverage.posts, coverage.with_images) == (3, 1)
    assert (coverage.named, coverage.used) == (3, 1)
    assert coverage.unknown == ("gone.jpg",)
    assert coverage.failed == {"bad.jpg": "truncated"}
    assert "1 of 3 images used" in str(coverage)


def test_a_name_that_fits_two_images_is_refused(path: Path) -> None:
    with pytest.raises(CacheLookupError, match="fit several different images") as caught:
        VisionTable.from_cache(FeatureCache(path), [post(0, "x.jpg", "2.jpg")], COLUMNS)
    assert "a/x.jpg" in caught.value.faults[0]
    assert "b/x.jpg" in caught.value.faults[0]


def test_names_may_differ_in_unicode_form_separators_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    stored = {unicodedata.normalize("NFD", "é.jpg"): b"1", "sub/1.jpg": b"2"}
    CacheWriter(path).put(images=images(stored, vit_cls=feature([[1] * 4, [2] * 4], width=4)))
    cache = FeatureCache(path)
    asked = ["é.jpg", r"sub\1.jpg", "./sub//1.jpg", "/data/images/sub/1.jpg", "1.jpg"]
    one, two = cache.rows(list(stored)).tolist()
    assert resolve(cache, asked).tolist() == [one, two, two, two, two]
    table = VisionTable.from_cache(cache, [post(0, *asked)], ["vit_cls"])
    assert table.batch(torch.tensor([0]))[1]["vit_cls"][0, :, 0].tolist() == [1, 2, 2, 2, 2]


def test_rows_may_be_found_by_other_means_than_names(path: Path) -> None:
    cache = FeatureCache(path)
    wanted = cache.rows(["images/1.jpg"])

    def find(names: Sequence[str]) -> np.ndarray:
        assert list(names) == ["mine.jpg", "images/0.jpg"]
        return np.array([wanted[0], -1])

    posts = [post(0, "mine.jpg", "images/0.jpg")]
    table = VisionTable.from_cache(cache, posts, ["vit_cls"], find=find)
    mask, columns = table.batch(torch.tensor([0]))
    assert mask.tolist() == [[True]]
    assert columns["vit_cls"][0].tolist() == cache["vit_cls"][wanted].tolist()


def test_unfinished_extraction_is_an_error_with_the_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(path)
    with monkeypatch.context() as patch:
        patch.setattr("mnerfeat.datasets.vision.FEATURES_OF_COLUMN", {"reward": ("reward",)})
        with pytest.raises(CacheLookupError, match="lacks reward") as caught:
            VisionTable.from_cache(cache, [post(0, "images/0.jpg")], ["reward"])
    assert "--features reward" in str(caught.value)
    with pytest.raises(CacheLookupError, match="text embeddings of 1 posts") as caught:
        VisionTable.from_cache(cache, [post(77, "images/0.jpg")], COLUMNS)
    assert caught.value.faults == ("77",)
    CacheWriter(path).put(images=images({"new.jpg": b"new"}, vit_cls=feature([[1] * 4], width=4)))
    with pytest.raises(CacheLookupError, match="has not been extracted for 1 images"):
        VisionTable.from_cache(FeatureCache(path), [post(0, "new.jpg")], COLUMNS)


def test_a_cache_that_knows_no_image_at_all_is_the_wrong_one(path: Path) -> None:
    with pytest.raises(CacheLookupError, match="contains none of the 2 images"):
        VisionTable.from_cache(FeatureCache(path), [post(0, "p.jpg", "q.jpg")], COLUMNS)


def test_posts_without_images_need_no_features() -> None:
    mask, columns = VisionTable.without_images(3).batch(torch.tensor([2, 0]))
    assert mask.tolist() == [[False], [False]]
    assert columns == {}


def test_a_table_of_which_no_image_can_be_used_gives_zeros(path: Path) -> None:
    table = VisionTable.from_cache(FeatureCache(path), [post(0, "bad.jpg"), post(1)], COLUMNS)
    mask, columns = table.batch(torch.tensor([0, 1]))
    assert mask.tolist() == [[False], [False]]
    assert columns["vit_cls"].tolist() == [[[0, 0, 0, 0]], [[0, 0, 0, 0]]]
    assert columns[RELEVANCE].tolist() == [[0], [0]]


def test_a_batch_on_the_device_is_as_wide_as_the_table() -> None:
    rows = torch.tensor([[0, -1, 1], [1, -1, -1]])
    column = torch.arange(4.0).view(2, 2)
    table = VisionTable(rows, {"vit_cls": column}, {RELEVANCE: torch.ones(2, 3)})
    assert table.column_sizes == {"vit_cls": 2, RELEVANCE: 1}
    mask, columns = table.batch(torch.tensor([1]))
    assert mask.tolist() == [[True]]
    assert columns["vit_cls"].tolist() == [[[2, 3]]]
    mask, columns = table.batch(torch.tensor([1, 0]))
    assert mask.tolist() == [[True, False, False], [True, False, True]]
    assert columns[RELEVANCE].tolist() == [[1, 0, 0], [1, 0, 1]]


def test_a_large_column_stays_in_the_file_and_gives_the_same_batches(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posts = [post(0, "images/1.jpg", "bad.jpg"), post(1), post(2, "b/x.jpg", "a/x.jpg")]
    wanted = VisionTable.from_cache(FeatureCache(path), posts, COLUMNS)
    monkeypatch.setattr(columns_module, "IN_MEMORY", 0)
    more = images({"images/9.jpg": b"9"}, vit_cls=feature([[0.0, 1.0, 2.0, 3.0]], width=4))
    CacheWriter(path).put(images=more)
    beside = VisionTable.from_cache(FeatureCache(path), posts, COLUMNS)
    assert isinstance(beside.image_columns["vit_cls"], torch.Tensor)  # in two parts
    pack(path)
    stored = VisionTable.from_cache(FeatureCache(path), posts, COLUMNS)
    column = stored.image_columns["vit_cls"]
    assert isinstance(column, StoredColumn)
    assert column.shape == (3, 4)
    assert column.nbytes == 3 * 4 * column.values.element_size()
    assert stored.column_sizes == wanted.column_sizes
    path.unlink()  # what is mapped stays
    assert torch.equal(column.to(torch.device("cpu")), wanted.image_columns["vit_cls"])
    for picked in ([0, 1, 2], [2], [1]):
        (mask, columns), (got_mask, got) = (
            table.batch(torch.tensor(picked)) for table in (wanted, stored)
        )
        assert torch.equal(got_mask, mask)
        assert all(torch.equal(got[name], columns[name]) for name in COLUMNS)


@pytest.mark.parametrize("in_memory", [0, columns_module.IN_MEMORY])
def test_columns_go_to_devices_that_do_not_tell_their_free_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(columns_module, "IN_MEMORY", in_memory)
    monkeypatch.setattr(vision, "_widths", lambda _: torch.ones(1))  # meta holds no numbers
    table = VisionTable.from_cache(FeatureCache(path), [post(0, "images/1.jpg")], COLUMNS)
    moved = table.to(torch.device("meta")).image_columns
    assert {column.device.type for column in moved.values()} == {"meta"}
    assert table.to(torch.device("cpu")).image_columns == table.image_columns
