import os
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mnerfeat.datasets.images import check_images, find_files
from mnerfeat.errors import ConfigError


def draw(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert(mode).save(path)
    return path


def cut(path: Path) -> None:
    draw(path, size=(64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "cut.jpg": cut,
    "cut.png": cut,
    "cut.gif": cut,
    "empty.jpg": lambda path: path.write_bytes(b""),
    "text.jpg": lambda path: path.write_text("<html>not found</html>"),
    "head.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50),
}


def test_every_unreadable_image_is_named_with_a_reason(tmp_path: Path) -> None:
    for name, make in UNREADABLE.items():
        make(tmp_path / name)
    good = ["a.jpg", "sub/b.png", "c.gif"]
    modes = ["CMYK", "LA", "P"]
    for name, mode in zip(good, modes, strict=True):
        draw(tmp_path / name, mode)
    found = check_images([*good, *UNREADABLE, *good], tmp_path)
    assert (found.named, found.readable, found.missing) == (9, 3, ())
    assert [name for name, _ in found.unreadable] == sorted(UNREADABLE)
    assert all(reason for _, reason in found.unreadable)
    assert found.unused == 0


def test_images_that_are_not_there_are_missing(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    draw(tmp_path / "b.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / ".hidden").touch()
    names = ["none.jpg", "folder.jpg", "loop.jpg", "pipe.jpg", "x" * 300, "nul\0.jpg"]
    found = check_images(["a.jpg", *names], tmp_path)
    assert found.missing == tuple(names)
    assert (found.readable, found.unreadable) == (1, ())
    assert found.unused == 3  # b.jpg, the loop and the pipe


def test_decompression_bombs_are_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "big.png", size=(100, 100))
    draw(tmp_path / "bigger.png", size=(200, 200))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    found = check_images(["big.png", "bigger.png"], tmp_path)
    assert [name for name, _ in found.unreadable] == ["big.png", "bigger.png"]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("1.jpg", "1.jpg"),
        ("1.jpg", "images/1.jpg"),
        ("5302_0.jpg", "new_images/5302_0.jpg"),
        ("O_538.jpg", "twitter2017_images/O_538.jpg"),
        ("twitter2017-O_538.jpg", "O_538.jpg"),
        ("twitter2017-O_538.jpg", "twitter2017-O_538.jpg"),
        ("twitter2017-O_538.jpg", "twitter2017_images/O_538.jpg"),
        ("twitter2017-O_538.jpg", "twitter2017_images/twitter2017-O_538.jpg"),
    ],
)
def test_images_are_found_where_the_archives_put_them(
    tmp_path: Path, name: str, stored: str
) -> None:
    draw(tmp_path / stored)
    found = check_images([name], tmp_path)
    assert (found.readable, found.unused) == (1, 0)


def test_the_name_itself_comes_first(tmp_path: Path) -> None:
    for stored in ("twitter2017-a.jpg", "a.jpg", "images/twitter2017-a.jpg"):
        draw(tmp_path / stored)
    found = find_files(tmp_path, ["a.jpg", "twitter2017-a.jpg"])
    assert found.found == {"a.jpg": "a.jpg", "twitter2017-a.jpg": "twitter2017-a.jpg"}
    assert found.notes() == []


def test_a_file_in_another_folder_or_unicode_form_is_found_and_reported(tmp_path: Path) -> None:
    composed, decomposed = "Zürich é.jpg", unicodedata.normalize("NFD", "Zürich é.jpg")
    draw(tmp_path / decomposed)
    draw(tmp_path / "test" / "1.jpg")
    asked = [composed, "1.jpg", str(tmp_path / "test" / "1.jpg"), r"test\1.jpg", "./test//1.jpg"]
    found = check_images(asked, tmp_path)
    assert (found.named, found.readable, found.missing) == (5, 5, ())
    assert len(found.notes) == 2
    assert "Unicode form" in found.notes[0]
    assert "'1.jpg': 'test/1.jpg'" in found.notes[1]


def test_a_name_in_several_folders_is_ambiguous_unless_the_bytes_are_equal(
    tmp_path: Path,
) -> None:
    draw(tmp_path / "train" / "1.jpg")
    draw(tmp_path / "test" / "1.jpg")
    copy = draw(tmp_path / "train" / "2.jpg")
    (tmp_path / "2.copies").mkdir()
    (tmp_path / "2.copies" / "2.jpg").write_bytes(copy.read_bytes())
    found = check_images(["1.jpg", "2.jpg"], tmp_path)
    assert found.ambiguous == (("1.jpg", ("test/1.jpg", "train/1.jpg")),)
    assert (found.readable, found.missing) == (1, ())


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "a.jpg")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert find_files(folder, ["a.jpg"]).found == {"a.jpg": "link/a.jpg"}


def test_progress_is_told_of_every_image(tmp_path: Path) -> None:
    names = [draw(tmp_path / f"{n}.png").name for n in range(5)]
    told: list[tuple[int, int]] = []
    check_images(names, tmp_path, lambda done, of: told.append((done, of)))
    assert told == [(n, 5) for n in range(1, 6)]


def test_an_interruption_does_not_wait_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [draw(tmp_path / f"{n}.png").name for n in range(200)]
    opened: list[Path] = []

    def slow(file: Path) -> None:
        opened.append(file)
        time.sleep(0.02)

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnerfeat.datasets.images._reason", slow)
    with pytest.raises(KeyboardInterrupt):
        check_images(names, tmp_path, interrupt)
    assert len(opened) < len(names)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none does not exist"):
        check_images([], tmp_path / "none")


def test_without_pillow_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnerfeat\[extract\]'"):
        check_images(["a.jpg"], tmp_path)


def test_real_images_are_all_readable(shared: Path) -> None:
    folder = shared / "data" / "images"
    names = [path.name for path in folder.iterdir()]
    found = check_images(names, folder)
    assert (found.readable, found.missing, found.unreadable) == (len(names), (), ())
