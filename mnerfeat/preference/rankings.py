"""Rankings of a post's images, and the JSON lines file they are kept in.

```
{"id": "5302", "images": ["5302_2.jpg", "5302_0.jpg"], "blank": 1, "source": "human"}
```

`images` lists the post's images, best first. `blank` is the position of the blank image among
them: the number of images that help more than no image at all (Zhao, Huang and Lin, GIFR, section
4.1). `source` says who ranked: `human`, `proxy` for any substitute for people, or another word.
`split` (train, dev, test) is required if an id occurs in several splits, and `annotator` if
several people ranked one post. A ranking may be partial: unranked images are left out of `images`.

`text_id` and `image_ids` are SHA-256 digests of the text and of the image files that were ranked.
They are optional; if present, a post or an image that has changed since is noticed.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mnerfeat.cache.storage import beside
from mnerfeat.errors import DataError

HUMAN, PROXY, UNSTATED = "human", "proxy", "unstated"
"""Sources: people; a substitute for people; not stated in the file."""

KEYS = ("id", "images", "blank", "source", "split", "annotator", "text_id", "image_ids")
"""Keys of a record."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One ranking of one post's images.

    Attributes:
        id: Post id.
        images: Image names, best first; at least one, no duplicates.
        blank: Number of images that rank before the blank image, 0 to `len(images)`.
        source: Who ranked: `human`, `proxy`, `unstated`, or another word.
        split: Split of the post; None if the file does not say.
        annotator: Person who ranked; None if the file does not say.
        text_id: SHA-256 of the post's text when it was ranked, in hex; None if unknown.
        image_ids: SHA-256 of each image file, in hex, parallel to `images`; empty if unknown.
    """

    id: str
    images: tuple[str, ...]
    blank: int
    source: str = UNSTATED
    split: str | None = None
    annotator: str | None = None
    text_id: str | None = None
    image_ids: tuple[str, ...] = ()

    @property
    def relevant(self) -> tuple[str, ...]:
        """Images that rank before the blank image."""
        return self.images[: self.blank]

    @property
    def irrelevant(self) -> tuple[str, ...]:
        """Images that rank after the blank image."""
        return self.images[self.blank :]

    def record(self) -> dict[str, object]:
        """Return the JSON object that a file holds for this ranking."""
        optional = {
            "split": self.split,
            "annotator": self.annotator,
            "text_id": self.text_id,
            "image_ids": list(self.image_ids) or None,
        }
        return {
            "id": self.id,
            "images": list(self.images),
            "blank": self.blank,
            "source": self.source,
            **{key: value for key, value in optional.items() if value is not None},
        }

    def restricted_to(self, images: Collection[str]) -> "Ranking":
        """Return the ranking of those of its images that are in `images`."""
        kept = [place for place, name in enumerate(self.images) if name in images]
        return replace(
            self,
            images=tuple(self.images[place] for place in kept),
            blank=sum(place < self.blank for place in kept),
            image_ids=tuple(self.image_ids[place] for place in kept) if self.image_ids else (),
        )


@dataclass(frozen=True, kw_only=True)
class RankingFile:
    """The content of a file of rankings, faults included.

    Attributes:
        path: The file.
        rankings: Rankings that could be parsed.
        places: Line or task of each ranking, for messages.
        faults: Faults of the remaining records and of the file.
    """

    path: Path
    rankings: tuple[Ranking, ...]
    places: tuple[str, ...]
    faults: tuple[str, ...]

    @staticmethod
    def collect(path: Path, records: Iterable[tuple[str, Ranking | list[str]]]) -> "RankingFile":
        """Sort parsed records, each a place with a ranking or with its faults."""
        rankings: list[Ranking] = []
        places: list[str] = []
        faults: list[str] = []
        for place, found in records:
            if isinstance(found, Ranking):
                rankings.append(found)
                places.append(place)
            else:
                faults += [f"{place}: {fault}" for fault in found]
        return RankingFile(
            path=path, rankings=tuple(rankings), places=tuple(places), faults=tuple(faults)
        )

    def check(self, *more: str, hint: str | None = None) -> tuple[Ranking, ...]:
        """Return the rankings, provided that the file has no faults.

        Args:
            more: Faults found by the caller.
            hint: Next step for the user.

        Raises:
            DataError: The file has faults, among them posts ranked twice by one annotator (all
                faults are listed), or it holds no ranking.
        """
        faults = [*self.faults, *self._duplicates(), *more]
        if faults:
            raise DataError(
                f"{self.path} has {len(faults):,} {'fault' if len(faults) == 1 else 'faults'}:",
                faults=faults,
                hint=hint or "correct or remove these rankings, then repeat the command",
            )
        if not self.rankings:
            raise DataError(f"{self.path} holds no ranking")
        return self.rankings

    def _duplicates(self) -> Iterator[str]:
        first: dict[tuple[str | None, str, str | None], str] = {}
        for ranking, place in zip(self.rankings, self.places, strict=True):
            key = (ranking.split, ranking.id, ranking.annotator)
            if key in first:
                yield (
                    f"{place}: post {ranking.id!r} is ranked twice (first: {first[key]}); if "
                    "several people ranked it, add 'annotator'"
                )
            first.setdefault(key, place)


def parse_rankings(path: Path) -> RankingFile:
    """Parse a file of rankings, one JSON object a line.

    Raises:
        DataError: The file cannot be read.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return RankingFile.collect(
        path, ((f"{path}:{number}", _parse_line(line)) for number, line in lines if line.strip())
    )


