"""Commands in any order leave every name, prediction and score meaning what it says.

A state machine draws sequences of real commands in one project folder: extract (from two folders
with overlapping names, whose files change), SIGKILL of extract, copy, rename, merge, prune, pack,
train, interrupt, resume, eval and predict. A model of a few lines knows which bytes each name of
each cache should mean. Every vector and every prediction agrees with the model, or the command has
said that it does not.

Fake extractors stand in for the models. An image has one colour, which its features tell: so does
`quality` in predictions.
"""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from mnerfeat.cache import CacheWriter, FeatureCache, verify
from mnerfeat.cli import main
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.errors import CacheError
from mnerfeat.extraction import local, recorder, runner
from mnerfeat.extractors import registry
from tests import tiny
from tests.cli.conftest import Result
from tests.extraction import fakes

NAMES = ("1.jpg", "2.jpg", "3.jpg", "sub/1.jpg")
FOLDERS = ("A", "B")
CACHES = ("features.h5", "second.h5")
DATA = ("data", "other_data")

COLOURS = st.integers(1, 6)
name_ = st.sampled_from(NAMES)
folder_ = st.sampled_from(FOLDERS)
cache_ = st.sampled_from(CACHES)
data_ = st.sampled_from(DATA)


class Meaning(NamedTuple):
    """What a name in a cache may mean.

    Attributes:
        colours: The colours that it may have; None stands for a name that is not there. There are
            several after a kill.
        folder: The folder that the name is relative to; None if it is not certain.
    """

    colours: frozenset[int | None]
    folder: str | None = None


ABSENT = Meaning(frozenset({None}))


