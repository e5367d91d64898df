"""What a cache holds, and every kind of fault that `verify` tells."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureRows,
    Provenance,
    TableRows,
    content_id,
    info,
    pack,
    pair_id,
    stack_ids,
    text_id,
    verify,
)
from mnerfeat.errors import CacheError
from tests.cache.builders import VIT, feature, images, put_numbered

TEXT, IMAGE = text_id("a b"), content_id(b"a")


def put_pair(path: Path) -> None:
    reward = FeatureRows(
        data=np.array([0.5], np.float32), state=np.ones(1, np.uint8), provenance=Provenance({})
    )
    CacheWriter(path).put(
        pairs=TableRows(
            ids=stack_ids([pair_id(TEXT, IMAGE)]),
            text=stack_ids([TEXT]),
            image=stack_ids([IMAGE]),
            features={"reward": reward},
        )
    )


def test_everything_is_counted(path: Path) -> None:
    rows = feature([[1, 1, 1], "broken"])
    CacheWriter(path).put(
        images=images({"a.jpg": b"a", "b.jpg": b"b", "copy.jpg": b"a"}, vit_cls=rows)
    )
    pack(path)
    CacheWriter(path).put(images=images({"c.jpg": b"c"}))
    put_pair(path)
    told = info(path)
    assert (told.images, told.names, told.texts, told.pairs, told.parts) == (3, 4, 0, 1, 2)
    vit, reward = told.features
    assert (vit.name, vit.ok, vit.failed, vit.missing, vit.bytes) == ("vit_cls", 1, 1, 1, 36)
    assert (vit.table, vit.row_shape, vit.dtype, vit.provenance) == ("images", (3,), "float32", VIT)
    assert (reward.table, reward.row_shape, reward.ok) == ("pairs", (), 1)
    files = [path, *path.with_name("features.h5.d").iterdir()]
    assert told.bytes == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("packed", [True, False])
def test_pairs_that_dangle_are_told_until_both_ends_are_there(path: Path, packed: bool) -> None:
    def faults() -> list[str]:
        if packed:
            pack(path)
        return [fault.partition(": ")[2] for fault in verify(path)]

    put_pair(path)
    assert faults() == [
        "1 pairs point to texts that are not there",
        "1 pairs point to images that are not there",
    ]
    CacheWriter(path).put(texts=TableRows(ids=stack_ids([TEXT])))
    assert faults() == ["1 pairs point to images that are not there"]
    CacheWriter(path).put(images=images({"a.jpg": b"a"}))
    assert faults() == []


@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_a_file_that_was_cut_off_is_told(path: Path, missing: int) -> None:
    put_numbered(path, range(1000))
    pack(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - missing)
    (fault,) = verify(path)
    assert "truncated" in fault
    assert str(path) in fault


CHANGES = {
    "images/id": "out of order or double",
    "images/prefix": "entries of the look-up table are wrong",
    "images/path/hash": "look-up table of names is out of order",
    "images/path/row": "lead to rows that are not there",
    "images/path/bytes": "names are damaged",
    "images/path/offset": "not laid out one after the other",
    "images/size": "/images/size does not match its checksum",
    "images/vit_cls/state": "unknown state",
    "images/vit_cls/crc32": "do not match their checksums",
    "images/vit_cls/data": "do not match their checksums",
}


@pytest.mark.parametrize("dataset", CHANGES)
def test_every_dataset_is_looked_at(path: Path, dataset: str) -> None:
    put_numbered(path, range(10))
    pack(path)
    with h5py.File(path, "r+") as file:
        array = file[dataset][:]
        array[2] = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 99
        file[dataset][:] = array
    faults = verify(path)
    assert any(CHANGES[dataset] in fault for fault in faults), faults
    assert all(str(path) in fault for fault in faults)


def test_a_feature_of_two_tables_is_told(path: Path) -> None:
    """A writer refuses it; two that write at the same moment can do it."""
    rows = feature([[1, 1, 1]])
    texts = TableRows(ids=stack_ids([TEXT]), features={"both": rows})
    CacheWriter(path).put(images=images({"a.jpg": b"a"}, both=rows))
    with pytest.raises(CacheError, match="one of images"):
        CacheWriter(path).put(texts=texts)
    copy = path.with_name("elsewhere.h5")
    copy.write_bytes(path.read_bytes())
    elsewhere = CacheWriter(copy).put(texts=texts)
    elsewhere.rename(path.with_name("features.h5.d") / elsewhere.name)
    (fault,) = verify(path)
    assert "both: in /" in fault
    assert ", but in /" in fault


def test_progress_ends_with_all_rows(path: Path) -> None:
    put_numbered(path, range(10))
    put_numbered(path, range(10, 30))
    told: list[tuple[int, int]] = []
    verify(path, lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_verify_in_a_child_finds_the_same(path: Path) -> None:
    put_numbered(path, range(5))
    assert verify(path, untrusted=True) == []
    part = next(path.with_name("features.h5.d").iterdir())
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    assert verify(path, untrusted=True) == verify(path) != []
