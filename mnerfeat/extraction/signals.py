"""Stopping a run on Ctrl-C or SIGTERM without losing finished work."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Tells whether, and by which signal, a run was asked to stop.

    Attributes:
        event: Set once the run was asked to stop.
        signal: Number of the signal; None if none arrived.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None

    def announce(self) -> None:
        """Log the request, if there is one; a signal handler itself must not log."""
        if self.event.is_set():
            logger.warning("stopping after the batches in flight; repeat to stop at once")

    def leave(self) -> NoReturn:
        """End the program as the signal would have: with exit code 130 or 143.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: With 128 + the signal's number, after another signal.
        """
        if self.signal in {None, signal.SIGINT}:
            raise KeyboardInterrupt
        raise SystemExit(128 + int(self.signal or 0))


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts as usual.

    Changes nothing outside of the main thread, where signals do not arrive.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = number
        stop.event.set()
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
