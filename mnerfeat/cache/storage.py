"""Files that appear whole or not at all."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mnerfeat.errors import StorageError

TEMPORARY = ".tmp"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}

log = logging.getLogger(__name__)


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
        # A part may have been packed by now, and its folder removed: it is safe elsewhere then.
        with contextlib.suppress(FileNotFoundError):
            fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name for a library to write a file or a folder to; `path` when the block ends.

    Raises:
        StorageError: Where it cannot be written. Nothing is left, and `path` is as it was.
    """
    # Not `TEMPORARY`: nobody holds a lock on it, so a pack in the same folder would remove it.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        make_folder(path.parent)
        try:
            yield temporary
            if temporary.exists():
                _fsync_all(temporary)
                temporary.replace(path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def _fsync_all(path: Path) -> None:
    for file in [*path.rglob("*"), path] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _create_locked(path: Path) -> int:
    """Create and lock a file; start over where a sweep got hold of it in between."""
    while True:
        make_folder(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the folder was tidied away in between
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return descriptor
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file unless somebody else has; True, too, where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sweep(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers are gone."""
    for leftover in _listed(folder):
        if leftover.name.startswith(".") and leftover.name.endswith(TEMPORARY):
            with contextlib.suppress(OSError):
                descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    leftover.unlink()
                finally:
                    os.close(descriptor)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    # Not `exist_ok`: it fails where somebody makes the folder and somebody removes it again.
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock on `path` (a file beside the cache), waiting for it if need be.

    Raises:
        StorageError: Where the lock cannot be had: no permission, or a file system without locks.
    """
    try:
        make_folder(path.parent)
        descriptor = _wait_for(path)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the next one who locks it removes it
            path.unlink()
        # A process forked meanwhile holds the same lock; closing alone would not open it.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _wait_for(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("waiting for another process that is busy with %s", path)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):  # no locks here, so nobody else can hold it
                path.unlink(missing_ok=True)
            raise
        # The holder before us has removed the file; a lock on a removed file guards nothing.
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error a user sees for a failed write."""
    if error.errno in _NO_SPACE:
        return StorageError(
            f"{path} could not be written: no space left where it lies ({error.strerror})",
            hint="free some space there (or name another place with --cache) and run the same "
            "command again: what was finished is kept",
        )
    if error.errno in _NO_LOCKS:
        return StorageError(
            f"{path} cannot be locked: the file system it lies on has no locks",
            hint="copy the cache and its folder of parts to a local disk and pack it there; "
            "reading needs no locks",
        )
    return StorageError(
        f"{path} could not be written: {error.strerror or error}",
        hint="check the folder and its permissions, then run the same command again",
    )
