"""Files on the disk: mapped for reading, written whole or not at all, locked while rewritten."""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import resource
import shutil
import stat
import uuid
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from mnerfeat.errors import CacheError, CacheFormatError, StorageError

TEMPORARY = ".tmp"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}

log = logging.getLogger(__name__)


def located(path: str | PathLike[str]) -> Path:
    """Follow symbolic links, dangling ones too: what is written goes where the link points."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


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
def replacing(path: Path, *, new: bool = False) -> Iterator[AtomicFile]:
    """Write `path` under a temporary name; seal it by fsync and rename when the block ends well.

    A file that is replaced keeps its mode and, if possible, its group. The temporary file is
    locked as long as its writer lives, so that `sweep` can tell what a killed writer left behind
    from what another writer is busy with.

    Args:
        path: The file.
        new: Fail if the file exists instead of replacing it.

    Raises:
        FileExistsError: If the file exists and `new` is set.
        StorageError: If the disk is full or the folder cannot be written. Nothing is left.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        descriptor = _create_locked(temporary)
        try:
            yield AtomicFile(descriptor)
            _keep_mode(descriptor, path)
            os.fsync(descriptor)
            if new:
                _name_new(temporary, path)
            else:
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
        if new and isinstance(error, FileExistsError):
            raise
        raise storage_error(path, error) from error


def _keep_mode(descriptor: int, replaced: Path) -> None:
    """Give a file the group and the mode of the one it replaces, if there is one."""
    with contextlib.suppress(OSError):
        status = replaced.stat()
        own = os.fstat(descriptor)
        if status.st_gid != own.st_gid:
            with contextlib.suppress(OSError):  # not a member of that group
                os.fchown(descriptor, -1, status.st_gid)
        if stat.S_IMODE(status.st_mode) != stat.S_IMODE(own.st_mode):
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _name_new(temporary: Path, path: Path) -> None:
    """Name a file unless another one has that name.

    Raises:
        FileExistsError: If another one has.
    """
    try:
        os.link(temporary, path)
        with contextlib.suppress(OSError):  # the next sweep removes it
            temporary.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with exclusive(lock_of(path)):
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            temporary.replace(path)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name for a library to write a file or a folder to; `path` when the block ends.

    Raises:
        StorageError: If it cannot be written. Nothing is left, and `path` is as it was.
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


def lock_of(path: Path) -> Path:
    """The lock file of whoever rewrites the cache at `path`."""
    return path.with_name(f".{path.name}.lock")


def leftovers(path: Path) -> list[Path]:
    """Temporary files of the cache at `path`, whether their writers live or not."""
    return [
        file
        for folder in (path.parent, parts_folder(path))
        for file in _listed(folder)
        if file.name.startswith((f".{path.name}.", ".part-")) and file.name.endswith(TEMPORARY)
    ]


def parts_folder(path: Path) -> Path:
    """The folder of the parts that are not packed into the cache at `path` yet."""
    return path.with_name(f"{path.name}.d")


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock on `path` (a file beside the cache), waiting for it if need be.

    Raises:
        StorageError: If the lock cannot be had: no permission, or a file system without locks.
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


# Reading.


def map_file(path: Path) -> tuple[mmap.mmap | bytes, tuple[int, ...]]:
    """The bytes of a file, read as they are needed, and what tells it from any other file.

    Raises:
        FileNotFoundError: If there is none.
        CacheFormatError: If it is not a file, or empty.
        CacheError: If it may not be read.
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
        None if another file is there by now, or the system refuses such a map.
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
