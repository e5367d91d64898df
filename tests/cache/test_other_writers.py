"""The specification is enough: caches written and read with nothing but plain `h5py`."""

import hashlib
import json
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnerfeat.cache import FeatureCache, pack, repair, verify
from tests.cache.builders import put_numbered

FEATURES = [f"feature_{number}" for number in range(20)]


def write_by_the_book(path: Path, names: list[str], *, features: list[str]) -> None:
    """`docs/cache-format.md`, followed step by step; the image of a name has that content."""

    def put(group: h5py.Group, name: str, array: np.ndarray, checksum: bool = True) -> None:
        dataset = group.create_dataset(name, data=array)
        if checksum:
            dataset.attrs["crc32"] = zlib.crc32(array.tobytes())

    identities = sorted((hashlib.sha256(name.encode()).digest(), name) for name in names)
    ids = np.frombuffer(b"".join(id_ for id_, _ in identities), "u1").reshape(-1, 32)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs["format"] = "mnerfeat-cache"
        file.attrs["format_version"] = 1
        file.attrs["uuid"] = "0" * 32
        file.attrs["sequence"] = time.time_ns()
        file.attrs["created_by"] = "another program"
        file.attrs["created_at"] = "2030-01-01T00:00:00+00:00"
        file.attrs["n_rows"] = len(names)
        put(file, "absorbed", np.zeros(0, "u1"))
        images = file.create_group("images")
        put(images, "id", ids)
        put(images, "prefix", np.array([int.from_bytes(i[:8].tobytes()) for i in ids], "<u8"))
        put(images, "size", np.zeros((len(names), 2), "<i4"))
        hashed = sorted(
            (hashlib.sha256(name.encode()).digest()[:8], row, name)
            for row, (_, name) in enumerate(identities)
        )
        path_ = images.create_group("path")
        put(path_, "hash", np.array([int.from_bytes(h) for h, _, _ in hashed], "<u8"))
        put(path_, "row", np.array([row for _, row, _ in hashed], "<u4"))
        put(path_, "bytes", np.frombuffer("".join(name for _, _, name in hashed).encode(), "u1"))
        lengths = [len(name.encode()) for _, _, name in hashed]
        put(path_, "offset", np.cumsum([0, *lengths]).astype("<u8"))
        for number, name in enumerate(features):
            group = images.create_group(name)
            provenance = json.dumps({"model": name}, sort_keys=True, separators=(",", ":"))
            group.attrs["provenance"] = provenance
            group.attrs["provenance_sha256"] = hashlib.sha256(provenance.encode()).hexdigest()
            group.attrs["generation"] = time.time_ns()
            data = np.array([[number + len(n), 0.5] for _, n in identities], "<f4")
            put(group, "data", data, checksum=False)
            put(group, "state", np.ones(len(names), "u1"))
            sums = [zlib.crc32(i.tobytes() + d.tobytes()) for i, d in zip(ids, data, strict=True)]
            put(group, "crc32", np.array(sums, "<u4"))
            reason = group.create_group("reason")
            put(reason, "row", np.zeros(0, "<u4"))
            put(reason, "bytes", np.zeros(0, "u1"))
            put(reason, "offset", np.zeros(1, "<u8"))


@pytest.mark.parametrize("count", [1, 20])
def test_a_cache_of_another_writer_is_sound_and_read(tmp_path: Path, count: int) -> None:
    """With 20 features libhdf5 keeps the links in a heap, which our own writer never does."""
    path = tmp_path / "features.h5"
    names = ["a.jpg", "bb.jpg", "ünï.jpg"]
    write_by_the_book(path, names, features=FEATURES[:count])
    assert verify(path) == []
    for _ in range(2):
        cache = FeatureCache(path)
        assert set(cache.features) >= set(FEATURES[:count])
        for number, name in enumerate(FEATURES[:count]):
            wanted = [[number + len(n), 0.5] for n in names]
            assert cache[name][cache.rows(names)].tolist() == wanted
        put_numbered(path, [1])
        pack(path)
    assert not repair(path).repaired
    assert verify(path) == []


def test_our_caches_can_be_read_with_nothing_but_the_book(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    put_numbered(path, range(50))
    pack(path)
    with h5py.File(path) as file:
        names = file["images/path"]
        wanted = int.from_bytes(hashlib.sha256(b"7.jpg").digest()[:8])
        position = int(np.searchsorted(names["hash"][:], wanted))
        start, end = names["offset"][position : position + 2].tolist()
        assert names["bytes"][start:end].tobytes() == b"7.jpg"
        row = int(names["row"][position])
        assert file["images/id"][row].tobytes() == hashlib.sha256(b"7").digest()
        feature = file["images/vit_cls"]
        assert feature["state"][row] == 1
        assert feature["data"][row].tolist() == [7, 7, 7]
        summed = zlib.crc32(hashlib.sha256(b"7").digest() + feature["data"][row].tobytes())
        assert feature["crc32"][row] == summed
        offset = feature["data"].id.get_offset()
    mapped = np.memmap(path, "<f4", "r", offset, (50, 3))
    assert mapped[row].tolist() == [7, 7, 7]
