"""Every export holds what the cache holds, as the format's own library reads it."""

import importlib
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnerfeat.cache import (
    EXPORT_FORMATS,
    OK,
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    export,
    pack,
    stack_ids,
    text_id,
)
from mnerfeat.errors import CacheError, CacheLookupError
from tests.cache.builders import VIT, feature, images

CLIP = Provenance({"model": "clip"})


@pytest.fixture(params=["packed", "unpacked"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "features.h5"
    odd = b"\xff.jpg".decode("utf-8", "surrogateescape")
    contents = {"a.jpg": b"a", "b.jpg": b"b", "copy of a.jpg": b"a", odd: b"c"}
    grid = feature([[1, 2, 3, 4]] * 2 + ["broken"], CLIP, "<f4", 4)
    CacheWriter(path).put(images=images(contents, vit_cls=feature([[1, 1, 1], "x", [3, 3, 3]])))
    CacheWriter(path).put(
        images=images(
            {"a.jpg": b"a", "b.jpg": b"b", odd: b"c"},
            grid=type(grid)(
                data=grid.data.reshape(3, 2, 2),
                state=grid.state,
                reasons=grid.reasons,
                provenance=CLIP,
            ),
            half=feature([[0.5]] * 3, CLIP, "<f2", 1),
        ),
        texts=TableRows(
            ids=stack_ids([text_id("a text")]), features={"clip_text": feature([[7, 8, 9]])}
        ),
    )
    if request.param == "packed":
        pack(path)
    return path


def expected(path: Path) -> dict[str, dict[str, Any]]:
    """By identity: names and features, None where a row is not OK."""
    cache = FeatureCache(path)
    held: dict[str, dict[str, Any]] = {}
    for row, id_ in enumerate(cache.images.ids):
        held[id_.tobytes().hex()] = {
            "names": sorted(name for name, leads in cache.images.names() if leads == row),
            **{
                name: column[row].tolist() if column.state[row] == OK else None
                for name, column in cache.images.features.items()
            },
        }
    return held


def from_arrays(arrays: dict[str, Any], names: list[str]) -> dict[str, dict[str, Any]]:
    features = [name.removesuffix(".state") for name in arrays if name.endswith(".state")]
    held: dict[str, dict[str, Any]] = {}
    for row, id_ in enumerate(arrays["id"]):
        leads = np.flatnonzero(arrays["name.row"] == row)
        held[id_.tobytes().hex()] = {
            "names": sorted(names[i] for i in leads),
            **{
                name: arrays[name][row].tolist() if arrays[f"{name}.state"][row] == OK else None
                for name in features
            },
        }
    return held


def test_npz(path: Path, tmp_path: Path) -> None:
    report = export(path, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        arrays = dict(loaded)
    assert from_arrays(arrays, arrays["name"].tolist()) == expected(path)
    assert json.loads(str(arrays["provenance"]))["vit_cls"] == VIT.facts
    assert (report.rows, report.features) == (3, ("grid", "half", "vit_cls"))
    assert report.bytes == (tmp_path / "a.npz").stat().st_size
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None


def test_safetensors(path: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    export(path, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["provenance"])["vit_cls"] == VIT.facts
    bounds, text = arrays["name.offset"], arrays["name.bytes"].tobytes()
    names = [
        text[start:end].decode("utf-8", "surrogateescape")
        for start, end in itertools.pairwise(bounds)
    ]
    assert from_arrays(arrays, names) == expected(path)


@pytest.mark.parametrize("format_", ["parquet", "datasets"])
def test_row_by_row(path: Path, tmp_path: Path, format_: str) -> None:
    wanted = {
        id_: {
            **row,
            # These formats hold UTF-8 and nothing else.
            "names": sorted(name.replace("\udcff", "\ufffd") for name in row["names"]),
            "grid": row["grid"] and [*np.ravel(row["grid"]).tolist()],
        }
        for id_, row in expected(path).items()
    }
    target = tmp_path / f"a.{format_}"
    export(path, target)
    if format_ == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(target)
        rows = table.to_pylist()
        assert json.loads(table.schema.field("grid").metadata[b"shape"]) == [2, 2]
        assert json.loads(table.schema.metadata[b"provenance"])["vit_cls"] == VIT.facts
    else:
        rows = pytest.importorskip("datasets").load_from_disk(str(target)).to_list()
    held = {row.pop("id"): {**row, "names": sorted(row["names"])} for row in rows}
    assert held == wanted


def test_a_table_without_names(path: Path, tmp_path: Path) -> None:
    report = export(path, tmp_path / "a.npz", features=["clip_text"])
    assert report.table == "texts"
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["clip_text"].tolist() == [[7, 8, 9]]
        assert arrays["name"].tolist() == []


def test_what_cannot_be_exported_says_why_and_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CacheError, match=r"unknown format 'csv'; choose from: npz"):
        export(path, tmp_path / "a.csv")
    with pytest.raises(CacheLookupError, match="no feature 'nothing'"):
        export(path, tmp_path / "a.npz", features=["nothing"])
    with pytest.raises(CacheLookupError, match="no table 'posts'"):
        export(path, tmp_path / "a.npz", table="posts")
    with pytest.raises(CacheError, match=r"vit_cls \(images\), clip_text \(texts\)"):
        export(path, tmp_path / "a.npz", features=["vit_cls", "clip_text"])
    with pytest.raises(CacheError, match="the cache itself"):
        export(path, path, format="npz")
    with pytest.raises(CacheError, match="a folder that exists"):
        export(path, tmp_path, format="datasets")

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    for format_ in set(EXPORT_FORMATS) - {"npz"}:
        with pytest.raises(CacheError, match="not installed"):
            export(path, tmp_path / "a", format=format_)
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_that_fails_leaves_nothing_and_keeps_what_was_there(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.npz"
    target.write_bytes(b"kept")
    before = sorted(tmp_path.iterdir())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("half-way")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        export(path, target, replace=True)
    assert target.read_bytes() == b"kept"
    assert sorted(tmp_path.iterdir()) == before
