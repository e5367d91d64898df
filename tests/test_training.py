import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnerfeat.checkpoint import Run, find_run, find_runs
from mnerfeat.config import load_settings
from mnerfeat.config.plans import plan_resume, plan_training
from mnerfeat.datasets import TagSet, read_posts, write_json_lines
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import ConfigError, DataError, RunError, StorageError
from mnerfeat.evaluation import Scores, gold_tags, score
from mnerfeat.heads.dpe import IterativeConfig
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.heads.text_only import TextOnlyConfig
from mnerfeat.tagger import Tagger
from mnerfeat.text import TextConfig
from mnerfeat.training import TrainingConfig, carry_out, load_training_data, train
from mnerfeat.training import trainer as trainer_module
from mnerfeat.training.arguments import optimizer
from mnerfeat.training.config import training_config
from mnerfeat.training.trainer import last_checkpoint

from . import tiny
from .heads.contract import unchecked

QUIET = 0.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def quiet_folder(tmp_path_factory):
    """An encoder without dropout, for comparisons between ways of training."""
    return tiny.encoder_folder(tmp_path_factory.mktemp("quiet"), dropout=0.0)


def fit(folder, runs, data, *, head=None, resume=None, progress=False, **options) -> Run:
    return train(
        data,
        text=TextConfig(encoder=str(folder)),
        head=head or TextOnlyConfig(),
        config=tiny.config(**options),
        runs=runs,
        resume=resume,
        progress=progress,
    )


def weights(run):
    return load_file(run.folder / "model.safetensors")


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def eval_f1(run):
    history = run.read_json("metrics.json")["history"]
    return [log["eval_f1"] for log in history if "eval_f1" in log]


class InterruptedTable(VisionTable):
    """The images of a split, whose so-and-so-manieth batch is interrupted by the user."""

    def __init__(self, inner, batches):
        super().__init__(inner.image_rows, inner.image_columns, inner.pair_columns, inner.coverage)
        self.left = batches

    def to(self, _device):
        return self

    def batch(self, post):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().batch(post)


# --- learning -----------------------------------------------------------------------------------


def test_text_alone_learns_what_the_text_tells(folder, tmp_path):
    data = tiny.data(clue=True, count=320, images=False)
    run = fit(folder, tmp_path, data, epochs=6)
    assert max(eval_f1(run)) > 0.9
    assert run.complete


def test_iqcr_learns_what_only_the_images_tell(folder, tmp_path):
    data = tiny.data(clue=False, count=160)
    text = fit(folder, tmp_path, tiny.data(clue=False, count=160, images=False), epochs=6)
    iqcr = fit(folder, tmp_path, data, head=IqcrConfig(), epochs=6)
    assert max(eval_f1(iqcr)) > max(eval_f1(text)) + 0.2
    # A head's scalars learn at their own rate: at the encoder's they would stay where they began.
    moved = iqcr.read_json("metrics.json")["scalars"]
    assert set(moved) == {"alpha", "beta"}
    assert abs(moved["alpha"] - 1) > 0.1


def test_the_best_epoch_on_dev_is_kept(folder, tmp_path):
    data = tiny.data(clue=True, images=False)
    # A rate so high that later epochs are worse than earlier ones.
    run = fit(folder, tmp_path, data, epochs=5, encoder_lr=5e-2, warmup=0.0)
    metrics = run.read_json("metrics.json")
    course = eval_f1(run)
    assert metrics["best_epoch"] == 1 + course.index(max(course))
    found = run.load_tagger().tag(data.dev)
    scores = score(gold_tags(data.dev), [tagged.tags for tagged in found])
    assert scores == Scores.from_json(metrics["dev"])
    assert scores.lenient.overall.f1 == pytest.approx(max(course))


