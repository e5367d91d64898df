"""HDF5 files in and out: h5py makes and reads their structure, the data goes around it.

libhdf5 ends the process when a file that it holds open cannot grow. So it lays a file out in
memory, where only the metadata takes room; plain writes then put the metadata and the data on the
disk. In the same way it reads the metadata out of a memory map, and rows are views of that map.
"""

import contextlib
import io
import math
import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, SupportsIndex

import h5py
import numpy as np
from h5py import h5a, h5ac, h5d, h5f, h5g, h5o, h5p, h5s, h5t
from numpy.typing import NDArray

from mnerfeat.cache.schema import DIMENSIONS_LIMIT, TEXT_LIMIT
from mnerfeat.cache.storage import replacing
from mnerfeat.errors import CacheError, CacheFormatError

PAGE: Final = 4096
"""Datasets of this many bytes or more start at a multiple of it."""

Attributes = Mapping[str, str | int]
Buffer = mmap.mmap | bytes

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LENGTH_LIMIT = 1 << 48  # of one dimension; products of larger ones do not fit numpy
_UNPACKED_LIMIT = 64 << 20  # bytes of a compressed dataset that may always be read, and …
_RATIO_LIMIT = 1100  # … beyond that per byte of the file: gzip packs no tighter than 1,032 to 1


@dataclass(frozen=True)
class Array:
    """A dataset to write.

    Attributes:
        shape: Its shape.
        dtype: Little-endian.
        pieces: Its rows, in order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        """Wrap an array that is in memory."""
        little = array.dtype.newbyteorder("<")
        return cls(array.shape, little, [np.ascontiguousarray(array, dtype=little)])

    @property
    def size(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def has_sum(name: str) -> bool:
    """Whether a dataset has an attribute `crc32`; the rows of `data` have checksums instead."""
    return name.rpartition("/")[2] != "data"


# Writing.


def write_sealed(
    path: Path,
    attributes: Mapping[str, Attributes],
    arrays: Mapping[str, Array],
    *,
    new: bool = False,
) -> None:
    """Write an HDF5 file whole or not at all.

    Args:
        path: The file to create or replace.
        attributes: Attributes by object (`""` is the root); missing groups are made.
        arrays: Datasets by full name.
        new: Fail if the file exists instead of replacing it.

    Raises:
        FileExistsError: If the file exists and `new` is set.
        StorageError: If it cannot be written; `path` is then as it was.
    """
    image = _Image()
    layout = _Layout(image, attributes, arrays)
    with replacing(path, new=new) as file:
        file.reserve(image.end)
        for name, array in arrays.items():
            position = start = layout.offsets[name]
            sum_ = 0
            for data in array.pieces:
                piece = np.ascontiguousarray(data).data.cast("B") if data.size else b""
                if has_sum(name):
                    sum_ = zlib.crc32(piece, sum_)
                file.write(piece, position)
                position += data.nbytes
            assert position == start + array.size, f"{name}: got {position - start} bytes"
            if has_sum(name):
                layout.set_sum(name, sum_)
        layout.close()
        for offset, piece in image.pieces.items():
            file.write(piece, offset)


class _Image(io.RawIOBase):
    """A file of which only the pieces that were written take memory; libhdf5 writes into it."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self.end = 0
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0 if whence == io.SEEK_SET else self.end)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        # Texts of more than 64 KiB are written, read back and written again.
        target = memoryview(buffer).cast("B")
        target[:] = bytes(len(target))
        for offset, piece in self.pieces.items():
            start = max(offset, self._position)
            end = min(offset + len(piece), self._position + len(target))
            if start < end:
                there = piece[start - offset : end - offset]
                target[start - self._position : end - self._position] = there
        self._position += len(target)
        return len(target)

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.pieces.pop(self._position, None)  # the order is that of the last writes
        self.pieces[self._position] = piece
        self._position += len(piece)
        self.end = max(self.end, self._position)
        return len(piece)

    def truncate(self, size: int | None = None) -> int:
        self.end = self._position if size is None else size
        return self.end


