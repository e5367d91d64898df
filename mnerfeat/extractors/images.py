"""Image files: finding them, telling them apart by content, decoding them to RGB.

What decoding does to odd images, the same for every extractor:

| image | becomes |
|---|---|
| EXIF orientation | applied, as `transformers` does; a broken EXIF block counts as none |
| several frames | the first one |
| alpha | dropped, as `transformers` and open_clip do |
| palette, greyscale, CMYK | RGB by Pillow's conversion, as they do |
| 16 bits a sample | scaled to 8 bits (Pillow alone would clip them to white) |
| more than `MAX_PIXELS` | unreadable: a decompression bomb |
| truncated, damaged | unreadable: half an image would count as a whole one |
"""

import errno
import hashlib
import os
import re
import stat
import warnings
from dataclasses import dataclass
from functools import cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnerfeat.errors import ConfigError

DECODING: Final = (
    "first frame, EXIF orientation applied, RGB, alpha dropped, 16-bit samples scaled to 8"
)
"""How pixels came about, for the provenance of what is made from them."""

MAX_PIXELS: Final = 89_478_485
"""Width times height; Pillow's own limit: a quarter of a gigabyte at three bytes a pixel."""

MAX_BYTES: Final = 1 << 29
"""Size of a file; larger ones are not decoded."""

FORMATS: Final = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO",
)  # fmt: skip
"""Formats that are decoded. Others that Pillow knows start programs (EPS) or have no magic."""

SUFFIXES: Final = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm",
    ".pnm", ".ico", ".tga", ".svg", ".psd",
})  # fmt: skip
"""Endings of what is meant to be an image, decodable or not."""

_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
_READ_BYTES = 1 << 20
_ORIENTATION = 0x0112
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}")

Pixels = NDArray[np.uint8]
"""RGB, (height, width, 3), in [0, 255]."""


class UnreadableImageError(Exception):
    """An image that cannot be used; its text is the plain reason, the same on every machine.

    It never reaches a user as an exception: the reason is recorded with the image.
    """


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in an images folder.

    Attributes:
        names: Of files, relative to the folder, `/` between folders, sorted.
        closed: Folders that cannot be entered, with the reason.
    """

    names: tuple[str, ...]
    closed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A file as it was read once.

    Attributes:
        sha256: Of its bytes; None where they could not be had.
        image: Whether it is meant to be an image, by its ending or its first bytes.
        reason: Why the bytes could not be had, or None.
    """

    sha256: bytes | None
    image: bool
    reason: str | None = None


def list_images(folder: Path) -> Listing:
    """Find every file below a folder that may be an image.

    Symbolic links are followed, to files and to folders; a folder that contains itself is
    entered once. Hidden files and folders (`.DS_Store`, `._a.jpg`) are left out.

    Args:
        folder: The images folder.

    Raises:
        ConfigError: Where it is not a folder, or cannot be entered.
    """
    check_folder(folder)
    names: list[str] = []
    closed: list[tuple[str, str]] = []
    root = _folder_id(folder.stat())
    waiting = [("", frozenset([root]))]
    while waiting:
        prefix, ancestors = waiting.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                inside = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if not prefix:
                raise ConfigError(
                    f"the images folder {folder} cannot be entered: {_os_reason(error)}"
                ) from error
            closed.append((prefix.rstrip("/"), _os_reason(error)))
            continue
        for entry in inside:
            name = prefix + entry.name
            here = _enter(entry)
            if here is None:
                names.append(name)
            elif here not in ancestors:
                waiting.append((f"{name}/", ancestors | {here}))
    return Listing(names=tuple(sorted(names)), closed=tuple(sorted(closed)))


def check_folder(folder: Path) -> None:
    """Make sure that there is an images folder.

    Raises:
        ConfigError: Where there is none.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "is not there"
        raise ConfigError(
            f"the images folder {folder} {what}", hint="name the folder of images with --images DIR"
        )


def _enter(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """The identity of a folder, or None for a file and for a link that leads nowhere."""
    try:
        return _folder_id(entry.stat()) if entry.is_dir() else None
    except OSError:
        return None


def _folder_id(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def identify(path: Path) -> Identity:
    """Read a file once, for its identity, holding no more than a piece of it in memory."""
    named = path.suffix.lower() in SUFFIXES
    try:
        with _open(path) as file:
            head = file.read(_READ_BYTES)
            digest = hashlib.sha256(head)
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
    except UnreadableImageError as error:
        return Identity(sha256=None, image=named, reason=str(error))
    except OSError as error:
        return Identity(sha256=None, image=named, reason=_os_reason(error))
    return Identity(sha256=digest.digest(), image=named or _looks_like_image(head))


def read_image(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImageError: Where they cannot be had.
    """
    try:
        with _open(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise UnreadableImageError(f"a file of more than {MAX_BYTES >> 20:,} MiB")
            return file.read()
    except OSError as error:
        raise UnreadableImageError(_os_reason(error)) from error


def _open(path: Path) -> FileIO:
    # Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableImageError("not a regular file")
    return FileIO(descriptor, "rb")


def _os_reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "no such file"
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads back to itself"
    return (error.strerror or type(error).__name__).lower()


def _looks_like_image(head: bytes) -> bool:
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"avis", b"heic", b"mif1"}
    return webp or avif or head.startswith(_SIGNATURES)


def decode(content: bytes) -> Image.Image:
    """Decode the bytes of an image file.

    Args:
        content: The whole file.

    Returns:
        An RGB image, upright.

    Raises:
        UnreadableImageError: With a plain reason, whatever the bytes are.
    """
    if not content:
        raise UnreadableImageError("an empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=_formats()) as image:
                _check_size(image)
                image.load()
                return _upright_rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(_formats())
        raise UnreadableImageError(f"not an image, or none of {known}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise UnreadableImageError("too large for this machine's memory") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UnreadableImageError(plain_reason(error)) from error


def plain_reason(error: BaseException) -> str:
    """An exception as one line without anything that changes from run to run."""
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


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
    except Exception:  # noqa: BLE001  (a broken EXIF block says nothing about the pixels)
        upright = image
    return _to_rgb(upright)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_samples(np.asarray(image), 65535)
    if image.mode == "I":
        return _from_samples(np.asarray(image), 65535)
    if image.mode == "F":
        samples = np.asarray(image)
        return _from_samples(samples, 1 if samples.max(initial=0) <= 1 else 255)
    return image.convert("RGB")


def _from_samples(samples: NDArray[np.generic], white: int) -> Image.Image:
    """A greyscale image from samples between 0 (black) and `white`."""
    scaled = samples.astype(np.float64) * (255 / white)
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255):
        raise UnreadableImageError(f"samples outside 0 … {white:,}, so what is white is unknown")
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
