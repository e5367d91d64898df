"""Rankings of a post's images: what people (or a stand-in for them) prefer.

One JSON object a line:

```
{"id": "5302", "images": ["5302_2.jpg", "5302_0.jpg"], "blank": 1, "source": "human"}
```

`images` are the post's images, best first; `blank` is how many of them are worth more than no
image at all, that is the position of the blank image among them (Zhao, Huang and Lin, GIFR,
section 4.1). `source` says who ranked: `human`, `proxy` for anything that only stands in for
people, or any other word. `split` (train, dev, test) is needed where an id stands in several
splits, and `annotator` where several people ranked one post. A ranking may be partial: images
that were not ranked are left out of `images`.
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnerfeat.errors import DataError, StorageError

HUMAN, PROXY, UNSTATED = "human", "proxy", "unstated"
"""Who ranked: people; something that stands in for them; the file does not say."""

KEYS = ("id", "images", "blank", "source", "split", "annotator")
"""What a line may hold."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One ranking of one post's images.

    Attributes:
        id: Of the post.
        images: Names, best first; at least one, none twice.
        blank: Images worth more than the blank one, 0 to `len(images)`.
        source: Who ranked: `human`, `proxy`, `unstated`, or another word.
        split: Of the post, or None where the file does not say.
        annotator: Which of several people, or None.
    """

    id: str
    images: tuple[str, ...]
    blank: int
    source: str = UNSTATED
    split: str | None = None
    annotator: str | None = None

    @property
    def relevant(self) -> tuple[str, ...]:
        """The images before the blank one."""
        return self.images[: self.blank]

    @property
    def irrelevant(self) -> tuple[str, ...]:
        """The images after the blank one."""
        return self.images[self.blank :]

    def record(self) -> dict[str, object]:
        """As it stands in a file."""
        record: dict[str, object] = {
            "id": self.id,
            "images": list(self.images),
            "blank": self.blank,
            "source": self.source,
        }
        more = {"split": self.split, "annotator": self.annotator}
        return record | {key: value for key, value in more.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file of rankings holds, good and bad.

    Attributes:
        path: Of the file.
        rankings: Those that can be read.
        places: Where each of them stands, for messages.
        faults: What is wrong with the others, and with the file.
    """

    path: Path
    rankings: tuple[Ranking, ...]
    places: tuple[str, ...]
    faults: tuple[str, ...]

    def check(self, *more: str, hint: str | None = None) -> tuple[Ranking, ...]:
        """The rankings, if nothing is wrong with any of them.

        Args:
            more: Further faults.
            hint: What to do about them.

        Raises:
            DataError: With every fault, posts that are ranked twice among them; or there is no
                ranking.
        """
        faults = [*self.faults, *_repeated(self.rankings, self.places), *more]
        if faults:
            raise DataError(
                f"{self.path} holds {len(faults):,} {'fault' if len(faults) == 1 else 'faults'}:",
                faults=faults,
                hint=hint or "correct or take out these rankings, and run the command again",
            )
        if not self.rankings:
            raise DataError(f"{self.path} holds no ranking")
        return self.rankings


def read_rankings(path: Path) -> tuple[Ranking, ...]:
    """Read a file of rankings.

    Raises:
        DataError: The file cannot be read or holds no ranking, or lines cannot be used: not JSON,
            keys missing, of the wrong type or unknown, an empty ranking, an image twice, a blank
            outside the ranking, a post ranked twice by one annotator. All of them are listed.
    """
    return find_rankings(path).check()


def find_rankings(path: Path) -> Found:
    """What a file of rankings holds.

    Raises:
        DataError: The file cannot be read.
    """
    rankings: list[Ranking] = []
    places: list[str] = []
    faults: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            faults.append(f"{place}: not JSON ({error})")
            continue
        found = _ranking(record)
        if isinstance(found, Ranking):
            rankings.append(found)
            places.append(place)
        else:
            faults += [f"{place}: {fault}" for fault in found]
    return Found(path=path, rankings=tuple(rankings), places=tuple(places), faults=tuple(faults))


