import json
import logging
import shutil
from pathlib import Path

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
    with pytest.raises(RunError, match="was interrupted"):
        run.load_tagger()
    with pytest.raises(RunError, match=rf"{run.name} was interrupted"):
        find_run(tmp_path / "runs")
    assert find_run(tmp_path / "runs", state="training").folder == run.folder


def test_the_newest_complete_run_is_the_default(tmp_path):
    runs = []
    for day, head in ((3, "b"), (1, "a"), (2, "c")):
        run = Run.create(tmp_path, manifest(), name=head).finish()
        edit(run, completed=f"2026-01-0{day}T00:00:00Z")
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
    with pytest.raises(RunError, match="mine already exists"):
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
    with pytest.raises(RunError, match="there is no run 'nothing'"):
        find_run(tmp_path, "nothing")
    with pytest.raises(RunError, match="is not a run folder"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="there are no runs"):
        find_run(tmp_path / "runs")
    with pytest.raises(RunError, match="waiting to be resumed"):
        find_run(tmp_path / "runs", state="training")


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path):
    run = Run.create(tmp_path, manifest())
    run.write_json("metrics.json", {"f1": 1})
    before = sorted(path.name for path in run.folder.iterdir())
    with pytest.raises(StorageError):
        run._place("metrics.json", lambda path: (path.write_text("{"), _full())[0])
    assert run.read_json("metrics.json") == {"f1": 1}
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    run = Run.create(tmp_path, manifest())
    run.write_json("metrics.json", {"history": [{"grad_norm": float("inf")}, (float("nan"), 1.5)]})
    assert run.read_json("metrics.json") == {"history": [{"grad_norm": None}, [None, 1.5]]}
    run.write_lines("predictions/test.jsonl", [{"image_values": [{"gate": -float("inf")}, None]}])
    text = (run.folder / "predictions" / "test.jsonl").read_text()
    assert json.loads(text) == {"image_values": [{"gate": None}, None]}


def test_the_run_completed_last_is_the_newest_whichever_began_first(tmp_path):
    first = Run.create(tmp_path, manifest(), name="began-first")
    second = Run.create(tmp_path, manifest(), name="began-second").finish()
    assert find_run(tmp_path).name == second.name
    first.finish()
    assert find_run(tmp_path).name == first.name


def test_the_beginning_of_a_name_is_enough_if_only_one_run_has_it(tmp_path):
    for name in ("iqcr-long", "iqcr-short", "gifr"):
        Run.create(tmp_path, manifest(), name=name).finish()
    assert find_run(tmp_path, "g").name == "gifr"
    assert find_run(tmp_path, "iqcr-l").name == "iqcr-long"
    with pytest.raises(RunError, match="beginning of 2 names") as caught:
        find_run(tmp_path, "iqcr")
    assert caught.value.faults == ("iqcr-long", "iqcr-short")


def test_an_unknown_name_comes_with_the_nearest(tmp_path):
    for name in ("baseline", "iqcr-long"):
        Run.create(tmp_path, manifest(), name=name)
    with pytest.raises(RunError, match=r"no run 'iqrc-long' in .*; did you mean iqcr-long"):
        find_run(tmp_path, "iqrc-long")


def test_the_time_of_all_sessions_adds_up(tmp_path):
    run = Run.create(tmp_path, manifest()).add_time(1.5).add_time(2)
    assert Run.open(run.folder).manifest.seconds == 3.5


def test_runs_of_format_1_are_still_read(tmp_path):
    run = Run.create(tmp_path, manifest())
    path = run.folder / MANIFEST
    raw = json.loads(path.read_text())
    for name in ("origin", "completed", "seconds"):
        del raw[name]
    path.write_text(json.dumps(raw | {"format_version": 1, "state": "complete"}))
    assert Run.open(run.folder).complete
    assert find_run(tmp_path).name == run.name


def test_commands_name_a_run_so_that_they_work_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Run.create(Path("runs"), manifest(), name="a").argument == "a"
    other = Run.create(Path("other runs"), manifest(), name="b")
    assert other.argument == "'other runs/b'"
    assert other.resume_command == "mnerfeat train --resume --name 'other runs/b'"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        Run.create(tmp_path / "runs", manifest())


def _full():
    raise OSError(28, "No space left on device")
