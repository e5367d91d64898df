"""A cache from a stranger ends in a read or in one of our errors, whatever is in it.

`tools/cache_fuzz.py` is the long form.
"""

import contextlib
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnerfeat.cache import FeatureCache, pack, verify
from mnerfeat.cache.schema import name_hash
from mnerfeat.cache.sealed import open_sealed
from mnerfeat.errors import CacheError, CacheFormatError
from tests.cache.builders import put_numbered
from tests.cache.test_golden import GOLDEN
from tests.scripts import load

fuzz = load("tools/cache_fuzz.py")
DATA = GOLDEN.read_bytes()


def test_one_changed_byte_of_metadata_is_an_error_or_changes_nothing(path: Path) -> None:
    """Bytes that no checksum covers are texts that only people read, and padding."""
    whole = FeatureCache(GOLDEN).digest()
    path.write_bytes(DATA)
    generator = random.Random(0)
    read = 0
    with path.open("r+b") as file:
        for at in [*range(60), *range(60 + generator.randrange(9), fuzz.metadata_end(DATA), 9)]:
            os.pwrite(file.fileno(), bytes([DATA[at] ^ (1 << generator.randrange(8))]), at)
            try:
                assert FeatureCache(path).digest() == whole, at
                read += 1
            except CacheFormatError:
                pass
            os.pwrite(file.fileno(), DATA[at : at + 1], at)
    assert 0 < read < 1500


def test_a_file_that_is_cut_off_anywhere_is_an_error(path: Path) -> None:
    path.write_bytes(DATA)
    for length in [*range(len(DATA) - 1, 100, -23), *range(100, -1, -1)]:
        os.truncate(path, length)
        with pytest.raises(CacheFormatError):
            open_sealed(path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("dense", [False, True])
def test_damage_with_checksums_put_right_stays_in_the_child(path: Path, dense: bool) -> None:
    """libhdf5 trusts metadata whose checksums are right, so only a child process reads it."""
    source = DATA
    if dense:
        fuzz.write_dense(path)
        source = path.read_bytes()
    generator = random.Random(int(dense))
    files = [fuzz.damaged(source, generator) for _ in range(100)]
    ends = fuzz.run((("put right", data) for data in files), fuzz.exercise)
    assert sum(ends.values()) == len(files)
    for data in files[:3]:
        path.write_bytes(data)
        with contextlib.suppress(CacheError):
            assert isinstance(verify(path, untrusted=True), list)


@pytest.mark.parametrize("seed", range(2))
def test_a_file_from_a_stranger_ends_its_child_at_worst(path: Path, seed: int) -> None:
    path.write_bytes(fuzz.damaged(DATA, random.Random(seed)))
    assert fuzz.exercise_untrusted(path).startswith("verify ")


# What can be done to a cache with an HDF5 library, each at a random place.

Edit = Callable[[h5py.File, random.Random], None]


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, thing: found.append(name) if hasattr(thing, "shape") else None)
    return found


def _groups(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, thing: found.append(name) if hasattr(thing, "keys") else None)
    return found


def _replace(file: h5py.File, generator: random.Random, **how: object) -> None:
    name = generator.choice(_datasets(file))
    data = file[name][()] if file[name].shape else np.zeros(3)
    del file[name]
    file.create_dataset(name, **{"data": data, **how})


def _other_shape(file: h5py.File, generator: random.Random) -> None:
    shape = generator.choice([(), (0,), (7,), (3, 3), (1,) * 9, (2, 32), (5, 0), (100_000,)])
    _replace(file, generator, data=np.zeros(shape, generator.choice(["u1", "<f2", "<u8", "<i4"])))


def _other_type(file: h5py.File, generator: random.Random) -> None:
    kind = generator.choice(
        [">f4", "S5", "V9", "<c8", "?", h5py.string_dtype(), h5py.ref_dtype, "<f8"]
    )
    name = generator.choice(_datasets(file))
    shape = file[name].shape or (1,)
    del file[name]
    file.create_dataset(name, shape, dtype=kind)


def _chunked(file: h5py.File, generator: random.Random) -> None:
    _replace(file, generator, data=np.zeros((6, 4), "<f4"), chunks=(2, 2), compression="gzip")


def _never_allocated(file: h5py.File, generator: random.Random) -> None:
    name = generator.choice(_datasets(file))
    del file[name]
    file.create_dataset(name, (2 ** generator.randrange(60),), dtype="u1")