class Project(RuleBasedStateMachine):
    """A project folder, and what everything in it should mean.

    Attributes:
        files: The colour of each image on disk, by folder and name.
        caches: What each name of each cache means.
        runs: The data of each complete run, by the run's name.
        waiting: The data of each interrupted run.
    """

    encoder: Path

    @initialize()
    def start(self) -> None:
        self.home = Path.cwd()
        self.root = Path(tempfile.mkdtemp())
        os.chdir(self.root)
        self.files: dict[tuple[str, str], int] = {}
        self.caches: dict[str, dict[str, Meaning]] = {}
        self.runs: dict[str, str] = {}
        self.waiting: dict[str, str] = {}
        for number, data in enumerate(DATA):
            write_data(Path(data), number)
        Path("mnerfeat.toml").write_text(
            '[extract]\nvit = "v"\nclip = "c"\nquality = "q"\nworkers = 0\n'
            "[train]\nepochs = 2\nbatch_size = 2\n"
            f'[text]\nencoder = "{self.encoder}"\n'
        )
        for folder, name, colour in [("A", "1.jpg", 1), ("A", "2.jpg", 2), ("B", "1.jpg", 3)]:
            self.change(folder, name, colour)
        self.extract("A", CACHES[0])

    def teardown(self) -> None:
        os.chdir(self.home)
        shutil.rmtree(self.root)

    # Images and caches.

    @rule(folder=folder_, name=name_, colour=COLOURS)
    def change(self, folder: str, name: str, colour: int) -> None:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (40 * colour,) * 3).save(path, "PNG")
        self.files[folder, name] = colour

    @rule(folder=folder_, cache=cache_)
    def extract(self, folder: str, cache: str) -> None:
        before = dict(self.caches.get(cache, {}))
        result = run("extract", "--images", folder, "--cache", cache)
        here = self.images_of(folder)
        changed = {n for n, c in here.items() if before.get(n, ABSENT).colours - {c, None}}
        elsewhere = {n for n in changed if before[n].folder not in {folder, None}}
        if result.code:
            assert changed, result
            assert all(name in result.err for name in elsewhere), result
            return
        certain = {n for n in changed if len(before[n].colours) == 1}
        assert not certain & elsewhere, (elsewhere, result)
        if certain:
            assert re.search(
                rf"^{len(certain)} files? (was |were )?replaced", result.out, re.MULTILINE
            ), result
        self.caches[cache] = before | {
            name: Meaning(frozenset({colour}), folder) for name, colour in here.items()
        }

    @rule(folder=folder_, cache=cache_, parts=st.integers(0, 2))
    def kill_extract(self, folder: str, cache: str, parts: int) -> None:
        child = os.fork()
        if not child:  # nothing here may return to the test
            try:
                die_after(parts)
                run("extract", "--images", folder, "--cache", cache)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        before = self.caches.setdefault(cache, {})
        for name, colour in self.images_of(folder).items():
            held = before.get(name, ABSENT)
            certain = held.colours == {colour}
            before[name] = held if certain else Meaning(held.colours | {colour})

    @precondition(lambda self: self.caches)
    @rule(data=st.data(), whole=st.booleans())
    def copy(self, data: st.DataObject, whole: bool) -> None:
        """Copy a cache to the other's place: its file alone, or with its parts."""
        source = data.draw(st.sampled_from(sorted(self.caches)))
        (target,) = set(CACHES) - {source}
        parts = Path(f"{source}.d")
        if whole:
            remove(target)
            if parts.is_dir():
                shutil.copytree(parts, f"{target}.d")
        else:  # the target keeps its own parts, which are none of this cache
            assume(not parts.is_dir() and Path(source).exists())
        if Path(source).exists():
            shutil.copyfile(source, target)
        self.caches[target] = dict(self.caches[source])

    @precondition(lambda self: self.caches)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(sorted(self.caches)))
        (target,) = set(CACHES) - {source}
        remove(target)
        for suffix in ("", ".d"):
            if Path(f"{source}{suffix}").exists():
                shutil.move(f"{source}{suffix}", f"{target}{suffix}")
        self.caches[target] = self.caches.pop(source)

    @precondition(lambda self: len(self.caches) == 2)
    @rule()
    def merge(self) -> None:
        remove("merged.h5")
        result = run("cache", "merge", *CACHES, "--out", "merged.h5")
        one, other = (self.caches[cache] for cache in CACHES)
        shared = one.keys() & other.keys()
        apart = {n for n in shared if not one[n].colours & other[n].colours}
        apart = {n for n in apart if None not in one[n].colours | other[n].colours}
        if result.code:
            both = {n for n in one.keys() & other if len(one[n].colours | other[n].colours) > 1}
            assert both or self.is_empty(*CACHES), result
            return
        assert not apart, result
        merged = {}
        for name in one.keys() | other.keys():
            both = [each.get(name, ABSENT).colours for each in (one, other)]
            sure = any(None not in colours for colours in both)
            merged[name] = Meaning(frozenset().union(*both) - ({None} if sure else set()))
        for cache in CACHES:
            remove(cache)
        shutil.move("merged.h5", CACHES[0])
        self.caches = {CACHES[0]: merged}

    @precondition(lambda self: self.caches)
    @rule(data=st.data(), folder=folder_)
    def prune(self, data: st.DataObject, folder: str) -> None:
        cache = data.draw(st.sampled_from(sorted(self.caches)))
        result = run("cache", "prune", cache, "--images", folder, "--yes")
        kept = {n: m for n, m in self.caches[cache].items() if (folder, n) in self.files}
        if result.code:
            assert not any(None not in m.colours for m in kept.values()), result
            return
        self.caches[cache] = kept

    @precondition(lambda self: self.caches)
    @rule(data=st.data())
    def pack(self, data: st.DataObject) -> None:
        cache = data.draw(st.sampled_from(sorted(self.caches)))
        result = run("cache", "pack", cache)
        assert not result.code or self.is_empty(cache), result

    # Runs and results.

    @precondition(lambda self: self.caches)
    @rule(data=data_, cache=cache_, interrupted=st.booleans())
    def train(self, data: str, cache: str, interrupted: bool) -> None:
        name = f"run{len(self.runs) + len(self.waiting)}"
        with interruption(3 if interrupted else None):
            result = run(
                "train", "--head", "iqcr", "--name", name, "--data", data, "--cache", cache
            )
        if interrupted and result.code == 128 + signal.SIGINT:
            self.waiting[name] = data
        elif result.code:
            assert "Traceback" not in result.err, result
            assert not Path("runs", name).exists(), result
        else:
            self.runs[name] = data
            self.says_next(result, name)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting)))
        cache = data.draw(cache_)
        result = run(
            "train", "--resume", "--name", name, "--data", self.waiting[name], "--cache", cache
        )
        if result.code:  # the cache holds other vectors than those that the run began with
            assert "error:" in result.err, result
            return
        self.runs[name] = self.waiting.pop(name)
        self.says_next(result, name)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), split=st.sampled_from(["dev", "test"]))
    def evaluate(self, data: st.DataObject, split: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.runs)))
        of, cache = data.draw(data_), data.draw(cache_)
        result = run("eval", "--run", name, "--data", of, "--cache", cache, "--split", split)
        if result.code:
            assert "error:" in result.err, result
            return
        newest = max(Path("runs", name).rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        records = [json.loads(line) for line in newest.read_text().splitlines()]
        wanted = [json.loads(line) for line in Path(of, f"{split}.jsonl").read_text().splitlines()]
        assert [r["text"] for r in records] == [w["text"] for w in wanted]
        self.agree(records, self.caches[cache], result)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), folder=st.one_of(st.none(), folder_))
    def predict(self, data: st.DataObject, folder: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.runs)))
        of, cache = data.draw(data_), data.draw(cache_)
        before = digest(cache)
        images = [] if folder is None else ["--images", folder]
        result = run(
            "predict", "--run", name, "--posts", f"{of}/test.jsonl", "--cache", cache,
            "--out", "predicted.jsonl", *images,
        )  # fmt: skip
        assert digest(cache) == before, "a prediction changed a cache"
        if result.code:
            assert "error:" in result.err, result
            return
        records = [json.loads(line) for line in Path("predicted.jsonl").read_text().splitlines()]
        if folder is None:
            self.agree(records, self.caches[cache], result)
        else:
            here = {n: Meaning(frozenset({c})) for n, c in self.images_of(folder).items()}
            self.agree(records, here, result)

    # What must hold.

    @invariant()
    def every_name_means_its_bytes(self) -> None:
        for path, names in getattr(self, "caches", {}).items():
            cache = FeatureCache(path, missing_ok=True)
            found = {name: colour_of(cache, row) for name, row in cache.images.names()}
            for name in found.keys() | names:
                meant = names.get(name, ABSENT).colours
                assert found.get(name) in meant, (path, name, found.get(name), meant)
            faults = verify(path) if cache.files else []
            assert not [fault for fault in faults if "another cache" not in fault]

    def agree(self, records: list[dict], names: dict[str, Meaning], result: Result) -> None:
        """Every image of every prediction has the colour that its name means."""
        for record in records:
            for name, values in zip(record["images"], record["image_values"], strict=True):
                meant = names.get(name, ABSENT).colours
                found = None if values is None else round(values["quality"] / 40)
                assert found in meant, (name, found, meant, result)

    def says_next(self, result: Result, name: str) -> None:
        (line,) = [line for line in result.out.splitlines() if line.startswith("next:")]
        assert f"--run {name}" in line, line

    def images_of(self, folder: str) -> dict[str, int]:
        return {name: colour for (where, name), colour in self.files.items() if where == folder}

    def is_empty(self, *caches: str) -> bool:
        """Whether a cache may have no row: nothing was acknowledged before a kill."""
        return any(
            all(None in meaning.colours for meaning in self.caches[cache].values())
            for cache in caches
        )