def write_rankings(rankings: Iterable[Ranking], path: Path) -> None:
    """Write rankings so that `read_rankings` gives them back, all or nothing.

    Raises:
        DataError: There is none, or some could not be read back; all of them are listed.
        StorageError: The file cannot be written; an older one is then left as it was.
    """
    rankings = tuple(rankings)
    faults = []
    for ranking in rankings:
        found = _ranking(ranking.record())
        if not isinstance(found, Ranking):
            faults += [f"post {ranking.id!r}: {fault}" for fault in found]
    places = tuple(f"post {ranking.id!r}" for ranking in rankings)
    Found(path=path, rankings=rankings, places=places, faults=tuple(faults)).check()
    lines = (json.dumps(ranking.record(), ensure_ascii=False) for ranking in rankings)
    write_text("".join(f"{line}\n" for line in lines), path)


def sources(rankings: Iterable[Ranking]) -> dict[str, int]:
    """How many rankings come from whom, by name."""
    found: dict[str, int] = {}
    for ranking in rankings:
        found[ranking.source] = found.get(ranking.source, 0) + 1
    return dict(sorted(found.items()))


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start + 1})") from error


def write_text(text: str, path: Path) -> None:
    """Write a file, all or nothing.

    Raises:
        StorageError: It cannot be written; an older one is then left as it was.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def ranking_faults(images: Sequence[str], blank: int) -> Iterator[str]:
    """What is wrong with images in order, and a position of the blank among them."""
    if not images:
        yield "the ranking is empty: it names no image"
    repeated = sorted({name for name in images if images.count(name) > 1})
    if repeated:
        yield f"images stand more than once: {', '.join(repeated)}"
    if images and not 0 <= blank <= len(images):
        yield f"'blank' is {blank}; {len(images)} images have positions 0 to {len(images)}"


def _ranking(record: object) -> Ranking | list[str]:
    """A ranking, or what is wrong with the record."""
    if not isinstance(record, Mapping):
        return ["no JSON object"]
    faults = [f"unknown key {key!r}; known: {', '.join(KEYS)}" for key in record if key not in KEYS]
    name, images, blank = (record.get(key) for key in KEYS[:3])
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        faults.append(f"'id' is {_kind(name)}; wanted a post's id")
    if not isinstance(images, list) or not all(isinstance(one, str) and one for one in images):
        faults.append(f"'images' is {_kind(images)}; wanted a list of image names, best first")
        images = None
    if isinstance(blank, bool) or not isinstance(blank, int):
        faults.append(f"'blank' is {_kind(blank)}; wanted the blank image's position, from 0")
        blank = None
    if images is not None:
        faults += ranking_faults(images, 0 if blank is None else blank)
    words = {key: record.get(key) for key in KEYS[3:]}
    for key, value in words.items():
        if value is not None and (not isinstance(value, str) or not value):
            faults.append(f"'{key}' is {_kind(value)}; wanted a word")
    if faults or images is None or blank is None:
        return faults
    return Ranking(
        id=str(name),
        images=tuple(images),
        blank=blank,
        source=str(words["source"] or UNSTATED),
        split=words["split"],
        annotator=words["annotator"],
    )


def _repeated(rankings: Sequence[Ranking], places: Sequence[str]) -> Iterator[str]:
    first: dict[tuple[str | None, str, str | None], str] = {}
    for ranking, place in zip(rankings, places, strict=True):
        key = (ranking.split, ranking.id, ranking.annotator)
        if key in first:
            yield (
                f"{place}: the post {ranking.id!r} is ranked twice (first: {first[key]}); give "
                "several people's rankings an 'annotator'"
            )
        else:
            first[key] = place


def _kind(value: object) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 60 else f"{text[:60]}…"
