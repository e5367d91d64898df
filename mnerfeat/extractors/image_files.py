"""Image files: listing a folder, hashing and reading files."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from mnerfeat.errors import ConfigError
from mnerfeat.extractors.base import UnreadableImageError

MAX_BYTES: Final = 1 << 29
"""Largest file that is decoded, in bytes."""

SUFFIXES: Final = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm",
    ".pnm", ".ico", ".tga", ".svg", ".psd",
})  # fmt: skip
"""File name extensions of images, including formats that cannot be decoded."""

_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files in an images folder.

    Attributes:
        names: File names relative to the folder, `/` between folders, sorted.
        closed: Subfolders that cannot be opened, each with the reason.
    """

    names: tuple[str, ...]
    closed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The hash of a file, and whether it is an image.

    Attributes:
        sha256: SHA-256 of its bytes, or None if it cannot be read.
        image: Whether its extension or its first bytes are those of an image.
        reason: Why it cannot be read, or None.
    """

    sha256: bytes | None
    image: bool
    reason: str | None = None


def list_images(folder: Path) -> Listing:
    """List all files in a folder and its subfolders.

    Follows symbolic links to files and folders, and enters a folder that contains itself once.
    Skips hidden files and folders (`.DS_Store`, `._a.jpg`).

    Args:
        folder: The images folder.

    Raises:
        ConfigError: It is not a folder, or cannot be opened.
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
                    f"the images folder {folder} cannot be opened: {_os_reason(error)}"
                ) from error
            closed.append((prefix.rstrip("/"), _os_reason(error)))
            continue
        for entry in inside:
            name = prefix + entry.name
            here = _subfolder_id(entry)
            if here is None:
                names.append(name)
            elif here not in ancestors:
                waiting.append((f"{name}/", ancestors | {here}))
    return Listing(names=tuple(sorted(names)), closed=tuple(sorted(closed)))


def check_folder(folder: Path) -> None:
    """Check that the images folder exists.

    Raises:
        ConfigError: It does not, or is not a folder.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"the images folder {folder} {what}", hint="name the folder of images with --images DIR"
        )


def _subfolder_id(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Return the identity of a folder, or None for a file or a broken link."""
    try:
        return _folder_id(entry.stat()) if entry.is_dir() else None
    except OSError:
        return None


def _folder_id(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def identify(path: Path) -> Identity:
    """Hash a file, in constant memory."""
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
    return Identity(sha256=digest.digest(), image=named or _has_image_signature(head))


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UnreadableImageError: It cannot be read, or is larger than `MAX_BYTES`.
    """
    try:
        with _open(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise UnreadableImageError(f"a file of more than {MAX_BYTES >> 20:,} MiB")
            return file.read()
    except OSError as error:
        raise UnreadableImageError(_os_reason(error)) from error


def _open(path: Path) -> FileIO:
    # Without O_NONBLOCK, opening a named pipe blocks until another process writes to it.
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


def _has_image_signature(head: bytes) -> bool:
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:12] in {b"avif", b"avis", b"heic", b"mif1"}
    return webp or avif or head.startswith(_SIGNATURES)
