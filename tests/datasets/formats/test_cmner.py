"""CMNER's format, its images, and the published files."""

from pathlib import Path

import pytest

from mnerfeat.datasets import Post, read_folder, read_posts
from mnerfeat.datasets.formats import FORMATS, write_posts
from mnerfeat.datasets.images import images_by_id
from mnerfeat.errors import DataError

TEXT = "WID:Ab1\r\n姚\tB-PER\r\n明\tI-PER\r\n\r\nWID:Ab1_2\r\n好\tO\r\n\r\n"


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize("home", ["images", "../images"])
def test_images_are_found_by_the_posts_id_and_sorted_by_name(tmp_path: Path, home: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_bytes(TEXT.encode())
    fill(
        data / home, "b/Ab1_0.jpg", "a/Ab1_1.jpg", "Ab1_2_9.png", "Ab1_2_10.png", "Ab1.jpg", "x.jpg"
    )
    assert read_posts(data / "train.txt") == (
        Post(
            id="Ab1",
            words=("姚", "明"),
            tags=("B-PER", "I-PER"),
            images=("b/Ab1_0.jpg", "a/Ab1_1.jpg"),
        ),
        Post(id="Ab1_2", words=("好",), tags=("O",), images=("Ab1_2_10.png", "Ab1_2_9.png")),
    )


def test_images_may_lie_in_several_folders(tmp_path: Path) -> None:
    fill(tmp_path / "one", "7_b.jpg", "sub/7_c.jpg", "8_a.jpg")
    fill(tmp_path / "two", "7_a.jpg")
    found = images_by_id(["7", "9"], [tmp_path / "one", tmp_path / "two"])
    assert found == {"7": ("two/7_a.jpg", "one/7_b.jpg", "one/sub/7_c.jpg")}
    assert images_by_id(["7"], [tmp_path / "one"]) == {"7": ("7_b.jpg", "sub/7_c.jpg")}
    assert images_by_id(["7"], []) == {}


def test_posts_without_an_images_folder_have_no_images(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_bytes(TEXT.encode())
    assert [post.images for post in read_posts(tmp_path / "dev.txt")] == [(), ()]


def test_faults_name_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"WID:1\r\na\tO\r\nb\tX\r\n\r\nc\tO\r\n\r\nWID:2\r\n")
    with pytest.raises(DataError) as caught:
        read_posts(path, labelled=True)
    assert [fault.split(":")[1] for fault in caught.value.faults] == ["3", "5", "7"]


def test_images_that_the_format_cannot_name_are_refused(tmp_path: Path) -> None:
    posts = [
        Post(id="1", words=("a",), tags=("O",), images=("1_a.jpg", "x/1_b.jpg")),
        Post(id="2", words=("a",), tags=("O",), images=("2.jpg",)),
        Post(id="3", words=("a",), tags=("O",), images=("3_b.jpg", "3_a.jpg")),
    ]
    with pytest.raises(DataError) as caught:
        write_posts(posts, tmp_path / "a.txt", FORMATS["cmner"])
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["post '2'", "post '3'"]


def test_the_published_files_are_read_and_written_byte_for_byte(
    shared: Path, tmp_path: Path
) -> None:
    for split in read_folder(shared / "data" / "cmner"):
        path = tmp_path / split.path.name
        write_posts(split.posts, path, FORMATS["cmner"])
        # The published files differ in the blank lines at their ends alone.
        assert path.read_bytes().rstrip() == split.path.read_bytes().rstrip()


def test_the_published_example_has_six_posts_with_25_images(shared: Path) -> None:
    posts = [post for split in read_folder(shared / "data" / "cmner") for post in split.posts]
    with_images = [post for post in posts if post.images]
    assert sorted(len(post.images) for post in with_images) == [1, 1, 1, 4, 9, 9]
    assert all(list(post.images) == sorted(post.images) for post in with_images)
    assert max(len(post.words) for post in posts) == 250
