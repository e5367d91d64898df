"""Import of features that other programs wrote."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from mnerfeat.cache import (
    FAILED,
    FeatureCache,
    ImportConfig,
    ImportReport,
    content_id,
    export,
    import_features,
    merge,
    read_provenance,
    verify,
)
from mnerfeat.errors import CacheError, CacheFormatError, ConfigError, ProvenanceError
from tests.cache.builders import feature, put_numbered

MADE = {"model": "theirs", "layer": "last"}
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
NAMES = ["a.jpg", "sub/b.jpg", "c.jpg", "d é.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images whose bytes are their names."""
    folder = tmp_path / "images"
    make_images(folder, NAMES)
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in this process, which is quicker; the last tests show that a child does it."""

    def read(function: Callable[..., Any], file: Path, *args: Any, **_: Any) -> Any:
        return function(str(file), *args)

    for name in ("run_untrusted", "stream_untrusted"):
        monkeypatch.setattr(f"mnerfeat.cache.maintenance.importing.{name}", read)


def make_images(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def load(path: Path, *sources: Path, **config: Any) -> ImportReport:
    config = {"feature": "vit_cls", "provenance": MADE, "names": "names", **config}
    return import_features(path, sources, ImportConfig(**config))


Data = Mapping[str, NDArray[Any]]


def write_hdf5(path: Path, data: Data) -> None:
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            texts = values.dtype.kind == "U"
            file[name] = values.tolist() if texts else values


def write_npz(path: Path, data: Data) -> None:
    with path.open("wb") as file:
        np.savez(file, **data)


def write_npz_compressed(path: Path, data: Data) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **data)


def write_parquet(path: Path, data: Data) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        name: arrow.array(values.tolist())
        if values.dtype.kind == "U"
        else arrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
        if values.ndim > 1
        else arrow.array(values)
        for name, values in data.items()
    }
    parquet.write_table(arrow.table(columns), path, row_group_size=3)


def write_parquet_lists(path: Path, data: Data) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = {name: arrow.array(values.tolist()) for name, values in data.items()}
    parquet.write_table(arrow.table(lists), path)


WRITERS: Mapping[str, Callable[[Path, Data], None]] = {
    "hdf5": write_hdf5,
    "npz": write_npz,
    "npz compressed": write_npz_compressed,
    "parquet": write_parquet,
    "parquet lists": write_parquet_lists,
}


def write_npy(path: Path, rows: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def write_safetensors(path: Path, rows: NDArray[Any]) -> None:
    from safetensors.numpy import save_file

    save_file({"vit_cls": np.ascontiguousarray(rows)}, path)


# What is read.

quick = pytest.mark.usefixtures("in_process")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_rows_belong_to_the_images_whose_names_stand_beside_them(
    path: Path, folder: Path, write: Callable[[Path, Data], None]
) -> None:
    write(path.with_name("theirs"), {"vit_cls": ROWS, "names": np.array(NAMES)})
    report = load(path, path.with_name("theirs"), images=folder)
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(NAMES)], ROWS)
    assert [bytes(row) for row in cache.images.ids[cache.rows(NAMES)]] == [
        content_id(name.encode()) for name in NAMES
    ]
    assert (report.rows, report.failed, report.repeated, report.skipped) == (4, 0, 0, ())
    assert verify(path) == []


@quick
@pytest.mark.parametrize("write", [write_npy, write_safetensors])
def test_names_may_stand_in_a_text_file(
    path: Path, folder: Path, write: Callable[[Path, NDArray[Any]], None]
) -> None:
    write(path.with_name("theirs"), ROWS)
    texts = path.with_name("names.txt")
    texts.write_bytes("\r\n".join(NAMES).encode() + b"\n")
    load(path, path.with_name("theirs"), names=str(texts), images=folder)
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(NAMES)], ROWS)


@quick
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    dtype=st.sampled_from(["<f2", "<f4", "<f8", ">f4", "|i1", "<i8", ">u2", "|b1"]),
    layout=st.sampled_from(["hdf5", "chunked", "npz", "npz fortran", "npy", "npy fortran"]),
)
def test_every_type_and_shape_comes_through(
    tmp_path: Path, folder: Path, data: st.DataObject, dtype: str, layout: str
) -> None:
    shape = (4, *data.draw(npst.array_shapes(min_dims=0, max_dims=3, max_side=4)))
    finite = {"allow_nan": False, "allow_infinity": False} if "f" in dtype else {}
    if dtype == "<f8":
        finite |= {"min_value": -1e30, "max_value": 1e30}
    values = data.draw(npst.arrays(dtype, shape, elements=finite or None))
    for old in tmp_path.glob("features.h5*"):
        old.unlink()
    source, names = tmp_path / "theirs", tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    if layout in {"hdf5", "chunked"}:
        how = {"chunks": (3, *shape[1:]), "compression": "gzip"} if layout == "chunked" else {}
        with h5py.File(source, "w") as file:
            file.create_dataset("vit_cls", data=values, **how)
    else:
        order = np.asfortranarray(values) if "fortran" in layout else values
        if layout.startswith("npy"):
            write_npy(source, order)
        else:
            write_npz_compressed(source, {"vit_cls": order})
    report = load(tmp_path / "features.h5", source, names=str(names), images=folder)
    cache = FeatureCache(tmp_path / "features.h5")
    read = cache["vit_cls"][cache.rows(NAMES)]
    wanted = {"<f8": "<f4", "|b1": "|u1"}.get(dtype, dtype.replace(">", "<"))
    assert read.dtype == np.dtype(wanted)
    assert report.stored == np.dtype(dtype).name
    np.testing.assert_array_equal(read, values.astype(wanted))


@quick
def test_bfloat16_becomes_float32(path: Path, folder: Path) -> None:
    """Its numbers are the upper halves of those of float32."""
    rows = (np.linspace(-3, 1e5, 12, dtype="<f4").view("<u4") >> 16 << 16).view("<f4").reshape(4, 3)
    header = {
        "other": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]},
        "vit_cls": {"dtype": "BF16", "shape": [4, 3], "data_offsets": [20, 44]},
    }
    encoded = json.dumps(header).encode()
    halves = (rows.view("<u4") >> 16).astype("<u2").tobytes()
    path.with_name("theirs").write_bytes(
        len(encoded).to_bytes(8, "little") + encoded + bytes(20) + halves
    )
    path.with_name("names").write_text("\n".join(NAMES))
    load(path, path.with_name("theirs"), names=str(path.with_name("names")), images=folder)
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(NAMES)], rows)


@quick
@pytest.mark.parametrize("kind", ["hdf5", "npz", "safetensors"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_group_may_hold_a_dataset_for_each_image(
    path: Path, folder: Path, kind: str, nested: bool
) -> None:
    source, start = path.with_name("theirs"), "model/vit/" if nested else ""
    rows = {f"{start}{name}": row for name, row in zip(NAMES, ROWS, strict=True)}
    if kind == "hdf5":
        write_hdf5(source, rows)
    elif kind == "npz":
        write_npz(source, rows)
    else:
        from safetensors.numpy import save_file

        save_file({name: row.copy() for name, row in rows.items()}, source)
    load(path, source, data=start or "/", names=None, images=folder)
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(NAMES)], ROWS)


@quick
@pytest.mark.parametrize("texts", ["variable", "bytes"])
def test_hdf5_as_scripts_write_it(path: Path, folder: Path, texts: str) -> None:
    with h5py.File(path.with_name("theirs.h5"), "w", libver="latest") as file:
        group = file.create_group("run 1/out")
        group.create_dataset("vit", data=ROWS, chunks=(2, 3), compression="lzf", shuffle=True)
        encoded = np.array([name.encode() for name in NAMES])
        group["paths"] = encoded if texts == "bytes" else np.array(NAMES, h5py.string_dtype())
    load(
        path, path.with_name("theirs.h5"), data="/run 1/out/vit", names="run 1/out/paths",
        images=folder,
    )  # fmt: skip
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(NAMES)], ROWS)


@quick
def test_several_files_are_read_as_one(path: Path, folder: Path) -> None:
    for number in range(2):
        half = slice(2 * number, 2 * number + 2)
        write_npz(
            path.with_name(f"{number}.npz"),
            {"vit_cls": ROWS[half], "names": np.array(NAMES[half])},
        )
    load(path, *(path.with_name(f"{number}.npz") for number in range(2)), images=folder)
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(NAMES)], ROWS)


@quick
def test_rows_that_are_not_finite_are_recorded_as_failed(path: Path, folder: Path) -> None:
    rows = ROWS.astype(np.float64)
    rows[1, 0], rows[2, 2] = np.nan, 1e300  # the latter does not fit float32
    write_npz(path.with_name("theirs"), {"vit_cls": rows, "names": np.array(NAMES)})
    report = load(path, path.with_name("theirs"), images=folder)
    cache = FeatureCache(path)
    assert report.failed == 2
    assert report.stored == "float64"
    states = cache["vit_cls"].state[cache.rows(NAMES)]
    assert (states == FAILED).tolist() == [False, True, True, False]
    assert set(cache["vit_cls"].failures.values()) == {"imported with 1 of 3 numbers not finite"}


@quick
def test_a_large_file_is_written_in_several_parts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than one piece of the reading process holds."""
    names = [f"{number}.jpg" for number in range(5000)]
    put_numbered(path, range(5000))
    rows = np.random.default_rng(0).normal(size=(5000, 1000)).astype(np.float32)
    write_npy(path.with_name("theirs.npy"), rows)
    path.with_name("names.txt").write_text("\n".join(names))
    monkeypatch.setattr("mnerfeat.cache.maintenance.importing._PART_BYTES", 1 << 22)
    seen: list[tuple[int, int]] = []
    config = ImportConfig(feature="theirs", provenance=MADE, names=str(path.with_name("names.txt")))
    import_features(
        path, [path.with_name("theirs.npy")], config, progress=lambda *done: seen.append(done)
    )
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["theirs"][cache.rows(names)], rows)
    assert len(seen) > 2
    assert seen[-1] == (rows.nbytes, rows.nbytes)