def read_rankings(path: Path) -> tuple[Ranking, ...]:
    """Read a file of rankings.

    Raises:
        DataError: The file cannot be read or holds no ranking, or lines are invalid: not JSON,
            keys missing, unknown or of the wrong type, an empty ranking, duplicate images, an
            impossible blank, a post ranked twice by one annotator. All faults are listed.
    """
    return parse_rankings(path).check()


def write_rankings(rankings: Iterable[Ranking], path: Path) -> None:
    """Write a file that `read_rankings` can read, all or nothing.

    Raises:
        DataError: There is no ranking, or rankings are invalid; all of them are listed.
        StorageError: The file cannot be written; an existing one stays as it was.
    """
    rankings = tuple(rankings)
    records = ((f"post {one.id!r}", _parse_line(json.dumps(one.record()))) for one in rankings)
    RankingFile.collect(path, records).check()
    lines = (json.dumps(ranking.record(), ensure_ascii=False) for ranking in rankings)
    write_text("".join(f"{line}\n" for line in lines), path)


def count_sources(rankings: Iterable[Ranking]) -> dict[str, int]:
    """Return the number of rankings by source, sorted by source."""
    return dict(sorted(Counter(ranking.source for ranking in rankings).items()))


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start + 1})") from error


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 file, all or nothing; if `path` is a symbolic link, write its target.

    Raises:
        StorageError: The file cannot be written; an existing one stays as it was.
    """
    path = path.resolve()
    with beside(path) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")
        if path.exists():
            temporary.chmod(path.stat().st_mode)


def ranking_faults(images: Sequence[str], blank: int) -> Iterator[str]:
    """Yield the faults of a list of images, best first, and of the blank's position in it."""
    if not images:
        yield "the ranking is empty: it lists no image"
    repeated = sorted(name for name, count in Counter(images).items() if count > 1)
    if repeated:
        yield f"images are listed more than once: {', '.join(repeated)}"
    if images and not 0 <= blank <= len(images):
        yield f"'blank' is {blank}; with {len(images)} images it must be 0 to {len(images)}"


def _parse_line(line: str) -> Ranking | list[str]:
    """Return a ranking, or the faults of its record."""
    try:
        record = json.loads(line)
    except ValueError as error:
        return [f"not JSON: {error}"]
    return _parse_record(record)


def _parse_record(record: object) -> Ranking | list[str]:
    if not isinstance(record, Mapping):
        return ["not a JSON object"]
    faults = [f"unknown key {key!r}; known: {', '.join(KEYS)}" for key in record if key not in KEYS]
    post, images, blank = record.get("id"), record.get("images"), record.get("blank")
    if isinstance(post, bool) or not isinstance(post, str | int) or post == "":
        faults.append(f"'id' is {_shown(post)}; wanted a post id")
    if not _is_names(images):
        faults.append(f"'images' is {_shown(images)}; wanted a list of image names, best first")
        images = None
    if isinstance(blank, bool) or not isinstance(blank, int):
        faults.append(f"'blank' is {_shown(blank)}; wanted the blank image's position, from 0")
        blank = None
    if images is not None:
        faults += ranking_faults(images, 0 if blank is None else blank)
    words = {key: record.get(key) for key in ("source", "split", "annotator", "text_id")}
    for key, value in words.items():
        if value is not None and (not isinstance(value, str) or not value):
            faults.append(f"'{key}' is {_shown(value)}; wanted a word")
    ids = record.get("image_ids") or []
    if ids and not (_is_names(ids) and len(ids) == len(images or ids)):
        faults.append(f"'image_ids' is {_shown(ids)}; wanted one digest for each of 'images'")
    if faults or images is None or blank is None:
        return faults
    return Ranking(
        id=str(post),
        images=tuple(images),
        blank=blank,
        source=str(words["source"] or UNSTATED),
        split=words["split"],
        annotator=words["annotator"],
        text_id=words["text_id"],
        image_ids=tuple(ids),
    )


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


def _shown(value: object) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 60 else f"{text[:60]}…"
