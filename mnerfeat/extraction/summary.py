"""The summary of a run: counts, failures, and their text for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """The outcome of a run, or the forecast of a dry run.

    Attributes:
        cache: Cache file.
        dry_run: Whether nothing was done.
        features: Names of the requested extractors.
        device: Devices that ran models; None if none had to run.
        ids: Identity of every image file by name, unreadable ones included.
        new: Number of distinct images that at least one extractor processed.
        reused: Number of distinct images that needed nothing.
        copies: Number of files that are copies of another file.
        updated: Number of files that were replaced since the last run.
        renamed: Number of names that led to images of another folder before.
        failed: Files that could not be used, by all extractors or the named one, with reasons.
        profiles_ignored: Number of new images with a colour profile other than sRGB, whose colours
            are taken for sRGB.
        transparency_dropped: Number of new images with transparent pixels, which show the colour
            beneath.
        others: Number of files in the folder that are not images.
        closed: Folders that could not be entered, with reasons.
        texts: Number of distinct texts.
        new_texts: Number of texts that were embedded.
        cut_texts: Number of texts that were longer than `context_length`.
        context_length: Number of tokens that the text encoder reads.
        seconds: Duration of the run.
        rewards: Result for rewards, in words; empty if they were not requested.
    """

    cache: Path
    dry_run: bool
    features: tuple[str, ...] = ()
    device: str | None = None
    ids: Mapping[str, bytes] = field(default_factory=dict)
    new: int = 0
    reused: int = 0
    copies: int = 0
    updated: int = 0
    renamed: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    profiles_ignored: int = 0
    transparency_dropped: int = 0
    others: int = 0
    closed: tuple[tuple[str, str], ...] = ()
    texts: int = 0
    new_texts: int = 0
    cut_texts: int = 0
    context_length: int = 0
    seconds: float = 0.0
    rewards: str = ""

    @property
    def names(self) -> int:
        """Number of image files."""
        return len(self.ids)

    @property
    def rate(self) -> float:
        """Image files per second, reused ones included."""
        return self.names / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        if not self.features:
            return self.rewards
        lines = [self._images(), *self._names(), *self._colours(), *self._texts()]
        if self.failed:
            lines.append(f"{len(self.failed):,} could not be used:")
            lines += [f"  {_printable(name)}: {reason}" for name, reason in self.failed[:_SHOWN]]
            if len(self.failed) > _SHOWN:
                lines.append(
                    f"  … and {len(self.failed) - _SHOWN:,} more, with their reasons in the cache"
                )
        lines += [
            f"folder {_printable(name)} could not be entered: {reason}"
            for name, reason in self.closed
        ]
        lines.append(self._end())
        if self.rewards:
            lines.append(self.rewards)
        return "\n".join(lines)

    def _images(self) -> str:
        to_do = "to do" if self.dry_run else "new"
        parts = [f"{self.new:,} {to_do}", f"{self.reused:,} reused", f"{self.copies:,} copies"]
        others = f"; {self.others:,} other files skipped" if self.others else ""
        return (
            f"{self.names:,} image files ({', '.join(self.features)}): {', '.join(parts)}, "
            f"{len(self.failed):,} failed{others}"
        )

    def _names(self) -> list[str]:
        lines = []
        if self.updated:
            lines.append(f"{self.updated:,} files replaced since the last run, under the same name")
        if self.renamed:
            lines.append(f"{self.renamed:,} names taken over from images of another folder")
        return lines

    def _colours(self) -> list[str]:
        parts = []
        if self.profiles_ignored:
            parts.append(f"{self.profiles_ignored:,} with a colour profile, read as sRGB")
        if self.transparency_dropped:
            parts.append(f"{self.transparency_dropped:,} with transparency, which is dropped")
        return [f"of the new images, {'; '.join(parts)}"] if parts else []

    def _texts(self) -> list[str]:
        if not self.texts:
            return []
        line = f"{self.texts:,} texts: {self.new_texts:,} {'to do' if self.dry_run else 'new'}"
        if self.cut_texts:
            line += f", {self.cut_texts:,} of them cut at {self.context_length} tokens"
        return [line]

    def _end(self) -> str:
        if self.dry_run:
            return f"dry run: nothing was done; the features would go to {self.cache}"
        device = f" on {self.device}" if self.device else ""
        return (
            f"{self.seconds:,.1f} s{device}, {self.rate:,.1f} images/s; the features are in "
            f"{self.cache}"
        )


def _printable(name: str) -> str:
    """Return a file's name with control characters and broken UTF-8 escaped."""
    plain = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