def test_training_stops_where_dev_does_not_get_better(folder, tmp_path):
    rates = dict.fromkeys(("encoder_lr", "fusion_lr", "crf_lr", "scalar_lr"), 0.0)
    run = fit(folder, tmp_path, tiny.data(clue=True), epochs=9, patience=2, **rates)
    assert run.read_json("metrics.json")["epochs"] == 3


def test_every_group_of_parameters_has_its_rate_and_only_matrices_decay(folder):
    tagger = Tagger.build(
        tiny.encoder(folder),
        IqcrConfig(),
        TagSet(),
        column_sizes={"vit_cls": 6, "quality": 1, "relevance": 1},
        seed=1,
    )
    config = TrainingConfig(encoder_lr=1.0, fusion_lr=2.0, crf_lr=3.0, scalar_lr=4.0)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer(tagger, config).param_groups
        for parameter in group["params"]
    }
    for name, parameter in tagger.named_parameters():
        rate, decay = found.pop(id(parameter))
        wanted = 1.0 if name.startswith("encoder.") else 2.0
        wanted = 3.0 if name.startswith(("head.emissions", "head.crf")) else wanted
        wanted = 4.0 if "scales" in name else wanted
        assert rate == wanted, name
        assert decay == (0.01 if parameter.ndim >= 2 else 0.0), name
    assert found == {}


# --- repeating, interrupting, sharing -----------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(folder, tmp_path):
    data = tiny.data(clue=False)
    runs = [
        fit(folder, tmp_path, data, head=IqcrConfig(), epochs=2, seed=seed) for seed in (1, 1, 2)
    ]
    assert_same_weights(runs[0], runs[1])
    assert eval_f1(runs[0]) == eval_f1(runs[1])
    with pytest.raises(AssertionError):
        assert_same_weights(runs[0], runs[2])


@pytest.mark.parametrize("batches", [0, 2, 4, 8])
def test_interrupted_and_resumed_equals_uninterrupted(folder, tmp_path, batches):
    """48 posts in batches of 16 are 3 batches an epoch, with dropout, four learning rates and
    early stopping, which must remember across the interruption how long dev has not got better."""
    data = tiny.data(clue=False)
    options = {"head": IqcrConfig(), "epochs": 5, "patience": 2, "batch_size": 16}
    whole = fit(folder, tmp_path / "whole", data, **options)
    assert whole.read_json("metrics.json")["epochs"] == 3  # stopped early

    cut = dataclasses.replace(data, train_images=InterruptedTable(data.train_images, batches))
    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path / "cut", cut, **options)
    run = find_run(tmp_path / "cut", state="training")
    assert not run.complete
    if batches == 4:  # a kill while a checkpoint was being written
        (run.checkpoints / "checkpoint-99").mkdir()
        (run.checkpoints / "checkpoint-99" / "model.safetensors").write_bytes(b"half")
    if batches == 8:  # and the folder was moved before resuming
        run = Run.open(Path(shutil.move(run.folder, tmp_path / "moved")))
    resumed = fit(folder, tmp_path / "cut", data, resume=run, **options)

    assert resumed.folder == run.folder
    assert resumed.complete
    assert_same_weights(resumed, whole)
    mine, theirs = (each.read_json("metrics.json") for each in (resumed, whole))
    for name in ("dev", "best_epoch", "epochs", "steps", "scalars"):
        assert mine[name] == theirs[name]
    assert eval_f1(resumed) == eval_f1(whole)
    assert not resumed.checkpoints.exists()


def test_resuming_with_other_options_or_data_is_refused_by_name(folder, tmp_path):
    data = tiny.data(clue=True)
    cut = dataclasses.replace(data, train_images=InterruptedTable(data.train_images, 1))
    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path, cut, head=IqcrConfig())
    run = find_run(tmp_path, state="training")
    other = dataclasses.replace(data, fingerprints={"data": "other"})
    with pytest.raises(RunError, match="other options or data") as caught:
        fit(folder, tmp_path, other, head=IqcrConfig(), resume=run, seed=7)
    assert caught.value.faults == (
        "training.seed: 1 there, 7 here",
        "fingerprints.data: 'tiny' there, 'other' here",
    )


