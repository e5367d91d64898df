"""The rankings as the authors of GIFR share them: `text/preference2.txt` beside the data sets.

Their public code reads the file line by line:

```
id: 5302
text: …
label: …
images: …
5302_2.jpg
inf.png
5302_0.jpg
```

A line `id: ` begins a post; the lines after `images` name its images, best first; the one that
ends in `.png` is the blank image. Text and labels are those of the data set and are not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnerfeat.preference.matching import RankablePost
from mnerfeat.preference.rankings import (
    HUMAN,
    Found,
    Ranking,
    ranking_faults,
    read_text,
)

_ID, _IMAGES, _OTHERS = "id:", "images", ("text:", "label:")
_BLANK = ".png"
_SUFFIXES = (".jpg", ".jpeg", ".webp", _BLANK)


@dataclass
class _Entry:
    line: int
    id: str
    names: list[str] = field(default_factory=list)


def read_published(path: Path) -> tuple[Ranking, ...]:
    """Read the rankings of GIFR's authors.

    Raises:
        DataError: The file cannot be read or holds no ranking, or entries cannot be used: no
            blank image or several, an empty ranking, an image twice, lines of another format, a
            post ranked twice. All of them are listed.
    """
    return find_published(path).check()


def find_published(path: Path) -> Found:
    """What the file of GIFR's authors holds; see `read_published`.

    Raises:
        DataError: The file cannot be read.
    """
    entries: list[_Entry] = []
    faults: list[str] = []
    for number, raw in enumerate(read_text(path).split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith((_IMAGES, *_OTHERS)):
            continue
        if line.startswith(_ID):
            entries.append(_Entry(number, line.removeprefix(_ID).strip()))
        elif not line.lower().endswith(_SUFFIXES):
            faults.append(
                f"{path}:{number}: {line[:60]!r} is no image's name and begins with none of "
                f"{', '.join((_ID, *_OTHERS, _IMAGES))}"
            )
        elif not entries:
            faults.append(f"{path}:{number}: an image before the first line {_ID!r}")
        else:
            entries[-1].names.append(line)
    rankings, places = [], []
    for entry in entries:
        place = f"{path}:{entry.line}"
        found = _ranking(entry)
        if isinstance(found, Ranking):
            rankings.append(found)
            places.append(place)
        else:
            faults += [f"{place}: post {entry.id!r}: {fault}" for fault in found]
    return Found(path=path, rankings=tuple(rankings), places=tuple(places), faults=tuple(faults))


def with_splits(
    rankings: Sequence[Ranking], posts: Mapping[str, Sequence[RankablePost]]
) -> tuple[Ranking, ...]:
    """The same rankings, each told the split and the id of the post that has its images.

    The file numbers its posts; where that number is not the data set's id, the images tell which
    post is meant, for no other post has them. What cannot be told is left as it is, for
    `match` to refuse.
    """
    owners: dict[str, list[tuple[str, RankablePost]]] = {}
    for split, some in posts.items():
        for post in some:
            for name in post.images:
                owners.setdefault(name, []).append((split, post))
    told = []
    for ranking in rankings:
        fitting = [
            (split, post)
            for split, post in owners.get(ranking.images[0], [])
            if set(ranking.images) <= set(post.images)
        ]
        same = [one for one in fitting if one[1].id == ranking.id] or fitting
        if len(same) == 1:
            split, post = same[0]
            told.append(replace(ranking, split=split, id=post.id))
        else:
            told.append(ranking)
    return tuple(told)


def _ranking(entry: _Entry) -> Ranking | list[str]:
    blanks = [i for i, name in enumerate(entry.names) if name.lower().endswith(_BLANK)]
    images = [name for name in entry.names if not name.lower().endswith(_BLANK)]
    faults = list(ranking_faults(images, 0))
    if len(blanks) != 1:
        faults.append(
            f"{len(blanks)} lines end in {_BLANK}; one is wanted, the blank image"
            if blanks
            else f"the blank image is missing: no line ends in {_BLANK}"
        )
    if not entry.id:
        faults.append(f"nothing stands after {_ID!r}")
    if faults:
        return faults
    return Ranking(id=entry.id, images=tuple(images), blank=blanks[0], source=HUMAN)
