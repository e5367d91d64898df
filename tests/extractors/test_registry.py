"""Extractors by name, and those of a run rebuilt from what it recorded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mnerfeat.cache import Provenance
from mnerfeat.cli.app import app
from mnerfeat.errors import ConfigError, ModelError, ProvenanceError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extractors.base import Extractor, ExtractorFactory, ModelOption
from mnerfeat.extractors.registry import EXTRACTORS, OPTIONS, extractors_of
from mnerfeat.extractors.vit import VitExtractor
from tests.extractors.conftest import Models
from tests.extractors.random_models import RandomModels, save_models


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> RandomModels:
    return save_models(tmp_path_factory.mktemp("more"))


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def provenances(*extractors: Extractor) -> dict[str, Provenance]:
    """As a run has them after they went through JSON."""
    return {
        feature: Provenance(json.loads(provenance.json))
        for extractor in extractors
        for feature, provenance in extractor.provenance.items()
    }


def rebuilt(config: ExtractConfig) -> tuple[Extractor, ...]:
    made = provenances(*config.extractors())
    references = json.loads(json.dumps(config.references()))
    found = extractors_of(made, references)
    assert provenances(*found) == made
    assert [extractor.name for extractor in found] == list(dict.fromkeys(config.features))
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_the_tiny_preset_needs_no_record(dtype: Any, numerics: Any) -> None:
    config = ExtractConfig(
        preset="tiny", features=("vit", "clip", "quality", "grid"), dtype=dtype, numerics=numerics
    )
    assert config.references() == {}
    rebuilt(config)


def test_models_in_folders_and_files_come_from_the_record(
    models: Models, more: RandomModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "a wall"}\n')
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models.vit, tmp_path / "own-vit")
    config = ExtractConfig(
        features=("vit", "clip", "quality", "regions", "tags", "caption"),
        vit="own-vit",
        clip=str(models.clip),
        quality=str(models.quality),
        grid=str(more.grid),
        detector=str(more.detector),
        bert=str(more.bert),
        captions=Path("captions.jsonl"),
    )
    assert config.references()["vit"] == str(tmp_path / "own-vit")
    rebuilt(config)


def test_some_features_of_an_extractor_are_enough(more: RandomModels) -> None:
    config = ExtractConfig(
        features=("regions",), grid=str(more.grid), detector=str(more.detector), dtype="float32"
    )
    (made,) = config.extractors()
    boxes = {"regions_boxes": made.provenance["regions_boxes"]}
    (found,) = extractors_of(boxes, config.references())
    assert found.provenance["regions_boxes"] == made.provenance["regions_boxes"]


def test_features_that_no_extractor_makes_are_passed_over() -> None:
    assert extractors_of({"reward": Provenance({"extractor": "reward"})}) == ()


def test_another_model_in_its_place_is_refused_with_the_option(
    models: Models, more: RandomModels
) -> None:
    made = provenances(*ExtractConfig(features=("vit",), vit=str(models.vit)).extractors())
    other = made["vit_cls"].facts | {"weights_sha256": "0" * 64}
    with pytest.raises(ProvenanceError, match=r" found, 0000.* wanted") as refused:
        extractors_of({"vit_cls": Provenance(other)}, {"vit": str(models.vit)})
    assert refused.value.faults[0].startswith("vit_cls: weights_sha256: ")
    assert "--set extract.vit=MODEL" in str(refused.value)


@pytest.mark.usefixtures("empty_hub")
def test_everything_that_is_missing_is_listed_with_its_option(
    models: Models, tmp_path: Path
) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image": "a.jpg", "caption": "a wall"}\n')
    tiny = ExtractConfig(preset="tiny", features=("caption",), captions=captions)
    folders = ExtractConfig(features=("vit",), vit=str(models.vit))
    made = provenances(*tiny.extractors(), *folders.extractors())
    with pytest.raises(ModelError) as refused:
        extractors_of(made)
    assert len(refused.value.faults) == 2
    assert "captions.jsonl" in str(refused.value)
    assert "--set extract.vit=MODEL" in str(refused.value)
    assert "--set extract.captions=FILE" in str(refused.value)


def test_a_record_that_leads_elsewhere_does_no_harm_to_a_model_known_by_name(
    models: Models,
) -> None:
    (made,) = ExtractConfig(preset="tiny", features=("vit",)).extractors()
    (found,) = extractors_of(provenances(made), {"vit": str(models.vit)})
    assert found.provenance == made.provenance


def test_one_line_in_the_dict_adds_an_extractor(
    models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = ModelOption(name="depth", base="org/depth")
    factory = ExtractorFactory(
        help="depth of the scene",
        options={depth: "model"},
        make=lambda o: VitExtractor(o.model(depth), dtype=o.dtype, numerics=o.numerics),
    )
    monkeypatch.setitem(EXTRACTORS, "depth", factory)
    monkeypatch.setitem(OPTIONS, "depth", depth)  # the module computes it from the dict
    config = ExtractConfig(features=("depth",), models={"depth": str(models.vit)})
    (made,) = config.extractors()
    assert made.features
    assert config.references() == {"depth": str(models.vit)}
    with pytest.raises(SystemExit):
        app(["extract", "--help"])
    assert "depth of the" in capsys.readouterr().out


def test_the_help_lists_every_extractor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["extract", "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [name for name in EXTRACTORS if f"{name} (" not in told] == []


def test_a_model_of_no_extractor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown dpeth; choose from: .*vit"):
        ExtractConfig(models={"dpeth": "org/depth"})
