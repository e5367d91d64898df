"""The metadata of an HDF5 file, as bytes: groups, texts, numbers, and where datasets will lie.

libhdf5 could lay the file out, too, but it scatters the metadata among the data and takes eight
times the room and the time. Here all of it stands at the beginning: opening a file costs one read
of a cold disk, and a file that was cut off still tells what it held. The tests read everything
that is written here with libhdf5, which is the judge of it.

Source: HDF5 File Format Specification, version 3.0: superblock 3, object headers 2.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mnerfeat.cache.hdf5 import FLOATS, SIGNATURE
from mnerfeat.cache.hdf5_blocks import UNDEFINED, lookup3

PAGE: Final = 4096
"""Datasets of this many bytes or more start at a multiple of it, others at one of `SMALL`."""

SMALL: Final = 64

Attributes = Mapping[str, str | int]

_HEAP_BYTES = 4096  # the least that libhdf5 takes for a collection of texts
_HEAP_FULL = 1 << 16  # start another collection beyond this

_GROUP_MESSAGES = (
    (0x02, struct.pack("<BBQQ", 0, 0, UNDEFINED, UNDEFINED)),  # link info: all are compact
    (0x0A, bytes(2)),  # group info: nothing unusual
)
_ONE_VALUE = bytes([2, 0, 0, 0])  # the dataspace of a single value
_INT64 = struct.pack("<B3sI", 0x10, b"\x08\0\0", 8) + struct.pack("<HH", 0, 64)
# A UTF-8 text of any length: 16 bytes that say where it is; made of single characters.
_TEXT = struct.pack("<B3sI", 0x19, b"\x01\x01\0", 16) + struct.pack("<B3sI", 0x13, b"\x10\0\0", 1)
_NEVER_FILLED = bytes([3, 0x05])  # space taken at once, no fill value written


@dataclass(frozen=True)
class Slot:
    """A dataset to be placed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """In bytes."""
        count = self.dtype.itemsize
        for length in self.shape:
            count *= length
        return count


@dataclass
class _Node:
    """A group or a dataset on its way into the file."""

    slot: Slot | None = None
    members: "dict[str, _Node]" = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    address: int = 0
    data: int = UNDEFINED


@dataclass(frozen=True)
class Plan:
    """A file before its datasets.

    Attributes:
        metadata: Its first bytes.
        offsets: Where each dataset goes; 0 for an empty one, which goes nowhere.
        size: Of the whole file.
    """

    metadata: bytes
    offsets: Mapping[str, int]
    size: int


def plan(attributes: Mapping[str, Attributes], slots: Mapping[str, Slot]) -> Plan:
    """Place groups, attributes and datasets in a file.

    Args:
        attributes: By object (`""` is the root), the attributes it carries. Groups that are
            named here or contain a dataset are made.
        slots: By full name.
    """
    root = _tree(attributes, slots)
    nodes = list(_walk(root))
    texts = _Texts(nodes)
    position = 48
    for node in nodes:
        node.address = position
        position = _up(position + len(_header(node, texts)) + 4, 8)
    position = texts.place(position)
    offsets = dict.fromkeys(slots, 0)
    named = [(name, slot, _find(root, name)) for name, slot in slots.items() if slot.size]
    for large in (False, True):  # the small ones fill no pages of their own
        for name, slot, node in named:
            if (slot.size >= PAGE) == large:
                position = _up(position, PAGE if large else SMALL)
                node.data = offsets[name] = position
                position += slot.size
    superblock = SIGNATURE + struct.pack(
        "<BBBBQQQQ", 3, 8, 8, 0, 0, UNDEFINED, position, root.address
    )
    blocks = {0: superblock, **{node.address: _header(node, texts) for node in nodes}}
    sums = lookup3(list(blocks.values())).astype("<u4")
    metadata = bytearray(texts.end)
    for (address, block), sum_ in zip(blocks.items(), sums, strict=True):
        metadata[address : address + len(block) + 4] = block + sum_.tobytes()
    for address, collection in texts.collections().items():
        metadata[address : address + len(collection)] = collection
    return Plan(bytes(metadata), offsets, position)


def _tree(attributes: Mapping[str, Attributes], slots: Mapping[str, Slot]) -> _Node:
    root = _Node()
    for name, slot in slots.items():
        _find(root, name).slot = slot
    for name, values in attributes.items():
        _find(root, name).attributes = values
    return root