# Whose rows they are.


@quick
def test_the_cache_knows_names_by_itself(path: Path) -> None:
    put_numbered(path, range(4))
    names = np.array(["3.jpg", "./1.jpg"])
    write_npz(path.with_name("theirs"), {"theirs": ROWS[:2], "names": names})
    load(path, path.with_name("theirs"), feature="theirs")
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["theirs"][cache.rows(["3.jpg", "1.jpg"])], ROWS[:2])
    assert len(cache.images) == 4
    assert cache.images.sizes.min() == 5


@quick
def test_images_with_the_same_bytes_are_one_row_with_both_names(path: Path, folder: Path) -> None:
    (folder / "again.jpg").write_bytes(b"a.jpg")
    names = np.array([*NAMES, "again.jpg"])
    rows = np.concatenate([ROWS, ROWS[:1] + 1])
    write_npz(path.with_name("theirs"), {"vit_cls": rows, "names": names})
    report = load(path, path.with_name("theirs"), images=folder)
    assert (report.rows, report.repeated) == (4, 1)
    cache = FeatureCache(path)
    np.testing.assert_array_equal(cache["vit_cls"][cache.rows(["again.jpg"])], ROWS[:1])


@quick
def test_names_that_differ_in_unicode_form_are_found_and_noted(path: Path, folder: Path) -> None:
    names = [*NAMES[:3], "d e\u0301.jpg"]
    write_npz(path.with_name("theirs"), {"vit_cls": ROWS, "names": np.array(names)})
    report = load(path, path.with_name("theirs"), images=folder)
    assert report.rows == 4
    assert "Unicode" in report.notes[0]


