"""The blank image, which ranks between relevant and irrelevant images.

GIFR does not define it. By default it has the encoder's mean colour, so that it is zero after the
encoder's normalisation (to half a level of 255). It is drawn as a small PNG file and extracted
like every other image, so it has an identity, a CLIP embedding and a row in the cache.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Literal, get_args

from mnerfeat.errors import ConfigError

Blank = Literal["mean", "white", "black"]

BLANKS: tuple[Blank, ...] = get_args(Blank)
"""Colours: the encoder's mean, white, or black."""

_SIDE = 16  # pixels


def blank_name(blank: Blank) -> str:
    """Return the blank image's name in the cache."""
    return f"blank-{blank}.png"


def blank_png(blank: Blank, mean: Sequence[float]) -> bytes:
    """Return a PNG file of one colour, the same bytes and thus identity on every machine.

    Args:
        blank: Colour.
        mean: Mean of the encoder's normalisation: red, green, blue, in [0, 1].

    Raises:
        ConfigError: The colour is unknown.
    """
    if blank not in BLANKS:
        raise ConfigError(f"rank.blank is {blank!r}; choose from: {', '.join(BLANKS)}")
    levels = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}.get(blank, tuple(mean))
    colour = bytes(round(255 * level) for level in levels)
    rows = (b"\0" + colour * _SIDE) * _SIDE
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", _stored(rows)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _stored(content: bytes) -> bytes:
    """Return a zlib stream without compression, which does not depend on zlib's version."""
    size = struct.pack("<HH", len(content), len(content) ^ 0xFFFF)
    return b"\x78\x01\x01" + size + content + struct.pack(">I", zlib.adler32(content))
