"""Images on their way to the devices of a cluster, a bundle at a time, until each is seen to."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction.planning import ImageJob

ATTEMPTS: Final = 5
"""Times a bundle is tried: nodes come and go, but an image may also be what ends them."""


_SHORT = 400  # characters


@dataclass
class Bundle:
    """Images that a device looks at together."""

    jobs: Sequence[ImageJob]
    attempts: int = 0


class BundleQueue:
    """Bundles of a plan's images that are still to be handed to a device."""

    def __init__(self, jobs: Sequence[ImageJob]) -> None:
        self._jobs = jobs
        self._next = 0
        self._again: deque[Bundle] = deque()

    @property
    def left(self) -> bool:
        """Whether there are any."""
        return bool(self._again) or self._next < len(self._jobs)

    def take(self, images: int) -> Bundle | None:
        """The next one, of so many images at most; those that were given back come first."""
        if self._again:
            return self._again.popleft()
        jobs = self._jobs[self._next : self._next + images]
        self._next += len(jobs)
        return Bundle(jobs) if jobs else None

    def give_back(self, bundle: Bundle, error: Exception) -> None:
        """Take a bundle back whose device was lost, for another one.

        Raises:
            ExtractionError: Where that has happened to it too often.
        """
        bundle.attempts += 1
        if bundle.attempts >= ATTEMPTS:
            raise ExtractionError(
                f"images were given to {ATTEMPTS} devices in turn, and each was lost with them "
                f"(the last one: {in_short(error)}):",
                faults=[job.name for job in bundle.jobs],
                hint="what is finished is kept; move these images away, or give nodes more memory",
            ) from error
        self._again.append(bundle)


def in_short(error: Exception) -> str:
    """What an error of Ray says, on one line: without tables, and of a traceback the end."""
    lines = [line for line in str(error).splitlines() if line and not line[0].isspace()]
    said = " ".join(line for line in lines if not line.startswith("Traceback"))
    if len(said) > _SHORT:
        said = f"{said[: _SHORT // 2].rstrip()} … {said[-_SHORT // 2 :].lstrip()}"
    return said or type(error).__name__
