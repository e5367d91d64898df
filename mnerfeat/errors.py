"""The one exception tree of the package.

```
MnerfeatError
├── ConfigError            an option or a line of mnerfeat.toml
├── DataError              posts, tags or rankings that cannot be used
├── CacheError
│   ├── CacheFormatError   not a cache, damaged, or of an unknown version
│   ├── CacheLookupError   names, rows or features that the cache does not hold
│   └── ProvenanceError    a feature made by something else than the run asks for
├── ExtractionError
│   └── ModelError         a model that is not there or cannot be loaded
├── StorageError           a file that cannot be written: disk full, no permission
└── RunError               a run folder that is missing, unfinished or does not fit
```

Every one says what is wrong, all faults at once, and what to do next.
"""

from collections.abc import Iterable

SHOWN_FAULTS = 40
"""Faults listed in a message; the rest are counted there and kept in `faults`."""


class MnerfeatError(Exception):
    """Base of every error that the package raises on purpose.

    Args:
        what: One sentence: what is wrong, what was got and what was wanted.
        faults: The single faults, one line each, where there are several.
        hint: What to do next, ideally a command that can be typed as it stands.

    Attributes:
        what: As given.
        faults: As given, complete, as a tuple.
        hint: As given.
    """

    def __init__(self, what: str, *, faults: Iterable[str] = (), hint: str | None = None) -> None:
        self.what = what
        self.faults = tuple(faults)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what, *(f"  {fault}" for fault in self.faults[:SHOWN_FAULTS])]
        if len(self.faults) > SHOWN_FAULTS:
            lines.append(f"  … and {len(self.faults) - SHOWN_FAULTS:,} more")
        if self.hint:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive a worker process otherwise.
        return (_rebuild, (type(self), self.what, self.faults, self.hint))


def _rebuild(
    kind: type[MnerfeatError], what: str, faults: tuple[str, ...], hint: str | None
) -> MnerfeatError:
    return kind(what, faults=faults, hint=hint)


class ConfigError(MnerfeatError):
    """An option or a line of `mnerfeat.toml` that cannot be used."""


class DataError(MnerfeatError):
    """Posts, tags or rankings that cannot be used."""


class CacheError(MnerfeatError):
    """Anything about a feature cache."""


class CacheFormatError(CacheError):
    """A file that is not a cache, is damaged, or has an unknown version."""


class CacheLookupError(CacheError):
    """Names, rows or features that the cache does not hold."""


class ProvenanceError(CacheError):
    """A feature that was made by something else than the run asks for."""


class ExtractionError(MnerfeatError):
    """Extraction cannot go on."""


class ModelError(ExtractionError):
    """A model that is not there or cannot be loaded."""


class StorageError(MnerfeatError):
    """A file that cannot be written."""


class RunError(MnerfeatError):
    """A run folder that is missing, unfinished, or does not fit what is asked of it."""
