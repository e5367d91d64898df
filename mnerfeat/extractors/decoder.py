"""Decoding image files to upright RGB.

All extractors get the same pixels. Odd images are decoded as follows:

| image | result |
|---|---|
| EXIF orientation | applied, as in `transformers`; a broken EXIF block is ignored |
| several frames or pages | the first one; of a TIFF, the first in full resolution |
| alpha, transparent palette entries | dropped, as in `transformers` and open_clip |
| ICC profile | ignored, as in `transformers` and open_clip |
| palette, greyscale, CMYK | RGB by Pillow's conversion, as upstream |
| more than 8 bits a sample | scaled to 8 bits by the file's own range (upstream clips to white) |
| a range that the file does not define | unreadable: 32-bit integers, floats outside of 0 to 1 |
| more than `MAX_PIXELS` pixels | unreadable: a decompression bomb |
| truncated, damaged | unreadable: half an image would pass for a whole one |
"""

import re
import warnings
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from mnerfeat.extractors.base import UnreadableImageError

DECODING: Final = (
    "first full page, EXIF orientation applied, RGB, alpha dropped, samples scaled to 8 bits by "
    "the file's range"
)
"""How files become pixels, for provenances. It changes with every change of any pixel."""

MAX_PIXELS: Final = 89_478_485
"""Most pixels of an image: Pillow's own limit, a quarter of a gigabyte of RGB."""

FORMATS: Final = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO",
)  # fmt: skip
"""Decoded formats. Others of Pillow start programs (EPS) or have no signature."""

Pixels = NDArray[np.uint8]
"""RGB, (height, width, 3), in [0, 255]."""

_ORIENTATION = 0x0112
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_WHITE = {(_UNSIGNED, 12): 4095, (_UNSIGNED, 16): 65535, (_SIGNED, 8): 127, (_SIGNED, 16): 32767,
          (_FLOAT, 32): 1}  # fmt: skip
"""Full intensity of a TIFF by SampleFormat and BitsPerSample; Pillow scales the others."""


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image as the extractors get it.

    Attributes:
        image: RGB, upright.
        profile_ignored: Whether the file has an ICC profile other than sRGB. Its colours are
            taken for sRGB.
        transparency_dropped: Whether some pixels are transparent. They keep the colour under the
            transparency: a black logo on a clear black ground becomes all black.
    """

    image: Image.Image
    profile_ignored: bool
    transparency_dropped: bool


def decode(content: bytes) -> DecodedImage:
    """Decode the bytes of an image file.

    Raises:
        UnreadableImageError: They cannot be decoded; its text is the reason.
    """
    if not content:
        raise UnreadableImageError("an empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=_formats()) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    _seek_full_page(image)
                _check_size(image)
                image.load()
                white, inverted = _sample_range(image)
                return DecodedImage(
                    image=_rgb(_upright(image), white, inverted=inverted),
                    profile_ignored=_has_other_profile(image),
                    transparency_dropped=_is_transparent(image),
                )
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        if content.startswith(_TIFF_SIGNATURES):
            raise UnreadableImageError("a damaged TIFF, or of a kind not supported") from error
        known = ", ".join(_formats())
        raise UnreadableImageError(f"not an image, or none of {known}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise UnreadableImageError("too large for this machine's memory") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UnreadableImageError(plain_reason(error)) from error


def plain_reason(error: BaseException) -> str:
    """Return an exception as one line that is the same in every run."""
    message = " ".join(_ADDRESS.sub("…", str(error)).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width:,} × {height:,} pixels are more than {MAX_PIXELS:,}: a decompression bomb?"
        )


def _seek_full_page(image: TiffImagePlugin.TiffImageFile) -> None:
    """Go to the first page in full resolution, or else to the largest one.

    Raises:
        UnreadableImageError: The page in full resolution is out of Pillow's reach.
    """
    sizes: dict[int, int] = {}
    page = 0
    while image.tag_v2.get(254, 0) & 1 or image.tag_v2.get(255) == 2:
        if 330 in image.tag_v2:  # SubIFDs, as in raw photographs
            raise UnreadableImageError("a TIFF whose page in full resolution is in a SubIFD")
        sizes.setdefault(image.width * image.height, page)
        page += 1
        try:
            image.seek(page)
        except EOFError:
            image.seek(sizes[max(sizes)])
            return


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # noqa: BLE001  (a broken EXIF block says nothing about the pixels)
        return image


def _has_other_profile(image: Image.Image) -> bool:
    profile = image.info.get("icc_profile") or b""
    return bool(profile) and not any(name in profile for name in (b"sRGB", b"\0s\0R\0G\0B"))


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    if image.mode.startswith("I"):  # one grey level is transparent; Pillow has no alpha for it
        return True
    alpha = image.convert("LA" if image.mode == "La" else "RGBA").getchannel("A")
    return bool(np.asarray(alpha).min(initial=255) < 255)


def _rgb(image: Image.Image, white: int | None, *, inverted: bool) -> Image.Image:
    if white:
        return _from_samples(np.asarray(image), white, inverted=inverted)
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def _sample_range(image: Image.Image) -> tuple[int | None, bool]:
    """Return the sample value of full intensity, and whether that is black.

    The value is None if Pillow has scaled the samples to 8 bits itself.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_white(image.mode, image.tag_v2), image.tag_v2.get(262) == 0
    return {"I": 65535, "F": 1}.get(image.mode[:1]), False  # PNG, PPM, JPEG 2000; PFM


def _tiff_white(mode: str, tags: Any) -> int | None:
    """Return the sample value of full intensity, or None if Pillow has scaled the samples.

    Raises:
        UnreadableImageError: The file does not define it, or Pillow misreads such files.
    """
    bits, kind = tags.get(258, (1,)), tags.get(339, (_UNSIGNED,))[0]
    compressed = tags.get(259, 1) != 1
    if mode in {"1", "L", "I", "F"} or mode.startswith("I;16"):
        if 262 not in tags:
            raise UnreadableImageError(
                "a TIFF that does not say whether 0 is black or white (PhotometricInterpretation)"
            )
        if bits[0] > 16 and kind != _FLOAT:
            raise UnreadableImageError(
                f"{bits[0]}-bit integer samples: no standard says which value is white"
            )
    if (mode in {"I", "F"} and tags.prefix == b"MM" and compressed) or (
        max(bits) > 8 and len(bits) > 1 and tags.get(284) == 2 and not compressed
    ):
        # Pillow swaps the bytes of the former, and takes the low byte of the latter.
        raise UnreadableImageError("a TIFF of a kind that Pillow reads wrongly")
    return _WHITE.get((kind, bits[0])) if len(bits) == 1 else None


def _from_samples(samples: NDArray[Any], white: int, *, inverted: bool) -> Image.Image:
    """Return a greyscale image from samples between 0 and `white`, 0 being white if inverted."""
    if samples.dtype == np.uint8 and white == 127:
        samples = samples.view(np.int8)
    scaled = samples.astype(np.float64) * (255 / white)
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255):
        raise UnreadableImageError(f"samples outside of 0 to {white:,}: which is white is unknown")
    grey = np.rint(255 - scaled if inverted else scaled)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
