"""A repair keeps what is sound, drops what is not, and says which is which."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnerfeat.cache import (
    OK,
    CacheWriter,
    FeatureCache,
    Provenance,
    TableRows,
    content_id,
    pack,
    pair_id,
    repair,
    stack_ids,
    text_id,
    verify,
)
from mnerfeat.errors import CacheError
from tests.cache.builders import VIT, feature, images, put_numbered


def written(path: Path) -> None:
    """Images, a failure, texts and pairs, in a packed file and two parts."""
    put_numbered(path, range(12))
    CacheWriter(path).put(images=images({"bad.jpg": b"bad"}, vit_cls=feature(["broken"])))
    text = text_id("a text")
    CacheWriter(path).put(
        texts=TableRows(ids=stack_ids([text]), features={"clip_text": feature([[1, 2, 3]])}),
        pairs=TableRows(
            ids=stack_ids([pair_id(text, content_id(b"1"))]),
            text=stack_ids([text]),
            image=stack_ids([content_id(b"1")]),
            features={"reward": feature([[0.5]], Provenance({"by": "us"}), width=1)},
        ),
    )
    pack(path)
    put_numbered(path, range(12, 18))
    put_numbered(path, range(16, 20))


def flip(path: Path, dataset: str, position: int, value: bytes) -> None:
    with h5py.File(path) as file:
        offset = file[dataset].id.get_offset() + position * file[dataset].dtype.itemsize
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(value)


def values(path: Path) -> dict[str, float]:
    cache = FeatureCache(path)
    data, fine = cache["vit_cls"].read(slice(None))
    return {name: float(data[row, 0]) for name, row in cache.images.names() if fine[row]}


def row_of(path: Path, name: str) -> int:
    with h5py.File(path) as file:
        texts, offset = file["images/path/bytes"][:].tobytes(), file["images/path/offset"][:]
        for i, row in enumerate(file["images/path/row"]):
            if texts[int(offset[i]) : int(offset[i + 1])].decode() == name:
                return int(row)
    raise AssertionError(name)


def test_a_sound_cache_is_left_alone(path: Path) -> None:
    written(path)
    before = {file: file.read_bytes() for file in path.parent.rglob("*.h5")}
    report = repair(path)
    assert not report.repaired
    assert {file: file.read_bytes() for file in path.parent.rglob("*.h5")} == before


def test_rows_that_are_not_sound_are_missing_afterwards(path: Path) -> None:
    written(path)
    whole = values(path)
    row = row_of(path, "3.jpg")
    flip(path, "images/vit_cls/data", 3 * row, np.float32(4).tobytes())
    row = row_of(path, "4.jpg")
    flip(path, "images/vit_cls/data", 3 * row, np.float32(np.nan).tobytes())
    assert len(verify(path)) == 1
    report = repair(path)
    assert report.repaired
    assert report.rows == {"vit_cls": 2}
    # Nothing of them was left, so their names went with them: the next extraction finds them new.
    assert report.lost == {"images": 2}
    assert verify(path) == []
    assert values(path) == {n: v for n, v in whole.items() if n not in {"3.jpg", "4.jpg"}}
    assert FeatureCache(path)["vit_cls"].failures
    put_numbered(path, range(3, 5))
    assert values(path) == whole
    assert not repair(path).repaired


def test_failures_are_tried_again_where_the_states_are_damaged(path: Path) -> None:
    """A row that is OK has a checksum to tell it; one that failed has none."""
    written(path)
    whole = values(path)
    flip(path, "images/vit_cls/state", row_of(path, "5.jpg"), b"\x02")
    assert any("state does not match" in fault for fault in verify(path))
    report = repair(path)
    assert report.lost == {"images": 2}
    assert verify(path) == []
    assert values(path) == {name: value for name, value in whole.items() if name != "5.jpg"}
    assert FeatureCache(path)["vit_cls"].failures == {}


def test_rows_that_are_not_ok_hold_nothing_afterwards(path: Path) -> None:
    """Reading gives zeros for them anyway; still `verify` complains, so `repair` must help."""
    rows = feature([[1, 1, 1], "broken"])
    CacheWriter(path).put(images=images({"a.jpg": b"a", "b.jpg": b"b"}, vit_cls=rows))
    pack(path)
    flip(path, "images/vit_cls/data", 3 * row_of(path, "b.jpg"), np.float32(4).tobytes())
    assert any("not OK hold data" in fault for fault in verify(path))
    assert repair(path).repaired
    assert verify(path) == []
    assert values(path) == {"a.jpg": 1}
    assert list(FeatureCache(path)["vit_cls"].failures.values()) == ["broken"]


def test_names_that_may_lead_astray_are_dropped(path: Path) -> None:
    """Nothing else would tell that a name leads to the wrong row."""
    put_numbered(path, range(10))
    pack(path)
    flip(path, "images/path/row", 3, np.uint32(7).tobytes())
    assert any("path/row does not match" in fault for fault in verify(path))
    report = repair(path)
    assert (report.names, report.lost, report.rows) == (10, {}, {})
    assert verify(path) == []
    cache = FeatureCache(path)
    assert sorted(cache["vit_cls"][:][:, 0].tolist()) == [*range(10)]
    put_numbered(path, range(10))
    assert values(path) == {f"{n}.jpg": n for n in range(10)}


@pytest.mark.parametrize(
    ("dataset", "value", "rows"),
    [("images/id", b"\0", 12), ("images/prefix", b"\0" * 8, 12), ("images/size", b"\7", 12)],
)
def test_what_is_known_twice_survives(path: Path, dataset: str, value: bytes, rows: int) -> None:
    """A row whose identity is damaged does not match its checksum; the others do."""
    put_numbered(path, range(12))
    pack(path)
    whole = values(path)
    flip(path, dataset, 0, value)
    assert verify(path)
    report = repair(path)
    assert verify(path) == []
    kept = values(path)
    assert kept.items() <= whole.items()
    assert len(kept) == rows - report.rows.get("vit_cls", 0)


def test_a_row_with_another_feature_keeps_its_place(path: Path) -> None:
    put_numbered(path, [1, 2])
    clip = feature([[7, 7], [8, 8]], Provenance({"model": "clip"}), "<f2", 2)
    CacheWriter(path).put(images=images({"1.jpg": b"1", "2.jpg": b"2"}, clip_image=clip))
    pack(path)
    flip(path, "images/vit_cls/data", 3 * row_of(path, "1.jpg"), np.float32(4).tobytes())
    report = repair(path)
    assert (report.rows, report.lost) == ({"vit_cls": 1}, {})
    cache = FeatureCache(path)
    assert len(cache.images) == 2
    (row,) = cache.rows(["1.jpg"])
    assert cache["vit_cls"].state[row] != OK
    assert cache["clip_image"][row].tolist() == [7, 7]


def test_a_sound_copy_in_an_older_part_is_used(path: Path) -> None:
    put_numbered(path, [1])
    put_numbered(path, [1])
    newest = FeatureCache(path).files[-1].path
    flip(newest, "images/vit_cls/data", 0, np.float32(4).tobytes())
    assert repair(path).rows == {"vit_cls": 1}
    assert values(path) == {"1.jpg": 1}


def test_a_pair_goes_with_its_image(path: Path) -> None:
    written(path)
    flip(path, "images/vit_cls/data", 3 * row_of(path, "1.jpg"), b"\x01")
    report = repair(path)
    assert report.lost == {"images": 1, "pairs": 1}
    assert verify(path) == []


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_that_was_cut_off_keeps_what_came_before(path: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    contents = {f"{n}.jpg": str(n).encode() for n in range(500)}
    numbers = rng.standard_normal((500, 64))
    rows = feature(numbers.tolist(), VIT, width=64)
    CacheWriter(path).put(images=images(contents, vit_cls=rows))
    pack(path)
    whole = values(path)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    report = repair(path)
    assert report.truncated == (path,)
    assert verify(path) == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.h5"]
    cache = FeatureCache(path)
    assert len(cache.images) == 500 - report.lost.get("images", 0)
    CacheWriter(path).put(images=images(contents, vit_cls=rows))
    assert values(path) == whole


def test_what_survives_a_cut_are_the_rows_before_it(path: Path) -> None:
    numbers = [[n] * 4096 for n in range(50)]
    contents = {f"{n}.jpg": str(n).encode() for n in range(50)}
    CacheWriter(path).put(images=images(contents, vit_cls=feature(numbers, VIT, width=4096)))
    pack(path)
    whole = values(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10 * 4096 * 4)
    report = repair(path)
    assert report.rows == {"vit_cls": 10}
    kept = values(path)
    assert len(kept) == 40
    assert kept.items() <= whole.items()


def test_a_file_of_which_nothing_can_be_read_is_set_aside(path: Path) -> None:
    written(path)
    (path.parent / "features.h5.d" / "part-x.h5").write_bytes(b"not HDF5 at all")
    with path.open("r+b") as file:
        file.seek(60)
        file.write(b"\xff" * 40)
    parts = values_of_parts(path)
    report = repair(path)
    assert [aside.name for aside in report.set_aside] == [
        "features.h5.damaged",
        "part-x.h5.damaged",
    ]
    assert all(aside.exists() for aside in report.set_aside)
    assert values(path) == parts
    assert verify(path) == []


def values_of_parts(path: Path) -> dict[str, float]:
    other = path.with_name("copy.h5")
    shutil.copytree(path.with_name("features.h5.d"), path.with_name("copy.h5.d"))
    (path.with_name("copy.h5.d") / "part-x.h5").unlink()
    found = values(other)
    shutil.rmtree(path.with_name("copy.h5.d"))
    return found


def test_a_part_that_a_killed_pack_left_behind_is_older_than_the_pack(path: Path) -> None:
    CacheWriter(path).put(images=images({"a.jpg": b"old"}, vit_cls=feature([[1, 1, 1]])))
    saved = FeatureCache(path).files[-1].path
    content = saved.read_bytes()
    CacheWriter(path).put(images=images({"a.jpg": b"new"}, vit_cls=feature([[2, 2, 2]])))
    pack(path)
    saved.parent.mkdir()
    saved.write_bytes(content)
    flip(path, "images/prefix", 0, b"\xff" * 8)
    assert repair(path).repaired
    assert values(path) == {"a.jpg": 2}


def test_another_version_is_no_damage(path: Path) -> None:
    put_numbered(path, [1])
    pack(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(CacheError, match="version 99"):
        repair(path)
    assert path.exists()


def test_no_cache_at_all(path: Path) -> None:
    with pytest.raises(CacheError, match="no feature cache"):
        repair(path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)),
        min_size=1,
        max_size=5,
    ),
    which=st.integers(0, 2),
)
def test_whatever_is_damaged_the_rest_is_kept(
    tmp_path_factory: pytest.TempPathFactory,
    sound: Path,
    where: list[tuple[float, bytes]],
    which: int,
) -> None:
    """Random bytes anywhere: afterwards the cache is sound, and no value is another one."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "features.h5"
    shutil.copytree(sound.parent, folder, dirs_exist_ok=True)
    whole = values(path)
    file = FeatureCache(path).files[which].path
    data = bytearray(file.read_bytes())
    for share, junk in where:
        start = int(share * len(data))
        data[start : start + len(junk)] = junk[: len(data) - start]
    file.write_bytes(data)
    faults = verify(path)
    report = repair(path)
    assert report.repaired == bool(faults)
    assert verify(path) == [] if path.exists() or list(folder.rglob("part-*.h5")) else True
    if path.exists() and "vit_cls" in FeatureCache(path):
        for name, value in values(path).items():
            assert whole.get(name, value) == value
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "features.h5"
    written(path)
    return path
