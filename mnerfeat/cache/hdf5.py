"""HDF5 files read without libhdf5: groups, attributes, and where datasets lie.

libhdf5 trusts metadata: a few changed bytes end the process with a segmentation fault, an abort
or an endless loop (`tools/cache_fuzz.py --libhdf5`). A cache may come from a stranger. So
this reader knows only the part of HDF5 that a cache is made of, as libhdf5 writes it under the
version bounds 1.10, checks every position against the file, and does a bounded amount of work.

Source: HDF5 File Format Specification, version 3.0; the names are those used there.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from mnerfeat.cache.hdf5_blocks import UNDEFINED, Blocks, Cursor, UnfitError, lookup3
from mnerfeat.cache.hdf5_heaps import read_dense, read_global

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 44  # and four of checksum
_CHUNKS_LIMIT = 64  # pieces of one object's header

_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL = 0x01, 0x02, 0x03, 0x06, 0x07
_LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION = 0x08, 0x0B, 0x0C, 0x10
_SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x11, 0x15
_READ = {_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _LAYOUT, _ATTRIBUTE, _ATTRIBUTE_INFO}


@dataclass(frozen=True)
class Dataset:
    """What a dataset's header says.

    Attributes:
        shape: None where it has none.
        dtype: None where it does not hold plain little-endian numbers.
        plain: It is stored in this file, as one block, without filters.
        address: Of that block; None where there is none.
        attributes: Its attribute messages.
    """

    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None
    plain: bool
    address: int | None
    attributes: tuple[bytes, ...] = field(default=(), compare=False, repr=False)

    def number(self, name: str) -> int | None:
        """The attribute of that name; None where it is damaged or no whole number."""
        for data in self.attributes:
            try:
                found, attribute = _attribute(data)
                value = _value(None, attribute) if found == name else None
            except UnfitError:
                continue
            if isinstance(value, int):
                return value
        return None


@dataclass(frozen=True)
class _Attribute:
    shared: bool
    dtype: bytes
    space: bytes
    data: bytes


class Group:
    """A group; its members are read when they are asked for.

    Attributes:
        name: Its full name.
    """

    def __init__(self, blocks: Blocks, name: str, messages: Sequence[tuple[int, bytes]]) -> None:
        self._blocks = blocks
        self._messages = messages
        self.name = name

    @cached_property
    def members(self) -> Mapping[str, int | None]:
        """The address of each member; None for a link that leads elsewhere."""
        links = [_link(data) for data in self._all(_LINK, _LINK_INFO)]
        if len(dict(links)) != len(links):
            raise UnfitError(f"{self.name} has two members of one name")
        return dict(links)

    @property
    def attributes(self) -> list[str]:
        """The names of its attributes."""
        return list(self._attributes)

    @cached_property
    def _attributes(self) -> Mapping[str, _Attribute]:
        return dict(_attribute(data) for data in self._all(_ATTRIBUTE, _ATTRIBUTE_INFO))

    def attribute(self, name: str) -> str | int | None:
        """A text or a whole number; None where there is no such attribute.

        Raises:
            UnfitError: Where it is something else.
        """
        found = self._attributes.get(name)
        if found is None:
            return None
        value = _value(self._blocks, found)
        if value is None:
            raise UnfitError(
                f"the attribute `{name}` of {self.name} is neither one text nor one whole number"
            )
        return value

    def open(self, name: str) -> "Group | Dataset | None":
        """A member; None where there is none, or it is neither group nor dataset.

        Raises:
            UnfitError: Where it is damaged, or a link that leads elsewhere.
        """
        if name not in self.members:
            return None
        address = self.members[name]
        if address is None:
            raise UnfitError(f"{self.where(name)} points elsewhere, which no cache does")
        return _object(self._blocks, address, self.where(name))

    def where(self, name: str) -> str:
        """The full name of a member."""
        return f"{self.name.rstrip('/')}/{name}"

    def _all(self, kind: int, info: int) -> Iterator[bytes]:
        """The messages of a kind, whether in the header or, where there are many, in a heap."""
        for found, data in self._messages:
            if found == kind:
                yield data
            elif found == info:
                cursor = Cursor(data)
                cursor.expect(b"\0")
                counted = cursor.number(1) & 0x01
                cursor.take((8 if info == _LINK_INFO else 2) if counted else 0)
                heap, tree = cursor.number(8), cursor.number(8)
                if heap != UNDEFINED:
                    yield from read_dense(self._blocks, heap, tree, 5 if kind == _LINK else 8)


def read_root(blocks: Blocks) -> Group:
    """The group `/` of a file.

    Raises:
        UnfitError: Where the file is not HDF5, or not the kind of HDF5 that caches are.
    """
    if not blocks.size or blocks.read(0, min(len(SIGNATURE), blocks.size)) != SIGNATURE:
        raise UnfitError("it is not an HDF5 file")
    cursor = Cursor(blocks.checked(0, _SUPERBLOCK_BYTES), len(SIGNATURE))
    version, offset_size, length_size, flags = (cursor.number(1) for _ in range(4))
    if version not in {2, 3} or (offset_size, length_size) != (8, 8):
        raise UnfitError("it is HDF5 of another kind: the metadata of a cache is as of HDF5 1.10")
    base, extension, end, root = (cursor.number(8) for _ in range(4))
    if flags or base or extension != UNDEFINED:
        raise UnfitError("it is HDF5 of another kind, or a program did not finish writing it")
    if end > blocks.size:
        raise UnfitError(f"it is truncated: {blocks.size:,} of {end:,} bytes are there")
    group = _object(blocks, root, "/")
    if not isinstance(group, Group):
        raise UnfitError("it has no root group")
    return group


def intended_size(start: bytes) -> int | None:
    """How many bytes a file should have by its first 48; None where they are not whole."""
    sound = (
        len(start) >= _SUPERBLOCK_BYTES + 4
        and start.startswith(SIGNATURE)
        and lookup3([start[:_SUPERBLOCK_BYTES]]).astype("<u4").tobytes()
        == start[_SUPERBLOCK_BYTES : _SUPERBLOCK_BYTES + 4]
    )
    return int.from_bytes(start[28:36], "little") if sound else None


def _object(blocks: Blocks, address: int, name: str) -> Group | Dataset | None:
    messages = list(_messages(blocks, address))
    kinds = {kind for kind, _ in messages}
    if _LAYOUT in kinds:
        return _dataset(messages, name)
    if kinds & {_LINK_INFO, _LINK}:
        return Group(blocks, name, messages)
    if _SYMBOL_TABLE in kinds:
        raise UnfitError(f"{name} is a group as of HDF5 1.6")
    return None


def _messages(blocks: Blocks, address: int) -> Iterator[tuple[int, bytes]]:
    """The messages in an object's header, each with its type."""
    start = Cursor(blocks.read(address, min(34, max(blocks.size - address, 0))))
    start.expect(b"OHDR\x02")
    flags = start.number(1)
    start.take((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))
    size = start.number(1 << (flags & 3))
    ordered = 2 if flags & 0x04 else 0
    chunks = [(address, start.position, size)]
    for number, (place, prefix, room) in enumerate(chunks):
        cursor = Cursor(blocks.checked(place, prefix + room), prefix)
        if number and cursor.data[:prefix] != b"OCHK":
            raise UnfitError("its metadata is damaged")
        while cursor.left >= 4 + ordered:
            kind, length, options = cursor.number(1), cursor.number(2), cursor.number(1)
            cursor.take(ordered)
            data = cursor.take(length)
            if kind == _CONTINUATION:
                there = Cursor(data)
                chunks.append((there.number(8), 4, there.number(8) - 8))
                if chunks[-1][2] < 0 or len(chunks) > _CHUNKS_LIMIT:
                    raise UnfitError("its metadata is damaged")
            elif options & 0x02 and kind in _READ:
                raise UnfitError("objects share their metadata in it, which no cache does")
            else:
                yield kind, data


