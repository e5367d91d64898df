"""The specification is enough: caches written and read with nothing but plain `h5py`."""
# What is here follows `docs/cache-format.md` alone: it shares no code with the package.

import hashlib
import json
import time
import zlib
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnerfeat.cache import CacheWriter, FeatureCache, Provenance, pack, repair, verify
from tests.cache.builders import feature, images, put_numbered

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


def read_by_the_book(path: Path) -> dict[str, object]:
    """The section "Several files as one cache", followed sentence by sentence."""
    listed = sorted(path.with_name(f"{path.name}.d").glob("part-*.h5"))
    with ExitStack() as stack:
        files = []
        absorbed: set[str] = set()
        if path.exists():
            files.append(stack.enter_context(h5py.File(path)))
            absorbed = set(files[0]["absorbed"][:].tobytes().decode().split("\n"))
        parts = [
            stack.enter_context(h5py.File(part))
            for part in listed
            if part.stem.removeprefix("part-") not in absorbed
        ]
        files = [file for file in files if "images" in file]  # a table without rows may be absent
        files += sorted(parts, key=lambda part: (part.attrs["sequence"], part.attrs["uuid"]))
        names: dict[str, bytes] = {}
        sizes: dict[bytes, list[int]] = {}
        for file in files:
            table = file["images"]
            ids = [id_.tobytes() for id_ in table["id"][:]]
            called = zip(table["path/row"][:], texts(table["path"]), strict=True)
            names |= {name: ids[row] for row, name in called}
            known = zip(ids, table["size"][:], strict=True)
            sizes |= {id_: size.tolist() for id_, size in known if size.any()}
        features = {name for file in files for name in file["images"]}
        return {
            "ids": sorted({id_.tobytes() for file in files for id_ in file["images/id"][:]}),
            "names": names,
            "sizes": sizes,
            **{n: feature_of(files, n) for n in features - {"id", "prefix", "size", "path"}},
        }


def texts(group: h5py.Group) -> list[str]:
    data, offset = group["bytes"][:].tobytes(), group["offset"][:]
    return [data[start:end].decode() for start, end in pairwise(offset)]


def feature_of(files: list[h5py.File], name: str) -> tuple[str, dict[bytes, tuple[int, object]]]:
    """The provenance that counts, and under it each row that was tried: its state and content."""
    groups = [(file, file[f"images/{name}"]) for file in files if name in file["images"]]
    _, newest = max(groups, key=lambda g: (g[1].attrs["generation"], g[0].attrs["sequence"]))
    made_by = newest.attrs["provenance"]
    rank = {1: 2, 2: 1, 0: 0}  # ok before failed before missing
    rows: dict[bytes, tuple[int, object]] = {}
    for file, group in groups:
        if group.attrs["provenance"] != made_by:
            continue
        reasons = dict(zip(group["reason/row"][:].tolist(), texts(group["reason"]), strict=True))
        for row, state in enumerate(group["state"][:].tolist()):
            id_ = file["images/id"][row].tobytes()
            if state and rank[state] >= rank[rows.get(id_, (0, None))[0]]:
                rows[id_] = state, group["data"][row].tolist() if state == 1 else reasons[row]
    return made_by.decode() if isinstance(made_by, bytes) else made_by, rows


def read_by_the_package(path: Path) -> dict[str, object]:
    cache = FeatureCache(path)
    ids = [id_.tobytes() for id_ in cache.images.ids]
    read: dict[str, object] = {
        "ids": ids,
        "names": {name: ids[row] for name, row in cache.images.names()},
        "sizes": {ids[i]: s.tolist() for i, s in enumerate(cache.images.sizes) if s.any()},
    }
    for name in cache.features:
        column = cache[name]
        data, fine = column.read(slice(None))
        rows: dict[bytes, tuple[int, object]] = {
            ids[row]: (1, data[row].tolist()) for row in np.flatnonzero(fine)
        }
        rows |= {ids[row]: (2, reason) for row, reason in column.failures.items()}
        read[name] = column.provenance.json, rows
    return read


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.one_of(
            st.just("pack"),
            st.tuples(
                st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),
                st.sampled_from(["vit_cls", "clip_image"]),
                st.integers(0, 2),  # which provenance
                st.booleans(),  # whether the rows failed
                st.sampled_from(["", "other/"]),
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_number_of_files_is_read_as_the_book_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[object]
) -> None:
    path = tmp_path_factory.mktemp("book") / "features.h5"
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            contents, name, version, failing, folder = step
            values = [f"broken {number}" if failing else [number, c, 0] for c in contents]
            # A name that leads elsewhere than before, now and then.
            called = {f"{folder}{c % 4}-{c // (number + 1)}.jpg": bytes([c]) for c in contents}
            unique = dict(zip(called.values(), called, strict=True))
            rows = feature(values[: len(unique)], Provenance({"version": version}))
            put = images({name_: content for content, name_ in unique.items()}, **{name: rows})
            CacheWriter(path).put(images=put, replace=True)
        elif FeatureCache(path, missing_ok=True).files:
            pack(path)
        if FeatureCache(path, missing_ok=True).files:
            assert read_by_the_package(path) == read_by_the_book(path)
