"""Rankings as published by the authors of GIFR: `text/preference2.txt` beside the data sets.

Their code reads the file line by line:

```
id: 5302
text: …
label: …
images: …
5302_2.jpg
inf.png
5302_0.jpg
```

A line `id:` begins a post. The lines after `images` name its images, best first; the name that
ends in `.png` is the blank image. Text and labels repeat the data set's and are not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnerfeat.preference.posts import RankablePost
from mnerfeat.preference.rankings import HUMAN, Ranking, RankingFile, ranking_faults, read_text

_ID, _OTHERS = "id:", ("images", "text:", "label:")
_BLANK = ".png"
_IMAGES = (".jpg", ".jpeg", ".webp", _BLANK)


@dataclass
class _Entry:
    line: int
    id: str
    names: list[str] = field(default_factory=list)


def parse_published(path: Path) -> RankingFile:
    """Parse the file of GIFR's authors.

    Faults are: no blank image or several, an empty ranking, duplicate images, unknown lines.

    Raises:
        DataError: The file cannot be read.
    """
    entries: list[_Entry] = []
    records: list[tuple[str, Ranking | list[str]]] = []
    for number, raw in enumerate(read_text(path).split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith(_OTHERS):
            continue
        if line.startswith(_ID):
            entries.append(_Entry(number, line.removeprefix(_ID).strip()))
        elif not line.lower().endswith(_IMAGES):
            begins = ", ".join((_ID, *_OTHERS))
            fault = f"{line[:60]!r} is not an image name and does not begin with {begins}"
            records.append((f"{path}:{number}", [fault]))
        elif not entries:
            records.append((f"{path}:{number}", [f"an image before the first line {_ID!r}"]))
        else:
            entries[-1].names.append(line)
    records += [(f"{path}:{entry.line}", _parse_entry(entry)) for entry in entries]
    return RankingFile.collect(path, records)


def identify_posts(
    rankings: Sequence[Ranking], posts: Mapping[str, Sequence[RankablePost]]
) -> tuple[Ranking, ...]:
    """Give each ranking the split and id of the post that has its images.

    The published file numbers its posts. If a number is not the data set's id, the images identify
    the post, provided that no other post has them. Other rankings are returned unchanged, and
    `match_posts` refuses them.
    """
    owners: dict[str, list[tuple[str, RankablePost]]] = {}
    for split, some in posts.items():
        for post in some:
            for name in post.images:
                owners.setdefault(name, []).append((split, post))
    identified = []
    for ranking in rankings:
        candidates = [
            (split, post)
            for split, post in owners.get(ranking.images[0], [])
            if set(ranking.images) <= set(post.images)
        ]
        candidates = [one for one in candidates if one[1].id == ranking.id] or candidates
        if len(candidates) == 1:
            ((split, post),) = candidates
            identified.append(replace(ranking, split=split, id=post.id))
        else:
            identified.append(ranking)
    return tuple(identified)


def _parse_entry(entry: _Entry) -> Ranking | list[str]:
    """Return an entry's ranking, or its faults."""
    blanks = [i for i, name in enumerate(entry.names) if name.lower().endswith(_BLANK)]
    images = [name for name in entry.names if not name.lower().endswith(_BLANK)]
    faults = list(ranking_faults(images, 0))
    if not blanks:
        faults.append(f"the blank image is missing: no line ends in {_BLANK}")
    if len(blanks) > 1:
        faults.append(f"{len(blanks)} lines end in {_BLANK}; wanted one, the blank image")
    if not entry.id:
        faults.append(f"no id follows {_ID!r}")
    if faults:
        return [f"post {entry.id!r}: {fault}" for fault in faults]
    return Ranking(id=entry.id, images=tuple(images), blank=blanks[0], source=HUMAN)