class _Layout:
    """The structure of a file, laid out by libhdf5 in an image.

    All metadata comes first, so that a file which was cut off still says what it held. Datasets
    follow from the smallest to the largest.

    Attributes:
        offsets: Where the data of each dataset starts.
    """

    def __init__(
        self, image: _Image, attributes: Mapping[str, Attributes], arrays: Mapping[str, Array]
    ) -> None:
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)  # checksummed metadata
        access.set_alignment(PAGE, PAGE)
        access.set_sieve_buf_size(0)
        access.set_mdc_config(_keep_all(access.get_mdc_config()))
        access.set_fileobj_driver(h5py.h5fd.fileobj_driver, image)
        self._file = h5f.create(b"sealed", h5f.ACC_TRUNC, fapl=access)
        self._sums: dict[str, h5a.AttrID] = {}
        datasets = {name: self._dataset(name, array) for name, array in arrays.items()}
        for owner, values in attributes.items():
            self._attributes(owner, values)
        self.offsets = dict.fromkeys(arrays, 0)
        for name in sorted(arrays, key=lambda name: arrays[name].size):
            if arrays[name].size:
                self.offsets[name] = _allocate(datasets[name], arrays[name])
        h5f.flush(self._file)
        # Where an element was written to allocate its dataset, the data goes.
        for offset in self.offsets.values():
            image.pieces.pop(offset, None)
        image.end = max(
            [image.end, *(self.offsets[name] + array.size for name, array in arrays.items())]
        )

    def set_sum(self, name: str, sum_: int) -> None:
        """Set the checksum of a dataset."""
        self._sums[name].write(np.array(sum_, "<i8"))

    def close(self) -> None:
        """Write what has changed into the image."""
        self._sums.clear()
        self._file.close()

    def _dataset(self, name: str, array: Array) -> h5d.DatasetID:
        made = h5d.create(
            self._file,
            name.encode(),
            h5t.py_create(array.dtype),
            h5s.create_simple(array.shape),
            _PLAIN,
            _WITH_GROUPS,
        )
        if has_sum(name):
            self._sums[name] = h5a.create(made, b"crc32", h5t.STD_I64LE, _ONE)
        return made

    def _attributes(self, owner: str, values: Attributes) -> None:
        place = f"/{owner}".encode()
        if owner and not h5g._path_valid(self._file, place):
            h5g.create(self._file, place, _WITH_GROUPS)
        opened = h5o.open(self._file, place)
        for name, value in values.items():
            if isinstance(value, int):
                h5a.create(opened, name.encode(), h5t.STD_I64LE, _ONE).write(np.array(value, "<i8"))
                continue
            # Of fixed length: libhdf5 keeps other texts in heaps without checksums.
            data = value.encode()
            kind = h5t.C_S1.copy()
            kind.set_size(len(data) or 1)
            kind.set_cset(h5t.CSET_UTF8)
            kind.set_strpad(h5t.STR_NULLPAD)
            text = np.frombuffer(data or b"\0", f"S{len(data) or 1}").reshape(())
            h5a.create(opened, name.encode(), kind, _ONE).write(text, kind)


def _keep_all(cache: h5ac.CacheConfig) -> h5ac.CacheConfig:
    """Have libhdf5 keep all metadata in memory: by default it evicts some and reads it back."""
    cache.evictions_enabled = 0
    cache.incr_mode = cache.flash_incr_mode = cache.decr_mode = 0  # all must be off for that
    return cache


def _plain() -> h5p.PropDCID:
    plain = h5p.create(h5p.DATASET_CREATE)
    plain.set_layout(h5d.CONTIGUOUS)
    plain.set_alloc_time(h5d.ALLOC_TIME_LATE)  # after all metadata: see `_allocate`
    plain.set_fill_time(h5d.FILL_TIME_NEVER)
    plain.set_obj_track_times(False)
    return plain


def _with_groups() -> h5p.PropLCID:
    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    return links


_PLAIN: Final = _plain()
_WITH_GROUPS: Final = _with_groups()
_ONE: Final = h5s.create(h5s.SCALAR)


