"""Extraction on a Ray cluster of several nodes, all of them on this machine."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import mnerfeat
from mnerfeat.cache import FeatureCache, content_id
from mnerfeat.errors import ConfigError, ExtractionError, ModelError
from mnerfeat.extraction import cluster
from mnerfeat.extraction.cluster import connect
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.decoding import DecodeJob, DecodeResult
from mnerfeat.extraction.extract import extract
from mnerfeat.extraction.node import NodeModels, NodeSetup, Task, close_pools, decode_tasks
from mnerfeat.extraction.summary import ExtractSummary
from mnerfeat.extraction.workers import decode_here, pickle_prepares
from tests.extraction import fakes
from tests.extractors.pictures import encoded, picture

ROOT = Path(__file__).resolve().parents[2]

TEXTS = ("a b", "c")

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: mnerfeat[ray]"
)


def on_a_cluster(folder: Path, what: str, *, seconds: int = 300) -> Any:
    """What a method of `ray_cluster.Runs` gives."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # not by whether somebody has a token in their home
        "RAY_memory_monitor_refresh_ms": "0",
        # Ray's workers step back for everything else on the machine (by 15): on a busy one they
        # stand still for minutes.
        "RAY_worker_niceness": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    run = subprocess.run(
        [sys.executable, "-m", "tests.extraction.ray_cluster", folder, what],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=seconds,
    )
    assert run.returncode == 0, run.stderr[-5000:]
    return json.loads(run.stdout.splitlines()[-1])


@needs_ray
@pytest.mark.slow
def test_a_node_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    found = on_a_cluster(tmp_path, "fake_models")
    # The same bits and the same failures as on one machine that nothing happened to.
    assert found["same"]
    assert found["nodes"] == 1  # of two
    assert 0 < found["rows_at_the_kill"] < found["rows"] == found["new"] == 61
    assert set(found["failed"]) == {"bad.jpg", "killer.png", "odd.png"}
    assert found["failed"]["killer.png"].endswith("killed by SIGKILL, 2 times")
    assert found["device"].startswith(("2 devices", "3 devices"))


@needs_ray
@pytest.mark.slow
def test_nodes_come_and_go_under_real_models(tmp_path: Path) -> None:
    found = on_a_cluster(tmp_path, "tiny_models", seconds=500)
    assert found["same"]
    assert found["new"] == 61
    assert found["device"].startswith(("2 devices", "3 devices"))


@needs_ray
@pytest.mark.slow
def test_a_run_whose_own_process_is_killed_goes_on(tmp_path: Path) -> None:
    found = on_a_cluster(tmp_path, "killed_driver")
    assert found["killed"]
    assert 0 < found["rows_at_the_kill"] < 61
    assert found["new"] <= 61 - found["rows_at_the_kill"]
    assert found["same"]


@needs_ray
@pytest.mark.slow
def test_more_decoded_images_than_nodes_have_memory_for(tmp_path: Path) -> None:
    # 30 MB an image and 4 in a bundle: more than the 105 MB of a node.
    assert on_a_cluster(tmp_path, "small_store") == {"new": 6, "same": True}


@needs_ray
@pytest.mark.slow
def test_what_a_cluster_cannot_do_is_told(tmp_path: Path) -> None:
    told = on_a_cluster(tmp_path, "wrong_nodes")
    assert told["cuda"] == "ConfigError: device: no node of the Ray cluster has a GPU"
    assert "choose from: auto, cpu, cuda" in told["cuda:1"]
    assert "weights are broken" in told["broken"]


@needs_ray
@pytest.mark.parametrize(
    "raised",
    [
        ConnectionError("Could not find any running Ray instance"),
        RuntimeError("Version mismatch: the cluster was started with Ray 2.50.0\nand Python 3.12"),
        ValueError(""),
        "AuthenticationError",
    ],
)
def test_a_cluster_that_cannot_be_joined_is_an_error_of_one_option(
    monkeypatch: pytest.MonkeyPatch, raised: Exception | str
) -> None:
    import ray

    error = (
        getattr(ray.exceptions, raised, RuntimeError)("no") if isinstance(raised, str) else raised
    )

    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ConfigError, match=r"engine: Ray cannot connect: \w") as told,
        ExitStack() as s,
    ):
        connect(s)
    assert "ray status" in str(told.value)
    assert "\n" not in told.value.what