def test_the_options_of_a_run_can_be_read_back(finished):
    assert training_config(finished) == tiny.config(epochs=2)
    assert finished.head_config() == IqcrConfig()
    strange = dataclasses.replace(finished.manifest, training={"epoch": 1}, text={"model": "x"})
    run = dataclasses.replace(finished, manifest=strange)
    with pytest.raises(RunError, match="epoch"):
        training_config(run)
    with pytest.raises(RunError, match="model"):
        run.text_config()


def test_a_complete_run_is_not_resumed(folder, tmp_path):
    data = tiny.data(clue=True, images=False)
    run = fit(folder, tmp_path, data, epochs=1)
    with pytest.raises(RunError, match="nothing to resume"):
        fit(folder, tmp_path, data, epochs=1, resume=run)


def test_accumulation_gives_the_same_training(quiet_folder, tmp_path):
    data = tiny.data(clue=False)
    head = IqcrConfig(dropout=QUIET)
    runs = [
        fit(quiet_folder, tmp_path, data, head=head, epochs=2, accumulation=parts)
        for parts in (1, 2)
    ]
    one, two = (weights(run) for run in runs)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-2, atol=2e-3)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from mnerfeat.heads.iqcr import IqcrConfig
from mnerfeat.text import TextConfig
from mnerfeat.training import train
from tests import tiny
run = train(
    tiny.data(clue=False), text=TextConfig(encoder=sys.argv[1]), head=IqcrConfig(dropout=0.0),
    config=tiny.config(epochs=2), runs=Path(sys.argv[2]),
)
assert run.complete
"""


def test_two_processes_give_the_training_of_one(quiet_folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [
            *launch,
            "--nproc-per-node",
            "2",
            str(script),
            str(quiet_folder),
            str(tmp_path / "two"),
            root,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    data = tiny.data(clue=False)
    one = fit(quiet_folder, tmp_path / "one", data, head=IqcrConfig(dropout=QUIET), epochs=2)
    (folder,) = (tmp_path / "two").iterdir()  # the processes share one run
    two = Run.open(folder)
    assert two.read_json("metrics.json")["processes"] == 2
    assert eval_f1(two) == pytest.approx(eval_f1(one), abs=0.05)
    mine, theirs = weights(one), weights(two)
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-2, atol=2e-3)


# --- what a run leaves behind -------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return fit(folder, runs, tiny.data(clue=False), head=IqcrConfig(), epochs=2)


def test_a_run_tells_all_about_itself(finished):
    assert {path.name for path in finished.folder.iterdir()} == {
        "config.toml",
        "run.json",
        "model.safetensors",
        "metrics.json",
        "predictions",
        "tensorboard",
        "text",
    }
    manifest = finished.manifest
    assert manifest.head == "iqcr"
    assert manifest.training["scalar_lr"] == 0.05
    assert manifest.fingerprints == {"data": "tiny"}
    assert manifest.completed > manifest.created
    assert manifest.seconds > 0
    metrics = finished.read_json("metrics.json")
    assert metrics["text"]["train"]["posts"] == 48
    assert metrics["device"] == "cpu"


def test_predictions_on_dev_are_kept_with_what_the_head_made_of_the_images(finished):
    path = finished.folder / "predictions" / "dev.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    dev = tiny.data(clue=False).dev
    assert [post.id for post in read_posts(path)] == [post.id for post in dev]
    values = [value for record in records for value in record["image_values"]]
    assert len(values) == sum(len(post.images) for post in dev)
    assert {"quality", "relevance", "weight", "gate"} <= set(values[0])


def test_losses_scores_and_scalars_are_logged_for_tensorboard(finished):
    events = EventAccumulator(str(finished.folder / "tensorboard")).Reload()
    names = set(events.Tags()["scalars"])
    assert {"train/loss", "eval/f1", "eval/strict_f1", "head/alpha", "head/beta"} <= names
    assert len(events.Scalars("eval/f1")) == 2


@pytest.mark.parametrize(
    ("head", "advice"),
    [
        (IterativeConfig(spans=8, threshold=3.0), "head.iterative.threshold"),
        (TextOnlyConfig(), None),
    ],
)
def test_a_head_that_finds_nothing_says_what_to_do(folder, tmp_path, caplog, head, advice):
    """No sum of three probabilities is above 3."""
    data = tiny.data(clue=True, count=160, images=False)
    run = fit(folder, tmp_path, data, head=head, epochs=2)
    told = [log.getMessage() for log in caplog.records if log.levelno == logging.WARNING]
    nothing = run.read_json("metrics.json")["dev"]["lenient"]["overall"]["predicted"] == 0
    assert nothing == (advice is not None)
    assert [line for line in told if "none of dev's" in line] == (told if nothing else [])
    assert not nothing or advice in told[0]


def test_progress_is_shown_where_asked_for_and_nothing_is_printed(folder, tmp_path, capfd):
    data = tiny.data(clue=True, images=False)
    fit(folder, tmp_path, data, epochs=1)
    silent = capfd.readouterr()
    assert silent.out == silent.err == ""
    fit(folder, tmp_path, data, epochs=1, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "epoch 1/1" in shown.err
    assert "dev F1" in shown.err


def test_the_device_and_precision_are_told(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "mnerfeat"):
        fit(folder, tmp_path, tiny.data(clue=True, images=False), epochs=1)
    assert "on cpu in float32" in caplog.text


def test_half_precision_trains_too(folder, tmp_path):
    run = fit(
        folder, tmp_path, tiny.data(clue=True), head=IqcrConfig(), epochs=2, precision="bfloat16"
    )
    assert all(weight.isfinite().all() for weight in weights(run).values())
    assert all(weight.dtype == torch.float32 for weight in weights(run).values())


def test_the_process_is_left_as_it_was(folder, tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    fit(folder, tmp_path, tiny.data(clue=True, images=False), epochs=1)
    assert torch.are_deterministic_algorithms_enabled() is before


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("accumulation", 0),
        ("encoder_lr", -1.0),
        ("warmup", 1.5),
        ("patience", -1),
        ("precision", "half"),
        ("device", "gpu"),
    ],
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigError) as caught:
        unchecked(TrainingConfig, **{option: value})
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f"train.{option} is {value!r}")


def test_all_impossible_options_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(epochs=0, warmup=2.0, crf_lr=-1.0)
    assert len(caught.value.faults) == 3


def test_a_batch_that_cannot_be_shared_evenly_is_refused(folder, tmp_path):
    data = tiny.data(clue=True, images=False)
    with pytest.raises(ConfigError, match="cannot share evenly") as caught:
        fit(folder, tmp_path, data, batch_size=16, accumulation=3)
    assert "train.batch_size=18" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_trained_on(folder, tmp_path):
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        fit(folder, tmp_path, tiny.data(clue=True, images=False), device="cuda")


def test_posts_without_tags_are_refused_before_anything_is_written(folder, tmp_path):
    data = tiny.data(clue=True, images=False)
    bare = [dataclasses.replace(post, tags=None) for post in data.dev]
    with pytest.raises(DataError, match="24 posts have no tags"):
        fit(folder, tmp_path, dataclasses.replace(data, dev=bare))
    assert list(tmp_path.iterdir()) == []


def test_empty_splits_are_refused(folder, tmp_path):
    data = dataclasses.replace(tiny.data(clue=True, images=False), dev=[])
    with pytest.raises(ConfigError, match="at least one post"):
        fit(folder, tmp_path, data)


def test_a_column_that_the_images_lack_is_named(folder, tmp_path):
    with pytest.raises(ConfigError, match="without vit_cls, quality, relevance"):
        fit(folder, tmp_path, tiny.data(clue=True, images=False), head=IqcrConfig())


def test_a_run_that_cannot_be_written_says_how_to_go_on(folder, tmp_path):
    data = tiny.data(clue=True)
    cut = dataclasses.replace(data, train_images=InterruptedTable(data.train_images, 1))
    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path, cut, head=IqcrConfig())
    run = find_run(tmp_path, state="training")
    shutil.rmtree(run.checkpoints)
    run.checkpoints.write_text("in the way")
    with pytest.raises(StorageError, match="could not be written") as caught:
        fit(folder, tmp_path, data, head=IqcrConfig(), resume=run)
    assert "--resume" in str(caught.value)


def test_only_whole_checkpoints_are_resumed_from(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, state in ((9, "{}"), (20, '{"best_model_checkpoint": null}'), (100, '{"half')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert not (tmp_path / "checkpoint-100").exists()


def test_a_post_without_any_image_is_trained_on_beside_others(folder, tmp_path):
    data = tiny.data(clue=True)
    nothing = torch.full_like(data.train_images.image_rows, -1)
    empty = VisionTable(nothing, data.train_images.image_columns, data.train_images.pair_columns)
    run = fit(
        folder,
        tmp_path,
        dataclasses.replace(data, train_images=empty),
        head=IqcrConfig(),
        epochs=1,
    )
    assert all(weight.isfinite().all() for weight in weights(run).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_the_same_seed_gives_the_same_numbers_on_a_gpu(folder, tmp_path, precision):
    data = tiny.data(clue=False)
    options = {"head": IqcrConfig(), "epochs": 2, "device": "cuda", "precision": precision}
    runs = [fit(folder, tmp_path, data, **options) for _ in range(2)]
    assert_same_weights(runs[0], runs[1])
    found = runs[0].load_tagger("cuda").tag(data.dev, data.dev_images.to(torch.device("cuda")))
    assert len(found) == len(data.dev)


def test_a_dev_split_without_entities_is_warned_of(tmp_path, caplog):
    (tmp_path / "train.txt").write_text("IMGID:1\nBob\tB-PER\n")
    (tmp_path / "dev.txt").write_text("IMGID:1\nnothing\tO\n")
    load_training_data(tmp_path, tmp_path / "features.h5", TextOnlyConfig())
    assert "dev has no entity: its F1 is always 0" in caplog.text


# --- numbers that are not finite ----------------------------------------------------------------


def test_a_gradient_that_overflows_is_null_in_the_history_and_the_run_completes(
    folder, tmp_path, monkeypatch
):
    """Simulates float16's scaler: its first steps overflow, report inf, and change nothing."""
    real, steps = Accelerator.clip_grad_norm_, []

    def overflow(self, parameters, *args, **options):
        parameters = list(parameters)
        steps.append(len(steps))
        if len(steps) > 2:
            return real(self, parameters, *args, **options)
        for parameter in parameters:
            parameter.grad = None  # the scaler skips the step
        return torch.tensor(float("inf"))

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", overflow)
    run = fit(folder, tmp_path, tiny.data(clue=True, images=False), epochs=2)
    assert run.complete
    history = run.read_json("metrics.json")["history"]
    assert history[0]["grad_norm"] is None
    assert history[-2]["eval_f1"] >= 0