def _virtual(file: h5py.File, generator: random.Random) -> None:
    name = generator.choice(_datasets(file))
    del file[name]
    layout = h5py.VirtualLayout((5,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (5,))
    file.create_virtual_dataset(name, layout)


def _external(file: h5py.File, generator: random.Random) -> None:
    name = generator.choice(_datasets(file))
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _link(file: h5py.File, generator: random.Random) -> None:
    name = generator.choice([*_datasets(file), *_groups(file)])
    del file[name]
    links = [h5py.SoftLink(f"/{name}"), h5py.SoftLink("/nowhere")]
    file[name] = generator.choice([*links, h5py.ExternalLink("/etc/passwd", "/")])


def _loop(file: h5py.File, generator: random.Random) -> None:
    group = generator.choice(_groups(file))
    name = generator.choice(["again", "reason", "path", "id", "vit_cls"])
    if name in file[group]:
        del file[f"{group}/{name}"]
    file[f"{group}/{name}"] = file[generator.choice(["/", "images", group])]


def _removed(file: h5py.File, generator: random.Random) -> None:
    del file[generator.choice([*_datasets(file), *_groups(file)])]


def _attribute(file: h5py.File, generator: random.Random) -> None:
    owner = file[generator.choice(["/", *_groups(file)])]
    name = generator.choice([*owner.attrs, "extra"])
    deep = "[" * 50_000
    owner.attrs[name] = generator.choice(
        [
            "", "x" * 60_000, deep, '{"a":' + deep, '{"a":NaN}', '{"a":1e999}', "{}", "null",
            '{"a":"\\ud800"}', "1" * 10_000, -1, 2**63 - 1, 0.5, True, np.arange(3), b"\xff\xfe",
            "\ud800".encode("utf-8", "surrogatepass"), owner.ref, h5py.Empty("f4"), ["a", "b"],
        ]
    )  # fmt: skip


def _many_attributes(file: h5py.File, generator: random.Random) -> None:
    owner = file[generator.choice(["/", *_groups(file)])]
    for number in range(100):
        owner.attrs[f"extra {number}"] = "x" * number


def _values(file: h5py.File, generator: random.Random) -> None:
    dataset = file[generator.choice(_datasets(file))]
    if not dataset.shape or not dataset.size or dataset.dtype.kind not in "fiu":
        return
    data = dataset[()]
    flat = data.reshape(-1)
    top = np.finfo(data.dtype).max if data.dtype.kind == "f" else np.iinfo(data.dtype).max
    bad = [0, 1, 2, 3, top] + ([np.nan, np.inf] if data.dtype.kind == "f" else [])
    if generator.random() < 0.5:
        flat[:] = generator.choice(bad)
    else:
        flat[generator.randrange(len(flat))] = generator.choice(bad)
    dataset[()] = data


def _deep(file: h5py.File, generator: random.Random) -> None:
    file.create_group(generator.choice(["x", "images/x"]) + "/x" * 200)


EDITS: list[Edit] = [
    _other_shape, _other_type, _chunked, _never_allocated, _virtual, _external, _link, _loop,
    _removed, _attribute, _attribute, _many_attributes, _values, _values, _values, _deep,
]  # fmt: skip


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.sampled_from(EDITS), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_whatever_an_hdf5_library_can_do_to_it(
    tmp_path_factory: pytest.TempPathFactory, edits: list[Edit], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("edited")
    path = folder / "features.h5"
    path.write_bytes(DATA)
    generator = random.Random(seed)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        for edit in edits:
            try:
                edit(file, generator)
            except (KeyError, ValueError, TypeError, OSError, RuntimeError):
                continue  # an earlier edit has taken away what this one needs
    outcome = fuzz.exercise(path)
    fuzz.exercise_writing(path)
    assert outcome
    shutil.rmtree(folder)


def test_every_edit_does_something() -> None:
    """Or the test above would be less than it seems."""
    for edit in EDITS:
        with h5py.File.in_memory(DATA) as file:
            edit(file, random.Random(1))
            file.flush()
            assert file.id.get_file_image() != DATA, edit


# Some of these by name, since each was a hole that somebody once had.


def edited(path: Path, edit: Callable[[h5py.File], None]) -> Path:
    path.write_bytes(DATA)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        edit(file)
    return path


def test_external_storage_is_never_followed(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(b"secret" * 100)

    def edit(file: h5py.File) -> None:
        del file["images/vit_cls/data"]
        file.create_dataset(
            "images/vit_cls/data", (5, 3), "<f2", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )

    with pytest.raises(CacheFormatError, match="not stored in this file"):
        FeatureCache(edited(path, edit))


@pytest.mark.parametrize("link", [h5py.SoftLink("/images"), h5py.ExternalLink("x.h5", "/")])
def test_links_are_never_followed(path: Path, link: object) -> None:
    def edit(file: h5py.File) -> None:
        file["images/other"] = link

    with pytest.raises(CacheFormatError, match="points elsewhere"):
        FeatureCache(edited(path, edit))


def test_rows_that_lie_beyond_the_file_are_refused(path: Path) -> None:
    """A shape that lies, with a checksum that is right."""
    with h5py.File(GOLDEN) as file:
        shape = struct.pack("<2Q", *file["images/vit_cls/data"].shape)
    lying = struct.pack("<2Q", 2**40, 3)
    path.write_bytes(_with_sums(DATA.replace(b"\2\2\0\1" + shape, b"\2\2\0\1" + lying)))
    with pytest.raises(CacheFormatError, match=r"outside the file|has shape|invalid dataset size"):
        FeatureCache(path)


def _with_sums(data: bytes) -> bytes:
    """A changed file with the checksums that its blocks should have."""
    changed = bytearray(data)
    for start, end in fuzz.blocks(DATA):
        sum_ = fuzz.lookup3([data[start:end]])[0]
        struct.pack_into("<I", changed, end, int(sum_))
    return bytes(changed)


def test_names_that_all_share_a_hash_cost_no_time(path: Path) -> None:
    put_numbered(path, range(500))
    pack(path)
    with h5py.File(path, "r+") as file:
        file["images/path/hash"][:] = int.from_bytes(name_hash(b"stranger.jpg"))
        file["images/prefix"][:] = 0
    cache = FeatureCache(path)
    with pytest.raises(CacheFormatError, match="share a hash"):
        cache.images.find_names(["stranger.jpg"])
    with pytest.raises(CacheFormatError, match="share a prefix"):
        cache.images.find(np.zeros((1, 32), np.uint8))
    assert verify(path)


def test_names_that_overlap_are_refused_when_all_are_read(path: Path) -> None:
    def edit(file: h5py.File) -> None:
        offset = file["images/path/offset"]
        offset[:] = [0, offset[-1], 0, offset[-1], 0, offset[-1], offset[-1]]

    cache = FeatureCache(edited(path, edit))
    with pytest.raises(CacheFormatError, match="not laid out one after the other"):
        list(cache.images.names())


def test_rows_that_are_not_finite_are_found_by_verify(path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file["images/vit_cls/data"][0] = np.nan
        file["images/grid/data"][:] = np.inf

    faults = verify(edited(path, edit))
    assert any("/images/vit_cls: 1 rows" in fault and "not finite" in fault for fault in faults)
    assert any("/images/grid: 2 rows" in fault for fault in faults)


@pytest.mark.parametrize("name", ["x/../../../victim", "../victim", "\0", "a b", "x" * 65])
def test_a_cache_cannot_have_other_files_removed(path: Path, name: str) -> None:
    """A pack removes what `/absorbed` names, so it names parts and nothing else."""
    victim = path.with_name("victim.h5")
    victim.touch()
    path.with_name("features.h5.d").joinpath("part-x").mkdir(parents=True)

    def edit(file: h5py.File) -> None:
        del file["absorbed"]
        file["absorbed"] = np.frombuffer(name.encode(), np.uint8)

    with pytest.raises(CacheFormatError, match="something else than UUIDs"):
        pack(edited(path, edit))
    assert victim.exists()


@pytest.mark.parametrize("make", ["pipe", "folder", "empty", "device", "loop", "text", "png"])
def test_what_is_no_file_of_hdf5_is_refused_at_once(path: Path, make: str) -> None:
    if make == "pipe":
        os.mkfifo(path)
    elif make == "folder":
        path.mkdir()
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n" * 99, "png": b"\x89PNG\r\n\x1a\n"}[make])
    with pytest.raises(CacheError, match="cannot be read"):
        FeatureCache(path)
    if make != "loop":
        assert verify(path)


def test_a_part_that_is_no_part_is_named(path: Path) -> None:
    put_numbered(path, [1])
    bad = path.with_name("features.h5.d") / "part-bad.h5"
    os.mkfifo(bad)
    with pytest.raises(CacheFormatError, match="part-bad"):
        FeatureCache(path)
    assert any("part-bad" in fault for fault in verify(path))
