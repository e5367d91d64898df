"""Pixels mean what the file says: the right picture, or a refusal with the reason."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from mnerfeat.extractors.base import UnreadableImageError
from mnerfeat.extractors.decoder import decode
from tests.extractors.pictures import encoded, noise, picture

CASES = Path(os.environ.get("MNERFEAT_SHARED", "../shared")) / "cases"
WHITE = {"u1": 255, "u2": 65535, "i1": 127, "i2": 32767, "f4": 1.0}
TRUTH = noise(33, 20, channels=1)[..., 0]


def tiff(samples: np.ndarray[Any, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **{"photometric": "minisblack"} | options)
    return buffer.getvalue()


def twelve_bit(levels: np.ndarray[Any, Any]) -> bytes:
    """An uncompressed 12-bit greyscale TIFF, two samples in three bytes."""
    height, width = levels.shape
    low, high = levels.reshape(-1, 2).T
    packed = np.stack([low >> 4, (low & 15) << 4 | high >> 8, high & 255], 1).astype(np.uint8)
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1),
            (278, height), (279, packed.size)]  # fmt: skip
    directory = 8
    data = directory + 2 + 12 * len(tags) + 4
    content = b"II*\0" + np.uint32(directory).tobytes() + np.uint16(len(tags)).tobytes()
    for tag, value in tags:
        numbers = np.array([1, data if tag == 273 else value], "<u4")
        content += np.array([tag, 4], "<u2").tobytes() + numbers.tobytes()
    return content + bytes(4) + packed.tobytes()


def grey(content: bytes) -> np.ndarray[Any, Any]:
    pixels = np.asarray(decode(content).image).astype(int)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize(
    "name", ["12bit", "16bit_whiteiszero", "16bit_signed", "float_whiteiszero", "32bit_int"]
)
def test_shared_files_hold_the_same_picture_or_are_refused(name: str) -> None:
    if not CASES.is_dir():
        pytest.skip(f"{CASES} is not on this machine")
    truth = decode((CASES / "tiff_truth_8bit.png").read_bytes()).image
    content = (CASES / f"tiff_{name}.tif").read_bytes()
    if name == "32bit_int":
        with pytest.raises(UnreadableImageError, match="32-bit integer samples"):
            decode(content)
        return
    difference = np.abs(np.asarray(decode(content).image).astype(int) - np.asarray(truth))
    assert difference.max() <= 1


def test_the_shared_thumbnail_is_passed_over() -> None:
    path = CASES / "tiff_thumbnail_first.tif"
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    full = tifffile.imread(path, key=1)
    assert full.shape == (48, 64, 3)
    assert np.array_equal(np.asarray(decode(path.read_bytes()).image), full)


def test_twelve_bits_are_scaled_by_twelve_bits() -> None:
    levels = np.linspace(0, 4095, 20 * 30).reshape(20, 30).round().astype(int)
    assert np.abs(grey(twelve_bit(levels)) - levels / 4095 * 255).max() <= 0.5


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", WHITE)
def test_greyscale_tiffs_are_the_picture_or_refused(
    dtype: str, photometric: str, tile: Any, compression: Any, byteorder: str
) -> None:
    level = TRUTH if photometric == "minisblack" else 255 - TRUTH
    samples = level / 255 * WHITE[dtype]
    samples = (samples if dtype == "f4" else samples.round()).astype(dtype)
    content = tiff(
        samples, photometric=photometric, tile=tile, compression=compression, byteorder=byteorder
    )
    usual = byteorder == "<" and (photometric == "minisblack" or dtype in {"u1", "u2", "f4"})
    try:
        pixels = grey(content)
    except UnreadableImageError:
        assert not usual
        return
    assert np.abs(pixels - TRUTH).max() <= 1


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colour_tiffs_are_the_picture_or_refused(
    dtype: str, planar: str, compression: Any, byteorder: str
) -> None:
    truth = noise(33, 20)
    samples = (truth.astype(int) * (257 if dtype == "u2" else 1)).astype(dtype)
    content = tiff(
        samples if planar == "contig" else samples.transpose(2, 0, 1),
        photometric="rgb", planarconfig=planar, compression=compression, byteorder=byteorder,
    )  # fmt: skip
    try:
        pixels = np.asarray(decode(content).image)
    except UnreadableImageError:
        assert (dtype, planar, compression) == ("u2", "separate", None)
        return
    assert np.array_equal(pixels, truth)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (TRUTH.astype("i4"), "32-bit integer samples"),
        (TRUTH.astype("u4"), "32-bit integer samples"),
        (TRUTH.astype("f4"), "which is white is unknown"),
        (TRUTH.astype("f4") / 255 - 0.2, "which is white is unknown"),
        (np.full((4, 4), np.nan, "f4"), "which is white is unknown"),
        (TRUTH.astype("i2") - 200, "which is white is unknown"),
        (np.full((4, 4), -1, "i1"), "which is white is unknown"),
        (TRUTH.astype("f8") / 255, "of a kind not supported"),
        (TRUTH.astype("u8"), "of a kind not supported"),
    ],
)
def test_a_range_that_no_standard_defines_is_refused(
    samples: np.ndarray[Any, Any], reason: str
) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(tiff(samples))


def test_a_tiff_without_photometry_is_refused() -> None:
    content = tiff(TRUTH)
    entry = content.index(np.array([262, 3], "<u2").tobytes())
    without = content[:entry] + np.uint16(263).tobytes() + content[entry + 2 :]
    with pytest.raises(UnreadableImageError, match="PhotometricInterpretation"):
        decode(without)


REDUCED = 1


def pages(*subfile_types: int) -> bytes:
    """A TIFF with a page of each NewSubfileType; those in full resolution are larger."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for kind in subfile_types:
            page = noise(8, 6) if kind else noise(64, 48)
            file.write(page, photometric="rgb", subfiletype=kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kinds", [(0,), (REDUCED, 0), (REDUCED, REDUCED, 0, REDUCED), (0, REDUCED)]
)
def test_of_a_tiff_the_page_in_full_resolution_counts(kinds: tuple[int, ...]) -> None:
    assert np.array_equal(np.asarray(decode(pages(*kinds)).image), noise(64, 48))


