"""What a run of extraction has done, in numbers and in words."""

from dataclasses import dataclass
from pathlib import Path

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """What a run has done, or would do.

    Attributes:
        cache: Where the features are.
        features: Names of the extractors that were asked for.
        device: That models ran on; None where nothing had to run.
        names: Image files.
        new: Images that at least one extractor looked at (different ones; a copy is not new).
        reused: Images that had everything already.
        copies: Files that are copies of another one of these files.
        failed: Files and reasons: unreadable, or no use to an extractor, which is then named.
        others: Files that are no images.
        closed: Folders that could not be entered, with the reason.
        texts: Different texts.
        new_texts: Of these, the ones that were looked at.
        cut_texts: Of the new ones, those longer than `context_length`.
        context_length: Tokens of a text that are read.
        seconds: From start to end.
        dry_run: Whether nothing was done.
        rewards: What was done about rewards, in words; empty where they were not asked for.
    """

    cache: Path
    features: tuple[str, ...]
    device: str | None
    names: int
    new: int
    reused: int
    copies: int
    failed: tuple[tuple[str, str], ...]
    others: int
    closed: tuple[tuple[str, str], ...]
    texts: int
    new_texts: int
    cut_texts: int
    context_length: int
    seconds: float
    dry_run: bool
    rewards: str = ""

    @staticmethod
    def nothing(cache: Path, *, dry_run: bool) -> "ExtractSummary":
        """Of a run that looks at no image."""
        return ExtractSummary(
            cache=cache,
            features=(),
            device=None,
            names=0,
            new=0,
            reused=0,
            copies=0,
            failed=(),
            others=0,
            closed=(),
            texts=0,
            new_texts=0,
            cut_texts=0,
            context_length=0,
            seconds=0.0,
            dry_run=dry_run,
        )

    @property
    def rate(self) -> float:
        """Image files a second, reused ones included."""
        return self.names / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        if not self.features:
            return self.rewards
        lines = [self._images(), *self._texts()]
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
        others = f"; {self.others:,} other files left alone" if self.others else ""
        return (
            f"{self.names:,} image files ({', '.join(self.features)}): {', '.join(parts)}, "
            f"{len(self.failed):,} failed{others}"
        )

    def _texts(self) -> list[str]:
        if not self.texts:
            return []
        line = f"{self.texts:,} texts: {self.new_texts:,} {'to do' if self.dry_run else 'new'}"
        if self.cut_texts:
            line += f", {self.cut_texts:,} of them cut at {self.context_length} tokens"
        return [line]

    def _end(self) -> str:
        if self.dry_run:
            return f"nothing was done (dry run); the features would be in {self.cache}"
        device = f" on {self.device}" if self.device else ""
        return (
            f"{self.seconds:,.1f} s{device}, {self.rate:,.1f} images/s; the features are in "
            f"{self.cache}"
        )


def _printable(name: str) -> str:
    """A file's name for a terminal: control characters and broken UTF-8 escaped."""
    plain = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
