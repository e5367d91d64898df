"""Laws that every extractor must keep; each extractor's tests inherit `ExtractorContract`."""

import json
import os
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest

from mnerfeat.extractors.base import Extractor, Prepared
from mnerfeat.extractors.captions import Captioner
from mnerfeat.extractors.clip import ClipExtractor
from mnerfeat.extractors.detector import Detector
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.grid import GridExtractor
from mnerfeat.extractors.image_texts import ImageTextExtractor
from mnerfeat.extractors.quality import quality_extractor
from mnerfeat.extractors.regions import RegionsExtractor
from mnerfeat.extractors.tags import DetectedTags
from mnerfeat.extractors.vit import VitExtractor
from tests.extractors.pictures import picture

SIZES = ((40, 30), (32, 32), (64, 200), (300, 260), (33, 35))
"""Width and height of the images that the laws are tried on."""


class ExtractorContract(ABC):
    """Give `factory`: source of an expression that makes the extractor, in any process."""

    repeats: frozenset[str] = frozenset()
    """Features that may be the same for different images."""

    size = 3
    """Inputs at once: odd, and less than the images, so that batches are cut and filled up."""

    @classmethod
    @abstractmethod
    def factory(cls, models: object) -> str:
        """A Python expression; `VitExtractor`, `ClipExtractor`, … and `np` are known to it."""

    @pytest.fixture(scope="class")
    @classmethod
    def extractor(cls, models: object, cpu: Compute) -> Extractor:
        made = evaluate(cls.factory(models))
        made.load(cpu)
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, extractor: Extractor) -> list[Prepared]:
        prepare = extractor.prepare
        return [prepare(picture(*size, seed=i)) for i, size in enumerate(SIZES)]

    def test_rows_are_as_declared(self, extractor: Extractor, prepared: list[Prepared]) -> None:
        rows = extractor.extract(prepared, self.size)
        assert set(rows) == set(extractor.features)
        for name, spec in extractor.features.items():
            assert rows[name].shape == (len(prepared), *spec.shape)
            assert rows[name].dtype == np.float32
            assert np.isfinite(rows[name]).all()

    def test_images_differ(self, extractor: Extractor, prepared: list[Prepared]) -> None:
        for name, values in extractor.extract(prepared, self.size).items():
            if name in self.repeats:
                continue
            assert len(np.unique(values.reshape(len(values), -1), axis=0)) == len(prepared)

    def test_a_row_depends_on_its_image_alone_to_the_last_bit(
        self, extractor: Extractor, prepared: list[Prepared]
    ) -> None:
        together = extractor.extract(prepared, self.size)
        backwards = extractor.extract(prepared[::-1], self.size)
        alone = [extractor.extract([image], self.size) for image in prepared]
        for name, values in together.items():
            assert np.array_equal(backwards[name][::-1], values)
            assert np.array_equal(np.concatenate([row[name] for row in alone]), values)

    def test_how_many_run_at_once_changes_nothing_but_rounding(
        self, extractor: Extractor, prepared: list[Prepared]
    ) -> None:
        three, one = extractor.extract(prepared, self.size), extractor.extract(prepared, 1)
        for name, values in three.items():
            assert np.allclose(one[name], values, rtol=1e-4, atol=1e-5)

    def test_prepare_can_be_pickled_and_is_light(
        self, extractor: Extractor, prepared: list[Prepared]
    ) -> None:
        content = pickle.dumps(extractor.prepare)
        assert len(content) < 100_000  # no weights
        again = pickle.loads(content)(picture(*SIZES[0], seed=0))
        assert set(again) == set(prepared[0])
        for name, array in again.items():
            assert array.dtype == prepared[0][name].dtype
            assert np.array_equal(array, prepared[0][name])

    def test_prepare_is_unpickled_without_torch(self, extractor: Extractor, tmp_path: Path) -> None:
        """Decoder processes that only pass it on, or need Pillow alone, start in a moment."""
        (tmp_path / "prepare").write_bytes(pickle.dumps(extractor.prepare))
        script = (
            "import pickle, sys\nfrom pathlib import Path\n"
            f"pickle.loads(Path({str(tmp_path / 'prepare')!r}).read_bytes())\n"
            "print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))\n"
        )
        assert fresh_interpreter(script, tmp_path).splitlines() == ["[]"]

    def test_provenance_is_the_same_in_another_process(
        self, extractor: Extractor, models: object, tmp_path: Path
    ) -> None:
        script = (
            "import json, sys\nfrom tests.extractors.contract import evaluate\n"
            f"made = evaluate({self.factory(models)!r}).provenance\n"
            "print(json.dumps({name: p.digest for name, p in sorted(made.items())}))\n"
            "print('torch' in sys.modules)\n"
        )
        digests, loaded_torch = fresh_interpreter(script, tmp_path).splitlines()
        ours = {name: p.digest for name, p in sorted(extractor.provenance.items())}
        assert json.loads(digests) == ours
        # A run with nothing to do stays quick: what is asked for is known without torch.
        assert loaded_torch == "False"

    def test_provenance_names_its_model_and_covers_every_feature(
        self, extractor: Extractor
    ) -> None:
        assert set(extractor.features) <= set(extractor.provenance)
        for provenance in extractor.provenance.values():
            assert {"extractor", "model", "output", "dtype", "libraries"} <= set(provenance.facts)
            assert str(Path.cwd()) not in provenance.json


def fresh_interpreter(script: str, folder: Path) -> str:
    """What a script prints in a new process, started in a folder."""
    (folder / "script.py").write_text(script)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "1"}
    run = subprocess.run(
        [sys.executable, folder / "script.py"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def evaluate(expression: str) -> Extractor:
    """The extractor that an expression makes."""
    known = {
        "Captioner": Captioner,
        "ClipExtractor": ClipExtractor,
        "DetectedTags": DetectedTags,
        "Detector": Detector,
        "GridExtractor": GridExtractor,
        "ImageTextExtractor": ImageTextExtractor,
        "RegionsExtractor": RegionsExtractor,
        "VitExtractor": VitExtractor,
        "quality_extractor": quality_extractor,
        "np": np,
    }
    made: Extractor = eval(expression, known)
    return made