def test_of_reduced_pages_alone_the_largest_counts() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for size in ((8, 6), (64, 48), (16, 12)):
            file.write(noise(*size), photometric="rgb", subfiletype=REDUCED)
    assert np.array_equal(np.asarray(decode(buffer.getvalue()).image), noise(64, 48))


def test_a_raw_photograph_is_refused_and_its_thumbnail_is_not_taken() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(noise(8, 6), photometric="rgb", subfiletype=REDUCED, subifds=1)
        file.write(noise(64, 48), photometric="rgb")
    with pytest.raises(UnreadableImageError, match="SubIFD"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int) -> None:
    content = tiff(noise(40, 30), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    as_png = decode(encoded(picture(), exif=exif)).image
    assert np.array_equal(np.asarray(decode(content).image), np.asarray(as_png))


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_unknown_orientation_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(np.asarray(decode(encoded(picture(), exif=exif)).image), noise(40, 30))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pgm_is_scaled_by_its_own_maximum(dtype: type) -> None:
    content = b"P5 2 1 %d\n" % (100 if dtype == np.uint8 else 1023)
    samples = [0, 100] if dtype == np.uint8 else [0, 1023]
    content += np.array(samples, np.dtype(dtype).newbyteorder(">")).tobytes()
    assert grey(content).tolist() == [[0, 255]]


def test_a_float_map_of_one_is_white() -> None:
    content = b"Pf\n2 1\n-1.0\n" + np.array([0, 1], "<f4").tobytes()
    assert grey(content).tolist() == [[0, 255]]


def test_of_a_webp_animation_the_first_frame_counts() -> None:
    frames = [picture(seed=i) for i in range(3)]
    content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(np.asarray(decode(content).image), noise(40, 30))


def test_premultiplied_grey_is_divided_again() -> None:
    samples = np.array([[[50, 100], [100, 100], [255, 255]]], np.uint8)
    content = tiff(samples, extrasamples=["assocalpha"], planarconfig="contig")
    assert np.abs(grey(content) - [[127, 255, 255]]).max() <= 1


class TestReports:
    @pytest.mark.parametrize(
        ("image", "dropped"),
        [
            (picture(), False),
            (picture().convert("RGBA"), False),
            (Image.fromarray(noise(40, 30, channels=4)), True),
            (Image.new("LA", (4, 4), (0, 0)), True),
            (Image.new("LA", (4, 4), (0, 255)), False),
        ],
    )
    def test_transparent_pixels_are_told(self, image: Image.Image, dropped: bool) -> None:
        assert decode(encoded(image)).transparency_dropped is dropped

    def test_transparent_palette_entries_and_grey_levels_are_told(self) -> None:
        palette = picture().quantize(16)
        assert decode(encoded(palette, transparency=b"\0\x40")).transparency_dropped
        assert not decode(encoded(palette)).transparency_dropped
        assert decode(encoded(picture().convert("L"), transparency=255)) is not None
        deep = Image.fromarray(np.zeros((4, 4), np.uint16))
        assert decode(encoded(deep, transparency=7)).transparency_dropped

    def test_a_black_logo_on_clear_black_becomes_all_black(self) -> None:
        logo = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        logo.putpixel((3, 3), (0, 0, 0, 255))
        decoded = decode(encoded(logo))
        assert decoded.transparency_dropped
        assert not np.asarray(decoded.image).any()

    def test_profiles_other_than_srgb_are_told(self) -> None:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        plain, wide = encoded(picture(), icc_profile=srgb), encoded(picture(), icc_profile=lab)
        assert not decode(encoded(picture())).profile_ignored
        assert not decode(plain).profile_ignored
        assert decode(wide).profile_ignored
        assert np.array_equal(np.asarray(decode(wide).image), np.asarray(decode(plain).image))