@quick
def test_missing_images_can_be_left_out(path: Path, folder: Path) -> None:
    (folder / "c.jpg").unlink()
    write_npz(path.with_name("theirs"), {"vit_cls": ROWS, "names": np.array(NAMES)})
    with pytest.raises(CacheError, match=r"1 of 4 images(.|\n)*c\.jpg(.|\n)*--skip-missing"):
        load(path, path.with_name("theirs"), images=folder)
    assert not path.exists()
    report = load(path, path.with_name("theirs"), images=folder, skip_missing=True)
    assert (report.rows, report.skipped, report.repeated) == (3, ("c.jpg",), 0)
    cache = FeatureCache(path)
    there = [0, 1, 3]
    rows = cache.rows([NAMES[row] for row in there])
    np.testing.assert_array_equal(cache["vit_cls"][rows], ROWS[there])


# What is done with them.


@quick
def test_imported_features_are_exported_and_merged(path: Path, folder: Path) -> None:
    write_npz(path.with_name("theirs"), {"theirs": ROWS, "names": np.array(NAMES)})
    other = path.with_name("other.h5")
    load(other, path.with_name("theirs"), feature="theirs", images=folder)
    export(other, path.with_name("out.npz"))
    with np.load(path.with_name("out.npz")) as exported:
        assert sorted(exported["theirs"].tolist()) == ROWS.tolist()
    put_numbered(path, range(3))
    merge(path.with_name("all.h5"), [path, other])
    merged = FeatureCache(path.with_name("all.h5"))
    np.testing.assert_array_equal(merged["theirs"][merged.rows(NAMES)], ROWS)
    assert len(merged.images) == 7


@quick
def test_the_provenance_says_what_the_user_stated_and_which_file_it_was(
    path: Path, folder: Path
) -> None:
    source = path.with_name("theirs.npz")
    write_npz(source, {"vit_cls": ROWS.astype(float), "names": np.array(NAMES)})
    load(path, source, images=folder)
    assert FeatureCache(path)["vit_cls"].provenance.facts == {
        "stated by the user": MADE,
        "imported from": [{"file": "theirs.npz", "sha256": content_id(source.read_bytes()).hex()}],
        "dataset": "vit_cls",
        "names": "names",
        "stored as": "float64",
    }


