"""Calls in a child process that a hostile file may crash."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnerfeat.cache.untrusted import run_untrusted, stream_untrusted
from mnerfeat.errors import CacheError, CacheFormatError


def arrays(path: str, count: int) -> Iterator[NDArray[np.float32]]:
    for number in range(count):
        yield np.full((2, 3), number, np.float32)


def identities(path: str) -> Iterator[int]:
    while True:
        yield os.getpid()


def describe(path: str, *given: Any) -> dict[str, Any]:
    os.write(1, b"what a library prints is not a result")
    return {"given": given, "lone": "\udcff"}


def crash(path: str) -> None:
    ctypes.string_at(0)


def exhaust(path: str) -> None:
    held = [bytearray(1 << 26) for _ in range(1000)]
    raise AssertionError(len(held))


def hang(path: str) -> None:
    while True:
        time.sleep(1)


def refuse(path: str) -> None:
    raise CacheError("no", faults=["a", "b"], hint="try")


def fail(path: str) -> None:
    raise ZeroDivisionError("by what the file says")


def lie(path: str, message: bytes) -> None:
    """Send something other than a result, as a child would that a file has taken over."""
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, message.encode("latin-1"))
        except OSError:
            continue
    os._exit(0)


def write_file(path: str) -> None:
    Path(path).write_bytes(bytes(1 << 20))


def half(path: str) -> Iterator[NDArray[np.int64]]:
    yield np.arange(3)
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_arrive_as_they_are() -> None:
    assert run_untrusted(describe, Path("x"), 1, None, ["é"]) == {
        "given": [1, None, ["é"]],
        "lone": "\udcff",
    }
    read = list(stream_untrusted(arrays, "x", 5))
    assert [array.tolist() for array in read] == [[[n] * 3] * 2 for n in range(5)]
    assert all(array.dtype == np.float32 for array in read)
    assert list(stream_untrusted(arrays, "x", 0)) == []


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        (crash, CacheFormatError, "x.*SIGSEGV"),
        (fail, CacheFormatError, "x cannot be read: by what"),
        (refuse, CacheError, r"(?s)no.*a.*b.*try"),
        (exhaust, CacheError, "memory"),
    ],
)
def test_failures_are_our_errors(function: Any, kind: type[CacheError], said: str) -> None:
    with pytest.raises(kind, match=said):
        run_untrusted(function, "x", memory_bytes=1 << 30)


def test_a_call_that_never_ends_is_stopped() -> None:
    with pytest.raises(CacheError, match="more than 2 seconds"):
        run_untrusted(hang, "x", seconds=2)


def test_what_was_read_before_a_crash_arrives() -> None:
    results = stream_untrusted(half, "x")
    assert next(results).tolist() == [0, 1, 2]
    with pytest.raises(CacheFormatError, match="SIGKILL"):
        next(results)


@pytest.mark.parametrize(
    "message",
    [
        b"data" + (1 << 60).to_bytes(8, "little"),
        b"json" + (3).to_bytes(8, "little") + b"{,}",
        b"data" + (20).to_bytes(8, "little") + b'["|O", [1]]\n12345678',
        b"data" + (20).to_bytes(8, "little") + b'["<f4", [99]]\n123456',
        b"fail" + (2).to_bytes(8, "little") + b"{}",
        b"ours" + (2).to_bytes(8, "little") + b"{}",
        b"da",
    ],
)
def test_a_child_that_sends_something_else_is_not_believed(message: bytes) -> None:
    with pytest.raises(CacheFormatError):
        run_untrusted(lie, "x", message.decode("latin-1"))


def test_the_child_writes_no_large_files(tmp_path: Path) -> None:
    with pytest.raises(CacheFormatError, match="File too large"):
        run_untrusted(write_file, tmp_path / "x")


def test_a_reader_that_stops_early_ends_the_child() -> None:
    results = stream_untrusted(identities, "x")
    child = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