def test_a_loss_that_is_not_a_number_stops_at_once_and_says_what_to_lower(folder, tmp_path):
    data = tiny.data(clue=True, images=False)
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) in step \d+") as caught:
        fit(folder, tmp_path, data, epochs=3, encoder_lr=1e38, warmup=0.0)
    assert "--set train.encoder_lr=5e+37" in str(caught.value)
    assert not find_run(tmp_path, state="training").complete


def test_without_a_progress_bar_each_epoch_is_a_line(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "mnerfeat"):
        fit(folder, tmp_path, tiny.data(clue=True, images=False), epochs=2, patience=0)
    lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("epoch ")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 1/2: loss \d+\.\d+, dev F1 [\d.]+ \(best [\d.]+\), \d+ s left", lines[0]
    )
    assert lines[1].endswith(", done")


# --- plans of several seeds ---------------------------------------------------------------------


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A data folder in the current folder, and a plan for it."""
    write_json_lines(tiny.posts(24, 1, clue=True), make_folder(tmp_path / "data") / "train.txt")
    write_json_lines(tiny.posts(12, 2, clue=True), tmp_path / "data" / "dev.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_folder(path):
    path.mkdir(exist_ok=True)
    return path


def make_plan(folder, **options):
    overrides = [f"train.{name}={value}" for name, value in tiny.QUICK.items()]
    settings = load_settings(Path(), [*overrides, "train.epochs=1"])
    return plan_training(settings, head="text", text={"encoder": str(folder)}, **options)


def interrupt(monkeypatch, seed):
    """Interrupt the training of a seed once."""
    real = trainer_module._fit

    def cut(run, *arguments, **options):
        if run.manifest.training["seed"] == seed:
            monkeypatch.setattr(trainer_module, "_fit", real)
            raise KeyboardInterrupt
        return real(run, *arguments, **options)

    monkeypatch.setattr(trainer_module, "_fit", cut)


def test_resuming_trains_the_remaining_seeds_of_the_plan(folder, world, monkeypatch):
    plan = dataclasses.replace(make_plan(folder, seeds=(1, 2, 3), name="mine"), command="typed")
    interrupt(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt) as caught:
        carry_out(plan)
    assert caught.value.__notes__ == ["mnerfeat train --resume --name mine-seed2"]
    resumed = carry_out(plan_resume(load_settings(Path())))
    assert [run.name for run in resumed] == ["mine-seed1", "mine-seed2", "mine-seed3"]
    assert all(run.complete for run in resumed)
    assert {run.manifest.origin.command for run in resumed} == {"typed"}
    assert {run.manifest.origin.plan for run in resumed} == {resumed[0].manifest.origin.plan}
    assert len(find_runs(Path("runs"))) == 3


def test_options_that_differ_from_the_interrupted_runs_are_refused_by_name(
    folder, world, monkeypatch
):
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        carry_out(make_plan(folder))
    settings = load_settings(Path())
    with pytest.raises(ConfigError, match="begun with other options") as caught:
        plan_resume(
            settings,
            head="iqcr",
            seeds=(9,),
            overrides=["train.warmup=0.5"],
            options={"train": {"epochs": 4, "encoder_lr": 1.0}},
        )
    assert caught.value.faults == (
        "head: 'text' there, 'iqcr' here",
        "train.encoder_lr: 0.01 there, 1.0 here",
        "train.epochs: 1 there, 4 here",
        "train.warmup: 0.1 there, 0.5 here",
        "seeds: 1 there, 9 here",
    )
    same = plan_resume(settings, head="text", seeds=(1,), options={"train": {"epochs": 1}})
    assert same.training.epochs == 1


def test_the_config_file_of_a_run_gives_the_same_training(folder, world):
    (run,) = carry_out(make_plan(folder))
    text = (run.folder / "config.toml").read_text()
    Path("mnerfeat.toml").write_text(text)
    again = plan_training(load_settings(Path()), head="text")
    assert again.training == training_config(run)
    assert again.text == run.text_config()
    assert again.head == run.head_config()
    assert again.data == Path(run.manifest.origin.data) == world / "data"


def test_the_runs_of_another_command_are_not_taken_for_seeds_of_the_plan(
    folder, world, monkeypatch
):
    carry_out(make_plan(folder, seeds=(2,)))
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        carry_out(make_plan(folder, seeds=(1, 2)))
    assert len(carry_out(plan_resume(load_settings(Path())))) == 2
    assert len(find_runs(Path("runs"))) == 3
