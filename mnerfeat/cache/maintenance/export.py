"""A table of a cache in the formats of other programs."""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.maintenance.pack import PIECE_BYTES
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.schema import OK
from mnerfeat.cache.storage import beside, located
from mnerfeat.cache.table import Table
from mnerfeat.errors import CacheError, CacheLookupError


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: The file, or the folder of a Hugging Face data set.
        format: One of `EXPORT_FORMATS`.
        table: `images`, `texts` or `pairs`.
        rows: In it.
        features: In it.
        bytes: On the disk.
    """

    path: Path
    format: str
    table: str
    rows: int
    features: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class _Selected:
    """What is to be exported."""

    table: Table
    features: Mapping[str, Feature]

    @property
    def provenance(self) -> str:
        """Of every feature, as one JSON object."""
        return json.dumps({name: f.provenance.facts for name, f in self.features.items()})

    def pieces(self) -> Iterator[slice]:
        """Slices of rows that fit into memory."""
        widest = max((_row_bytes(feature) for feature in self.features.values()), default=1)
        step = max(1, PIECE_BYTES // widest)
        for start in range(0, len(self.table), step):
            yield slice(start, min(start + step, len(self.table)))

    def names(self) -> tuple[list[str], NDArray[np.int64]]:
        """Every name, ordered by the row it leads to, and these rows."""
        if self.table.name != "images":
            return [], np.zeros(0, np.int64)
        names = sorted(self.table.names(), key=lambda name: name[::-1])
        return [name for name, _ in names], np.array([row for _, row in names], np.int64)


def export(
    path: str | PathLike[str],
    target: str | PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  (what everybody calls it)
    features: Sequence[str] | None = None,
    table: str | None = None,
    replace: bool = False,
) -> ExportReport:
    """Write some features of one table for other programs to read.

    - `npz` (numpy): `<feature>` (n, …), `<feature>.state` (n,), `id` (n, 32), `name` and
      `name.row` (names, and the rows they lead to), `provenance` (JSON). It holds no pickles.
    - `safetensors`: the same; names as `name.bytes` with `name.offset`, the provenance in the
      metadata. It is put together in memory.
    - `parquet`, `datasets`: a row each, with `id` (hex), `names` and a column for each feature,
      null where the row is not OK. Rows of more than one dimension lie flat; their shape is in
      the column's metadata.

    Args:
        path: The `.h5` file.
        target: The file, or the folder for `datasets`; it is written whole or not at all.
        format: One of `EXPORT_FORMATS`; by default what the target's suffix says.
        features: Of one table; by default all of `table`.
        table: `images`, `texts` or `pairs`; by default that of the features, or `images`.
        replace: Replace the target if it exists.

    Raises:
        CacheLookupError: If the cache does not hold a feature.
        CacheError: If the format is unknown, the features are of several tables, a library is not
            installed, or the target is the cache itself, exists already, or is a folder with
            something in it.
        StorageError: If the disk is full.
    """
    path, target = Path(path), located(target)
    chosen = format or target.suffix.lstrip(".")
    if chosen not in EXPORT_FORMATS:
        raise CacheError(
            f"unknown format {chosen!r}; choose from: {', '.join(EXPORT_FORMATS)}",
            hint="give the target that suffix, or name the format",
        )
    if target.resolve() == path.resolve():
        raise CacheError(f"{target} is the cache itself", hint="name another file")
    if target.is_dir() and (chosen != "datasets" or any(target.iterdir())):
        raise CacheError(f"{target} is a folder that exists already", hint="name another")
    if target.exists() and not target.is_dir() and not replace:
        raise CacheError(
            f"{target} exists already", hint="name another file, or replace it with --replace"
        )
    selected = _select(FeatureCache(path), features, table)
    with beside(target) as temporary:
        _WRITERS[chosen](selected, temporary)
    files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
    return ExportReport(
        path=target,
        format=chosen,
        table=selected.table.name,
        rows=len(selected.table),
        features=tuple(selected.features),
        bytes=sum(file.stat().st_size for file in files),
    )


def _select(cache: FeatureCache, features: Sequence[str] | None, table: str | None) -> _Selected:
    tables = {held.name: held for held in cache.tables}
    if table is not None and table not in tables:
        raise CacheLookupError(f"no table {table!r}; choose from: {', '.join(tables)}")
    if features is None:
        owner = tables[table or "images"]
        return _Selected(owner, owner.features)
    chosen = {name: cache[name] for name in features}
    owners = {feature.table for feature in chosen.values()} | ({table} if table else set())
    if len(owners) != 1:
        raise CacheError(
            "one export holds features of one table; got "
            + ", ".join(f"{name} ({feature.table})" for name, feature in chosen.items()),
            hint="export one table after the other",
        )
    return _Selected(tables[owners.pop()], chosen)


def _row_bytes(feature: Feature) -> int:
    return max(1, feature.dtype.itemsize * int(np.prod(feature.row_shape)))


def _write_npz(selected: _Selected, target: Path) -> None:
    import zipfile  # noqa: PLC0415  (takes as long to import as all the rest of this package)

    names, rows = selected.names()
    plain = {
        "id": selected.table.ids,
        "name": np.array(names, np.str_),
        "name.row": rows,
        "provenance": np.array(selected.provenance),
        **{f"{name}.state": feature.state for name, feature in selected.features.items()},
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in plain.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        for name, feature in selected.features.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": feature.dtype.str,
                    "fortran_order": False,
                    "shape": feature.shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                for piece in selected.pieces():
                    file.write(feature.read(piece)[0].tobytes())


def _write_safetensors(selected: _Selected, target: Path) -> None:
    library = _library("safetensors.numpy", "safetensors")
    names, rows = selected.names()
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    arrays = {
        "id": selected.table.ids,
        "name.bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "name.offset": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        "name.row": rows,
    }
    for name, feature in selected.features.items():
        arrays[name] = feature.read(slice(None))[0]
        arrays[f"{name}.state"] = feature.state
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    library.save_file(contiguous, target, metadata={"provenance": selected.provenance})


def _write_parquet(selected: _Selected, target: Path) -> None:
    arrow, parquet = _library("pyarrow"), _library("pyarrow.parquet", "pyarrow")
    with parquet.ParquetWriter(target, _schema(arrow, selected)) as writer:
        for batch in _batches(arrow, selected):
            writer.write_batch(batch)


def _write_datasets(selected: _Selected, target: Path) -> None:
    arrow, datasets = _library("pyarrow"), _library("datasets")
    stream = target.with_name(f"{target.name}.arrow")
    try:
        schema = _schema(arrow, selected)
        with arrow.OSFile(str(stream), "wb") as file, arrow.ipc.new_stream(file, schema) as writer:
            for batch in _batches(arrow, selected):
                writer.write_batch(batch)
        disabled = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        # Mapped, so that the rows need not fit into memory.
        datasets.Dataset.from_file(str(stream)).save_to_disk(str(target))
        if not disabled:
            datasets.enable_progress_bars()
    finally:
        stream.unlink(missing_ok=True)


def _schema(arrow: Any, selected: _Selected) -> Any:
    fields = [arrow.field("id", arrow.string()), arrow.field("names", arrow.list_(arrow.string()))]
    for name, feature in selected.features.items():
        kind = arrow.from_numpy_dtype(feature.dtype)
        if feature.row_shape:
            kind = arrow.list_(kind, int(np.prod(feature.row_shape)))
        shape = json.dumps(feature.row_shape)
        fields.append(arrow.field(name, kind, metadata={"shape": shape}))
    return arrow.schema(fields, metadata={"provenance": selected.provenance})


def _batches(arrow: Any, selected: _Selected) -> Iterator[Any]:
    schema = _schema(arrow, selected)
    names, rows = selected.names()
    first = np.searchsorted(rows, np.arange(len(selected.table) + 1))
    # Not every name is UTF-8, and these formats hold nothing else.
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]
    for piece in selected.pieces():
        ids = selected.table.ids[piece]
        columns = [
            arrow.array([row.tobytes().hex() for row in ids], arrow.string()),
            arrow.array(
                [names[first[row] : first[row + 1]] for row in range(piece.start, piece.stop)],
                arrow.list_(arrow.string()),
            ),
        ]
        for name, feature in selected.features.items():
            columns.append(_column(arrow, schema.field(name).type, feature, piece))
        yield arrow.record_batch(columns, schema=schema)


def _column(arrow: Any, kind: Any, feature: Feature, piece: slice) -> Any:
    data, _ = feature.read(piece)
    missing = arrow.array(feature.state[piece] != OK)
    if not feature.row_shape:
        return arrow.array(data, kind, mask=np.asarray(missing))
    flat = arrow.array(data.reshape(-1))
    return arrow.FixedSizeListArray.from_arrays(flat, type=kind, mask=missing)


def _library(module: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = package or module
        raise CacheError(
            f"this format needs {package}, which is not installed",
            hint=f"pip install {package}",
        ) from error


_WRITERS: Mapping[str, Callable[[_Selected, Path], None]] = MappingProxyType(
    {
        "npz": _write_npz,
        "safetensors": _write_safetensors,
        "parquet": _write_parquet,
        "datasets": _write_datasets,
    }
)

EXPORT_FORMATS: Final = tuple(_WRITERS)
"""What `export` can write."""
