"""A part, a name and a lock belong to one cache."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mnerfeat.cache import (
    CacheWriter,
    FeatureCache,
    NameComparison,
    Provenance,
    TableRows,
    content_id,
    export,
    info,
    merge,
    pack,
    prune,
    repair,
    stack_ids,
    unreadable_id,
    verify,
)
from mnerfeat.errors import CacheError, ProvenanceError
from tests.cache.builders import VIT, feature, images, put_numbered


def put(path: Path, contents: dict[str, bytes], folder: Path | None, **how: bool) -> None:
    rows = images(contents, vit_cls=feature([[1, 2, 3]] * len(set(contents.values()))))
    fields = {name: getattr(rows, name) for name in ("ids", "names", "size", "features")}
    CacheWriter(path).put(images=TableRows(**fields, folder=folder), **how)


@pytest.fixture
def foreign(path: Path) -> Path:
    """A cache that another finished one was copied over, with a part of the first beside it."""
    put_numbered(path, range(3))
    pack(path)
    put_numbered(path, range(3, 6))
    other = path.with_name("other.h5")
    CacheWriter(other).put(images=images({"3.jpg": b"other"}, vit_cls=feature([[9, 9, 9]])))
    pack(other)
    shutil.copy(other, path)
    other.unlink()
    return path


# Parts.


def test_parts_of_another_cache_are_not_read_but_named(
    foreign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(foreign)
    (part,) = foreign.with_name("features.h5.d").iterdir()
    assert cache.foreign == info(foreign).foreign == (part,)
    assert f"{part} belongs to another cache" in caplog.text
    assert verify(foreign) == [f"{part} belongs to another cache"]
    assert [name for name, _ in cache.images.names()] == ["3.jpg"]
    assert cache["vit_cls"][:].tolist() == [[9, 9, 9]]
    with pytest.raises(CacheError, match="does not contain"):
        cache.rows(["4.jpg"])
    pack(foreign)
    assert part.exists()


def test_repair_sets_parts_of_another_cache_aside(foreign: Path) -> None:
    report = repair(foreign)
    (aside,) = report.foreign
    assert aside.exists()
    assert aside.name.endswith(".foreign")
    assert report.repaired
    assert verify(foreign) == []
    assert not repair(foreign).repaired


def test_prune_sets_parts_of_another_cache_aside(foreign: Path) -> None:
    assert not prune(foreign).done
    report = prune(foreign, dry_run=False)
    assert report.done
    assert report.foreign[0].exists()
    assert verify(foreign) == []


def test_copying_renaming_and_moving_with_parts_keeps_all_rows(path: Path, tmp_path: Path) -> None:
    put_numbered(path, range(3))
    pack(path)
    put_numbered(path, range(3, 6))
    cache = FeatureCache(path)
    moved = tmp_path / "elsewhere" / "renamed.h5"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    shutil.copytree(path.with_name("features.h5.d"), moved.with_name("renamed.h5.d"))
    for act in (verify, pack):
        act(moved)
        assert FeatureCache(moved).digest() == cache.digest()
        assert FeatureCache(moved).cache_id == cache.cache_id
        assert FeatureCache(moved).foreign == ()


def test_parts_without_their_file_say_which_cache_it_was(path: Path) -> None:
    put_numbered(path, range(3))
    identity = FeatureCache(path).cache_id
    path.unlink()
    assert FeatureCache(path).cache_id == identity
    put_numbered(path, range(3, 6))
    assert FeatureCache(path).cache_id == identity
    assert len(FeatureCache(path).images) == 6


def test_first_writers_end_with_one_identity(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.cache.builders import put_numbered; "
        "put_numbered(Path(sys.argv[1]), [int(sys.argv[2])])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = FeatureCache(path)
    assert cache.foreign == ()
    assert len(cache.images) == 3
    assert len({file.cache_id for file in cache.files}) == 1


def test_a_merged_cache_has_an_identity_of_its_own(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    put_numbered(one, [1])
    put_numbered(two, [2])
    merge(path, [one, two])
    identities = {FeatureCache(each).cache_id for each in (path, one, two)}
    assert len(identities) == 3
    assert set(FeatureCache(path).files[0].salts) == identities


def test_rows_written_during_a_merge_are_kept(path: Path) -> None:
    """A writer that has not seen the new identity yet writes parts with the old one."""
    put_numbered(path, [1])
    pack(path)
    before = path.read_bytes()
    put_numbered(path, [2])
    (part,) = path.with_name("features.h5.d").iterdir()
    late = part.read_bytes()
    part.unlink()
    path.write_bytes(before)
    merge(path, [path])
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(late)
    assert len(FeatureCache(path).images) == 2
    put_numbered(path, [3])
    pack(path)
    assert len(FeatureCache(path).images) == 3


# Names.


def test_names_are_compared_by_folder(path: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    put(path, {"1.jpg": b"1", "2.jpg": b"2"}, a)
    failed = images({"bad.jpg": b"bad"}, vit_cls=feature(["broken"]))
    CacheWriter(path).put(images=failed)
    gone = TableRows(ids=stack_ids([unreadable_id("gone.jpg")]), names=[("gone.jpg", 0)])
    CacheWriter(path).put(images=gone)
    new = content_id(b"new")
    ids = {"1.jpg": new, "2.jpg": content_id(b"2"), "bad.jpg": new, "gone.jpg": new, "x.jpg": new}
    repaired = ("bad.jpg", "gone.jpg")
    for _ in range(2):
        cache = FeatureCache(path)
        assert cache.compare_names(ids, a) == NameComparison(updated=("1.jpg",), repaired=repaired)
        assert cache.compare_names(ids, b) == NameComparison(
            conflicting=("1.jpg",), repaired=repaired
        )
        assert cache.compare_names(ids, None).updated == ("1.jpg",)
        pack(path)


def test_names_of_another_folder_are_refused(path: Path, tmp_path: Path) -> None:
    put(path, {"1.jpg": b"1"}, tmp_path / "a")
    digest = FeatureCache(path).digest()
    with pytest.raises(CacheError, match="from another folder") as caught:
        put(path, {"1.jpg": b"other", "2.jpg": b"2"}, tmp_path / "b")
    assert caught.value.faults == ("1.jpg",)
    assert FeatureCache(path).digest() == digest
    put(path, {"1.jpg": b"1"}, tmp_path / "b")
    put(path, {"1.jpg": b"newer"}, tmp_path / "b")  # replaced in place
    put(path, {"1.jpg": b"other"}, tmp_path / "a", rename=True)
    cache = FeatureCache(path)
    assert cache.images.ids[cache.rows(["1.jpg"])[0]].tobytes() == content_id(b"other")


def test_names_that_another_writer_has_written_meanwhile_are_refused(
    path: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    first, second = CacheWriter(path), CacheWriter(path)
    first.put(images=replace(images({"1.jpg": b"1"}, vit_cls=feature([1])), folder=one))
    second.put(images=replace(images({"2.jpg": b"2"}, vit_cls=feature([2])), folder=other))
    first.put(images=replace(images({"3.jpg": b"3"}, vit_cls=feature([3])), folder=one))
    with pytest.raises(CacheError, match=r"3\.jpg"):
        second.put(images=replace(images({"3.jpg": b"4"}, vit_cls=feature([4])), folder=other))
    assert FeatureCache(path).rows(["1.jpg", "2.jpg", "3.jpg"]).min() >= 0


def test_a_merged_cache_still_knows_the_folders(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    put(one, {"1.jpg": b"1"}, tmp_path / "a")
    put(two, {"2.jpg": b"2"}, tmp_path / "b")
    merge(path, [one, two])
    other = content_id(b"other")
    compared = FeatureCache(path).compare_names({"1.jpg": other, "2.jpg": other}, tmp_path / "a")
    assert compared == NameComparison(updated=("1.jpg",), conflicting=("2.jpg",))


# Provenance.


def test_another_provenance_is_refused_unless_replaced(path: Path) -> None:
    put_numbered(path, range(64))
    writer = CacheWriter(path)
    rows = images({"0.jpg": b"0"}, vit_cls=feature([[1, 1, 1]], Provenance({"model": "new"})))
    with pytest.raises(ProvenanceError, match="vit in the cache, new in these rows"):
        writer.put(images=rows)
    assert FeatureCache(path)["vit_cls"].provenance == VIT
    writer.put(images=rows, replace=True)
    assert FeatureCache(path)["vit_cls"].provenance == Provenance({"model": "new"})


def test_joined_caches_are_one_by_identity(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    put_numbered(path, [1, 2])
    put_numbered(other, [2, 3])
    view = FeatureCache.joined([FeatureCache(path), FeatureCache(other)])
    rows = view.images.find([content_id(str(n).encode()) for n in (1, 2, 3)])
    assert view["vit_cls"][rows][:, 0].tolist() == [1, 2, 3]
    put_numbered(other, [4], Provenance({"model": "new"}))
    with pytest.raises(ProvenanceError):
        FeatureCache.joined([FeatureCache(path), FeatureCache(other)])


# Files.


@pytest.mark.parametrize("dangling", [True, False])
def test_a_symbolic_link_is_followed(path: Path, tmp_path: Path, dangling: bool) -> None:
    target = tmp_path / "disk" / "target.h5"
    target.parent.mkdir()
    if not dangling:
        put_numbered(target, [1])
        pack(target)
    path.symlink_to(target)
    put_numbered(path, [2])
    pack(path)
    assert path.is_symlink()
    assert len(FeatureCache(target).images) == (1 if dangling else 2)
    assert FeatureCache(path).digest() == FeatureCache(target).digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "features.h5"]


def test_a_replaced_file_keeps_its_mode_and_new_ones_follow_the_umask(path: Path) -> None:
    before = os.umask(0o027)
    try:
        put_numbered(path, [1])
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        pack(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        put_numbered(path, [2])
        pack(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_replaced_file_keeps_its_group(path: Path) -> None:
    put_numbered(path, [1])
    group = other_group(path)
    pack(path)
    assert path.stat().st_gid == group
    assert path.stat().st_uid == os.geteuid()


def other_group(path: Path) -> int:
    """Give a file another group that we may give it."""
    own = path.stat().st_gid
    for group in [*os.getgroups(), own + 1]:
        if group != own:
            with contextlib.suppress(PermissionError):
                os.chown(path, -1, group)
                return group
    pytest.skip("this user is in one group only")


def test_packing_nothing_writes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_numbered(path, [1])
    pack(path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be locked")

    monkeypatch.setattr("mnerfeat.cache.maintenance.pack.exclusive", refuse)
    pack(path)


def test_an_export_replaces_nothing_unless_asked(path: Path, tmp_path: Path) -> None:
    put_numbered(path, [1])
    target = tmp_path / "out.npz"
    target.write_bytes(b"mine")
    with pytest.raises(CacheError, match="exists already"):
        export(path, target)
    assert target.read_bytes() == b"mine"
    assert export(path, target, replace=True).rows == 1
