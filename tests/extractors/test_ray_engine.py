"""The engine for clusters, on nodes that are pretended: whatever is lost, every row comes once."""

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from mnerfeat.cache import FeatureCache
from mnerfeat.errors import ExtractionError, ModelError
from mnerfeat.extraction import ray_engine, ray_fleet
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.looking import Look
from mnerfeat.extraction.ray_bundles import ATTEMPTS, in_short
from mnerfeat.extraction.ray_nodes import Decoding
from mnerfeat.extraction.run import extract
from mnerfeat.extraction.summary import ExtractSummary
from mnerfeat.extraction.workers import Job, look_here
from tests.extractors import fakes
from tests.extractors.fake_ray import (
    Actor,
    FakeRay,
    ObjectLostError,
    RayActorError,
    always,
    in_turn,
)
from tests.extractors.pictures import encoded, picture

IMAGES = 37
TEXTS = ("a b", "c")
LOST = RayActorError("The actor died.\n\tclass_name: Looker\nIts node was terminated.")
BROKEN = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(IMAGES):
        (folder / f"{i:02}.png").write_bytes(encoded(picture(20 + i, 20, seed=i)))
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(decoding: Decoding, jobs: Sequence[Job]) -> list[Look]:
        prepares = {name: fakes.FakePrepare(name) for job in jobs for name in job.extractors}
        return [look for _, look in look_here(jobs, prepares, Event())]

    monkeypatch.setattr(ray_engine, "decode", decode)
    monkeypatch.setattr(ray_engine, "near", lambda node: node)
    monkeypatch.setattr(ray_fleet, "only_on", lambda node: node)
    monkeypatch.setattr(ray_fleet, "_RECRUIT_SECONDS", 0.0)
    monkeypatch.setattr(ray_fleet, "_POLL", 0.001)