class FakeData:
    """A data set of Ray Data that runs in this process, and may lose blocks."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], lost: Collection[int]) -> None:
        self.rows = rows
        self.lost = lost

    def map_batches(self, function: Any, **options: Any) -> "FakeData":
        if isinstance(function, type):
            function = function(*options["fn_constructor_args"])
        else:
            function = partial(function, setup=options["fn_args"][0])
        made: list[Mapping[str, Any]] = []
        size = options["batch_size"]
        for start in range(0, len(self.rows), size):
            table = pa.Table.from_pylist(list(self.rows[start : start + size]))
            made += pa.table(function(table)).to_pylist()
        return FakeData(made, self.lost)

    def iter_batches(self, **_: Any) -> Iterator[Any]:
        for number, row in enumerate(self.rows):
            if number not in self.lost:
                yield pa.Table.from_pylist([row])


class FakeRay:
    """Ray on one machine with a single core."""

    def __init__(self, lost: Collection[int] = ()) -> None:
        self.lost = lost
        self.data = SimpleNamespace(
            DataContext=SimpleNamespace(
                get_current=lambda: SimpleNamespace(execution_options=SimpleNamespace())
            ),
            ActorPoolStrategy=lambda **_: None,
            from_items=lambda items, **_: FakeData(items, self.lost),
        )

    def nodes(self) -> list[Any]:
        return [{"NodeID": "here", "Alive": True, "Resources": {"CPU": 1}}]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here", get_accelerator_ids=dict)


class TestEngine:
    """The engine on a Ray that is pretended."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for i in range(37):
            (folder / f"{i:02}.png").write_bytes(encoded(picture(20 + i, 20, seed=i)))
        (folder / "bad.jpg").write_bytes(b"no image")
        (folder / "killer.png").write_bytes(encoded(picture(*fakes.KILLER)))
        return folder

    @pytest.fixture(autouse=True)
    def no_pool_is_left(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(cluster, "IMAGES_PER_TASK", 8)
        yield
        close_pools()

    def run(
        self,
        images: Path,
        name: str,
        ray: FakeRay | None,
        texts: Sequence[str] = TEXTS,
        **options: Any,
    ) -> ExtractSummary:
        with pytest.MonkeyPatch.context() as patch:
            if ray:
                patch.setattr(cluster, "connect", lambda stack: ray)
                patch.setitem(sys.modules, "ray", ray)
            given: dict[str, Any] = {"device": "cpu", "workers": 1} | options
            return extract(
                ExtractConfig(
                    images=images,
                    cache=images.parent / f"{name}.h5",
                    engine="ray" if ray else "local",
                    **given,
                ),
                texts=texts,
                extractors=[fakes.make(n, given.get("vit") or "model") for n in fakes.FEATURES],
            )

    def held(self, images: Path, name: str) -> str:
        cache = FeatureCache(images.parent / f"{name}.h5")
        reasons = {f: sorted(cache[f].failures.values()) for f in cache.features}
        return json.dumps([cache.digest(), reasons], sort_keys=True, default=str)

    @pytest.mark.parametrize("lost", [(), (1,), (1, 3)])
    def test_the_cache_is_that_of_one_machine_also_if_ray_gives_up_on_blocks(
        self, images: Path, lost: tuple[int, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        self.run(images, "local", None)
        summary = self.run(images, "ray", FakeRay(lost))
        assert self.held(images, "ray") == self.held(images, "local")
        assert summary.new == 37
        failed = dict(summary.failed)
        assert failed["killer.png"].endswith("killed by SIGKILL, 2 times")
        assert set(failed) == {"killer.png", "bad.jpg"}
        assert bool(lost) == ("came back from no node" in caplog.text)

    def test_a_cluster_that_does_nothing_is_an_error(self, images: Path) -> None:
        with pytest.raises(ExtractionError, match="has not completed a single task"):
            self.run(images, "ray", FakeRay(range(100)), texts=())

    def test_texts_that_are_lost_are_an_error(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mnerfeat.extraction.recorder.TEXT_BATCH", 1)
        monkeypatch.setattr(cluster, "TEXT_BATCH", 1)
        with pytest.raises(ExtractionError, match="1 texts came back from no node"):
            self.run(images, "ray", FakeRay([0]))

    def test_what_a_node_raises_ends_the_run(self, images: Path) -> None:
        with pytest.raises(RuntimeError, match="weights are broken"):
            self.run(images, "ray", FakeRay(), vit="broken")

    def test_devices_are_named_by_kind(self, images: Path) -> None:
        for device, said in (("cuda", "no node"), ("cuda:1", "choose from: auto, cpu, cuda")):
            with pytest.raises(ConfigError, match=said):
                self.run(images, "ray", FakeRay(), device=device)


class TestNode:
    """What a node does, tried in this process."""

    @pytest.fixture
    def tasks(self, tmp_path: Path) -> list[Task]:
        made = []
        for i in range(6):
            path = tmp_path / f"{i}.png"
            path.write_bytes(encoded(picture(20 + i, 20, seed=i)))
            made.append(path)
        (tmp_path / "bad.jpg").write_bytes(b"no image")
        return [
            Task(
                number=number,
                id=content_id(path.read_bytes()),
                job=DecodeJob(path=path, extractors=("vit",)),
            )
            for number, path in enumerate([*made, tmp_path / "bad.jpg"])
        ]

    def setup(self, folder: Path = Path(), *, here: str = "m", **changes: Any) -> NodeSetup:
        given: dict[str, Any] = {
            "run": "a run",
            "version": mnerfeat.__version__,
            "prepares": pickle_prepares({"vit": fakes.FakePrepare("vit")}),
            "make": lambda: [fakes.make("vit", here)],
            "provenance": fakes.make("vit", "m").provenance,
            "libraries": {},
            "known": ["0.png", "bad.jpg"],
            "folder": Path.cwd(),
            "config": ExtractConfig(images=folder, image_timeout=60.0),
            "gpus": False,
        }
        return NodeSetup(**(given | changes))

    def refusal(self, tasks: list[Task], setup: NodeSetup) -> Any:
        answer = decode_tasks(setup, tasks)
        assert isinstance(answer, Exception)
        return answer

    @pytest.fixture(autouse=True)
    def no_pool_is_left(self) -> Any:
        yield
        close_pools()

    def test_it_gives_what_one_machine_gives(self, tasks: list[Task], tmp_path: Path) -> None:
        setup = self.setup(tmp_path)
        results: list[DecodeResult] = []
        for some in (tasks[:4], tasks[4:]):
            decoded = decode_tasks(setup, some)
            assert isinstance(decoded, list)
            results += decoded
        prepares = {"vit": fakes.FakePrepare("vit")}
        here = [r for _, r in decode_here([task.job for task in tasks], prepares, Event())]
        assert [(a.id, a.size, a.reason) for a in results] == [
            (b.id, b.size, b.reason) for b in here
        ]

        tasks[2] = replace(tasks[2], id=b"of a file that changed")
        answer = NodeModels(setup, threads=1).run(list(zip(tasks, results, strict=True)))
        assert answer.error is None
        rows = {id_: row for _, ids, some in answer.rows
                for id_, row in zip(ids, some["vit_cls"], strict=True)}  # fmt: skip
        wanted = fakes.make("vit", "m").extract([here[0].prepared["vit"]], 1)["vit_cls"]  # type: ignore[list-item]
        assert (rows[tasks[0].id] == wanted[0]).all()
        assert set(rows) == {task.id for task in tasks[:6] if task.number != 2}
        assert answer.decoded[6][1].reason is not None
        assert all(not result.prepared for _, result in answer.decoded)  # pixels stay there

    def test_one_without_the_images_refuses(self, tasks: list[Task], tmp_path: Path) -> None:
        empty = tmp_path / "nothing is mounted here"
        empty.mkdir()
        for folder in (empty, tmp_path / "nowhere"):
            refused = self.refusal(tasks, self.setup(folder))
            assert isinstance(refused, ConfigError)
            assert "cannot read the images" in str(refused)
            assert "file system that all nodes share" in str(refused)
            assert "0.png" in str(refused)

    def test_an_image_that_was_deleted_costs_itself_alone(
        self, tasks: list[Task], tmp_path: Path
    ) -> None:
        tasks[0].job.path.unlink()
        results = decode_tasks(self.setup(tmp_path), tasks)
        assert isinstance(results, list)
        assert [r.reason is None for r in results] == [False, *[True] * 5, False]

    def test_one_with_another_mnerfeat_refuses(self, tasks: list[Task], tmp_path: Path) -> None:
        setup = self.setup(tmp_path, version="7.0")
        refused = self.refusal(tasks, setup)
        assert isinstance(refused, ModelError)
        assert "mnerfeat[ray]==7.0" in str(refused)
        assert isinstance(NodeModels(setup, threads=1).run([]).error, ModelError)

    def test_one_with_other_libraries_refuses(self, tasks: list[Task], tmp_path: Path) -> None:
        wanted = {"pillow": "3", "no-such-package": "1"}
        refused = self.refusal(tasks, self.setup(tmp_path, libraries=wanted))
        assert "other versions" in str(refused)
        assert refused.faults[0].endswith("there, 3 here")
        assert refused.faults[1] == "no-such-package: not installed there, 1 here"

    def test_one_with_another_model_refuses(self) -> None:
        error = NodeModels(self.setup(here="other"), threads=1).run([]).error
        assert isinstance(error, ExtractionError)
        assert "would make other features" in str(error)
        assert "vit_cls: model: other there, m here" in str(error)

    def test_an_error_that_cannot_travel_is_told_in_words(self) -> None:
        class Local(Exception):
            pass

        def fail() -> Any:
            raise Local("no")

        error = NodeModels(self.setup(make=fail), threads=1).run([]).error
        assert isinstance(error, ExtractionError)
        assert "Local on" in str(error)