def run(*arguments: str) -> Result:
    """Call the program as a shell would."""
    out, err = io.StringIO(), io.StringIO()
    logging.getLogger().handlers[:] = []  # as in a fresh process
    before, sys.argv = sys.argv, ["mnerfeat", *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return Result(code, out.getvalue(), err.getvalue())


def write_data(folder: Path, number: int) -> None:
    folder.mkdir()
    for split, count in (("train", 6), ("dev", 3), ("test", 3)):
        posts = tiny.posts(count, seed=10 * number + len(split), clue=True)
        lines = [
            json.dumps({
                "text": [*post.words, "today"],
                "label": [*(post.tags or ()), "O"],
                "images": [NAMES[(i + j + number) % len(NAMES)] for j in range(1 + i % 2)],
            })
            for i, post in enumerate(posts)
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def remove(cache: str) -> None:
    Path(cache).unlink(missing_ok=True)
    shutil.rmtree(f"{cache}.d", ignore_errors=True)


def colour_of(cache: FeatureCache, row: int) -> int | None:
    """The colour of a row; None if its features are not there yet."""
    if "vit_cls" not in cache:
        return None
    data, valid = cache["vit_cls"].read([row])
    return int(np.round(data[0, 0] / 40)) if valid[0] else None


def digest(cache: str) -> object:
    try:
        return FeatureCache(cache, missing_ok=True).digest()
    except CacheError as error:
        return str(error)


def die_after(parts: int) -> None:
    """End this process by SIGKILL once it has sealed some parts."""
    put, left = CacheWriter.put, [parts]

    def counted(*args: object, **options: object) -> object:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return put(*args, **options)  # type: ignore[arg-type]

    CacheWriter.put = counted  # type: ignore[assignment, method-assign]


@contextlib.contextmanager
def interruption(batches: int | None) -> Iterator[None]:
    """Press Ctrl-C when training has read some batches."""
    batch, left = VisionTable.batch, [batches]

    def counted(*args: object, **options: object) -> object:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] = None if left[0] is None else left[0] - 1
        return batch(*args, **options)  # type: ignore[arg-type]

    VisionTable.batch = counted  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        VisionTable.batch = batch  # type: ignore[method-assign]


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Project]:
    """Fake extractors in place of the real ones, two rows to a part, and a small text encoder."""
    monkeypatch.setattr(registry, "EXTRACTORS", dict(registry.EXTRACTORS))
    for module, name in (
        (recorder, "PART_ROWS"),
        (local, "choose_computes"),
        (runner, "is_out_of_memory"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    fakes.install(part_rows=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Project.encoder = tiny.encoder_folder(tmp_path / "encoder")
    yield Project
    torch.set_num_threads(threads)


SHORT = settings(
    max_examples=8,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_any_sequence_of_commands_keeps_meanings(project: type[Project]) -> None:
    run_state_machine_as_test(project, settings=SHORT)


@pytest.mark.slow
def test_any_long_sequence_of_commands_keeps_meanings(project: type[Project]) -> None:
    run_state_machine_as_test(
        project, settings=settings(SHORT, max_examples=150, stateful_step_count=40)
    )