def run(images: Path, name: str, ray: FakeRay | None, **options: Any) -> ExtractSummary:
    """A run on pretended nodes, or on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "connect", lambda stack: ray)
        return extract(
            ExtractConfig(
                images=images,
                cache=images.parent / f"{name}.h5",
                device="cpu",
                engine="ray" if ray else "local",
                **options,
            ),
            texts=TEXTS,
            extractors=[fakes.make(name, "model") for name in fakes.FEATURES],
        )


def held(images: Path, name: str) -> str:
    cache = FeatureCache(images.parent / f"{name}.h5")
    reasons = {f: sorted(cache[f].failures.values()) for f in cache.features}
    return json.dumps([cache.digest(), reasons], sort_keys=True, default=str)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_lost_the_cache_is_that_of_one_machine(images: Path, seed: int) -> None:
    chance = random.Random(seed)
    losses = [LOST, BROKEN, ObjectLostError("gone"), None, None, None, None, None]
    left = 6  # fewer than would cost a bundle all of its attempts, or a node its devices

    def fails(actor: Actor, name: str) -> Exception | None:
        nonlocal left
        loss = chance.choice(losses)
        if name == "start" or not left or loss is None:
            return None
        left -= 1
        return loss

    ray = FakeRay([f"n{i}" for i in range(chance.randint(3, 5))], fails)
    run(images, "local", None)
    try:
        summary = run(images, "ray", ray)
    except ExtractionError as error:
        assert f"given to {ATTEMPTS} devices" in str(error)  # noqa: PT017  (bad luck)
        summary = run(images, "ray", FakeRay(["n"]))  # the same command goes on
    else:
        assert summary.new == IMAGES
        assert len(ray.started) >= len(ray.hosts)
    assert held(images, "ray") == held(images, "local")
    assert len(summary.failed) == 1


def test_a_lost_device_is_told_once_with_its_node_and_why(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ray = FakeRay(["one", "two"], in_turn(None, LOST))
    run(images, "ray", ray)
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told.startswith("a device was lost; others look at its ")
    assert told.endswith("The actor died. Its node was terminated.")
    ready = [r.getMessage() for r in caplog.records if "is ready" in r.getMessage()]
    assert len(ready) == 3  # two, and the one that took the place of the lost one
    assert ready[1].endswith("devices now: 2")


def test_devices_are_counted_in_words(images: Path) -> None:
    assert str(run(images, "one", FakeRay(["one"])).device).startswith("1 device (1 × ")
    assert str(run(images, "two", FakeRay(["one", "two"])).device).startswith("2 devices (2 × ")


def test_a_node_whose_gpu_fails_three_times_gets_no_new_device(images: Path) -> None:
    ray = FakeRay(["bad"])

    def fails(actor: Actor, name: str) -> Exception | None:
        if len(ray.started) == 3 and len(ray.hosts) == 1:
            ray.hosts.append("good")
        return BROKEN if name == "look" and actor.node == "id of bad" else None

    ray.fails = fails
    assert run(images, "ray", ray).new == IMAGES
    assert ray.started.count("id of bad") == 3


def test_a_node_where_nothing_starts_is_left_alone(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ray = FakeRay(["good", "bad"], always(LOST, of="start", on="id of bad"))
    assert run(images, "ray", ray).new == IMAGES
    assert ray.started.count("id of bad") == 3
    assert "no device could be started on bad: The actor died." in caplog.text


def test_a_node_that_is_gone_is_told_once(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    ray = FakeRay(["stays", "goes"])

    def fails(actor: Actor, name: str) -> Exception | None:
        if actor.node != "id of goes" or (name == "start" and ray.started.count("id of goes") == 1):
            return None
        if name == "start":  # Ray notices now
            ray.hosts = ["stays"]
        return LOST

    ray.fails = fails
    assert run(images, "ray", ray).new == IMAGES
    assert ray.started.count("id of goes") == 2
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told.startswith("a device was lost")


def test_where_nothing_starts_anywhere_the_last_reason_is_told(images: Path) -> None:
    ray = FakeRay(["one", "two"], always(LOST, of="start"))
    with pytest.raises(ExtractionError, match="none of the 2 nodes") as failed:
        run(images, "ray", ray)
    assert "Its node was terminated." in str(failed.value)
    assert "same mnerfeat" in str(failed.value)


def test_images_that_end_every_device_are_named(images: Path) -> None:
    ray = FakeRay(["one", "two"], always(LOST))
    with pytest.raises(ExtractionError, match=f"given to {ATTEMPTS} devices") as failed:
        run(images, "ray", ray)
    assert len(failed.value.faults) == 4
    assert "Its node was terminated." in str(failed.value)
    assert run(images, "ray", FakeRay(["three"])).failed[0][0] == "bad.jpg"  # it goes on
    run(images, "local", None)
    assert held(images, "ray") == held(images, "local")


def test_what_a_node_refuses_ends_the_run(images: Path) -> None:
    refusal = ModelError("node x has mnerfeat 0.0.1", hint="pip install …")
    for of in ("start", "look", "read_texts"):
        with pytest.raises(ModelError, match="node x") as refused:
            run(images, of, FakeRay(["one"], in_turn(refusal, of=of)))
        assert refused.value.hint == "pip install …"


@pytest.mark.parametrize(
    "lacking",
    [
        ModuleNotFoundError("No module named 'mnerfeat'"),
        RuntimeError(
            "The remote function failed to import on the worker.\n\nTraceback (most recent call "
            "last):\n  File …\nModuleNotFoundError: No module named 'mnerfeat'"
        ),
    ],
)
def test_a_node_without_the_package_is_an_error_that_says_so(
    images: Path, lacking: Exception
) -> None:
    with pytest.raises(ExtractionError, match="a node of the Ray cluster lacks") as failed:
        run(images, "ray", FakeRay(["one"], in_turn(lacking)))
    assert "No module named 'mnerfeat'" in failed.value.what
    assert "\n" not in failed.value.what


def test_texts_are_read_by_another_device_where_one_is_lost(images: Path) -> None:
    ray = FakeRay(["one", "two"], in_turn(LOST, BROKEN, of="read_texts"))
    assert run(images, "ray", ray).new_texts == len(TEXTS)


def test_a_node_that_joins_is_used(images: Path) -> None:
    ray = FakeRay(["one"])

    def join(actor: Actor, name: str) -> None:
        if name == "look" and len(ray.hosts) == 1:
            ray.hosts.append("two")

    ray.fails = join
    assert run(images, "ray", ray).new == IMAGES
    assert ray.started == ["id of one", "id of two"]


def test_an_error_of_ray_is_told_in_one_line() -> None:
    assert in_short(LOST) == "The actor died. Its node was terminated."
    assert in_short(RayActorError("")) == "RayActorError"
    short = in_short(RayActorError("begins " + "long " * 1000 + "ends"))
    assert len(short) < 410
    assert short.startswith("begins")
    assert short.endswith("ends")
