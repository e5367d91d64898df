"""Image files listed, identified and read."""

import hashlib
import os
from pathlib import Path

import pytest

from mnerfeat.errors import ConfigError
from mnerfeat.extractors.base import UnreadableImageError
from mnerfeat.extractors.image_files import identify, list_images, read_image
from tests.extractors.pictures import encoded, jpeg, picture


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestListing:
    def test_folders_are_searched_and_names_are_relative(self, tmp_path: Path) -> None:
        for name in ("b.jpg", "a/b.png", "a/c/d e.gif", "no ending"):
            write(tmp_path / name, b"x")
        assert list_images(tmp_path).names == ("a/b.png", "a/c/d e.gif", "b.jpg", "no ending")

    def test_hidden_files_and_folders_are_left_out(self, tmp_path: Path) -> None:
        for name in (".DS_Store", "._a.jpg", ".git/x.png", "a.jpg"):
            write(tmp_path / name, b"x")
        assert list_images(tmp_path).names == ("a.jpg",)

    def test_links_are_followed_and_loops_end(self, tmp_path: Path) -> None:
        write(tmp_path / "real" / "a.jpg", b"x")
        (tmp_path / "linked").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "up").symlink_to(tmp_path)
        (tmp_path / "alias.jpg").symlink_to(tmp_path / "real" / "a.jpg")
        (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
        (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
        names = list_images(tmp_path).names
        assert {"real/a.jpg", "linked/a.jpg", "alias.jpg", "self.jpg", "gone.jpg"} <= set(names)
        assert len(names) < 20

    def test_names_that_are_not_utf8_are_kept(self, tmp_path: Path) -> None:
        raw = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
        Path(os.fsdecode(raw)).write_bytes(b"x")
        (name,) = list_images(tmp_path).names
        assert os.fsencode(name) == b"\xff\xfe.jpg"

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to the superuser")
    def test_a_folder_that_cannot_be_entered_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0)
        assert list_images(tmp_path).closed == (("closed", "permission denied"),)

    @pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_bytes(b"x")])
    def test_a_folder_that_is_none_is_an_error(self, tmp_path: Path, make: object) -> None:
        make(tmp_path / "images")  # type: ignore[operator]
        with pytest.raises(ConfigError, match="images folder"):
            list_images(tmp_path / "images")


class TestIdentity:
    def test_it_is_the_hash_of_the_bytes(self, tmp_path: Path) -> None:
        content = os.urandom(3_000_000)
        found = identify(write(tmp_path / "a.jpg", content))
        assert found.sha256 == hashlib.sha256(content).digest()

    def test_an_image_is_known_by_its_ending_or_its_first_bytes(self, tmp_path: Path) -> None:
        assert identify(write(tmp_path / "a.jpg", b"no image")).image
        assert identify(write(tmp_path / "O_538", jpeg())).image
        assert identify(write(tmp_path / "b", encoded(picture(), "WEBP"))).image
        assert identify(write(tmp_path / "c.dat", encoded(picture()))).image
        assert not identify(write(tmp_path / "labels.csv", b"a,b\n")).image
        assert not identify(write(tmp_path / "empty", b"")).image

    def test_what_cannot_be_read_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
        (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        reasons = {
            "self.jpg": "a symbolic link that leads back to itself",
            "gone.jpg": "no such file",
            "pipe.jpg": "not a regular file",
        }
        for name, reason in reasons.items():
            found = identify(tmp_path / name)
            assert (found.sha256, found.reason) == (None, reason)
            with pytest.raises(UnreadableImageError, match=reason):
                read_image(tmp_path / name)

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
    def test_a_closed_file_says_so(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jpg", jpeg())
        path.chmod(0)
        assert identify(path).reason == "permission denied"

    def test_an_enormous_file_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        with (tmp_path / "a.jpg").open("wb") as file:
            file.truncate((1 << 29) + 1)
        with pytest.raises(UnreadableImageError, match="more than 512 MiB"):
            read_image(tmp_path / "a.jpg")