def _dataset(all_messages: Sequence[tuple[int, bytes]], name: str) -> Dataset:
    messages = dict(all_messages)
    if _DATASPACE not in messages or _DATATYPE not in messages:
        raise UnfitError(f"{name} has no shape or no type")
    layout = Cursor(messages[_LAYOUT])
    version, kind = layout.number(1), layout.number(1)
    contiguous = version in {3, 4} and kind == 1
    address = layout.number(8) if contiguous else UNDEFINED
    return Dataset(
        shape=_shape(messages[_DATASPACE]),
        dtype=_number_type(messages[_DATATYPE]),
        plain=contiguous and _FILTERS not in messages and _EXTERNAL not in messages,
        address=None if address == UNDEFINED else address,
        attributes=tuple(data for kind, data in all_messages if kind == _ATTRIBUTE),
    )


def _shape(space: bytes) -> tuple[int, ...] | None:
    """A shape, `()` for a single value; None for nothing at all."""
    cursor = Cursor(space)
    version, rank, _, kind = (cursor.number(1) for _ in range(4))
    if version not in {1, 2}:
        raise UnfitError("its metadata is damaged, or of a version that no cache has")
    if version == 1:
        kind = 1
        cursor.take(4)
    return None if kind == 2 else tuple(cursor.number(8) for _ in range(rank))