@quick
def test_another_provenance_is_refused_or_replaced(path: Path, folder: Path) -> None:
    write_npz(path.with_name("theirs"), {"vit_cls": ROWS, "names": np.array(NAMES)})
    load(path, path.with_name("theirs"), images=folder)
    before = FeatureCache(path).digest()
    load(path, path.with_name("theirs"), images=folder)  # the same import changes nothing
    assert FeatureCache(path).digest() == before
    other = {"images": folder, "provenance": {"model": "newer"}}
    with pytest.raises(ProvenanceError, match=r"newer(.|\n)*--replace"):
        load(path, path.with_name("theirs"), **other)
    assert FeatureCache(path).digest() == before
    assert load(path, path.with_name("theirs"), **other, replace=True).replaced == 4
    assert FeatureCache(path)["vit_cls"].provenance.facts["stated by the user"] == {
        "model": "newer"
    }


@quick
def test_a_feature_of_texts_is_not_replaced_by_one_of_images(path: Path, folder: Path) -> None:
    from mnerfeat.cache import CacheWriter, TableRows, stack_ids, text_id

    CacheWriter(path).put(
        texts=TableRows(ids=stack_ids([text_id("a")]), features={"vit_cls": feature([[1] * 3])})
    )
    write_npz(path.with_name("theirs"), {"vit_cls": ROWS, "names": np.array(NAMES)})
    with pytest.raises(CacheError, match="of texts"):
        load(path, path.with_name("theirs"), images=folder)


@quick
def test_a_provenance_is_facts_or_files(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text(json.dumps({"model": "a", "layers": [1, 2]}))
    (tmp_path / "odd.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("{")
    assert read_provenance([str(tmp_path / "made.json"), "model=b=c", " note = x "]) == {
        "model": "b=c",
        "layers": [1, 2],
        "note": "x",
    }
    with pytest.raises(ConfigError) as caught:
        read_provenance([str(tmp_path / name) for name in ("odd.json", "bad.json", "none.json")])
    assert len(caught.value.faults) == 3
    assert "--provenance" in str(caught.value.hint)


# What is refused.


def refusal(path: Path, arrays: Data, **config: Any) -> str:
    """The message of an import that writes nothing."""
    write_npz(path.with_name("theirs.npz"), arrays)
    with pytest.raises(CacheError) as caught:
        load(path, path.with_name("theirs.npz"), **config)
    assert not path.exists()
    assert not path.with_name("features.h5.d").exists()
    return str(caught.value)


@quick
def test_everything_wrong_with_the_request_is_said_at_once(path: Path) -> None:
    with pytest.raises(CacheError) as caught:
        load(
            path, path.with_name("none.h5"), feature="vit/cls", provenance={},
            images=path.with_name("nowhere"),
        )  # fmt: skip
    assert len(caught.value.faults) == 4
    text = str(caught.value)
    for part in ("none.h5", "vit/cls", "--provenance", "nowhere"):
        assert part in text


@quick
def test_every_name_that_does_not_fit_is_listed(path: Path, folder: Path) -> None:
    text = refusal(
        path, {"vit_cls": ROWS, "names": np.array(["a.jpg", "", "./a.jpg"])}, images=folder
    )
    for part in ("3 names for 4 rows", "rows without a name: 1", "a.jpg is the name of several"):
        assert part in text


@quick
def test_names_that_nothing_knows_are_listed_with_the_way_out(path: Path, folder: Path) -> None:
    data = {"vit_cls": ROWS, "names": np.array(["a", "c.jpg", "x.jpg", "b.jpg"])}
    text = refusal(path, data)
    assert "4 of 4 names" in text
    assert "`--images DIR`" in text
    assert "--skip-missing" not in text
    text = refusal(path, data, images=folder)
    assert "2 of 4 images" in text
    assert "a (there is a.jpg)" in text
    assert "x.jpg" in text


@quick
def test_what_the_file_lacks_is_said_with_what_it_holds(path: Path, folder: Path) -> None:
    data = {"cls": ROWS, "names": np.array(NAMES), "label": np.arange(4)}
    text = refusal(path, data, images=folder)
    assert "no dataset vit_cls; it holds cls (4×3 float32), names (4 text), label (4 int64)" in text
    assert "--data" in text
    text = refusal(path, data, data="cls", names="files", images=folder)
    assert "no dataset (and no text file) files" in text
    assert "label holds 4 int64" not in refusal(path, data, data="cls", names=None, images=folder)
    assert "a text for each row" in refusal(path, data, data="cls", names="label", images=folder)
    assert "names are not given" in refusal(path, data, data="cls", names=None, images=folder)
    assert "holds text" in refusal(path, data, data="names", images=folder)


@quick
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.float32(3), "a single value"),
        (np.zeros((4, 2), np.complex64), "complex64"),
        (np.zeros((4, 2), np.uint64), "uint64"),
        (np.zeros((4,) + (1,) * 8), "8 dimensions"),
    ],
)
def test_data_that_the_cache_cannot_store_is_refused(
    path: Path, folder: Path, values: NDArray[Any], said: str
) -> None:
    assert said in refusal(path, {"vit_cls": values, "names": np.array(NAMES)}, images=folder)


