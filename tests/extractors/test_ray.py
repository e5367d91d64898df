"""Extraction on a Ray cluster of several nodes, all of them on this machine."""

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import mnerfeat
from mnerfeat.errors import ConfigError, ExtractionError, ModelError
from mnerfeat.extraction import ray_nodes
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.ray_connection import connect
from mnerfeat.extraction.ray_nodes import Decoding, Looker, Models, decode
from mnerfeat.extraction.workers import Job, look_here, pickle_prepares
from tests.extractors import fakes
from tests.extractors.pictures import encoded, picture

ROOT = Path(__file__).resolve().parents[2]

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
        [sys.executable, "-m", "tests.extractors.ray_cluster", folder, what],
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
    assert found["device"].startswith("2 devices")


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


class TestNode:
    """What a node does, tried in this process."""

    @pytest.fixture
    def jobs(self, tmp_path: Path) -> list[Job]:
        made = []
        for i in range(6):
            path = tmp_path / f"{i}.png"
            path.write_bytes(encoded(picture(20 + i, 20, seed=i)))
            made.append(Job(path=path, extractors=("vit",)))
        (tmp_path / "bad.jpg").write_bytes(b"no image")
        return [*made, Job(path=tmp_path / "bad.jpg", extractors=("vit",))]

    def decoding(self, folder: Path, **changes: Any) -> Decoding:
        given: dict[str, Any] = {
            "run": "a run",
            "version": mnerfeat.__version__,
            "prepares": pickle_prepares({"vit": fakes.FakePrepare("vit")}),
            "images": folder,
            "known": ["0.png", "bad.jpg"],
            "libraries": {},
            "timeout": 60.0,
            "yielding": False,
        }
        return Decoding(**(given | changes))

    @pytest.fixture(autouse=True)
    def no_pool_is_left(self) -> Any:
        yield
        for pool in ray_nodes._pools.values():
            pool.close()
        ray_nodes._pools.clear()

    def models(self, extractor: fakes.FakeExtractor, wanted: fakes.FakeExtractor) -> Models:
        return Models(
            version=mnerfeat.__version__,
            make=lambda: [extractor],
            provenance=wanted.provenance,
            folder=Path.cwd(),
            config=ExtractConfig(),
        )

    def test_it_sees_what_one_machine_sees(self, jobs: list[Job], tmp_path: Path) -> None:
        decoding = self.decoding(tmp_path)
        looks = [*decode(decoding, jobs[:4]), *decode(decoding, jobs[4:])]
        here = [look for _, look in look_here(jobs, {"vit": fakes.FakePrepare("vit")}, Event())]
        assert [(a.id, a.size, a.reason) for a in looks] == [(b.id, b.size, b.reason) for b in here]

        looker = Looker(self.models(fakes.make("vit", "m"), fakes.make("vit", "m")), "cpu", 1)
        assert looker.start().images == 4
        ids = [look.id or b"" for look in looks]
        ids[2] = b"of a file that changed"
        answer = looker.look(ids, looks[:4], looks[4:])
        rows = {id_: row for _, some, r in answer.rows
                for id_, row in zip(some, r["vit_cls"], strict=True)}  # fmt: skip
        wanted = fakes.make("vit", "m").extract([here[0].prepared["vit"]], 1)["vit_cls"]  # type: ignore[list-item]
        assert (rows[ids[0]] == wanted[0]).all()
        assert set(rows) == {id_ for i, id_ in enumerate(ids[:6]) if i != 2}
        assert answer.looks[6].reason is not None
        assert all(not look.prepared for look in answer.looks)  # pixels do not travel back

    def test_one_without_the_images_refuses(self, jobs: list[Job], tmp_path: Path) -> None:
        empty = tmp_path / "nothing is mounted here"
        empty.mkdir()
        for folder in (empty, tmp_path / "nowhere"):
            with pytest.raises(ConfigError, match="cannot read the images") as refused:
                decode(self.decoding(folder), jobs)
            assert "file system that all nodes share" in str(refused.value)
            assert "0.png" in str(refused.value)

    def test_an_image_that_was_deleted_costs_itself_alone(
        self, jobs: list[Job], tmp_path: Path
    ) -> None:
        jobs[0].path.unlink()
        looks = decode(self.decoding(tmp_path), jobs)
        assert [look.reason is None for look in looks] == [False, *[True] * 5, False]

    def test_one_with_another_mnerfeat_refuses(self, jobs: list[Job], tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"has mnerfeat .*, not 7\.0 as") as refused:
            decode(self.decoding(tmp_path, version="7.0"), jobs)
        assert "mnerfeat[ray]==7.0" in str(refused.value)
        models = replace(self.models(fakes.make("vit", "m"), fakes.make("vit", "m")), version="7.0")
        with pytest.raises(ModelError, match="has mnerfeat"):
            Looker(models, "cpu", 1).start()

    def test_one_with_other_libraries_refuses(self, jobs: list[Job], tmp_path: Path) -> None:
        wanted = {"pillow": "3", "no-such-package": "1"}
        with pytest.raises(ModelError, match="other versions") as refused:
            decode(self.decoding(tmp_path, libraries=wanted), jobs)
        assert refused.value.faults[0].endswith("not 3")
        assert refused.value.faults[1] == "no-such-package: not installed, not 1"

    def test_one_with_another_model_refuses(self) -> None:
        models = self.models(fakes.make("vit", "other"), fakes.make("vit", "model"))
        with pytest.raises(ExtractionError, match="would make other features") as refused:
            Looker(models, "cpu", 1).start()
        assert "vit_cls: model: other, not model" in str(refused.value)
