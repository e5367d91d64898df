"""One look at one image: read, decode once, prepare for every extractor that needs it.

This is what a worker does with a job, wherever it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnerfeat.cache import content_id
from mnerfeat.extractors.base import Prepare, Prepared, UnreadableImageError, knows_files
from mnerfeat.extractors.decoder import decode, plain_reason
from mnerfeat.extractors.image_files import read_image


@dataclass(frozen=True, kw_only=True)
class Look:
    """What came of looking at an image.

    Attributes:
        id: SHA-256 of the bytes that were decoded; None where there were none.
        size: Width and height in pixels, upright; zeros where it could not be decoded.
        prepared: By extractor: what it needs, or why it cannot use this image.
        reason: Why the image could not be decoded, or None.
    """

    id: bytes | None
    size: tuple[int, int] = (0, 0)
    prepared: Mapping[str, Prepared | str] = field(default_factory=dict)
    reason: str | None = None


def look_at(path: Path, prepares: Mapping[str, Prepare]) -> Look:
    """Look at one image; nothing that is wrong with it raises.

    Args:
        path: Of the file.
        prepares: Of the extractors that need it, by name.
    """
    id_: bytes | None = None
    try:
        content = read_image(path)
        id_ = content_id(content)
        image = decode(content).image
    except UnreadableImageError as error:
        return Look(id=id_, reason=str(error))
    prepared: dict[str, Prepared | str] = {}
    for name, prepare in prepares.items():
        try:
            prepared[name] = (prepare.of(path) if knows_files(prepare) else prepare)(image)
        except UnreadableImageError as error:
            prepared[name] = str(error)
        except Exception as error:  # noqa: BLE001  (a processor may choke on any odd size)
            prepared[name] = f"its preparation failed: {plain_reason(error)}"
    return Look(id=id_, size=image.size, prepared=prepared)
