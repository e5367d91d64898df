"""Features in files of other programs: HDF5, npy, npz, safetensors and parquet.

The functions here run in a child process (`mnerfeat.cache.untrusted`), because the files may be
anybody's. Nothing in a file is ever unpickled.

A file holds features in one of two layouts: a dataset (array, column) with a row for each image, or
a group with a dataset for each image, whose names are the images' names.
"""

import contextlib
import importlib
import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.schema import DIMENSIONS_LIMIT, FEATURE_DTYPES
from mnerfeat.errors import CacheError, CacheFormatError

PIECE_BYTES: Final = 8 << 20
"""Size of the pieces in which rows are read."""

_CHUNK_CACHE: Final = 128 << 20  # bytes; the chunks of a piece should be unpacked once
_LISTED = 30  # datasets named in an error
_CONVERTED: Final = {"float64": "float32", "bfloat16": "float32", "bool": "uint8"}


@dataclass(frozen=True)
class _Dataset:
    """A dataset, an array or a column of a file.

    Attributes:
        shape: (n, …).
        dtype: Its name, as numpy (or safetensors, for bfloat16) calls it.
        read: Yields its rows in order, in pieces of the given number of rows.
        texts: Returns its rows as texts; None if it holds numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[int], Iterator[NDArray[Any]]]
    texts: Callable[[], list[str]] | None = None


@dataclass(frozen=True)
class _Source:
    """An open file.

    Attributes:
        datasets: All of its datasets by name. Those of a group share the start of their names.
        only: Whether it is an array without a name.
    """

    datasets: Mapping[str, _Dataset]
    only: bool = False


def inspect_features(path: str, data: str, names: str | None) -> dict[str, Any]:
    """Describe the features that a file holds, without reading them.

    Args:
        path: The file.
        data: The dataset or the group that holds the rows; `/` is the whole file.
        names: The dataset that holds the images' names, if it is in the file.

    Returns:
        `rows`, `row_shape`, `stored` (type in the file), `dtype` (type in the cache) and `names`
        (None if they are not in the file).

    Raises:
        CacheError: With everything that is wrong, as faults.
        CacheFormatError: If the file is damaged or of another format.
    """
    with _open(path) as source:
        columns, keys = _find(path, source, data)
        first = columns[0]
        row_shape = first.shape if keys is not None else first.shape[1:]
        dtype = _CONVERTED.get(first.dtype, first.dtype)
        faults = list(_faults(columns, keys, data, row_shape, dtype))
        texts = keys
        if names is not None and keys is not None:
            faults.append(f"{data} is a group with a dataset for each image; it needs no names")
        elif names is not None:
            named = source.datasets.get(names.strip("/"))
            if named is None:
                faults.append(f"there is no dataset (and no text file) {names}; {_listing(source)}")
            elif named.texts is None or len(named.shape) != 1:
                faults.append(f"{names} holds {_kind(named)}; wanted a text for each row")
            else:
                texts = named.texts()
        if faults:
            raise CacheError(f"{path} cannot be imported:", faults=faults)
        return {
            "rows": first.shape[0] if keys is None else len(columns),
            "row_shape": list(row_shape),
            "stored": first.dtype,
            "dtype": dtype,
            "names": texts,
        }


def _faults(
    columns: Sequence["_Dataset"],
    keys: Sequence[str] | None,
    data: str,
    row_shape: tuple[int, ...],
    dtype: str,
) -> Iterator[str]:
    kinds = Counter(_kind(column) for column in columns)
    if len(kinds) > 1:
        counts = ", ".join(f"{count:,} of {kind}" for kind, count in kinds.most_common(5))
        yield f"the datasets in {data} differ: {counts}"
    if dtype not in {kind.name for kind in FEATURE_DTYPES}:
        yield f"{data} holds {dtype}; wanted numbers that the cache can store"
    if keys is None and not columns[0].shape:
        yield f"{data} is a single value; wanted a row for each image"
    if -1 in row_shape:
        yield f"the rows of {data} differ in length"
    if len(row_shape) >= DIMENSIONS_LIMIT:
        yield f"a row of {data} has {len(row_shape)} dimensions; {DIMENSIONS_LIMIT - 1} fit"


def read_features(path: str, data: str) -> Iterator[NDArray[Any]]:
    """Yield the rows of a file in pieces, in the type that the cache stores them in.

    Args:
        path: The file.
        data: As for `inspect_features`.
    """
    with _open(path) as source:
        columns, keys = _find(path, source, data)
        first = columns[0]
        dtype = np.dtype(_CONVERTED.get(first.dtype, first.dtype)).newbyteorder("<")
        row_shape = first.shape if keys is not None else first.shape[1:]
        step = max(1, PIECE_BYTES // max(1, 8 * math.prod(row_shape)))
        pieces: Iterator[NDArray[Any]]
        if keys is not None:
            pieces = (
                np.stack([_whole(column) for column in columns[start : start + step]])
                for start in range(0, len(columns), step)
            )
        else:
            pieces = first.read(step)
        for piece in pieces:
            with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite
                yield piece.astype(dtype, copy=False)


def _whole(column: _Dataset) -> NDArray[Any]:
    if column.shape and column.shape[0]:
        return np.concatenate(list(column.read(column.shape[0])))
    return next(column.read(1)).reshape(column.shape)


def _find(path: str, source: _Source, data: str) -> tuple[Sequence[_Dataset], list[str] | None]:
    """Return the datasets that hold the rows; and, if there is one for each image, their names."""
    if source.only:
        return list(source.datasets.values()), None
    key = data.strip("/")
    if key in source.datasets:
        return [source.datasets[key]], None
    start = f"{key}/" if key else ""
    members = {name: found for name, found in source.datasets.items() if name.startswith(start)}
    if not members:
        raise CacheError(
            f"{path} holds no dataset {data}; {_listing(source)}",
            hint="name the dataset that holds the rows: `--data NAME`",
        )
    return list(members.values()), [name.removeprefix(start) for name in members]


def _kind(dataset: _Dataset) -> str:
    return f"{'×'.join(map(str, dataset.shape)) or 'one'} {dataset.dtype}"


def _listing(source: _Source) -> str:
    if source.only:
        return "it holds one array without a name"
    shown = [f"{name} ({_kind(found)})" for name, found in source.datasets.items()]
    more = f" and {len(shown) - _LISTED:,} more" if len(shown) > _LISTED else ""
    return f"it holds {', '.join(shown[:_LISTED]) or 'none'}{more}"


@contextlib.contextmanager
def _open(path: str) -> Iterator[_Source]:
    """Open a file by what it starts with, whatever its suffix."""
    with Path(path).open("rb") as file:
        start = file.read(8)
    if start.startswith(b"\x93NUMPY"):
        yield _open_npy(path)
    elif start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            yield _open_npz(path, archive)
    elif start.startswith(b"PAR1"):
        with _arrow("pyarrow.parquet").ParquetFile(path) as file:
            yield _open_parquet(file)
    elif h5py.is_hdf5(path):
        with h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE) as file:
            yield _open_hdf5(file)
    else:
        yield _open_safetensors(path, start)


def _open_hdf5(file: h5py.File) -> _Source:
    found: dict[str, _Dataset] = {}

    def visit(name: str, thing: object) -> None:  # links to other files are not followed
        if isinstance(thing, h5py.Dataset):
            found[name] = _of_hdf5(name, thing)

    file.visititems(visit)
    return _Source(found)


def _of_hdf5(name: str, dataset: h5py.Dataset) -> _Dataset:
    shape = dataset.shape or ()

    def check() -> None:
        if dataset.is_virtual or dataset.external:
            raise CacheFormatError(f"{dataset.file.filename}: {name} is stored in other files")

    def read(step: int) -> Iterator[NDArray[Any]]:
        check()
        if not shape or not shape[0]:
            yield np.asarray(dataset[()])
            return
        if dataset.chunks:  # whole chunks, so that each is unpacked once
            step = max(step // dataset.chunks[0], 1) * dataset.chunks[0]
        for start in range(0, shape[0], step):
            yield np.asarray(dataset[start : start + step])

    def texts() -> list[str]:
        check()
        return [_text(value) for value in dataset[()].tolist()]

    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    dtype = "text" if is_text else dataset.dtype.name
    return _Dataset(shape, dtype, read, texts if is_text else None)


def _open_npy(path: str) -> _Source:
    array = np.load(path, mmap_mode="r", allow_pickle=False)

    def read(step: int) -> Iterator[NDArray[Any]]:
        for start in range(0, len(array), step):
            yield np.asarray(array[start : start + step])

    return _Source({"": _Dataset(array.shape, array.dtype.name, read)}, only=True)


def _open_npz(path: str, archive: zipfile.ZipFile) -> _Source:
    members = [name for name in archive.namelist() if name.endswith(".npy")]
    if not members:
        raise CacheFormatError(
            f"{path} is a zip archive without arrays (a file of `torch.save` is one, too)",
            hint="save the features with `safetensors.torch.save_file` or `numpy.savez`",
        )
    return _Source({name.removesuffix(".npy"): _of_npz(archive, name) for name in members})


def _of_npz(archive: zipfile.ZipFile, member: str) -> _Dataset:
    with archive.open(member) as file:
        shape, fortran, dtype = _npy_header(file, member)
    if dtype.hasobject:
        return _Dataset(shape, "object (Python pickles, which are never read)", _no_rows)
    row_bytes = dtype.itemsize * math.prod(shape[1:])

    def whole() -> NDArray[Any]:
        with archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def read(step: int) -> Iterator[NDArray[Any]]:
        if fortran or not shape or not row_bytes:
            array = whole()
            yield array
            return
        with archive.open(member) as file:
            _npy_header(file, member)
            for start in range(0, shape[0], step):
                count = min(step, shape[0] - start)
                content = file.read(count * row_bytes)
                if len(content) < count * row_bytes:
                    raise CacheFormatError(f"{archive.filename}: {member} is cut off")
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    def texts() -> list[str]:
        return [_text(value) for value in whole().tolist()]

    is_text = dtype.kind in "US"
    return _Dataset(shape, "text" if is_text else dtype.name, read, texts if is_text else None)


def _no_rows(step: int) -> Iterator[NDArray[Any]]:
    raise AssertionError(step)


def _npy_header(file: IO[bytes], member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0)}:
        raise CacheFormatError(f"{member} is of an unknown version {version}")
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    return (one if version == (1, 0) else two)(file)


def _open_safetensors(path: str, start: bytes) -> _Source:
    safetensors = importlib.import_module("safetensors")
    try:
        tensors = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        pickled = start[:1] == b"\x80"
        raise CacheFormatError(
            f"{path} is a Python pickle, which can run any program when it is read"
            if pickled
            else f"{path} is neither HDF5, npy, npz, safetensors nor parquet ({error})",
            hint="save the features with `numpy.savez` or `h5py`",
        ) from None
    return _Source({name: _of_safetensors(tensors, name, path) for name in tensors.keys()})  # noqa: SIM118  (no mapping)


_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


def _of_safetensors(tensors: Any, name: str, path: str) -> _Dataset:
    tensor = tensors.get_slice(name)
    shape = tuple(tensor.get_shape())
    dtype = _SAFETENSORS.get(tensor.get_dtype(), str(tensor.get_dtype()))

    def read(step: int) -> Iterator[NDArray[Any]]:
        if dtype == "bfloat16":
            yield from _read_bfloat16(path, name, shape, step)
        elif not shape:
            yield tensors.get_tensor(name)
        else:
            for start in range(0, shape[0], step):
                yield tensor[start : min(start + step, shape[0])]

    return _Dataset(shape, dtype, read)


def _read_bfloat16(
    path: str, name: str, shape: tuple[int, ...], step: int
) -> Iterator[NDArray[Any]]:
    """Read a tensor of bfloat16, which numpy lacks, as float32: they are its upper halves."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, _ = json.loads(file.read(length))[name]["data_offsets"]
        file.seek(8 + length + start)
        row = math.prod(shape[1:])
        for done in range(0, shape[0] if shape else 1, step):
            count = min(step, shape[0] - done) if shape else 1
            halves = np.frombuffer(file.read(2 * count * row), "<u2").astype("<u4")
            yield (halves << 16).view("<f4").reshape(count, *shape[1:])


