"""A cache of version 1 is read as it is, and brought to the present version by whoever writes."""

import shutil
from pathlib import Path

import h5py
import pytest

from mnerfeat.cache import CacheWriter, FeatureCache, migrate, pack, repair, verify
from mnerfeat.cache.schema import FORMAT_VERSION
from mnerfeat.errors import CacheError, CacheFormatError, StorageError
from tests.cache.builders import feature, images, put_numbered
from tests.cache.test_golden import GOLDEN


@pytest.fixture
def old(path: Path) -> Path:
    """A cache of version 1, with one of its parts beside it."""
    shutil.copy(GOLDEN, path)
    folder = path.with_name("features.h5.d")
    folder.mkdir()
    part = folder / "part-aaaa.h5"
    shutil.copy(GOLDEN, part)
    with h5py.File(part, "r+", libver=("v110", "v110")) as file:
        file.attrs["uuid"] = "aaaa"
        file.attrs["sequence"] = file.attrs["sequence"] + 1
    return path


def versions(path: Path) -> list[int]:
    return [file.version for file in FeatureCache(path).files]


def test_reading_leaves_it_alone(old: Path) -> None:
    before = {file: file.read_bytes() for file in old.parent.rglob("*.h5")}
    assert FeatureCache(old).digest() == FeatureCache(GOLDEN).digest()
    assert verify(old) == []
    assert not repair(old).repaired
    assert versions(old) == [1, 1]
    assert {file: file.read_bytes() for file in old.parent.rglob("*.h5")} == before


@pytest.mark.parametrize("act", [migrate, pack])
def test_it_is_brought_to_the_present_version(old: Path, act: object) -> None:
    cache = FeatureCache(old)
    made = act(old)  # type: ignore[operator]
    assert made in (None, [file.path for file in cache.files])
    assert versions(old) == [FORMAT_VERSION]
    assert FeatureCache(old).digest() == cache.digest()
    assert FeatureCache(old).cache_id == cache.cache_id
    assert verify(old) == []
    assert migrate(old) == []
    assert sorted(p.name for p in old.parent.iterdir()) == ["features.h5"]


def test_the_first_write_brings_it_to_the_present_version(old: Path) -> None:
    before = FeatureCache(old)
    CacheWriter(old).put(images=images({"new.jpg": b"new"}, brightness=feature([[1, 2, 3]])))
    cache = FeatureCache(old)
    assert versions(old) == [FORMAT_VERSION] * 2
    assert (cache.cache_id, cache.foreign) == (before.cache_id, ())
    assert len(cache.images) == len(before.images) + 1


def test_an_unknown_version_stops_before_anything_is_written(path: Path) -> None:
    put_numbered(path, range(10))
    pack(path)
    put_numbered(path, range(10, 20))
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        file.attrs["format_version"] = 3
    before = {file: file.read_bytes() for file in path.parent.rglob("*.h5")}
    for act in (migrate, pack, FeatureCache):
        with pytest.raises(CacheFormatError, match=r"format version 3, .* up to 2"):
            act(path)
    assert {file: file.read_bytes() for file in path.parent.rglob("*.h5")} == before


def test_a_full_disk_leaves_the_older_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = old.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(StorageError, match="no space left"):
        migrate(old)
    assert old.read_bytes() == before


def test_no_cache_at_all(path: Path) -> None:
    with pytest.raises(CacheError, match="no feature cache"):
        migrate(path)
