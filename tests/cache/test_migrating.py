"""Older files are rewritten step by step; files that cannot be are left alone."""

from pathlib import Path

import numpy as np
import pytest

from mnerfeat.cache import FeatureCache, migrate, migrating, pack, verify
from mnerfeat.cache.layout import Array, write_sealed
from mnerfeat.cache.migrating import Contents, read_contents
from mnerfeat.errors import CacheError, CacheFormatError, StorageError
from tests.cache.builders import put_numbered


def rewrite(path: Path, contents: Contents) -> None:
    arrays = {name: Array.of(array) for name, array in contents.arrays.items()}
    write_sealed(path, contents.attributes, arrays)


def make_older(path: Path, version: int) -> None:
    """As if version 0 had had no table of prefixes, and version -1 another name for `state`."""
    contents = read_contents(path)
    contents.attributes[""]["format_version"] = version
    del contents.arrays["images/prefix"]
    if version < 0:
        contents.arrays["images/vit_cls/ok"] = contents.arrays.pop("images/vit_cls/state")
    rewrite(path, contents)


def from_minus_one(contents: Contents) -> Contents:
    contents.arrays["images/vit_cls/state"] = contents.arrays.pop("images/vit_cls/ok")
    return contents


def from_zero(contents: Contents) -> Contents:
    prefix = np.ascontiguousarray(contents.arrays["images/id"][:, :8]).view(">u8")[:, 0]
    return Contents(contents.attributes, {**contents.arrays, "images/prefix": prefix})


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "MIGRATIONS", {-1: from_minus_one, 0: from_zero})


@pytest.mark.usefixtures("steps")
def test_files_of_any_age_are_brought_up_to_date(path: Path) -> None:
    put_numbered(path, range(10))
    pack(path)
    put_numbered(path, range(10, 20))
    put_numbered(path, range(20, 30))
    digest = FeatureCache(path).digest()
    packed, first, _ = (file.path for file in FeatureCache(path).files)
    make_older(packed, -1)
    make_older(first, 0)
    with pytest.raises(CacheFormatError, match=r"format version -1.*reads 1") as caught:
        FeatureCache(path)
    assert "mnerfeat cache migrate" in str(caught.value)
    assert migrate(path) == [packed, first]
    assert FeatureCache(path).digest() == digest
    assert verify(path) == []
    assert migrate(path) == []
    pack(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.h5"]


def test_reading_and_rewriting_loses_nothing(path: Path) -> None:
    put_numbered(path, range(10))
    pack(path)
    before = path.read_bytes()
    rewrite(path, read_contents(path))
    assert path.read_bytes() == before


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("version", [-2, 2])
def test_an_unknown_version_stops_before_anything_is_written(path: Path, version: int) -> None:
    put_numbered(path, range(10))
    pack(path)
    put_numbered(path, range(10, 20))
    make_older(path, version)
    make_older(
        FeatureCache.of_files(path, []).path.with_name("features.h5.d").glob("*").__next__(), 0
    )
    before = {file: file.read_bytes() for file in path.parent.rglob("*.h5")}
    with pytest.raises(CacheFormatError, match=f"format version {version}; .* can migrate -1, 0"):
        migrate(path)
    assert {file: file.read_bytes() for file in path.parent.rglob("*.h5")} == before


@pytest.mark.usefixtures("steps")
def test_a_full_disk_leaves_the_older_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_numbered(path, range(10))
    pack(path)
    make_older(path, 0)
    before = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(StorageError, match="no space left"):
        migrate(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.h5"]


def test_no_cache_at_all(path: Path) -> None:
    with pytest.raises(CacheError, match="no feature cache"):
        migrate(path)
