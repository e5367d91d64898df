"""Decoding one image: read it, decode it once, prepare it for every extractor that needs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnerfeat.cache import content_id
from mnerfeat.extractors.base import Prepare, Prepared, UnreadableImageError, knows_files
from mnerfeat.extractors.decoder import decode, plain_reason
from mnerfeat.extractors.image_files import read_image


@dataclass(frozen=True, kw_only=True)
class DecodeJob:
    """An image to decode.

    Attributes:
        path: Image file.
        extractors: Names of the extractors it is prepared for.
    """

    path: Path
    extractors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """The outcome of decoding one image.

    Attributes:
        id: SHA-256 of the bytes that were decoded; None if they could not be read.
        size: Width and height in pixels, upright; zeros if decoding failed.
        prepared: By extractor: its input arrays, or the reason it cannot use this image.
        reason: Why decoding failed; None if it succeeded.
        profile_ignored: See `DecodedImage`.
        transparency_dropped: See `DecodedImage`.
    """

    id: bytes | None
    size: tuple[int, int] = (0, 0)
    prepared: Mapping[str, Prepared | str] = field(default_factory=dict)
    reason: str | None = None
    profile_ignored: bool = False
    transparency_dropped: bool = False


def decode_image(path: Path, prepares: Mapping[str, Prepare]) -> DecodeResult:
    """Decode one image; a faulty image is a result with a reason, never an exception.

    Args:
        path: Image file.
        prepares: Preparation steps by extractor.
    """
    id_: bytes | None = None
    try:
        content = read_image(path)
        id_ = content_id(content)
        decoded = decode(content)
    except UnreadableImageError as error:
        return DecodeResult(id=id_, reason=str(error))
    prepared: dict[str, Prepared | str] = {}
    for name, prepare in prepares.items():
        try:
            prepared[name] = (prepare.of(path) if knows_files(prepare) else prepare)(decoded.image)
        except UnreadableImageError as error:
            prepared[name] = str(error)
        except Exception as error:  # noqa: BLE001  (a processor may raise anything on odd sizes)
            prepared[name] = f"its preparation failed: {plain_reason(error)}"
    return DecodeResult(
        id=id_,
        size=decoded.image.size,
        prepared=prepared,
        profile_ignored=decoded.profile_ignored,
        transparency_dropped=decoded.transparency_dropped,
    )
