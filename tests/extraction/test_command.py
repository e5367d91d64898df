"""`mnerfeat extract` where nothing can be done."""

from pathlib import Path

import pytest

from mnerfeat.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mnerfeat", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("inside", ["", "a.txt"])
def test_a_folder_without_images_fails_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inside: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "data"):
        (tmp_path / name).mkdir()
    for split in ("train", "dev", "test"):
        (tmp_path / "data" / f"{split}.txt").write_text("IMGID:1\nOslo\tB-LOC\n")
    if inside:
        (tmp_path / "images" / inside).write_text("no image")
    before = sorted(tmp_path.iterdir())
    assert run(monkeypatch, "extract", "--images", "images", "--preset", "tiny") == 1
    told = capsys.readouterr().err
    assert "there is no image in images" in told
    assert "mnerfeat extract --images DIR" in told
    assert sorted(tmp_path.iterdir()) == before