def _arrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise CacheError(
            "parquet needs pyarrow, which is not installed", hint="pip install pyarrow"
        ) from None


def _open_parquet(file: Any) -> _Source:
    return _Source({field.name: _of_parquet(file, field) for field in file.schema_arrow})


def _of_parquet(file: Any, field: Any) -> _Dataset:
    arrow = _arrow("pyarrow")
    row_shape, kind = _parquet_shape(arrow, file, field)
    shape = (file.metadata.num_rows, *row_shape)

    def batches(step: int) -> Iterator[Any]:
        for batch in file.iter_batches(batch_size=step, columns=[field.name], use_threads=False):
            yield batch.column(0)

    def read(step: int) -> Iterator[NDArray[Any]]:
        for column in batches(step):
            yield _numbers(field.name, column, row_shape)

    def texts() -> list[str]:
        values = [value for column in batches(1 << 16) for value in column.to_pylist()]
        return [_text(value) if value is not None else "" for value in values]

    if isinstance(kind, arrow.DictionaryType):
        kind = kind.value_type
    if str(kind) in {"string", "large_string", "string_view", "binary", "large_binary"}:
        return _Dataset(shape, "text", read, None if row_shape else texts)
    try:
        name = np.dtype(kind.to_pandas_dtype()).name
    except (NotImplementedError, TypeError):
        name = str(kind)
    return _Dataset(shape, name, read)


