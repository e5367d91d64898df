"""Image files of every kind, good and bad, made on the spot."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth enough to survive JPEG, different for every seed."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (-(-height // 8), -(-width // 8), channels), np.uint8)
    return small.repeat(8, 0).repeat(8, 1)[:height, :width]


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(width, height, seed))


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def jpeg(width: int = 40, height: int = 30, seed: int = 0) -> bytes:
    return encoded(picture(width, height, seed), "JPEG", quality=90)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG whose header claims more pixels than any photograph has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


def sixteen_bit(width: int = 40, height: int = 30) -> bytes:
    """A greyscale ramp over all 65,536 levels."""
    ramp = np.linspace(0, 65535, width * height).astype(np.uint16).reshape(height, width)
    return encoded(Image.fromarray(ramp))


def animated() -> bytes:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", exif=exif, quality=95)


def with_broken_exif() -> bytes:
    return encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")


GOOD: dict[str, Callable[[], bytes]] = {
    "rgb.png": lambda: encoded(picture()),
    "photo.jpg": jpeg,
    "cmyk.jpg": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "palette.png": lambda: encoded(picture().quantize(16)),
    "palette_clear.png": lambda: encoded(picture().quantize(16), transparency=b"\0\x40\x80"),
    "sixteen.png": sixteen_bit,
    "sixteen.tif": lambda: encoded(Image.open(io.BytesIO(sixteen_bit())), "TIFF"),
    "grey.jpg": lambda: encoded(picture().convert("L"), "JPEG"),
    "alpha.png": lambda: encoded(Image.fromarray(noise(40, 30, channels=4))),
    "grey_alpha.png": lambda: encoded(picture().convert("LA")),
    "bilevel.png": lambda: encoded(picture().convert("1")),
    "animated.gif": animated,
    "rotated.jpg": lambda: turned(6),
    "broken_exif.jpg": with_broken_exif,
    "one_pixel.png": lambda: encoded(picture(1, 1)),
    "thread.png": lambda: encoded(picture(20_000, 10)),
    "pillar.png": lambda: encoded(picture(3, 1000)),
    "web.webp": lambda: encoded(picture(), "WEBP"),
    "old.bmp": lambda: encoded(picture(), "BMP"),
    "float.tif": lambda: encoded(
        Image.fromarray(noise(40, 30, channels=1)[..., 0].astype(np.float32) / 255), "TIFF"
    ),
    "name without ending": jpeg,
    "naïve 图片 \n\t'\".jpg": jpeg,
}
"""Images that can be used, by a file name that fits."""

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "an empty file (0 bytes)"),
    "text.jpg": (lambda: b"this is no image\n" * 10, "not an image"),
    "page.png": (lambda: b"<!DOCTYPE html><html>404</html>", "not an image"),
    "truncated.jpg": (lambda: jpeg(400, 300)[:-900], "truncated"),
    "truncated.png": (lambda: encoded(picture(400, 300))[:-200], "truncated"),
    "bomb.png": (bomb, "pixels"),
    "damaged.png": (lambda: encoded(picture()).replace(b"IDAT", b"JDAT"), ""),
    "header.jpg": (lambda: jpeg()[:40], ""),
    "script.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "depth.tif": (
        lambda: encoded(Image.fromarray(np.array([[0.0, 1e6]], np.float32)), "TIFF"),
        "which is white is unknown",
    ),
}
"""Files that cannot be used, and a part of the reason."""
