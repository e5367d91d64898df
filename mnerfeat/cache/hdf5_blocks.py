"""Blocks of HDF5 metadata: read within bounds, counted, and checksummed."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

UNDEFINED: Final = 2**64 - 1
"""The address of what has no place in the file."""

BLOCK_LIMIT: Final = 1 << 20
"""Bytes of one block at most. A longer one would cost a reader time, and no cache needs it."""

_TOTAL_LIMIT = 1 << 24  # bytes of all blocks read from one file


class UnfitError(Exception):
    """Something in a file that must not be there; `sealed` makes a CacheFormatError of it."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


class Cursor:
    """Reads little-endian numbers one after the other, and never past the end."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return len(self.data) - self.position

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.position + size
        if end > len(self.data):
            raise UnfitError("its metadata is cut short")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, size: int) -> int:
        """The next number of `size` bytes, unsigned."""
        return int.from_bytes(self.take(size), "little")

    def expect(self, wanted: bytes) -> None:
        """Go past these bytes."""
        if self.take(len(wanted)) != wanted:
            raise UnfitError("its metadata is damaged, or of a version that no cache has")


class Blocks:
    """The blocks of one file that were read so far.

    Args:
        data: The file, as anything that slices to bytes.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self.size = len(data)
        self._spent = 0
        self._read: dict[tuple[int, int], bytes] = {}
        self._checked: list[tuple[bytes, bytes]] = []

    def read(self, address: int, size: int) -> bytes:
        """Bytes that have no checksum of their own."""
        block = self._read.get((address, size))
        if block is None:
            self._spent += size
            if size > BLOCK_LIMIT or self._spent > _TOTAL_LIMIT:
                raise UnfitError("it has more metadata than any cache")
            if address + size > self.size:
                raise UnfitError("its metadata lies outside the file: it is truncated")
            block = self._read[address, size] = bytes(self._data[address : address + size])
        return block

    def checked(self, address: int, size: int) -> bytes:
        """`size` bytes that are followed by their checksum."""
        block = self.read(address, size + 4)
        self.promise(block[:-4], block[-4:])
        return block[:-4]

    def promise(self, block: bytes, checksum: bytes) -> None:
        """Remember that `block` must have this checksum."""
        self._checked.append((block, checksum))

    def verify(self) -> None:
        """Compare all checksums seen so far; together, since one by one is slow in Python.

        Raises:
            UnfitError: Where one does not match.
        """
        sums = lookup3([block for block, _ in self._checked])
        if sums.astype("<u4").tobytes() != b"".join(checksum for _, checksum in self._checked):
            raise UnfitError("its metadata does not match its checksums: it is damaged")
        self._checked.clear()


_Words = NDArray[np.uint32]


def lookup3(blocks: Sequence[bytes]) -> _Words:
    """The checksums that HDF5 gives to blocks of metadata.

    This is the hash of Jenkins (2006), lookup3, function `hashlittle`, with start value 0.

    Args:
        blocks: None of them empty.

    Returns:
        (n,) uint32.
    """
    lengths = np.array([len(block) for block in blocks], np.int64)
    # Longest first: those that still have words to mix are then always the first few.
    order = np.argsort(-lengths, kind="stable")
    padded = [block + bytes(-len(block) % 12) for block in blocks]
    words = np.frombuffer(b"".join(padded), "<u4").astype(np.uint32)
    sizes = np.array([len(block) // 4 for block in padded], np.int64)
    start = (np.cumsum(sizes) - sizes)[order]
    rounds = ((lengths - 1) // 12)[order]
    a, b, c = (lengths[order].astype(np.uint32) + np.uint32(0xDEADBEEF) for _ in range(3))
    for number in range(int(rounds[0]) if len(rounds) else 0):
        live = int(np.searchsorted(-rounds, -number))
        at = start[:live] + 3 * number
        mixed = _mix(a[:live] + words[at], b[:live] + words[at + 1], c[:live] + words[at + 2])
        a[:live], b[:live], c[:live] = mixed
    last = start + 3 * rounds
    sums = np.empty(len(blocks), np.uint32)
    sums[order] = _finish(a + words[last], b + words[last + 1], c + words[last + 2])
    return sums


def _turn(value: _Words, bits: int) -> _Words:
    turned: _Words = value << np.uint32(bits) | value >> np.uint32(32 - bits)
    return turned


def _mix(a: _Words, b: _Words, c: _Words) -> tuple[_Words, _Words, _Words]:
    for bits in ((4, 6, 8), (16, 19, 4)):
        a = (a - c) ^ _turn(c, bits[0])
        c = c + b
        b = (b - a) ^ _turn(a, bits[1])
        a = a + c
        c = (c - b) ^ _turn(b, bits[2])
        b = b + a
    return a, b, c


def _finish(a: _Words, b: _Words, c: _Words) -> _Words:
    c = (c ^ b) - _turn(b, 14)
    a = (a ^ c) - _turn(c, 11)
    b = (b ^ a) - _turn(a, 25)
    c = (c ^ b) - _turn(b, 16)
    a = (a ^ c) - _turn(c, 4)
    b = (b ^ a) - _turn(a, 14)
    return (c ^ b) - _turn(b, 24)
