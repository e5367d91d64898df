"""Where HDF5 keeps texts, and the members of groups that have many: heaps and B-trees."""

from collections.abc import Iterator

from mnerfeat.cache.hdf5_blocks import UNDEFINED, Blocks, Cursor, UnfitError


def read_global(blocks: Blocks, address: int, index: int) -> bytes:
    """An object of the global heap collection at `address`."""
    head = Cursor(blocks.read(address, 16))
    head.expect(b"GCOL\x01\0\0\0")
    cursor = Cursor(blocks.read(address, head.number(8)), 16)
    while cursor.left >= 16:
        number, _, length = cursor.number(2), cursor.number(6), cursor.number(8)
        if number == 0:
            break
        data = cursor.take(length)
        if number == index:
            return data
        cursor.take(min(-length % 8, cursor.left))
    raise UnfitError("a text in its metadata is missing")


def read_dense(blocks: Blocks, heap: int, tree: int, kind: int) -> list[bytes]:
    """The messages that an object keeps in a fractal heap.

    Args:
        blocks: Of the file.
        heap: Its address.
        tree: The address of the version 2 B-tree that lists what is in it.
        kind: Of the tree's records: 5 for links by name, 8 for attributes by name.
    """
    opened = _FractalHeap(blocks, heap)
    before = 4 if kind == 5 else 0  # a link's record begins with the hash of its name
    return [
        opened.read(record[before : before + opened.id_size])
        for record in _records(blocks, tree, kind)
    ]


class _FractalHeap:
    """A heap of small objects, in direct blocks that grow by the row of a doubling table."""

    def __init__(self, blocks: Blocks, address: int) -> None:
        self._blocks = blocks
        self._address = address
        cursor = Cursor(blocks.checked(address, 142))
        cursor.expect(b"FRHP\0")
        self.id_size, filters, flags = cursor.number(2), cursor.number(2), cursor.number(1)
        self._has_checksums = bool(flags & 0x02)
        largest = cursor.number(4)
        cursor.take(96)  # huge and tiny objects, free space, counts
        self._width, self._start, direct = cursor.number(2), cursor.number(8), cursor.number(8)
        bits = cursor.number(2)
        cursor.take(2)
        self._root, rows = cursor.number(8), cursor.number(2)
        powers = all(n and not n & (n - 1) for n in (self._start, direct, self._width))
        if filters or not powers or not self._start <= direct <= 1 << 20 or bits > 64:
            raise UnfitError("a group is stored in a way that no cache has")
        self._offset_size = (bits + 7) // 8
        self._length_size = min(
            (direct.bit_length() + 6) // 8, (max(largest, 1).bit_length() - 1) // 8 + 1
        )
        self._direct_rows = direct.bit_length() - self._start.bit_length() + 2
        self._opened: dict[int, bytes] = {}
        self._places = self._indirect(rows) if rows else [(0, self._start, self._root)]

    def _indirect(self, rows: int) -> list[tuple[int, int, int]]:
        """Offset, size and address of each direct block that the root lists."""
        if rows > self._direct_rows:
            raise UnfitError("a group has more members than in any cache")
        size = 13 + self._offset_size + 8 * rows * self._width
        cursor = Cursor(self._blocks.checked(self._root, size))
        cursor.expect(b"FHIB\0" + self._address.to_bytes(8, "little"))
        cursor.take(self._offset_size)
        places, offset = [], 0
        for row in range(rows):
            block = self._start << max(row - 1, 0)
            for _ in range(self._width):
                places.append((offset, block, cursor.number(8)))
                offset += block
        return places

    def read(self, heap_id: bytes) -> bytes:
        """The object that an ID names."""
        cursor = Cursor(heap_id)
        if cursor.number(1) != 0:
            raise UnfitError("a member of a group is stored in a way that no cache has")
        offset, length = cursor.number(self._offset_size), cursor.number(self._length_size)
        for number, (start, size, address) in enumerate(self._places):
            if start <= offset and offset + length <= start + size and address != UNDEFINED:
                block = self._block(number)
                return block[offset - start : offset - start + length]
        raise UnfitError("a member of a group is missing")

    def _block(self, number: int) -> bytes:
        start, size, address = self._places[number]
        block = self._opened.get(number)
        if block is None:
            block = self._opened[number] = self._blocks.read(address, size)
            cursor = Cursor(block)
            cursor.expect(b"FHDB\0" + self._address.to_bytes(8, "little"))
            if cursor.number(self._offset_size) != start:
                raise UnfitError("its metadata is damaged")
            if self._has_checksums:
                at = cursor.position
                self._blocks.promise(block[:at] + bytes(4) + block[at + 4 :], block[at : at + 4])
        return block


def _records(blocks: Blocks, address: int, kind: int) -> Iterator[bytes]:
    """The records of a version 2 B-tree of one or two levels, in no particular order."""
    cursor = Cursor(blocks.checked(address, 34))
    cursor.expect(b"BTHD\0" + bytes([kind]))
    node_size, size, depth = cursor.number(4), cursor.number(2), cursor.number(2)
    cursor.take(2)
    root, count = cursor.number(8), cursor.number(2)
    if root == UNDEFINED:
        return
    if depth > 1 or not 0 < size <= node_size <= 1 << 16:
        raise UnfitError("a group has more members than in any cache")
    leaves = [(root, count)]
    if depth == 1:
        width = (max((node_size - 10) // size, 1).bit_length() - 1) // 8 + 1
        head = 6 + count * size + (count + 1) * (8 + width)
        if head > node_size:
            raise UnfitError("its metadata is damaged")
        node = Cursor(blocks.checked(root, head))
        node.expect(b"BTIN\0" + bytes([kind]))
        yield from (node.take(size) for _ in range(count))
        leaves = [(node.number(8), node.number(width)) for _ in range(count + 1)]
    for place, length in leaves:
        if 10 + length * size > node_size:
            raise UnfitError("its metadata is damaged")
        leaf = Cursor(blocks.checked(place, 6 + length * size))
        leaf.expect(b"BTLF\0" + bytes([kind]))
        yield from (leaf.take(size) for _ in range(length))
