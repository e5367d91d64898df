"""Stopping a run when asked to, at a moment where nothing is lost."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether, and by which signal, a run was asked to stop.

    Attributes:
        event: Set when it was.
        signal: Which one it was, or None.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None

    def announce(self) -> None:
        """Say so, where the run was asked to stop; a signal's handler itself must not log."""
        if self.event.is_set():
            logger.warning("stopping after what is being worked on; once more ends it at once")

    def leave(self) -> NoReturn:
        """End as a program ends that was stopped by the signal: exit code 130 or 143.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: With 128 + the signal's number, after another one.
        """
        if self.signal in {None, signal.SIGINT}:
            raise KeyboardInterrupt
        raise SystemExit(128 + int(self.signal or 0))


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one acts as it always does.

    Outside of the main thread, where signals do not arrive, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = number
        stop.event.set()
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
