"""Image files decoded to upright RGB, or refused with a plain reason."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers.image_utils import load_image

from mnerfeat.extractors.base import UnreadableImageError
from mnerfeat.extractors.decoder import MAX_PIXELS, decode
from tests.extractors.pictures import (
    BAD,
    GOOD,
    animated,
    bomb,
    encoded,
    noise,
    sixteen_bit,
    turned,
)


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_image_becomes_upright_rgb(name: str) -> None:
    image = decode(GOOD[name]()).image
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
    assert np.array_equal(np.asarray(decode(GOOD[name]()).image), np.asarray(upstream))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    content = turned(orientation)
    with Image.open(io.BytesIO(content)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    assert np.array_equal(np.asarray(decode(content).image), np.asarray(upright))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    pixels = np.asarray(decode(sixteen_bit()).image)[..., 0].ravel()
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
    assert np.asarray(decode(content).image).tolist() == [[[255, 128, 0], [1, 0, 0]]]


def test_of_an_animation_the_first_frame_counts() -> None:
    assert (np.asarray(decode(animated()).image) == [255, 0, 0]).all()


def test_alpha_is_dropped_as_upstream_drops_it() -> None:
    pixels = noise(40, 30, channels=4)
    assert np.array_equal(
        np.asarray(decode(encoded(Image.fromarray(pixels))).image), pixels[..., :3]
    )


def test_an_image_just_above_the_limit_is_a_bomb() -> None:
    side = int(MAX_PIXELS**0.5)
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode(bomb(side + 2, side + 2))
    with pytest.raises(UnreadableImageError, match=r"truncated|broken|Error"):
        decode(bomb(side, side))  # small enough to be tried; its pixels are not there


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    try:
        image = decode(content).image
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
            return hashlib.sha256(decode(damaged).image.tobytes()).hexdigest()
        except UnreadableImageError as error:
            return str(error)

    assert outcome() == outcome()
