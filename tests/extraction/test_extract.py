"""A run of extraction from a folder to a cache, with models that cost nothing."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from mnerfeat.cache import FAILED, OK, FeatureCache, content_id, unreadable_id
from mnerfeat.errors import CacheError, ConfigError, DataError, ProvenanceError, StorageError
from mnerfeat.extraction import local, progress, recorder, runner
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.extraction.summary import ExtractSummary
from mnerfeat.extractors import registry
from mnerfeat.extractors.base import ExtractorOptions
from tests.extraction import fakes
from tests.extractors.pictures import BAD, GOOD, encoded, picture
from tests.unprivileged import call_without_write_access

Run = Callable[..., ExtractSummary]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, fakes.FakeExtractor]:
    """The extractors of the last run, by name."""
    monkeypatch.setattr(registry, "EXTRACTORS", registry.EXTRACTORS)
    for name in ("vit", "clip", "quality"):
        monkeypatch.setitem(registry.EXTRACTORS, name, registry.EXTRACTORS[name])
    monkeypatch.setattr(recorder, "PART_ROWS", recorder.PART_ROWS)
    monkeypatch.setattr(local, "choose_computes", local.choose_computes)
    monkeypatch.setattr(runner, "is_out_of_memory", runner.is_out_of_memory)
    return fakes.install()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(10):
        (images / f"{i}.png").write_bytes(encoded(picture(20 + i, 20, seed=i)))
    return images


@pytest.fixture
def run(tmp_path: Path, folder: Path, made: object) -> Run:
    def do(
        *, texts: Any = (), names: Any = None, known: Any = None, **options: Any
    ) -> ExtractSummary:
        given: dict[str, Any] = {"images": folder, "cache": tmp_path / "features.h5", "workers": 0}
        return extract(ExtractConfig(**(given | options)), texts=texts, names=names, known=known)

    return do


@pytest.fixture
def cache(tmp_path: Path) -> Callable[[], FeatureCache]:
    return lambda: FeatureCache(tmp_path / "features.h5")


Cache = Callable[[], FeatureCache]


def counts(summary: ExtractSummary) -> tuple[int, int, int, int]:
    return summary.new, summary.reused, summary.copies, len(summary.failed)


def test_every_image_gets_every_feature(run: Run, cache: Cache, folder: Path) -> None:
    summary = run()
    assert counts(summary) == (10, 0, 0, 0)
    held = cache()
    assert held.features == ["clip_image", "quality", "vit_cls"]
    for path in folder.iterdir():
        (row,) = held.rows([path.name])
        assert bytes(held.images.ids[row]) == content_id(path.read_bytes())
        wanted = fakes.FakePrepare("vit")(picture(int(path.stem) + 20, 20, seed=int(path.stem)))
        assert np.array_equal(held["vit_cls"][row], wanted["sums"])
        assert held.images.sizes[row].tolist() == [20 + int(path.stem), 20]


def test_running_again_does_nothing(
    run: Run, cache: Cache, made: dict[str, fakes.FakeExtractor], tmp_path: Path
) -> None:
    run(texts=["a b"])
    before, written = cache().digest(), (tmp_path / "features.h5").stat().st_mtime_ns
    summary = run(texts=["a b"])
    assert counts(summary) == (0, 10, 0, 0)
    assert summary.new_texts == 0
    assert summary.device is None
    assert all(not extractor.seen for extractor in made.values())
    assert cache().digest() == before
    assert (tmp_path / "features.h5").stat().st_mtime_ns == written


def test_only_what_is_new_is_looked_at(
    run: Run, folder: Path, made: dict[str, fakes.FakeExtractor], cache: Cache
) -> None:
    run()
    (folder / "new.png").write_bytes(encoded(picture(33, 33, seed=99)))
    assert counts(run()) == (1, 10, 0, 0)
    assert sum(made["vit"].seen) == 1
    assert len(cache().images) == 11


def test_a_new_feature_leaves_the_others_alone(
    run: Run, made: dict[str, fakes.FakeExtractor], cache: Cache
) -> None:
    run(features=("vit",))
    before = cache().digest()["vit_cls"]
    assert counts(run(features=("vit", "quality"))) == (10, 0, 0, 0)
    assert made["vit"].seen == []
    assert cache().digest()["vit_cls"] == before
    assert cache()["quality"].complete


def test_a_copy_costs_nothing_but_its_name(
    run: Run, folder: Path, made: dict[str, fakes.FakeExtractor], cache: Cache
) -> None:
    shutil.copy(folder / "3.png", folder / "again.png")
    (folder / "deep").mkdir()
    shutil.copy(folder / "3.png", folder / "deep" / "once more.png")
    assert counts(run()) == (10, 0, 2, 0)
    assert sum(made["vit"].seen) == 10
    rows = cache().rows(["3.png", "again.png", "deep/once more.png"])
    assert len(set(rows.tolist())) == 1


def test_a_renamed_file_is_known_by_both_names(
    run: Run, folder: Path, made: dict[str, fakes.FakeExtractor], cache: Cache
) -> None:
    run()
    (folder / "3.png").rename(folder / "three.png")
    assert counts(run()) == (0, 10, 0, 0)
    assert made["vit"].seen == []
    first, second = cache().rows(["3.png", "three.png"])
    assert first == second


def test_new_content_under_an_old_name_is_a_new_image(run: Run, folder: Path, cache: Cache) -> None:
    run()
    before = cache()
    old = before["vit_cls"][before.rows(["3.png"])]
    (folder / "3.png").write_bytes(encoded(picture(50, 50, seed=77)))
    assert counts(run()) == (1, 9, 0, 0)
    after = cache()
    assert len(after.images) == 11
    assert not np.array_equal(after["vit_cls"][after.rows(["3.png"])], old)
    # The old content coming back costs nothing.
    (folder / "3.png").write_bytes(encoded(picture(23, 20, seed=3)))
    assert counts(run()) == (0, 10, 0, 0)
    assert np.array_equal(cache()["vit_cls"][cache().rows(["3.png"])], old)


class TestBadImages:
    def test_each_is_recorded_with_its_reason_and_costs_no_other(
        self, run: Run, folder: Path, cache: Cache
    ) -> None:
        for name, make in GOOD.items():
            (folder / name).write_bytes(make())
        for name, (make, _) in BAD.items():
            (folder / name).write_bytes(make())
        (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
        (folder / "notes.txt").write_text("no image")
        summary = run()
        failed = dict(summary.failed)
        # The PostScript file has neither the ending nor the bytes of an image we decode.
        expected = {name: reason for name, (_, reason) in BAD.items() if name != "script.eps"}
        expected["loop.jpg"] = "leads back to itself"
        assert set(failed) == set(expected)
        assert all(reason in failed[name] for name, reason in expected.items())
        assert summary.others == 2
        held = cache()
        # "photo.jpg", "name without ending" and "naïve …" are copies of one another.
        assert summary.copies == 2
        for feature in held.features:
            for name in GOOD:
                assert held[feature].state[held.rows([name])[0]] == OK
            for name in expected:
                (row,) = held.rows([name])
                assert held[feature].state[row] == FAILED
                assert held[feature].failures[row] == failed[name]

    def test_they_are_tried_again_but_not_written_again(
        self, run: Run, folder: Path, cache: Cache, tmp_path: Path
    ) -> None:
        (folder / "bad.jpg").write_bytes(b"no image")
        (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
        first = run()
        written = (tmp_path / "features.h5").stat().st_mtime_ns
        again = run()
        assert again.failed == first.failed
        assert counts(again)[:2] == (0, 10)
        assert (tmp_path / "features.h5").stat().st_mtime_ns == written

    def test_one_that_is_mended_is_extracted(self, run: Run, folder: Path, cache: Cache) -> None:
        (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
        run()
        (folder / "loop.jpg").unlink()
        (folder / "loop.jpg").write_bytes(encoded(picture(44, 44)))
        assert counts(run()) == (1, 10, 0, 0)
        (row,) = cache().rows(["loop.jpg"])
        assert cache()["vit_cls"].state[row] == OK

    def test_one_that_was_read_once_keeps_its_rows_when_it_cannot_be_read(
        self, run: Run, folder: Path, cache: Cache
    ) -> None:
        run()
        (folder / "3.png").unlink()
        (folder / "3.png").symlink_to(folder / "3.png")
        summary = run()
        assert [name for name, _ in summary.failed] == ["3.png"]
        (row,) = cache().rows(["3.png"])
        assert cache()["vit_cls"].state[row] == OK

    def test_an_extractor_that_cannot_use_one_leaves_it_to_the_others(
        self, run: Run, folder: Path, cache: Cache
    ) -> None:
        (folder / "odd.png").write_bytes(encoded(picture(*fakes.REFUSED)))
        summary = run()
        assert summary.failed == (("odd.png", "quality: too odd for it"),)
        held = cache()
        (row,) = held.rows(["odd.png"])
        assert held["vit_cls"].state[row] == OK
        assert held["quality"].failures[row] == "too odd for it"

    def test_a_preparation_that_raises_is_a_plain_reason(
        self, run: Run, folder: Path, cache: Cache
    ) -> None:
        (folder / "odd.png").write_bytes(encoded(picture(*fakes.CHOKER)))
        summary = run(features=("vit",))
        ((name, reason),) = summary.failed
        assert name == "odd.png"
        assert reason.startswith("vit: its preparation failed: ValueError: choked at")
        assert "0x" not in reason

    def test_numbers_that_are_not_finite_are_failures(
        self, run: Run, folder: Path, cache: Cache
    ) -> None:
        (folder / "odd.png").write_bytes(encoded(picture(*fakes.INFINITE)))
        summary = run(features=("vit",))
        assert summary.failed == (("odd.png", "vit: the output is not finite"),)
        assert cache()["vit_cls"].failures[cache().rows(["odd.png"])[0]]

    def test_a_file_that_changes_meanwhile_is_left_to_the_next_run(
        self, run: Run, folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = local.decode_here

        def meddle(*arguments: Any) -> Any:
            (folder / "3.png").write_bytes(encoded(picture(60, 60, seed=5)))
            return real(*arguments)

        monkeypatch.setattr(local, "decode_here", meddle)
        summary = run()
        assert [name for name, _ in summary.failed] == ["3.png"]
        assert "changed" in summary.failed[0][1]
        monkeypatch.undo()


def test_names_may_be_given(run: Run, cache: Cache) -> None:
    summary = run(names=["3.png", Path("4.png"), "./3.png", "gone.png"])
    assert counts(summary) == (2, 0, 0, 1)
    assert summary.failed == (("gone.png", "no such file"),)
    assert cache()["vit_cls"].state[cache().rows(["gone.png"])[0]] == FAILED


class TestNames:
    """A name means the bytes that it was extracted from."""

    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        folder = tmp_path / "other"
        folder.mkdir()
        for i in (3, 4):
            (folder / f"{i}.png").write_bytes(encoded(picture(50 + i, 50, seed=100 + i)))
        (folder / "new.png").write_bytes(encoded(picture(70, 50, seed=70)))
        return folder

    def test_those_of_another_folder_are_refused_before_any_model_runs(
        self, run: Run, cache: Cache, other: Path, made: dict[str, fakes.FakeExtractor]
    ) -> None:
        run()
        before = cache().digest()
        with pytest.raises(CacheError, match="these names already, for other images") as refused:
            run(images=other)
        assert set(refused.value.faults) == {"3.png", "4.png"}
        assert "--rename" in str(refused.value)
        assert all(not extractor.seen for extractor in made.values())
        assert cache().digest() == before

    def test_those_of_another_folder_are_taken_over_if_asked_for(
        self, run: Run, cache: Cache, other: Path
    ) -> None:
        run()
        summary = run(images=other, rename=True)
        assert (summary.new, summary.renamed, summary.updated) == (3, 2, 0)
        assert "2 names taken over" in str(summary)
        (row,) = cache().rows(["3.png"])
        assert bytes(cache().images.ids[row]) == content_id((other / "3.png").read_bytes())

    def test_the_same_bytes_in_another_folder_are_no_conflict(
        self, run: Run, folder: Path, tmp_path: Path
    ) -> None:
        run()
        shutil.copytree(folder, tmp_path / "copied")
        assert counts(run(images=tmp_path / "copied")) == (0, 10, 0, 0)

    def test_files_replaced_in_their_folder_are_counted(
        self, run: Run, folder: Path, cache: Cache
    ) -> None:
        run()
        (folder / "3.png").write_bytes(encoded(picture(50, 50, seed=77)))
        summary = run()
        assert (summary.new, summary.updated, summary.renamed) == (1, 1, 0)
        assert "1 files replaced since the last run" in str(summary)
        (row,) = cache().rows(["3.png"])
        assert bytes(cache().images.ids[row]) == summary.ids["3.png"]

    def test_replacing_failed_images_needs_no_word(
        self, run: Run, folder: Path, other: Path
    ) -> None:
        (folder / "new.png").write_bytes(b"no image")
        run()
        (folder / "new.png").write_bytes((other / "new.png").read_bytes())
        summary = run()
        assert (summary.new, summary.updated, summary.renamed) == (1, 0, 0)


def test_the_summary_identifies_every_file(run: Run, folder: Path) -> None:
    shutil.copy(folder / "3.png", folder / "again.png")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    ids = run().ids
    assert set(ids) == {path.name for path in folder.iterdir()}
    assert ids["3.png"] == ids["again.png"] == content_id((folder / "3.png").read_bytes())
    assert ids["loop.jpg"] == unreadable_id("loop.jpg")


def test_colour_profiles_and_transparency_are_counted(run: Run, folder: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    (folder / "profile.png").write_bytes(encoded(picture(40, 41), icc_profile=profile))
    logo = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    (folder / "logo.png").write_bytes(encoded(logo))
    summary = run()
    assert (summary.new, summary.profiles_ignored, summary.transparency_dropped) == (12, 1, 1)
    summary = run()
    assert (summary.profiles_ignored, summary.transparency_dropped) == (0, 0)


class TestKnownElsewhere:
    """Images and texts of another cache, which is only read."""

    def test_they_are_not_extracted_again(
        self, run: Run, folder: Path, tmp_path: Path, made: dict[str, fakes.FakeExtractor]
    ) -> None:
        run(texts=["a"])
        before = (tmp_path / "features.h5").read_bytes()
        (folder / "new.png").write_bytes(encoded(picture(33, 33, seed=99)))
        known = FeatureCache(tmp_path / "features.h5")
        summary = run(texts=["a", "b"], cache=tmp_path / "new.h5", known=known)
        assert counts(summary) == (1, 10, 0, 0)
        assert (summary.texts, summary.new_texts) == (2, 1)
        assert len(summary.ids) == 11
        new = FeatureCache(tmp_path / "new.h5")
        assert (len(new.images), len(new.texts)) == (1, 1)
        assert (tmp_path / "features.h5").read_bytes() == before

    def test_nothing_is_written_if_all_are_known(self, run: Run, tmp_path: Path) -> None:
        run()
        known = FeatureCache(tmp_path / "features.h5")
        assert counts(run(cache=tmp_path / "new.h5", known=known)) == (0, 10, 0, 0)
        assert not list(tmp_path.glob("new*"))

    def test_features_of_another_model_are_not_known(self, run: Run, tmp_path: Path) -> None:
        run(vit="one")
        known = FeatureCache(tmp_path / "features.h5")
        summary = run(cache=tmp_path / "new.h5", vit="other", known=known)
        assert summary.new == 10
        assert FeatureCache(tmp_path / "new.h5").features == ["vit_cls"]


def test_nothing_to_do_writes_nothing_not_even_a_lock(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    before = sorted(tmp_path.iterdir())

    def refuse(*_: Any, **__: Any) -> None:
        raise StorageError("a read-only folder")

    monkeypatch.setattr("mnerfeat.extraction.extract.pack", refuse)
    monkeypatch.setattr("mnerfeat.cache.CacheWriter.put", refuse)
    assert counts(run()) == (0, 10, 0, 0)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_nothing_to_do_needs_no_right_to_write(run: Run, tmp_path: Path) -> None:
    run(texts=["a b"])

    def again() -> None:
        assert counts(run(texts=["a b"])) == (0, 10, 0, 0)

    call_without_write_access(tmp_path, again)


class TestTexts:
    def test_each_is_embedded_once_and_the_long_ones_are_counted(
        self, run: Run, cache: Cache
    ) -> None:
        texts = ["a b", "a b", "a a a a a a a", ""]
        summary = run(texts=texts)
        assert (summary.texts, summary.new_texts, summary.cut_texts) == (3, 3, 1)
        held = cache()
        rows = held.text_rows(texts)
        assert rows[0] == rows[1] >= 0
        assert held["clip_text"][rows[2]].tolist() == [13, 7, 6]

    def test_without_clip_they_are_not_looked_at(self, run: Run, cache: Cache) -> None:
        assert run(texts=["a"], features=("vit",)).texts == 0
        assert "clip_text" not in cache()

    def test_texts_alone_need_no_image(self, run: Run, cache: Cache) -> None:
        summary = run(texts=["a"], names=())
        assert (summary.names, summary.new_texts) == (0, 1)


class TestOtherModels:
    def test_a_feature_of_another_model_is_an_error_that_shows_the_difference(
        self, run: Run, cache: Cache
    ) -> None:
        run(vit="one")
        before = cache().digest()
        with pytest.raises(ProvenanceError) as refused:
            run(vit="other one")
        message = str(refused.value)
        assert "vit_cls: model: one in the cache, other one requested" in message
        assert "vit_cls: preprocessing.size: 3 in the cache, 9 requested" in message
        assert "--features vit --replace" in message
        assert cache().digest() == before

    def test_replace_makes_it_anew_and_nothing_else(
        self, run: Run, cache: Cache, made: dict[str, fakes.FakeExtractor]
    ) -> None:
        run(vit="one")
        summary = run(vit="other one", replace=True)
        assert counts(summary) == (10, 0, 0, 0)
        assert sum(made["vit"].seen) == 10
        assert made["quality"].seen == []
        assert cache()["vit_cls"].provenance.facts["model"] == "other one"
        assert cache()["vit_cls"].complete
        assert counts(run(vit="other one")) == (0, 10, 0, 0)

    def test_replace_says_what_it_drops(
        self, run: Run, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run(vit="one")
        for i in range(4):
            (folder / f"{i}.png").unlink()
        with caplog.at_level(logging.WARNING):
            run(vit="other one", features=("vit",), replace=True)
        assert "4 rows of images that are not named now are dropped" in caplog.text


def test_a_dry_run_tells_and_does_nothing(
    run: Run, tmp_path: Path, made: dict[str, fakes.FakeExtractor]
) -> None:
    summary = run(texts=["a"], dry_run=True)
    assert counts(summary) == (10, 0, 0, 0)
    assert summary.new_texts == 1
    assert "nothing was done" in str(summary)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_memory_that_runs_out_halves_what_runs_at_once_and_loses_nothing(
    run: Run, cache: Cache, made: dict[str, fakes.FakeExtractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = registry.EXTRACTORS["vit"]

    def small(options: ExtractorOptions) -> Any:
        extractor = factory.make(options)
        extractor.memory = 1  # type: ignore[attr-defined]
        return extractor

    monkeypatch.setitem(registry.EXTRACTORS, "vit", replace(factory, make=small))
    run()
    assert cache()["vit_cls"].complete
    assert sum(made["vit"].seen) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_several_devices_end_in_the_same_cache(
    run: Run, cache: Cache, tmp_path: Path, workers: int
) -> None:
    run(texts=["a b", "c"])
    summary = run(texts=["a b", "c"], cache=tmp_path / "two.h5", device="cpu,cpu", workers=workers)
    assert counts(summary) == (10, 0, 0, 0)
    assert FeatureCache(tmp_path / "two.h5").digest() == cache().digest()


def test_a_model_that_cannot_be_loaded_keeps_what_the_others_did(run: Run, cache: Cache) -> None:
    run(features=("clip",))
    with pytest.raises(RuntimeError, match="broken"):
        run(vit="broken")
    assert cache()["clip_image"].complete


@pytest.mark.parametrize("make", [lambda f: None, lambda f: (f / "a.txt").write_text("x")])
def test_a_folder_without_images_is_an_error(
    run: Run, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    make(empty)
    for texts in ((), ("a text",)):
        with pytest.raises(DataError, match="no image in") as refused:
            run(images=empty, texts=texts)
        assert "mnerfeat extract --images DIR" in str(refused.value)
    assert not list(tmp_path.glob("features*"))
    with pytest.raises(ConfigError, match="does not exist"):
        run(images=tmp_path / "nowhere")


def test_names_that_are_not_utf8_reach_the_cache(run: Run, folder: Path, cache: Cache) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    (folder / name).write_bytes(encoded(picture(41, 41, seed=5)))
    summary = run()
    assert len(cache().rows([name])) == 1
    str(summary).encode()


def test_progress_goes_to_standard_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "images/s" in told.err
    run()
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_a_minute(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    run(features=("vit",))
    assert "extracting:" not in caplog.text
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    run(features=("clip",))
    assert "extracting: 10 of 10 images, " in caplog.text
    assert " left" in caplog.text


def test_many_parts_are_packed_in_between(
    run: Run, cache: Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recorder, "PART_ROWS", 1)
    monkeypatch.setattr(recorder, "PACK_PARTS", 2)
    packs = []
    real = recorder.pack
    monkeypatch.setattr(recorder, "pack", lambda path: (packs.append(path), real(path)))
    run()
    assert len(packs) in {1, 2, 3}  # after 2, 4, 8 … parts, of about 10
    assert cache()["vit_cls"].complete
    assert not (tmp_path / "features.h5.d").exists()
