"""Models by id or path: found, named, hashed, read safely, or refused with the next step."""

import hashlib
import json
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from mnerfeat.errors import ModelError
from mnerfeat.extractors import weights
from mnerfeat.extractors.loader import find_model, model_name, versions
from mnerfeat.extractors.registry import PRESETS
from mnerfeat.extractors.weights import hash_files, read_weights
from tests.extractors.conftest import Models


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_that_is_not_here_says_quickly_what_to_do(empty_hub: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError) as missing:
        find_model("google/vit-base-patch16-224", option="vit")
    assert time.monotonic() - started < 5
    message = str(missing.value)
    assert "hf download google/vit-base-patch16-224 --local-dir vit-base-patch16-224" in message
    assert "--vit" in message
    assert "--preset tiny" in message


def test_a_hub_id_that_is_here_needs_no_network(empty_hub: Path, models: Models) -> None:
    repository = empty_hub / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for path in models.vit.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    found = find_model("org/name", option="vit")
    assert found.name == "org/name"
    assert found.facts == {**find_model(str(models.vit), option="vit").facts, "model": "org/name"}
    assert find_model(str(snapshot), option="vit").facts == found.facts


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "./here", "just-a-name", "a/b/c"])
def test_what_is_neither_folder_nor_id_is_told(reference: str) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        find_model(reference, option="vit")


def test_an_incomplete_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no weights"):
        find_model(str(tmp_path), option="vit")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_model(str(tmp_path), option="vit")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json"):
        find_model(str(tmp_path), option="vit")
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        find_model(str(tmp_path), option="vit")


def test_weights_in_shards_are_all_hashed(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(1)}, tmp_path / shards[0])
    with pytest.raises(ModelError, match="not there") as missing:
        find_model(str(tmp_path), option="vit")
    assert missing.value.faults == (shards[1],)
    save_file({"b": torch.zeros(1)}, tmp_path / shards[1])
    before = find_model(str(tmp_path), option="vit").facts["weights_sha256"]
    save_file({"b": torch.ones(1)}, tmp_path / shards[1])
    assert find_model(str(tmp_path), option="vit").facts["weights_sha256"] != before


def test_names_hold_no_path(tmp_path: Path) -> None:
    assert model_name(tmp_path / "models" / "vit-b") == "vit-b"
    assert model_name(Path(PRESETS["tiny"]["vit"])) == "mnerfeat/toy/weights/vit"
    cached = tmp_path / "models--google--vit-base" / "snapshots" / "abc"
    assert model_name(cached) == "google/vit-base"


def test_what_changes_no_number_changes_no_facts(models: Models, tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    for path in models.vit.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert (
        find_model(str(folder), option="v").facts == find_model(str(models.vit), option="v").facts
    )
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert (
        find_model(str(folder), option="v").facts != find_model(str(models.vit), option="v").facts
    )


class TestHashes:
    def test_a_hash_is_the_files_sha256(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        assert hash_files([tmp_path / "a"]) == hashlib.sha256(b"abc").hexdigest()

    def test_large_files_are_hashed_once_until_they_change(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "_REMEMBERED_FROM", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        path = tmp_path / "weights"
        path.write_bytes(b"abc")
        first = hash_files([path])
        with mock.patch.object(hashlib, "file_digest", side_effect=AssertionError):
            assert hash_files([path]) == first
        path.write_bytes(b"abd")
        assert hash_files([path]) == hashlib.sha256(b"abd").hexdigest()

    @pytest.mark.parametrize("content", ["no json", "[]", '{"x": 3}'])
    def test_a_damaged_memory_is_no_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
    ) -> None:
        monkeypatch.setattr(weights, "_REMEMBERED_FROM", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (tmp_path / "mnerfeat").mkdir()
        (tmp_path / "mnerfeat" / "weights-sha256.json").write_text(content)
        (tmp_path / "weights").write_bytes(b"abc")
        assert hash_files([tmp_path / "weights"]) == hashlib.sha256(b"abc").hexdigest()

    def test_a_home_that_cannot_be_written_is_no_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "_REMEMBERED_FROM", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
        (tmp_path / "weights").write_bytes(b"abc")
        assert hash_files([tmp_path / "weights"])


class TestWeights:
    @pytest.mark.parametrize("nested", [None, "params", "state_dict"])
    def test_checkpoints_of_every_form_are_read(self, tmp_path: Path, nested: str | None) -> None:
        tensors = {"module.a": torch.arange(3.0)}
        torch.save({nested: tensors} if nested else tensors, tmp_path / "w.pt")
        read = read_weights(tmp_path / "w.pt", option="o")
        assert list(read) == ["a"]
        assert read["a"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04K\x01."])
    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    def test_anything_else_is_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"cannot be loaded safely|no state dictionary"):
            read_weights(tmp_path / name, option="o")


def test_versions_are_those_that_may_change_what_comes_out() -> None:
    with mock.patch("importlib.metadata.version", {"a": "5.23.1", "b": "0.29.2", "c": "1.0"}.get):
        assert versions("a", "b", "c") == {"a": "5", "b": "0.29", "c": "1"}
