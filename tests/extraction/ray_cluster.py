"""A Ray cluster of several nodes on this machine, and runs on it: a program of its own.

It takes a folder to work in, and what to do; it prints what came of it as JSON. A program of
its own, because Ray writes about lost nodes to standard error and leaves threads behind.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from PIL import Image
from ray.cluster_utils import Cluster

from mnerfeat.cache import FeatureCache
from mnerfeat.errors import MnerfeatError
from mnerfeat.extraction import cluster, recorder
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.extraction.summary import ExtractSummary
from tests.extraction import fakes
from tests.extractors.pictures import encoded, picture

IMAGES = 60
TEXTS = ("a b", "c", "d e f g h i j")
MEMORY = 100 << 20


def draw(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir()
    for i in range(IMAGES):
        (images / f"{i:03}.png").write_bytes(encoded(picture(20 + i % 9, 20, seed=i)))
    (images / "copy.png").write_bytes((images / "007.png").read_bytes())
    (images / "bad.jpg").write_bytes(b"no image")
    (images / "killer.png").write_bytes(encoded(picture(*fakes.KILLER)))
    (images / "odd.png").write_bytes(encoded(picture(*fakes.REFUSED)))
    return images


def config(folder: Path, name: str, **options: Any) -> ExtractConfig:
    given: dict[str, Any] = {
        "images": folder / "images",
        "cache": folder / f"{name}.h5",
        "device": "cpu",
        "engine": "ray",
    }
    return ExtractConfig(**(given | options))


def extract_with_fakes(
    settings: ExtractConfig, *, delay: float = 0.01, names: Iterable[str] = fakes.FEATURES
) -> ExtractSummary:
    recorder.PART_ROWS = 8  # type: ignore[misc]
    cluster.IMAGES_PER_TASK = 4  # type: ignore[misc]
    made = [fakes.make(name, "model", delay) for name in names]
    return extract(settings, texts=TEXTS, extractors=made)


class Runs:
    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.images = draw(folder)
        few = what != "tiny_models"  # a node takes seconds to start
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": int(few), "object_store_memory": MEMORY},
        )
        self.nodes = [self.add_node() for _ in range(1 if few else 2)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def add_node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def config(self, name: str, **options: Any) -> ExtractConfig:
        return config(self.folder, name, **options)

    def digest(self, name: str) -> str:
        held = FeatureCache(self.folder / f"{name}.h5")
        reasons = {f: sorted(held[f].failures.values()) for f in held.features}
        return json.dumps([held.digest(), reasons], sort_keys=True, default=str)

    def meanwhile(self, name: str, act: Callable[[], None]) -> dict[str, int]:
        """Do something once a run has written a few parts; gives how many rows there were."""
        seen: dict[str, int] = {}
        path = self.folder / f"{name}.h5"

        def watch() -> None:
            while len(list(path.with_name(f"{path.name}.d").glob("part-*.h5"))) < 2:
                time.sleep(0.01)
            held = FeatureCache(path, missing_ok=True)
            seen["rows"] = int((held["vit_cls"].state == 1).sum()) if len(held.images) else 0
            act()

        threading.Thread(target=watch, daemon=True).start()
        return seen

    def fake_models(self) -> dict[str, Any]:
        """With models that cost nothing: the same as locally, and with a node killed."""
        extract_with_fakes(self.config("local", engine="local", workers=1))
        seen = self.meanwhile(
            "killed", lambda: self.cluster.remove_node(self.nodes[0], allow_graceful=False)
        )
        summary = extract_with_fakes(self.config("killed"))
        return {
            "same": self.digest("killed") == self.digest("local"),
            "rows_at_the_kill": seen["rows"],
            "rows": int((FeatureCache(self.folder / "killed.h5")["vit_cls"].state == 1).sum()),
            "new": summary.new,
            "failed": dict(summary.failed),
            "device": summary.device,
            "nodes": self.alive_once_noticed(1),
        }

    def alive_once_noticed(self, wanted: int) -> int:
        """Nodes alive; Ray takes a while to notice that one is not."""
        patience = time.monotonic() + 60
        while (count := sum(node["Alive"] for node in ray.nodes())) != wanted:
            if time.monotonic() > patience:
                break
            time.sleep(0.5)
        return count

    def killed_driver(self) -> dict[str, Any]:
        """The process that runs the command is killed, and the command is run again."""
        (self.images / "killer.png").unlink()
        extract_with_fakes(self.config("local", engine="local", workers=1))
        program = [sys.executable, "-m", "tests.extraction.ray_cluster", str(self.folder), "driver"]
        driver = subprocess.Popen([*program, self.cluster.address])
        seen = self.meanwhile("killed", driver.kill)
        code = driver.wait()
        summary = extract_with_fakes(self.config("killed"))
        return {
            "killed": code == -signal.SIGKILL,
            "rows_at_the_kill": seen["rows"],
            "new": summary.new,
            "same": self.digest("killed") == self.digest("local"),
        }

    def small_store(self) -> dict[str, Any]:
        """Decoded images that the nodes' memory for objects cannot hold."""
        for path in self.images.iterdir():
            path.unlink()
        for i in range(6):
            image = Image.new("RGB", (4000, 2500), (10 * i, 7 * i, 255 - i))
            image.save(self.images / f"{i:02}.png")
        extract_with_fakes(self.config("local", engine="local", workers=0), names=["vit"])
        summary = extract_with_fakes(self.config("spilt"), names=["vit"])
        return {"new": summary.new, "same": self.digest("spilt") == self.digest("local")}

    def tiny_models(self) -> dict[str, Any]:
        """With the models inside the package; a node joins, and one that is used is killed."""
        (self.images / "killer.png").unlink()
        options: dict[str, Any] = {"preset": "tiny", "features": ("vit", "clip", "quality")}
        recorder.PART_ROWS = 16  # type: ignore[misc]
        cluster.IMAGES_PER_TASK = 4  # type: ignore[misc]
        extract(self.config("local", engine="local", workers=0, **options), texts=TEXTS)

        def change() -> None:
            self.nodes.append(self.add_node())
            self.cluster.remove_node(self.nodes[0], allow_graceful=False)

        self.meanwhile("changed", change)
        summary = extract(self.config("changed", **options), texts=TEXTS)
        return {
            "same": self.digest("changed") == self.digest("local"),
            "device": summary.device,
            "new": summary.new,
        }

    def wrong_nodes(self) -> dict[str, Any]:
        """What nodes refuse, and what is asked for in vain."""
        told = {}
        made = [fakes.make("vit", "model")]
        for name, options, extractors in (
            ("cuda", {"device": "cuda"}, made),
            ("cuda:1", {"device": "cuda:1"}, made),
            ("broken", {}, [fakes.make("vit", "broken")]),
        ):
            try:
                extract(
                    self.config(name.replace(":", ""), features=("vit",), **options),
                    extractors=extractors,
                )
            except (MnerfeatError, RuntimeError) as error:
                told[name] = f"{type(error).__name__}: {error}"
        return told


def main() -> None:
    folder, what, *address = sys.argv[1:]
    if what == "driver":
        os.environ["RAY_ADDRESS"] = address[0]
        extract_with_fakes(config(Path(folder), "killed"), delay=0.05)
        return
    runs = Runs(Path(folder), what)
    try:
        found = getattr(runs, what)()
    finally:
        ray.shutdown()
        runs.cluster.shutdown()
    print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
