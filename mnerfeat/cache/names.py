r"""Names of images: the one rule for writing them, and the one way of resolving them.

A name is relative to a folder of images, with `/` between folders: `1.jpg`, `train/1.jpg`. Posts,
caches and folders spell the same file differently. `resolve_names` tries, in this order:

1. **the name itself**, after `./`, `//` and `a/../` are removed, `\` is read as `/`, and an
   absolute path inside the images folder is made relative to it;
2. **its Unicode form**: `é` as one character (NFC) or as two (NFD, as macOS stores it);
3. **its other names**, where the caller knows that an archive stores it under another one;
4. **a namesake**: the only image whose path ends in the name, so that `1.jpg` is found as
   `train/1.jpg`. An absolute path outside the folder is found by the longest such ending.

What a step after the first has found is reported (`Resolution.notes`). A name that leads to several
images with different bytes leads to none of them.
"""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

Step = Literal["unicode", "archive", "namesake"]
"""How a name was found that is not there as it stands: steps 2 to 4."""

_DRIVE = re.compile(r"[A-Za-z]:/")

_FOUND_BY: Mapping[Step, str] = {
    "unicode": "differ from the stored name only in Unicode form (NFC, NFD)",
    "archive": "are stored under another name in the published archive",
    "namesake": "are found in another folder than the one named",
}


def normalise_name(name: str | PathLike[str]) -> str:
    """Return a name as the cache keeps it: relative, `/` between folders, no `./` or `//`."""
    return posixpath.normpath(fspath(name))


def unicode_form(name: str) -> str:
    r"""Return the form in which two spellings of a name are equal: NFC, with `/` for `\`."""
    name = name.replace("\\", "/")
    return name if name.isascii() else unicodedata.normalize("NFC", name)


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Where names lead.

    Attributes:
        found: The stored name by the name asked for.
        steps: How each of them was found that is not there as it stands.
        ambiguous: Stored names with different bytes, by the name asked for, sorted.
        missing: Names that lead nowhere, in the order asked for.
    """

    found: Mapping[str, str]
    steps: Mapping[str, Step]
    ambiguous: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return one line for each step beyond the first, with its number and an example."""
        counts = Counter(self.steps.values())
        lines = []
        for step, text in _FOUND_BY.items():
            if counts[step]:
                name = next(name for name, how in self.steps.items() if how == step)
                lines.append(
                    f"{counts[step]:,} image names {text}, "
                    f"for example {name!r}: {self.found[name]!r}"
                )
        return lines


def resolve_names(
    names: Iterable[str],
    stored: Iterable[str],
    *,
    folder: Path | None = None,
    other_names: Callable[[str], Sequence[str]] | None = None,
    namesakes: bool = True,
    same: Callable[[Sequence[str]], bool] | None = None,
) -> Resolution:
    """Find the stored name that each name means, by the steps above.

    Args:
        names: Names asked for; repeated ones count once.
        stored: All names of a cache or of a folder, each once.
        folder: The images folder, if it is known: absolute paths inside it are resolved.
        other_names: Names under which an archive may store a (normalised) name, likeliest first.
        namesakes: Whether to take step 4.
        same: Whether several stored names have the same bytes; by default they never have.
    """
    asked = {name: _Spellings(name, folder, other_names) for name in dict.fromkeys(names)}
    here, whole, ending = _matches(stored, asked.values(), namesakes=namesakes)
    found: dict[str, str] = {}
    steps: dict[str, Step] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    missing: list[str] = []
    for name, spelling in asked.items():
        itself = next((n for n in (spelling.name, spelling.posix) if n in here), None)
        if itself is not None:
            found[name] = itself
            continue
        step, fitting = _first(
            ("unicode", [whole.get(spelling.form, [])]),
            ("archive", [whole.get(form, []) for form in spelling.archive]),
            ("namesake", [ending.get(form, []) for form in spelling.endings]),
        )
        if step is None:
            missing.append(name)
        elif len(fitting) > 1 and not (same and same(fitting)):
            ambiguous[name] = tuple(sorted(fitting))
        else:
            found[name], steps[name] = min(fitting), step
    return Resolution(found=found, steps=steps, ambiguous=ambiguous, missing=tuple(missing))


def _matches(
    stored: Iterable[str], asked: Iterable["_Spellings"], *, namesakes: bool
) -> tuple[set[str], Mapping[str, list[str]], Mapping[str, list[str]]]:
    """Return the stored names that fit: as they stand, by Unicode form, by what they end in."""
    asked = tuple(asked)
    exact = {name for spelling in asked for name in (spelling.name, spelling.posix)}
    forms = {
        form for spelling in asked for form in (spelling.form, *spelling.archive, *spelling.endings)
    }
    here: set[str] = set()
    whole: dict[str, list[str]] = {}
    ending: dict[str, list[str]] = {}
    for name in stored:
        if name in exact:
            here.add(name)
        form = unicode_form(name)
        if form in forms:
            whole.setdefault(form, []).append(name)
        for tail in _tails(form) if namesakes else ():
            if tail in forms:
                ending.setdefault(tail, []).append(name)
    return here, whole, ending


class _Spellings:
    r"""What a name asked for may be called in a cache or a folder.

    Attributes:
        name: Normalised.
        posix: The same with `/` for `\`, relative to the folder.
        form: Its Unicode form.
        archive: Unicode forms of its other names.
        endings: Unicode forms of what a namesake's path may end in, likeliest first.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None,
        other_names: Callable[[str], Sequence[str]] | None,
    ) -> None:
        self.name = normalise_name(name)
        self.posix = _relative(normalise_name(name.replace("\\", "/")), folder)
        self.form = unicode_form(self.posix)
        others = other_names(self.posix) if other_names else ()
        self.archive = [form for form in map(unicode_form, others) if form != self.form]
        outside = self.form.startswith(("/", "../")) or _DRIVE.match(self.form)
        itself = _tails(self.form.lstrip("/")) if outside else [self.form]
        self.endings = [*itself, *self.archive]


def _relative(name: str, folder: Path | None) -> str:
    """Return an absolute path inside the folder relative to it, anything else as it is."""
    if folder is None or not name.startswith("/"):
        return name
    for root in (folder.absolute(), folder.resolve()):
        inside = name.removeprefix(f"{posixpath.normpath(root.as_posix()).rstrip('/')}/")
        if inside != name:
            return inside
    return name


def _tails(form: str) -> list[str]:
    """Return a path and everything it ends in, `a/b/c`: `a/b/c`, `b/c`, `c`."""
    parts = form.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _first(*steps: tuple[Step, list[list[str]]]) -> tuple[Step | None, list[str]]:
    """Return the first step that fits any stored name, and the names it fits."""
    for step, choices in steps:
        for fitting in choices:
            if fitting:
                return step, fitting
    return None, []
