import json
import logging
import shutil

import pytest
import torch

from mnerfeat.checkpoint import (
    FORMAT_VERSION,
    MANIFEST,
    WEIGHTS,
    Manifest,
    Run,
    find_run,
    find_runs,
)
from mnerfeat.datasets import TagSet
from mnerfeat.errors import RunError, StorageError
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.tagger import Tagger
from mnerfeat.text import TextConfig, TextEncoder

from .tiny import encoder_folder, posts, table

SIZES = {"vit_cls": 6, "quality": 1, "relevance": 1, "unread": 9}


def manifest(encoder="tiny", **options):
    return Manifest.of(
        text=TextConfig(encoder=str(encoder)),
        head=IqcrConfig(**options),
        training={"epochs": 3, "seed": 1},
        tag_set=TagSet(),
        column_sizes=SIZES,
        fingerprints={"data": {"train": "abc"}},
    )


@pytest.fixture
def trained(tmp_path):
    """A complete run and the tagger it holds, whose encoder's folder is gone."""
    source = encoder_folder(tmp_path / "encoder")
    text = TextConfig(encoder=str(source), pooling="mean")
    tagger = Tagger.build(
        TextEncoder.from_pretrained(text), IqcrConfig(), TagSet(), column_sizes=SIZES, seed=1
    ).eval()
    run = Run.create(
        tmp_path / "runs",
        Manifest.of(
            text=text,
            head=IqcrConfig(ablation="none", layers=1),
            training={},
            tag_set=TagSet(),
            column_sizes=SIZES,
            fingerprints={},
        ),
    )
    run.save_weights(tagger)
    run.write_json("metrics.json", {"dev": 1.0})
    shutil.rmtree(source)
    return run.finish(), tagger


def edit(run, **changes):
    path = run.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_complete_run_gives_back_the_tagger_without_the_encoder_it_came_from(trained):
    run, tagger = trained
    again = Run.open(run.folder).load_tagger()
    some = posts(12, 3, clue=True)
    assert again.tag(some, table(some, 3)) == tagger.tag(some, table(some, 3))
    assert not again.training
    for name, weight in tagger.state_dict().items():
        assert (again.state_dict()[name] == weight).all()


def test_a_run_can_be_moved(trained, tmp_path):
    run, _ = trained
    moved = shutil.move(run.folder, tmp_path / "elsewhere")
    find_run(tmp_path / "runs", str(moved)).load_tagger()


def test_the_manifest_survives_writing_and_reading(tmp_path):
    run = Run.create(tmp_path, manifest())
    again = Run.open(run.folder)
    assert again.manifest.differences(run.manifest) == []
    assert again.manifest.types == ("PER", "LOC", "ORG", "MISC")
    assert again.manifest.column_sizes == {"vit_cls": 6, "quality": 1, "relevance": 1}
    assert again.manifest.versions["torch"] == torch.__version__.split("+")[0]
    assert not again.complete


def test_differences_name_every_option_that_differs():
    faults = manifest().differences(manifest(layers=2, renormalise=True))
    assert faults == [
        "head_options.layers: 1 there, 2 here",
        "head_options.renormalise: False there, True here",
    ]


def test_a_run_may_go_on_on_another_device():
    there, here = manifest(), manifest()
    there.training["device"], here.training["device"] = "cuda", "cpu"
    assert there.differences(here) == []


def test_an_interrupted_run_is_not_taken_for_a_trained_one(tmp_path):
    run = Run.create(tmp_path / "runs", manifest())
    with pytest.raises(RunError, match="did not reach its end"):
        run.load_tagger()
    with pytest.raises(RunError, match=rf"{run.name} was interrupted"):
        find_run(tmp_path / "runs")
    assert find_run(tmp_path / "runs", state="training").folder == run.folder