def _find(root: _Node, name: str) -> _Node:
    node = root
    for step in filter(None, name.split("/")):
        node = node.members.setdefault(step, _Node())
    return node


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for member in node.members.values():
        yield from _walk(member)


def _header(node: _Node, texts: "_Texts") -> bytes:
    """An object header without its checksum; the addresses in it do not change its length."""
    messages = [*_GROUP_MESSAGES] if node.slot is None else [*_dataset(node.slot, node.data)]
    for name, member in node.members.items():
        encoded = name.encode()
        link = struct.pack("<BBBI", 1, 0x12, 1, len(encoded)) + encoded
        messages.append((0x06, link + struct.pack("<Q", member.address)))
    for name, value in node.attributes.items():
        dtype = _TEXT if isinstance(value, str) else _INT64
        data = texts.where(value) if isinstance(value, str) else struct.pack("<q", value)
        encoded = name.encode() + b"\0"
        sizes = struct.pack("<BBHHHB", 3, 0, len(encoded), len(dtype), len(_ONE_VALUE), 1)
        messages.append((0x0C, sizes + encoded + dtype + _ONE_VALUE + data))
    body = b"".join(struct.pack("<BHB", kind, len(data), 0) + data for kind, data in messages)
    return b"OHDR" + struct.pack("<BBI", 2, 0x02, len(body)) + body


def _dataset(slot: Slot, address: int) -> Iterator[tuple[int, bytes]]:
    rank = len(slot.shape)
    yield 0x01, struct.pack(f"<BBBB{rank}Q", 2, rank, 0, 1, *slot.shape)
    yield 0x03, _datatype(slot.dtype)
    yield 0x05, _NEVER_FILLED
    yield 0x08, struct.pack("<BBQQ", 3, 1, address, slot.size)


def _datatype(dtype: np.dtype[Any]) -> bytes:
    if dtype.kind == "f":
        flags, properties = FLOATS[dtype.itemsize]
        return struct.pack("<B3sI", 0x11, flags.to_bytes(3, "little"), dtype.itemsize) + properties
    flags = 0x08 if dtype.kind == "i" else 0
    head = struct.pack("<B3sI", 0x10, flags.to_bytes(3, "little"), dtype.itemsize)
    return head + struct.pack("<HH", 0, 8 * dtype.itemsize)


class _Texts:
    """The texts of all attributes, in global heap collections."""

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self._collections: list[list[bytes]] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._addresses: list[int] = []
        self.end = 0
        room = 0
        for value in (value for node in nodes for value in node.attributes.values()):
            if isinstance(value, str) and value and value not in self._places:
                data = value.encode()
                size = 16 + _up(len(data), 8)
                if room < size:
                    self._collections.append([])
                    room = _HEAP_FULL
                room -= size
                self._collections[-1].append(data)
                self._places[value] = (len(self._collections) - 1, len(self._collections[-1]))
        self._sizes = [
            max(_HEAP_BYTES, 16 + sum(16 + _up(len(text), 8) for text in texts))
            for texts in self._collections
        ]

    def where(self, text: str) -> bytes:
        """What an attribute holds in place of a text; zeros as long as nothing is placed."""
        if text not in self._places or not self._addresses:
            return bytes(16)
        collection, index = self._places[text]
        return struct.pack("<IQI", len(text.encode()), self._addresses[collection], index)

    def place(self, position: int) -> int:
        """Put all collections at `position`; where the next thing may begin."""
        for size in self._sizes:
            self._addresses.append(position)
            position += size
        self.end = position
        return position

    def collections(self) -> dict[int, bytes]:
        """Each collection by its address."""
        return {
            address: self._encode(texts, size)
            for address, texts, size in zip(
                self._addresses, self._collections, self._sizes, strict=True
            )
        }

    @staticmethod
    def _encode(texts: Sequence[bytes], size: int) -> bytes:
        data = b"GCOL" + struct.pack("<BxxxQ", 1, size)
        for index, text in enumerate(texts, start=1):
            data += struct.pack("<HHxxxxQ", index, 1, len(text)) + text + bytes(-len(text) % 8)
        if size - len(data) >= 16:
            data += struct.pack("<HHxxxxQ", 0, 0, size - len(data))
        return data.ljust(size, b"\0")


def _up(position: int, multiple: int) -> int:
    return -(-position // multiple) * multiple