def _allocate(dataset: h5d.DatasetID, array: Array) -> int:
    """Have libhdf5 place a dataset by writing its first element.

    Returns:
        The offset of its data.
    """
    space = dataset.get_space()
    one = (1,) * len(array.shape)
    space.select_hyperslab((0,) * len(one), one)
    dataset.write(h5s.create_simple(one), space, np.zeros(one, array.dtype))
    return int(dataset.get_offset())


# Reading.


class StructureError(Exception):
    """A file does not hold what a file of a cache holds.

    Args:
        fault: What is wrong.
        hint: What to do about it.
    """

    def __init__(self, fault: str, hint: str | None = None) -> None:
        super().__init__(fault)
        self.hint = hint


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Name the file in which a fault lies.

    Raises:
        CacheFormatError: In place of everything that a damaged file can bring about.
    """
    hint = (
        f"check that it is a cache (`mnerfeat cache verify {path}`); `mnerfeat cache repair "
        f"{path}` keeps what is sound of a damaged one"
    )
    unreadable = f"{path} cannot be read as a feature cache"
    try:
        yield
    except StructureError as fault:
        raise CacheFormatError(f"{unreadable}: {fault}", hint=fault.hint or hint) from None
    # JSON and texts that are too deep, too long, or not UTF-8.
    except (ValueError, RecursionError, CacheError) as error:
        raise CacheFormatError(f"{unreadable}: {error}", hint=hint) from error
    except (OSError, KeyError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise CacheFormatError(f"{unreadable}: it is damaged ({error})", hint=hint) from error


def intended_size(start: bytes) -> int | None:
    """The size in bytes that a file should have by its first 48 bytes; None if they do not say."""
    if len(start) < 48 or not start.startswith(_SIGNATURE) or start[8] not in {2, 3}:
        return None
    return int.from_bytes(start[28:36], "little")


def open_root(buffer: Buffer) -> "Group":
    """Open the root group of a file in memory.

    Raises:
        StructureError: If it is not an HDF5 file, or is cut off.
        OSError: If libhdf5 finds it damaged.
    """
    start = buffer[:48]
    if not start.startswith(_SIGNATURE):
        raise StructureError("it is not an HDF5 file")
    size = intended_size(start)
    if size is None:
        raise StructureError("it is HDF5 of another kind: a cache's metadata is as of HDF5 1.10")
    if size > len(buffer):
        raise StructureError(f"it is truncated: {len(buffer):,} of {size:,} bytes are there")
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, _Mapped(buffer))
    file = h5f.open(b"sealed", h5f.ACC_RDONLY, access)
    return Group(h5g.open(file, b"/"), "", buffer)


class _Mapped(io.RawIOBase):
    """Memory as the file that libhdf5 reads: whatever is at the path by now, it is this file."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0 if whence == io.SEEK_SET else len(self._buffer))
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        piece = self._buffer[self._position : self._position + len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class Group:
    """A group of a file that may be anybody's: everything read from it is checked.

    Attributes:
        name: Its full name; empty for the root.
        arrays: The datasets that were read from this file, by full name.
    """

    def __init__(
        self,
        opened: h5g.GroupID,
        name: str,
        buffer: Buffer,
        arrays: "dict[str, NDArray[Any] | ChunkedRows] | None" = None,
    ) -> None:
        self._opened = opened
        self._buffer = buffer
        self._links: dict[bytes, int] = {}
        opened.links.iterate(self._add_link, info=True)
        self.name = name
        self.arrays = {} if arrays is None else arrays

    def members(self) -> list[str]:
        """The names of its members."""
        return [name.decode() for name in self._links]

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._links

    def group(self, name: str) -> "Group":
        """Open a member that is a group.

        Raises:
            StructureError: If there is none, or it is a link that leads elsewhere.
        """
        group = self.find_group(name)
        if group is None:
            raise StructureError(f"{self._where(name)} is missing")
        return group

    def find_group(self, name: str) -> "Group | None":
        """Open a member that is a group; None if it is not there or something else.

        Raises:
            StructureError: If it is a link that leads elsewhere.
        """
        opened = self._open(name)
        if not isinstance(opened, h5g.GroupID):
            return None
        return Group(opened, self._where(name), self._buffer, self.arrays)

    def text(self, name: str) -> str:
        """Read an attribute that is one text.

        Raises:
            StructureError: If it is missing or something else.
        """
        value = self._attribute(name)
        if isinstance(value, bytes):
            value = value.decode()
        if not isinstance(value, str):
            raise StructureError(f"the attribute `{name}` of {self.name or '/'} is not a text")
        return value

    def number(self, name: str) -> int:
        """Read an attribute that is one whole number.

        Raises:
            StructureError: If it is missing or something else.
        """
        value = self._attribute(name)
        if not isinstance(value, np.integer):
            raise StructureError(
                f"the attribute `{name}` of {self.name or '/'} is not a whole number"
            )
        return int(value)

    def sum_of(self, name: str) -> int | None:
        """The checksum that a dataset should have, by its full name; None if it has none."""
        dataset = h5o.open(self._opened, name.encode())
        if not h5a.exists(dataset, b"crc32"):
            return None
        value = np.zeros((), "<i8")
        h5a.open(dataset, b"crc32").read(value)
        return int(value)

    def array(self, name: str, code: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Read a dataset: as a view of the file if it lies there in one block.

        Args:
            name: The dataset.
            code: Its type, as numpy writes it.
            shape: Its shape; None stands for any length.

        Raises:
            StructureError: If it is missing, of another type or shape, or not inside the file.
        """
        where = self._where(name)
        dataset, got, dtype = self._dataset(name, (code,))
        if len(got) != len(shape) or any(
            wanted not in {None, length} for length, wanted in zip(got, shape, strict=True)
        ):
            raise StructureError(f"{where} has shape {got}, not {shape}")
        if offset := dataset.get_offset():
            array = self._view(got, dtype, offset, where)
        else:
            _chunk_shape(dataset, dtype, where)
            array = self._unpacked(dataset, got, dtype, where)
        # Look-up tables and the like: what numpy does with numbers that lie askew is slow.
        array = array if array.flags.aligned else array.copy()
        self.arrays[where] = array
        return array

    def rows(
        self, name: str, codes: tuple[str, ...], n_rows: int
    ) -> "tuple[NDArray[Any] | ChunkedRows, int | None]":
        """Read a dataset of rows, which may be too large for memory.

        Args:
            name: The dataset.
            codes: The types that it may have.
            n_rows: Its number of rows.

        Returns:
            The rows, as a view of the file or, if they are chunked or compressed, through h5py;
            and where in the file they start, None if they are not there in one block.

        Raises:
            StructureError: As `array` does.
        """
        where = self._where(name)
        dataset, shape, dtype = self._dataset(name, codes)
        if len(shape) < 1 or shape[0] != n_rows:
            raise StructureError(f"{where} has shape {shape}, not ({n_rows}, …)")
        data: NDArray[Any] | ChunkedRows
        offset = dataset.get_offset()
        if offset is not None:
            data = self._view(shape, dtype, offset, where)
        elif (chunk := _chunk_shape(dataset, dtype, where)) is not None:
            data = ChunkedRows(dataset, chunk[0], where)
        else:
            data = self._unpacked(dataset, shape, dtype, where)
        self.arrays[where] = data
        return data, offset

    def _where(self, name: str) -> str:
        return f"{self.name}/{name}"

    def _open(self, name: str) -> Any:
        key = name.encode()
        if key not in self._links:
            return None
        if self._links[key] != h5py.h5l.TYPE_HARD:
            raise StructureError(f"{self._where(name)} points elsewhere, which no cache does")
        return h5o.open(self._opened, key)

    def _add_link(self, name: bytes, info: h5py.h5l.LinkInfo) -> None:
        self._links[name] = info.type

    def _attribute(self, name: str) -> object:
        key = name.encode()
        if not h5a.exists(self._opened, key):
            return None
        attribute = h5a.open(self._opened, key)
        dtype = attribute.dtype
        single = attribute.get_storage_size() == dtype.itemsize or attribute.shape == ()
        if not single or dtype.itemsize > TEXT_LIMIT:
            return None
        if dtype.kind not in "Siu":  # version 1 has texts of variable length
            return h5py.AttributeManager(h5py.Group(self._opened))[name]
        value = np.empty((), dtype)
        attribute.read(value)
        return value[()]

    def _dataset(
        self, name: str, codes: tuple[str, ...]
    ) -> tuple[h5d.DatasetID, tuple[int, ...], np.dtype[Any]]:
        where = self._where(name)
        dataset = self._open(name)
        if not isinstance(dataset, h5d.DatasetID):
            raise StructureError(f"{where} is missing")
        shape, dtype = dataset.shape, dataset.dtype
        if dtype.str not in codes:
            raise StructureError(f"{where} holds {dtype}, not {' or '.join(codes)}")
        if shape is None or len(shape) > DIMENSIONS_LIMIT or max(shape, default=0) > _LENGTH_LIMIT:
            raise StructureError(f"{where} has shape {shape}")
        return dataset, shape, dtype

    def _view(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, where: str
    ) -> NDArray[Any]:
        count = math.prod(shape)
        if count and offset + count * dtype.itemsize > len(self._buffer):
            raise StructureError(f"{where} lies outside the file: it is truncated")
        if count == 0:
            return np.zeros(shape, dtype)
        return np.frombuffer(self._buffer, dtype, count, offset).reshape(shape)

    def _unpacked(
        self, dataset: h5d.DatasetID, shape: tuple[int, ...], dtype: np.dtype[Any], where: str
    ) -> NDArray[Any]:
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.zeros(shape, dtype)
        if not dataset.get_storage_size():
            raise StructureError(f"{where} lies outside the file: it is truncated")
        if size > max(_UNPACKED_LIMIT, _RATIO_LIMIT * len(self._buffer)):
            raise StructureError(f"{where} would take {size:,} bytes")
        return np.asarray(h5py.Dataset(dataset)[()])


class ChunkedRows:
    """Rows that are chunked or compressed: h5py reads them, whole chunks at a time.

    Attributes:
        shape: (n, …).
        dtype: Of the numbers.
    """

    def __init__(self, dataset: h5d.DatasetID, step: int, where: str) -> None:
        self._dataset = h5py.Dataset(dataset)
        self._step = step
        self._where = where
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def __getitem__(self, rows: slice | NDArray[Any]) -> NDArray[Any]:
        """Read rows by a slice, by row numbers, or by a mask.

        Raises:
            CacheFormatError: If a chunk is damaged.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self.take(np.arange(start, stop, step)) if step != 1 else self._read(start, stop)
        return self.take(np.flatnonzero(rows) if rows.dtype == bool else rows)

    def take(self, rows: NDArray[np.integer[Any]], axis: SupportsIndex = 0) -> NDArray[Any]:
        """Read rows by their numbers; `axis` is there because arrays have it."""
        assert axis == 0
        taken = np.zeros((len(rows), *self.shape[1:]), self.dtype)
        chunks = rows // self._step
        order = np.argsort(chunks, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
            if len(group):
                start = int(chunks[group[0]]) * self._step
                taken[group] = self._read(start, start + self._step)[rows[group] - start]
        return taken

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.asarray(self._dataset[start : max(start, stop)])
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise CacheFormatError(
                f"{self._where} cannot be read: {error}", hint="`mnerfeat cache repair`"
            ) from error


def _chunk_shape(
    dataset: h5d.DatasetID, dtype: np.dtype[Any], where: str
) -> tuple[int, ...] | None:
    """The shape of a chunk; None if the dataset is not chunked.

    Raises:
        StructureError: If its data lies in other files, or a filter is needed that libhdf5 lacks.
    """
    how = dataset.get_create_plist()
    layout = how.get_layout()
    if layout == h5d.VIRTUAL or how.get_external_count():
        raise StructureError(f"{where} is not stored in this file")
    if layout != h5d.CHUNKED:
        return None
    if any(how.get_filter(i)[0] not in _FILTERS for i in range(how.get_nfilters())):
        raise StructureError(f"{where} is compressed by a filter other than gzip and lzf")
    chunk: tuple[int, ...] = how.get_chunk()
    if math.prod(chunk) * dtype.itemsize > _UNPACKED_LIMIT:
        raise StructureError(f"{where} has chunks of shape {chunk}")
    return chunk


_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, 32000}