def _numbers(name: str, column: Any, row_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return some rows of a column; those that are null are NaN."""
    there = np.asarray(column.is_valid())
    flat = column.drop_null()
    while hasattr(flat.type, "value_type"):
        flat = flat.flatten()
    numbers = flat.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind != "f":
        if flat.null_count or not there.all():
            raise CacheError(f"column {name} has rows that are null; wanted whole numbers in all")
        return np.asarray(numbers.reshape(len(column), *row_shape))
    rows = np.full((len(column), *row_shape), np.nan, numbers.dtype)
    rows[there] = numbers.reshape(int(there.sum()), *row_shape)
    return rows


def _text(value: object) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _parquet_shape(arrow: Any, file: Any, field: Any) -> tuple[tuple[int, ...], Any]:
    """Return the shape of a row of a column, and the type of its numbers.

    Lists without a length of their own must all be as long as the first.
    """
    shape: list[int] = []
    kind, depth = field.type, 0
    while hasattr(kind, "value_type") and not isinstance(kind, arrow.DictionaryType):
        fixed = isinstance(kind, arrow.FixedSizeListType)
        shape.append(kind.list_size if fixed else _list_length(file, field.name, depth))
        kind, depth = kind.value_type, depth + 1
    said = (field.metadata or {}).get(b"shape")  # how `mnerfeat cache export` writes grids
    if said is not None and len(shape) == 1:
        given = tuple(map(int, json.loads(said)))
        if math.prod(given) == shape[0]:
            return given, kind
    return tuple(shape), kind


def _list_length(file: Any, name: str, depth: int) -> int:
    compute = _arrow("pyarrow.compute")
    lengths: set[int] = set()
    for batch in file.iter_batches(batch_size=1 << 14, columns=[name], use_threads=False):
        column = batch.column(0).drop_null()
        for _ in range(depth):
            column = column.flatten()
        lengths |= set(compute.unique(compute.list_value_length(column)).to_pylist())
    lengths -= {None}
    if len(lengths) > 1:
        return -1
    return lengths.pop() if lengths else 0
