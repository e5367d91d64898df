"""Reading files from strangers in a child process.

A hostile or damaged file can crash the library that reads it, fill the memory or never end. So the
function that reads such a file runs in a process of its own, with limits on memory and time, and
cannot write files. Its results are JSON or plain arrays, never pickled objects; the caller checks
their type and size.

This guards against what reading a file does. It is no sandbox for programs.
"""

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from mnerfeat import errors
from mnerfeat.cache.schema import FEATURE_DTYPES
from mnerfeat.errors import CacheError, CacheFormatError, MnerfeatError

MEMORY_BYTES: Final = 4 << 30
"""Default memory limit of the child."""

SECONDS: Final = 120.0
"""Default time limit for each result of the child."""

_MESSAGE = struct.Struct("<4sQ")  # its kind, and the length of what follows in bytes
_ARRAY_HEADER_LIMIT = 1 << 10
_DTYPES = {dtype.str: dtype for dtype in (*FEATURE_DTYPES, np.dtype("<f8"))}
_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MnerfeatError)
}
_STDERR_LIMIT = 1 << 16
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves memory


def run_untrusted(
    function: Callable[..., Any],
    *args: Any,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> Any:
    """Call a function in a child process that a hostile file may crash.

    Args:
        function: A function at the top level of a module. It returns an array (of a type that the
            cache stores, or float64) or anything else that JSON can hold.
        args: The file, then anything that JSON can hold.
        memory_bytes: Memory that the child may use.
        seconds: Time limit of the call.

    Returns:
        The function's result.

    Raises:
        MnerfeatError: If the function raises it.
        CacheError: If the function reaches a limit.
        CacheFormatError: If the function fails in any other way, or the child crashes.
    """
    with contextlib.closing(
        _results(function, args, memory_bytes=memory_bytes, seconds=seconds, once=True)
    ) as results:
        return next(results)


def stream_untrusted(
    function: Callable[..., Iterator[Any]],
    *args: Any,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> Generator[Any]:
    """Iterate over a generator function in a child process that a hostile file may crash.

    The child waits while the caller is busy, so results do not pile up.

    Args:
        function: As for `run_untrusted`, but it yields its results.
        args: As for `run_untrusted`.
        memory_bytes: As for `run_untrusted`.
        seconds: Time limit of each result.

    Yields:
        What the function yields.

    Raises:
        CacheError: As `run_untrusted` does.
        CacheFormatError: As `run_untrusted` does.
    """
    return _results(function, args, memory_bytes=memory_bytes, seconds=seconds, once=False)


def _results(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    memory_bytes: int,
    seconds: float,
    once: bool,
) -> Generator[Any]:
    call = {
        "module": function.__module__,
        "function": function.__qualname__,
        "args": [os.fspath(arg) if isinstance(arg, Path) else arg for arg in args],
        "memory_bytes": memory_bytes,
        "seconds": seconds,
        "once": once,
    }
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(  # noqa: S603  (this very interpreter)
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**os.environ, **_QUIET, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(call).encode())
            yield from _receive(child.stdout, args[0], memory_bytes, seconds)
        except EOFError:
            child.wait()
            complaints.seek(0)
            raise _crash(args[0], child.returncode, seconds, complaints.read()) from None
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _receive(pipe: IO[bytes], source: object, memory_bytes: int, seconds: float) -> Generator[Any]:
    """Yield the results of a child until it says that there are no more.

    Raises:
        CacheError: The error that the child reports, or that it takes too long.
        EOFError: If the child ends without a word.
    """
    while True:
        deadline = time.monotonic() + seconds
        kind, length = _MESSAGE.unpack(_read(pipe, _MESSAGE.size, source, deadline, seconds))
        if kind == b"done":
            return
        if kind not in {b"json", b"fail", b"data"} or length > memory_bytes:
            raise _wild(source)
        content = _read(pipe, length, source, deadline, seconds)
        try:
            result: Any = _array(content) if kind == b"data" else json.loads(content)
            failure = _failure(result) if kind == b"fail" else None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _wild(source) from None
        if failure is not None:
            raise failure
        yield result


def _failure(told: Mapping[str, Any]) -> MnerfeatError:
    hint = None if told["hint"] is None else str(told["hint"])
    return _ERRORS[told["kind"]](str(told["what"]), faults=map(str, told["faults"]), hint=hint)


def _wild(source: object) -> CacheFormatError:
    return CacheFormatError(f"{source} cannot be read: it took over the process that read it")


def _read(
    pipe: IO[bytes], length: int, source: object, deadline: float, seconds: float
) -> bytearray:
    content = bytearray()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while len(content) < length:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise _timeout(source, seconds)
        piece = os.read(pipe.fileno(), min(length - len(content), 1 << 20))
        if not piece:
            raise EOFError
        content += piece
    return content


def _array(content: bytearray) -> NDArray[Any]:
    """Return the array in a message: a line of JSON with its type and shape, then its numbers."""
    end = content.index(b"\n", 0, _ARRAY_HEADER_LIMIT)
    dtype, shape = json.loads(bytes(content[:end]))
    return np.frombuffer(content, _DTYPES[dtype], offset=end + 1).reshape(shape)


def _timeout(source: object, seconds: float) -> CacheError:
    return CacheError(
        f"reading {source} took more than {seconds:g} seconds",
        hint="allow it more time if you trust the file",
    )


def _crash(source: object, code: int, seconds: float, complaints: bytes) -> CacheError:
    """The error for a child that ended without a result."""
    if code in {-signal.SIGXCPU, -signal.SIGALRM}:
        return _timeout(source, seconds)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit status {code}"
    last = complaints.decode(errors="replace").strip().splitlines()[-1:]
    return CacheFormatError(
        f"{source} cannot be read: it crashed the process that read it ({name})",
        faults=last,
        hint="the file is damaged or hostile; nothing else was affected",
    )


# The child.


def _main() -> None:
    """Run the call that standard input asks for, and send its results to standard output."""
    call = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is not a result
    function = getattr(importlib.import_module(call["module"]), call["function"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _STDERR_LIMIT)
    # Private memory. Unlike the address space, it does not count files that are mapped to read.
    _limit(resource.RLIMIT_DATA, call["memory_bytes"])
    seconds = call["seconds"]
    try:
        _limit_time(seconds)
        results = function(*call["args"])
        for result in [results] if call["once"] else results:
            _send(out, result)
            _limit_time(seconds)
        out.write(_MESSAGE.pack(b"done", 0))
    except BrokenPipeError:
        return  # the caller wants no more
    except BaseException as error:  # noqa: BLE001  (the caller hears of all of them)
        _fail(out, call, error)
    out.flush()


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # a system that does not know this limit
        resource.setrlimit(what, (value, hard))


def _limit_time(seconds: float) -> None:
    """End this process by itself, should the caller be gone, some seconds of work from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)


def _send(out: IO[bytes], result: Any) -> None:
    if isinstance(result, np.ndarray):
        header = json.dumps([result.dtype.str, result.shape]).encode() + b"\n"
        data = np.ascontiguousarray(result).reshape(-1).view(np.uint8).data
        out.write(_MESSAGE.pack(b"data", len(header) + len(data)) + header)
        out.write(data)
    else:
        content = json.dumps(result).encode()
        out.write(_MESSAGE.pack(b"json", len(content)) + content)
    out.flush()


def _fail(out: IO[bytes], call: dict[str, Any], error: BaseException) -> None:
    path = call["args"][0]
    kind = "CacheFormatError"
    faults: tuple[str, ...] = ()
    hint = None
    what = f"{path} cannot be read: {str(error) or type(error).__name__}"
    if isinstance(error, MnerfeatError):
        kind = type(error).__name__
        what, faults, hint = error.what, error.faults, error.hint
    elif isinstance(error, MemoryError):
        kind, hint = "CacheError", "allow it more memory if you trust the file"
        what = f"reading {path} takes more than {call['memory_bytes'] / 2**30:.3g} GiB of memory"
    content = json.dumps({"kind": kind, "what": what, "faults": list(faults), "hint": hint})
    out.write(_MESSAGE.pack(b"fail", len(content)) + content.encode())


if __name__ == "__main__":
    _main()