FLOATS: Final[Mapping[int, tuple[int, bytes]]] = {
    # By size: flags, and offset, precision, exponent, mantissa and bias as IEEE 754 has them.
    2: (0x0F20, struct.pack("<HHBBBBI", 0, 16, 10, 5, 0, 10, 15)),
    4: (0x1F20, struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 127)),
    8: (0x3F20, struct.pack("<HHBBBBI", 0, 64, 52, 11, 0, 52, 1023)),
}


def _number_type(datatype: bytes) -> np.dtype[Any] | None:
    """A type as numpy has it; None where it is not a plain little-endian number."""
    cursor = Cursor(datatype)
    kind, flags, size = cursor.number(1) & 0x0F, cursor.number(3), cursor.number(4)
    if kind == 0 and size in {1, 2, 4, 8} and flags in {0x00, 0x08}:
        if cursor.take(4) == struct.pack("<HH", 0, 8 * size):
            return np.dtype(f"<{'i' if flags else 'u'}{size}")
    elif kind == 1 and size in FLOATS and (flags, cursor.take(12)) == FLOATS[size]:
        return np.dtype(f"<f{size}")
    return None


def _link(data: bytes) -> tuple[str, int | None]:
    cursor = Cursor(data)
    cursor.expect(b"\x01")
    flags = cursor.number(1)
    kind = cursor.number(1) if flags & 0x08 else 0
    cursor.take((8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0))
    name = cursor.take(cursor.number(1 << (flags & 3)))
    return _text(name), cursor.number(8) if kind == 0 else None


def _attribute(data: bytes) -> tuple[str, _Attribute]:
    """An attribute; of version 1 or 2 where a program has added it to the file later."""
    cursor = Cursor(data)
    version, flags = cursor.number(1), cursor.number(1)
    if version not in {1, 2, 3}:
        raise UnfitError("its metadata is damaged, or of a version that no cache has")
    sizes = [cursor.number(2) for _ in range(3)]
    cursor.take(1 if version == 3 else 0)
    pieces = []
    for size in sizes:
        pieces.append(cursor.take(size))
        cursor.take(min(-size % 8, cursor.left) if version == 1 else 0)
    shared = version > 1 and bool(flags)
    name = _text(pieces[0].rstrip(b"\0"))
    return name, _Attribute(shared, pieces[1], pieces[2], cursor.take(cursor.left))


def _value(blocks: Blocks | None, attribute: _Attribute) -> str | int | None:
    if attribute.shared or _shape(attribute.space) != ():
        return None
    data, head = Cursor(attribute.data), Cursor(attribute.dtype)
    number = _number_type(attribute.dtype)
    if number is not None and number.kind in "iu":
        return int.from_bytes(data.take(number.itemsize), "little", signed=number.kind == "i")
    kind, flags, size = head.number(1) & 0x0F, head.number(3), head.number(4)
    if kind == 3:
        return _text(data.take(size).partition(b"\0")[0])
    if kind == 9 and flags & 0x0F == 1 and blocks:
        length, address, index = data.number(4), data.number(8), data.number(4)
        return _text(read_global(blocks, address, index)[:length]) if length else ""
    return None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UnfitError("a text in its metadata is not UTF-8") from None
