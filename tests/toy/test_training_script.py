"""Anybody can train the tiny backbones anew: the script runs, at miniature size."""

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
from transformers import AutoModel

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_tiny_backbones.py"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run(
        [sys.executable, SCRIPT, "--scale", "miniature", "--out", folder],
        check=True,
        capture_output=True,
        timeout=240,
    )
    return folder


def test_script_writes_folders_that_their_loaders_open(out):
    for name in ("vit", "quality", "grid", "text"):
        AutoModel.from_pretrained(out / name)
    open_clip.create_model(f"local-dir:{out / 'clip'}")
    assert open_clip.get_tokenizer(f"local-dir:{out / 'clip'}")(["by the red wall"]).any()


def test_script_writes_what_the_package_ships(out):
    shipped = SCRIPT.parents[1] / "mnerfeat" / "toy" / "weights"
    wanted = {str(path.relative_to(shipped)) for path in shipped.rglob("*") if path.is_file()}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == wanted


def test_record_says_what_was_measured(out):
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    assert set(record) == {"vit", "clip", "quality", "grid", "text"}
    for entry in record.values():
        assert entry["held out"]
        assert len(entry["sha256"]) == 64
