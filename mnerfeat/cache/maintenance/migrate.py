"""Bringing a cache to the present version of the format."""

from os import PathLike
from pathlib import Path

from mnerfeat.cache.maintenance.pack import pack
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.schema import FORMAT_VERSION
from mnerfeat.cache.storage import located


def migrate(path: str | PathLike[str]) -> list[Path]:
    """Bring a cache of an older version to the present one; its parts are packed into it.

    Every version is readable, and whatever writes a cache brings it to the present version. So
    this is a pack that says what it did.

    Args:
        path: The `.h5` file.

    Returns:
        The files of an older version, which were rewritten; none if all are of the present one.

    Raises:
        CacheError: If there is no cache.
        CacheFormatError: If a file is damaged or of an unknown version; nothing is rewritten then.
        StorageError: If the disk is full; the cache is then as it was.
    """
    path = located(path)
    older = [file.path for file in FeatureCache(path).files if file.version < FORMAT_VERSION]
    if older:
        pack(path)
    return older