def test_the_newest_complete_run_is_the_default(tmp_path):
    runs = []
    for day, head in ((3, "b"), (1, "a"), (2, "c")):
        run = Run.create(tmp_path, manifest(), name=head).finish()
        edit(run, created=f"2026-01-0{day}T00:00:00Z")
        runs.append(run)
    Run.create(tmp_path, manifest(), name="unfinished")
    (tmp_path / "notes").mkdir()
    assert [run.name for run in find_runs(tmp_path)] == ["unfinished", "b", "c", "a"]
    assert find_run(tmp_path).name == "b"
    assert find_run(tmp_path, "a").name == "a"


def test_runs_begun_in_one_second_get_folders_of_their_own(tmp_path):
    folders = {Run.create(tmp_path, manifest()).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_name_that_is_taken_is_refused(tmp_path):
    Run.create(tmp_path, manifest(), name="mine")
    with pytest.raises(RunError, match="mine is there already"):
        Run.create(tmp_path, manifest(), name="mine")


@pytest.mark.parametrize(
    ("version", "hint"),
    [(FORMAT_VERSION + 1, "install mnerfeat 9.9 or newer"), (0, "install mnerfeat 9.9, or train")],
)
def test_another_versions_run_is_refused_with_what_to_install(tmp_path, version, hint):
    run = Run.create(tmp_path, manifest())
    edit(run, format_version=version, versions={"mnerfeat": "9.9"}, surprise=1)
    with pytest.raises(RunError, match=f"run format {version}") as caught:
        Run.open(run.folder)
    assert hint in str(caught.value)


def test_an_unreadable_run_does_not_hide_the_others(tmp_path, caplog):
    good = Run.create(tmp_path, manifest(), name="good").finish()
    bad = Run.create(tmp_path, manifest(), name="bad").finish()
    edit(bad, format_version=99)
    with caplog.at_level(logging.WARNING):
        assert find_run(tmp_path).name == good.name
    assert "run format 99" in caplog.text


def test_a_head_or_option_of_another_version_is_named(trained):
    run, _ = trained
    for changes in ({"head": "gfir"}, {"head": "iqcr", "head_options": {"depth": 3}}):
        edit(run, **changes)
        with pytest.raises(RunError, match=r"gfir|depth"):
            Run.open(run.folder).load_tagger()


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"format_version": 1}'])
def test_a_damaged_manifest_is_an_error(tmp_path, damage):
    run = Run.create(tmp_path, manifest())
    (run.folder / MANIFEST).write_text(damage)
    with pytest.raises(RunError):
        Run.open(run.folder)


def test_damaged_missing_or_foreign_weights_are_an_error(trained):
    run, _ = trained
    weights = run.folder / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="cannot be used"):
        run.load_tagger()
    weights.unlink()
    with pytest.raises(RunError, match="cannot be used"):
        run.load_tagger()
    weights.write_bytes(whole)
    edit(run, head_options={"ablation": "no-iqw"})
    with pytest.raises(RunError, match="cannot be used"):
        Run.open(run.folder).load_tagger()


def test_what_is_no_run_folder_is_said_so(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        find_run(tmp_path, "nothing")
    with pytest.raises(RunError, match="is no run folder"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="there are no runs"):
        find_run(tmp_path / "runs")
    with pytest.raises(RunError, match="waits to be continued"):
        find_run(tmp_path / "runs", state="training")


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path):
    run = Run.create(tmp_path, manifest())
    run.write_json("metrics.json", {"f1": 1})
    before = sorted(path.name for path in run.folder.iterdir())
    with pytest.raises(StorageError):
        run._place("metrics.json", lambda path: (path.write_text("{"), _full())[0])
    assert run.read_json("metrics.json") == {"f1": 1}
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_nan_is_never_written(tmp_path):
    run = Run.create(tmp_path, manifest())
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("metrics.json", {"f1": float("nan")})
    assert not (run.folder / "metrics.json").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        Run.create(tmp_path / "runs", manifest())


def _full():
    raise OSError(28, "No space left on device")