@quick
def test_images_whose_rows_differ_are_refused(path: Path, folder: Path) -> None:
    rows = {f"vit_cls/{name}": ROWS[0] for name in NAMES[:3]}
    text = refusal(path, {**rows, f"vit_cls/{NAMES[3]}": ROWS}, names=None, images=folder)
    assert "3 of 3 float32, 1 of 4×3 float32" in text


@quick
def test_lists_of_differing_length_are_refused(path: Path, folder: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    ragged = arrow.table({"vit_cls": [[1.0], [2.0, 3.0], [], None], "names": NAMES})
    parquet.write_table(ragged, path.with_name("theirs"))
    with pytest.raises(CacheError, match="differ in length"):
        load(path, path.with_name("theirs"), images=folder)


@quick
def test_rows_that_are_null_fail(path: Path, folder: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"vit_cls": [[1.0, 2.0], None, [3.0, None], [4.0, 5.0]], "names": NAMES})
    parquet.write_table(table, path.with_name("theirs"))
    assert load(path, path.with_name("theirs"), images=folder).failed == 2


# Files from strangers.


def test_pickles_are_never_read(path: Path, folder: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path.with_name("exploded"),)

    objects = np.array([Bomb()], dtype=object)
    np.save(path.with_name("theirs.npy"), objects, allow_pickle=True)
    np.savez(path.with_name("theirs.npz"), vit_cls=objects, names=objects)
    path.with_name("theirs.pkl").write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(path.with_name("theirs.pt"), "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    for suffix in ("npy", "npz", "pkl", "pt"):
        with pytest.raises(CacheError, match=r"[Pp]ickle|torch\.save"):
            load(path, path.with_name(f"theirs.{suffix}"), images=folder)
    assert not path.with_name("exploded").exists()
    assert not path.exists()


def test_data_in_other_files_is_not_read(path: Path, folder: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(bytes(48))
    with h5py.File(path.with_name("theirs"), "w") as file:
        file["names"] = NAMES
        file.create_dataset("vit_cls", (4, 3), "f4", external=[(str(secret), 0, 48)])
        file["linked"] = h5py.ExternalLink("secret.h5", "/vit_cls")
    with pytest.raises(CacheFormatError, match="stored in other files"):
        load(path, path.with_name("theirs"), images=folder)
    with pytest.raises(CacheError, match="no dataset linked"):
        load(path, path.with_name("theirs"), data="linked", images=folder)


@pytest.mark.parametrize("write", [write_hdf5, write_npz, write_npz_compressed, write_parquet])
def test_damaged_files_are_an_error_or_a_read(
    path: Path, folder: Path, write: Callable[[Path, Data], None]
) -> None:
    source = path.with_name("theirs")
    write(source, {"vit_cls": ROWS, "names": np.array(NAMES)})
    whole = source.read_bytes()
    generator = np.random.default_rng(0)
    for trial in range(4):
        content = bytearray(whole)
        if trial == 0:
            del content[len(content) // 2 :]
        for at in generator.integers(0, len(content), 30 * trial):
            content[at] = generator.integers(256)
        source.write_bytes(content)
        try:
            load(path, source, images=folder, replace=True)
        except CacheError:
            continue
        assert verify(path) == []


def test_a_file_that_needs_too_much_memory_is_refused(path: Path, folder: Path) -> None:
    with h5py.File(path.with_name("bomb"), "w") as file:
        file["names"] = NAMES
        file.create_dataset("vit_cls", (4, 1 << 30), "f4", chunks=(1, 1 << 28), compression="gzip")
    config = ImportConfig(feature="vit_cls", provenance=MADE, names="names", images=folder)
    with pytest.raises(CacheError, match=r"memory|cannot be read"):
        import_features(path, [path.with_name("bomb")], config, memory_bytes=1 << 29)
