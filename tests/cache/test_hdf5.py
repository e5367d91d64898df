"""Our reading and writing of HDF5 metadata, with libhdf5 as the judge of both."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.cache.hdf5 import Dataset, Group, intended_size, read_root
from mnerfeat.cache.hdf5_blocks import Blocks, UnfitError, lookup3
from mnerfeat.cache.hdf5_writing import Slot, plan

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12
).filter(lambda name: name != ".")
CODES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8")
SHAPES = st.lists(st.integers(0, 40), min_size=1, max_size=4).map(tuple)
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300),
    st.integers(-(2**63), 2**63 - 1),
)
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=12)
GROUPS = st.lists(NAMES, max_size=3).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, dict[str, str | int]], dict[str, Slot]]:
    attributes = draw(st.dictionaries(GROUPS, ATTRIBUTES, max_size=4))
    slots = {}
    for group in draw(st.lists(GROUPS, max_size=4, unique=True)):
        for number in range(draw(st.integers(1, 12))):
            slot = Slot(draw(SHAPES), np.dtype(draw(st.sampled_from(CODES))))
            slots[f"{group}/dataset {number}".lstrip("/")] = slot
    return attributes, slots


def whole(tree: tuple[dict[str, dict[str, str | int]], dict[str, Slot]]) -> bytes:
    planned = plan(*tree)
    return planned.metadata.ljust(planned.size, b"\7")


def described(root: Group) -> dict[str, Any]:
    """Every object below a group, by its full name."""
    found: dict[str, Any] = {}
    for name in root.members:
        opened = root.open(name)
        found[root.where(name)] = "group" if isinstance(opened, Group) else opened
        if isinstance(opened, Group):
            found |= described(opened)
    return found


def by_libhdf5(file: h5py.File) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, thing: h5py.Group | h5py.Dataset) -> None:
        if isinstance(thing, h5py.Group):
            found[f"/{name}"] = "group"
        else:
            simple = thing.dtype.kind in "fiu" and thing.dtype.str[0] != ">"
            layout = thing.id.get_create_plist()
            plain = layout.get_layout() == h5py.h5d.CONTIGUOUS
            found[f"/{name}"] = Dataset(
                shape=thing.shape,
                dtype=thing.dtype if simple else None,
                plain=plain and not layout.get_external_count(),
                address=thing.id.get_offset() if plain else None,
            )

    file.visititems(visit)
    return found


@given(trees())
def test_libhdf5_reads_what_we_write(
    tree: tuple[dict[str, dict[str, str | int]], dict[str, Slot]],
) -> None:
    attributes, slots = tree
    planned = plan(attributes, slots)
    data = whole(tree)
    with h5py.File(io.BytesIO(data)) as file:
        for owner, values in attributes.items():
            assert dict(file[f"/{owner}"].attrs) == values
        for name, slot in slots.items():
            dataset = file[name]
            assert (dataset.shape, dataset.dtype) == (slot.shape, slot.dtype)
            assert (dataset.id.get_offset() or 0) == planned.offsets[name]
            assert dataset[()].tobytes() == b"\7" * slot.size
        blocks = Blocks(data)
        assert described(read_root(blocks)) == by_libhdf5(file)
        blocks.verify()


@given(trees())
def test_nothing_overlaps_and_metadata_comes_first(
    tree: tuple[dict[str, dict[str, str | int]], dict[str, Slot]],
) -> None:
    planned = plan(*tree)
    end = len(planned.metadata)
    for name in sorted(tree[1], key=lambda name: planned.offsets[name]):
        slot = tree[1][name]
        if slot.size:
            offset = planned.offsets[name]
            assert offset >= end
            assert offset % (4096 if slot.size >= 4096 else 64) == 0
            end = offset + slot.size
    assert planned.size == end
    assert intended_size(planned.metadata[:48]) == planned.size


@given(trees())
def test_attributes_come_back(
    tree: tuple[dict[str, dict[str, str | int]], dict[str, Slot]],
) -> None:
    blocks = Blocks(whole(tree))
    for owner, values in tree[0].items():
        group: Any = read_root(blocks)
        for step in filter(None, owner.split("/")):
            group = group.open(step)
        assert {name: group.attribute(name) for name in values} == values
        assert group.attribute("is not there") is None


@pytest.mark.parametrize("members", [0, 3, 8, 9, 50, 400])
def test_we_read_what_libhdf5_writes(tmp_path: Path, members: int) -> None:
    """Beyond eight members or attributes libhdf5 keeps them in a heap; beyond 45 in a tree."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for where in ("/", "sub/sub sub"):
            group = file.require_group(where)
            for number in range(members):
                code = CODES[number % len(CODES)]
                group.create_dataset(f"ü{number}" * (number % 7 + 1), data=np.ones(number, code))
            for number in range(min(members, 60)):
                group.attrs[f"a{number}"] = "ä" * number if number % 2 else number - 5
        file.create_dataset("chunked", (10, 10), "f4", chunks=(2, 2), compression="gzip")
        file.create_dataset("texts", data=["a", "b"])
        file.create_dataset("big-endian", data=np.ones(3, ">f4"))
        file.create_dataset("scalar", data=1.5)
        file.attrs["fixed"] = np.bytes_("fixed")
    blocks = Blocks(path.read_bytes())
    root = read_root(blocks)
    with h5py.File(path) as file:
        assert described(root) == by_libhdf5(file)
        sub: Any = root.open("sub")
        for ours, theirs in ((root, file), (sub.open("sub sub"), file["sub/sub sub"])):
            for number in range(min(members, 60)):
                assert ours.attribute(f"a{number}") == theirs.attrs[f"a{number}"]
    assert root.attribute("fixed") == "fixed"
    blocks.verify()


