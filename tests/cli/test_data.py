"""`mnerfeat data convert`, as a shell calls it."""

from pathlib import Path

from mnerfeat.datasets import Post, read_folder
from tests.cli.conftest import Program


def test_a_folder_is_converted_split_by_split(tmp_path: Path, program: Program) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train.txt").write_text("IMGID:1\nBob\tB-PERSON\n\nIMGID:2\na\tO\n")
    (tmp_path / "old" / "valid.txt").write_text("IMGID:3\nRio\tB-LOC\n")
    for name in ("1_b.jpg", "1_a.jpg", "3_x.jpg"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    result = program("data", "convert", "old", "new", "--images", "pictures")
    assert result.code == 0, result.err
    assert "new/train.jsonl: 2 posts, 2 images, 1 posts without an image" in result.out
    data = read_folder(tmp_path / "new", None)
    assert data["train"].posts[0].images == ("1_a.jpg", "1_b.jpg")
    assert data["dev"].posts == (
        Post(id="3", words=("Rio",), tags=("B-LOC",), images=("3_x.jpg",)),
    )
    again = program("data", "convert", "old", "new", "--to", "json")
    assert again.code == 1
    assert "train.jsonl" in again.err
    assert "--replace" in again.err
    assert program("data", "convert", "old", "new", "--to", "json", "--replace").code == 0
    assert read_folder(tmp_path / "new", None)["dev"].posts[0].images == ("3.jpg",)
