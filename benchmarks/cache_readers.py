"""Ways to read the rows of one feature, each from what it has written itself."""

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import FeatureCache

Take = Callable[[NDArray[np.int64]], NDArray[Any]]
Scan = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class Candidate:
    """A way to read rows.

    Attributes:
        take: Some rows, by their numbers.
        scan: The rows from one number to another; often the same as a slice.
    """

    take: Take
    scan: Scan


def open_memmap(folder: Path, _: ExitStack) -> Candidate:
    cache = FeatureCache(folder / "features.h5")
    source = cache["vit_cls"].joined.whole
    assert source is not None
    mapped = np.memmap(cache.path, source.data.dtype, "r", source.offset or 0, source.data.shape)
    return Candidate(lambda rows: mapped[rows], lambda start, end: mapped[start:end])


def open_ours(folder: Path, _: ExitStack) -> Candidate:
    vit = FeatureCache(folder / "features.h5")["vit_cls"]
    return Candidate(lambda rows: vit[rows], lambda start, end: vit[start:end])


def open_h5py(folder: Path, stack: ExitStack) -> Candidate:
    dataset = stack.enter_context(h5py.File(folder / "features.h5"))["images/vit_cls/data"]
    return Candidate(lambda rows: _in_order(dataset, rows), lambda start, end: dataset[start:end])


def open_h5py_chunked(folder: Path, stack: ExitStack) -> Candidate:
    path = folder / "chunked.h5"
    if not path.exists():
        data = FeatureCache(folder / "features.h5")["vit_cls"][:]
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=data, chunks=(min(64, len(data)), data.shape[1]))
    dataset = stack.enter_context(h5py.File(path))["data"]
    return Candidate(lambda rows: _in_order(dataset, rows), lambda start, end: dataset[start:end])


def _in_order(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Fancy indexing of h5py wants ascending rows, each once."""
    unique, back = np.unique(rows, return_inverse=True)
    read: NDArray[Any] = dataset[unique][back]
    return read


def open_lmdb(folder: Path, stack: ExitStack) -> Candidate:
    lmdb = importlib.import_module("lmdb")
    data = FeatureCache(folder / "features.h5")["vit_cls"][:]
    width, dtype = data.shape[1], data.dtype
    path = folder / "lmdb"
    fresh = not path.exists()
    environment = stack.enter_context(
        lmdb.open(str(path), map_size=2 * data.nbytes + (64 << 20), readahead=False, lock=False)
    )
    if fresh:
        with environment.begin(write=True) as transaction:
            for row, vector in enumerate(data):
                transaction.put(row.to_bytes(8, "big"), vector.tobytes(), append=True)
    transaction = stack.enter_context(environment.begin(buffers=True))

    def take(rows: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(rows), width), dtype)
        for i, row in enumerate(rows.tolist()):
            found[i] = np.frombuffer(transaction.get(row.to_bytes(8, "big")), dtype)
        return found

    return Candidate(take, lambda start, end: take(np.arange(start, end)))


def open_safetensors(folder: Path, stack: ExitStack) -> Candidate:
    safetensors = importlib.import_module("safetensors")
    path = folder / "features.safetensors"
    if not path.exists():
        importlib.import_module("safetensors.numpy").save_file(
            {"vit_cls": FeatureCache(folder / "features.h5")["vit_cls"][:]}, path
        )
    whole = stack.enter_context(safetensors.safe_open(path, "np")).get_slice("vit_cls")

    def take(rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.concatenate([whole[row : row + 1] for row in rows.tolist()])

    return Candidate(take, lambda start, end: whole[start:end])


def open_arrow(folder: Path, stack: ExitStack) -> Candidate:
    arrow = importlib.import_module("pyarrow")
    path = folder / "features.arrow"
    if not path.exists():
        _write_arrow(path, FeatureCache(folder / "features.h5")["vit_cls"][:])
    mapped = stack.enter_context(arrow.memory_map(str(path)))
    column = arrow.ipc.open_file(mapped).read_all().column("vit_cls").combine_chunks()
    width = column.type.list_size

    def take(rows: NDArray[np.int64]) -> NDArray[Any]:
        flat = column.take(arrow.array(rows)).flatten().to_numpy(zero_copy_only=False)
        read: NDArray[Any] = flat.reshape(-1, width)
        return read

    def scan(start: int, end: int) -> NDArray[Any]:
        flat = column.slice(start, end - start).flatten().to_numpy(zero_copy_only=False)
        read: NDArray[Any] = flat.reshape(-1, width)
        return read

    return Candidate(take, scan)


def _write_arrow(path: Path, data: NDArray[Any]) -> None:
    arrow = importlib.import_module("pyarrow")
    flat = arrow.array(np.ascontiguousarray(data).reshape(-1))
    column = arrow.FixedSizeListArray.from_arrays(flat, data.shape[1])
    table = arrow.table({"vit_cls": column})
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def open_datasets(folder: Path, _: ExitStack) -> Candidate:
    datasets = importlib.import_module("datasets")
    arrow = importlib.import_module("pyarrow")
    path = folder / "datasets"
    if not path.exists():
        data = FeatureCache(folder / "features.h5")["vit_cls"][:]
        flat = arrow.array(np.ascontiguousarray(data).reshape(-1))
        column = arrow.FixedSizeListArray.from_arrays(flat, data.shape[1])
        datasets.disable_progress_bars()
        datasets.Dataset(arrow.table({"vit_cls": column})).save_to_disk(str(path))
    loaded = datasets.load_from_disk(str(path)).with_format("numpy")
    return Candidate(
        lambda rows: loaded[rows]["vit_cls"], lambda start, end: loaded[start:end]["vit_cls"]
    )


def open_zarr(folder: Path, _: ExitStack) -> Candidate:
    zarr = importlib.import_module("zarr")
    path = folder / "zarr"
    if not path.exists():
        data = FeatureCache(folder / "features.h5")["vit_cls"][:]
        array = zarr.create_array(
            store=str(path), shape=data.shape, chunks=(min(64, len(data)), data.shape[1]),
            dtype=data.dtype, compressors=None,
        )  # fmt: skip
        array[:] = data
    opened: Any = zarr.open_array(str(path), mode="r")
    return Candidate(lambda rows: opened.oindex[rows], lambda start, end: opened[start:end])


READERS: Mapping[str, tuple[str, Callable[[Path, ExitStack], Candidate]]] = {
    "numpy.memmap": ("numpy", open_memmap),
    "mnerfeat.cache": ("numpy", open_ours),
    "h5py, contiguous": ("h5py", open_h5py),
    "h5py, chunks of 64 rows": ("h5py", open_h5py_chunked),
    "LMDB": ("lmdb", open_lmdb),
    "safetensors, slices": ("safetensors", open_safetensors),
    "Arrow, mapped": ("pyarrow", open_arrow),
    "Hugging Face datasets": ("datasets", open_datasets),
    "zarr 3, chunks of 64 rows": ("zarr", open_zarr),
}
