"""Files that appear whole or not at all."""

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from mnerfeat.errors import StorageError

TEMPORARY = ".tmp"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class AtomicFile:
    """A file under a temporary name, written by position; `replacing` makes and seals it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def reserve(self, size: int) -> None:
        """Take `size` bytes of the disk now, so that later writes cannot run out of space."""
        with contextlib.suppress(AttributeError):  # no such call on this system
            try:
                os.posix_fallocate(self._descriptor, 0, max(size, 1))
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                    raise
        os.ftruncate(self._descriptor, size)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`; a short count is carried on, not believed."""
        view = memoryview(data).cast("B")
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view, offset = view[count:], offset + count


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[AtomicFile]:
    """Write `path` under a temporary name; seal it by fsync and rename when the block ends well.

    The temporary file is locked as long as its writer lives, so that `sweep` can tell what a
    killed writer left behind from what another writer is busy with.

    Raises:
        StorageError: Where the disk is full or the folder cannot be written. Nothing is left.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        descriptor = _create_locked(temporary)
        try:
            yield AtomicFile(descriptor)
            os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def _create_locked(path: Path) -> int:
    """Create and lock a file; start over where a sweep took it in between."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the folder was tidied away in between
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers are gone."""
    with contextlib.suppress(FileNotFoundError):
        for leftover in folder.glob(f".*{TEMPORARY}"):
            with contextlib.suppress(OSError):
                descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    leftover.unlink()
                finally:
                    os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock on `path` (a file beside the cache), waiting for it if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before us removes the file; a lock on a removed file guards nothing.
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error a user sees for a failed write."""
    if error.errno in _NO_SPACE:
        return StorageError(
            f"{path} could not be written: no space left where it lies ({error.strerror})",
            hint="free some space there (or name another place with --cache) and run the same "
            "command again: what was finished is kept",
        )
    return StorageError(
        f"{path} could not be written: {error.strerror or error}",
        hint="check the folder and its permissions, then run the same command again",
    )
