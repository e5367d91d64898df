"""Files seen as memory: mapped, read-only, whole."""

import errno
import mmap
import os
import resource
import stat
from pathlib import Path

from mnerfeat.errors import CacheError, CacheFormatError


def map_file(path: Path) -> tuple[mmap.mmap | bytes, tuple[int, ...]]:
    """The bytes of a file, read as they are needed, and what tells it from any other file.

    Raises:
        FileNotFoundError: Where there is none.
        CacheFormatError: Where it is no file, or an empty one.
        CacheError: Where it may not be read.
    """
    try:
        try:
            return _map(path)
        except OSError as error:
            # A map keeps its file open. Parts can be many, and the usual soft limit is low.
            if error.errno != errno.EMFILE or not _more_files():
                raise
            return _map(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CacheError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="raise the limit of open files (`ulimit -n`), then `mnerfeat cache pack`"
            if error.errno == errno.EMFILE
            else "check the file and its permissions",
        ) from error


def map_again(path: Path, inode: tuple[int, ...]) -> mmap.mmap | None:
    """A private map of a file: writing to it changes neither the file nor any other map.

    Returns:
        None where another file is there by now, or the system refuses such a map.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if _inode(os.fstat(descriptor)) != inode:
                return None
            return mmap.mmap(
                descriptor,
                0,
                # Memory is needed for written pages only: do not have all of it set aside.
                flags=mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0),
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _map(path: Path) -> tuple[mmap.mmap | bytes, tuple[int, ...]]:
    # Not to wait for ever where somebody has put a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            what = "is empty" if stat.S_ISREG(status.st_mode) else "is not a file"
            raise CacheFormatError(
                f"{path} cannot be read as a feature cache: it {what}",
                hint="name the `.h5` file that `mnerfeat extract` made",
            )
        try:
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), _inode(status)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            # A file system that maps nothing.
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read(), _inode(status)
    finally:
        os.close(descriptor)


def _inode(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _more_files() -> bool:
    """Raise the limit of open files as far as it goes; whether that was any further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return False
    return True
