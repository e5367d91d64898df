"""Files that may be images: found, told apart, decoded, or refused with a plain reason."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers.image_utils import load_image

from mnerfeat.errors import ConfigError
from mnerfeat.extractors.images import (
    MAX_PIXELS,
    UnreadableImageError,
    decode,
    identify,
    list_images,
    read_image,
)
from tests.extractors.pictures import (
    BAD,
    GOOD,
    animated,
    bomb,
    encoded,
    jpeg,
    noise,
    picture,
    sixteen_bit,
    turned,
)


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_image_becomes_upright_rgb(name: str) -> None:
    image = decode(GOOD[name]())
    sizes = {
        "animated.gif": (20, 10),
        "rotated.jpg": (30, 40),
        "one_pixel.png": (1, 1),
        "thread.png": (20_000, 10),
        "pillar.png": (3, 1000),
    }
    assert (image.mode, image.size) == ("RGB", sizes.get(name, (40, 30)))


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_is_refused_with_a_plain_reason(name: str) -> None:
    make, reason = BAD[name]
    with pytest.raises(UnreadableImageError) as refused:
        decode(make())
    assert reason in str(refused.value)
    assert "0x" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["rgb.png", "photo.jpg", "cmyk.jpg", "palette.png", "alpha.png", "grey.jpg", "bilevel.png",
     "animated.gif", "rotated.jpg"],
)  # fmt: skip
def test_pixels_are_those_that_transformers_would_load(name: str) -> None:
    with Image.open(io.BytesIO(GOOD[name]())) as stored:
        upstream = load_image(stored)
    assert np.array_equal(np.asarray(decode(GOOD[name]())), np.asarray(upstream))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    content = turned(orientation)
    with Image.open(io.BytesIO(content)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    assert np.array_equal(np.asarray(decode(content)), np.asarray(upright))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    pixels = np.asarray(decode(sixteen_bit()))[..., 0].ravel()
    assert np.abs(pixels - np.linspace(0, 255, len(pixels))).max() <= 0.51
    assert len(np.unique(pixels)) == 256


def test_sixteen_bit_rgb_is_scaled() -> None:
    # Pillow writes no 16-bit RGB, so the file is put together by hand.
    samples = np.array([[[65535, 32768, 0], [256, 128, 64]]], ">u2")
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + samples.tobytes())),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    assert np.asarray(decode(content)).tolist() == [[[255, 128, 0], [1, 0, 0]]]


def test_of_an_animation_the_first_frame_counts() -> None:
    assert (np.asarray(decode(animated())) == [255, 0, 0]).all()


def test_alpha_is_dropped_as_upstream_drops_it() -> None:
    pixels = noise(40, 30, channels=4)
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(pixels)))), pixels[..., :3])


def test_an_image_just_above_the_limit_is_a_bomb() -> None:
    side = int(MAX_PIXELS**0.5)
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode(bomb(side + 2, side + 2))
    with pytest.raises(UnreadableImageError, match=r"truncated|broken|Error"):
        decode(bomb(side, side))  # small enough to be tried; its pixels are not there


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    try:
        image = decode(content)
    except UnreadableImageError:
        return
    assert image.mode == "RGB"


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(GOOD)),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 10_000),
)
def test_damaged_images_are_decoded_or_refused_the_same_way_each_time(
    kind: str, edits: list[tuple[int, int]], cut: int
) -> None:
    if kind == "thread.png":
        return
    content = bytearray(GOOD[kind]())
    for place, value in edits:
        content[place % len(content)] = value
    damaged = bytes(content[: len(content) - cut % len(content)])

    def outcome() -> object:
        try:
            return hashlib.sha256(decode(damaged).tobytes()).hexdigest()
        except UnreadableImageError as error:
            return str(error)

    assert outcome() == outcome()


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