def test_what_is_added_later_does_no_harm(tmp_path: Path) -> None:
    """By a program that opens the file to write, whatever versions it writes."""
    path = tmp_path / "a.h5"
    path.write_bytes(whole(({"": {"n": 1, "t": "text"}}, {"g/a": Slot((3,), np.dtype("<f4"))})))
    with h5py.File(path, "r+") as file:
        file.attrs["n"] = 99
        file.attrs["note"] = "added"
        file["g"].attrs["fixed"] = np.bytes_("fixed")
        file["notes"] = ["a", "b"]
        file["g/more/deep"] = np.ones(3)
    blocks = Blocks(path.read_bytes())
    root = read_root(blocks)
    assert (root.attribute("n"), root.attribute("note")) == (99, "added")
    assert root.attribute("t") == "text"
    group = root.open("g")
    assert isinstance(group, Group)
    assert group.attribute("fixed") == "fixed"
    assert isinstance(group.open("a"), Dataset)
    blocks.verify()


def test_links_that_lead_elsewhere_are_seen_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["soft"] = h5py.SoftLink("/soft")
        file["external"] = h5py.ExternalLink("b.h5", "/")
    root = read_root(Blocks(path.read_bytes()))
    assert dict(root.members) == {"soft": None, "external": None}
    with pytest.raises(UnfitError, match="points elsewhere"):
        root.open("soft")


@pytest.mark.parametrize(
    ("bounds", "message"), [(("earliest", "v108"), "another kind"), (("v108", "v110"), None)]
)
def test_older_metadata_is_told_apart(
    tmp_path: Path, bounds: tuple[str, str], message: str | None
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=bounds) as file:
        file["a"] = np.ones(3)
    if message is None:
        assert list(read_root(Blocks(path.read_bytes())).members) == ["a"]
    else:
        with pytest.raises(UnfitError, match=message):
            read_root(Blocks(path.read_bytes()))


def test_lookup3_gives_the_published_values() -> None:
    """From the comments of Jenkins' lookup3.c (2006)."""
    assert lookup3([b"Four score and seven years ago"]).tolist() == [0x17770551]
    assert lookup3([]).tolist() == []


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
def test_lookup3_of_many_is_lookup3_of_each(blocks: list[bytes]) -> None:
    assert lookup3(blocks).tolist() == [int(lookup3([block])[0]) for block in blocks]
