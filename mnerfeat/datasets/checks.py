"""What is to be known about a data set before it is trained on: `mnerfeat data check`."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sized
from itertools import combinations
from pathlib import Path

from mnerfeat.datasets.folder import SPLITS, Split, find_splits, read_folder
from mnerfeat.datasets.images import Progress, check_images
from mnerfeat.datasets.published import recognise
from mnerfeat.datasets.report import Report, SharedTexts, SplitReport
from mnerfeat.datasets.tags import OUTSIDE, TYPES, lenient_entities, orphans, strict_entities

Pieces = Callable[[str], Sized]
"""A tokenizer: a word to its pieces, without special tokens."""

_HTML = re.compile(r"&(?:[a-zA-Z]+|#\d+|#x[0-9a-fA-F]+)(?:;|$)")


def check(
    folder: Path | str,
    *,
    images: Path | str | None = None,
    pieces: Pieces | None = None,
    progress: Progress | None = None,
) -> Report:
    """Reads the splits that are in a folder and looks at everything that may be odd about them.

    Args:
        folder: As in `mnerfeat.datasets.folder.find_splits`.
        images: The images folder; every image that a post names is then decoded.
        pieces: A tokenizer; words that it turns into nothing are then counted.
        progress: Told how many images are done, and of how many.

    Raises:
        DataError: No split is there, or lines cannot be used (all are listed).
        ConfigError: The images folder is not there, or Pillow is not installed.
    """
    folder = Path(folder)
    names = tuple(find_splits(folder)) or SPLITS  # none: read_folder says what was looked for
    data = read_folder(folder, names)
    splits = tuple(_split(split, pieces) for split in data)
    recognised, differences = recognise(
        {s.name: {"posts": s.posts, **s.strict, "images": s.images} for s in splits}
    )
    types = {kind for split in splits for kind in split.lenient}
    return Report(
        folder=str(folder),
        recognised=recognised,
        differences=differences,
        splits=splits,
        absent=tuple(name for name in SPLITS if name not in names),
        other_types=tuple(sorted(types.difference(TYPES))),
        shared=tuple(_shared(data.splits.values())),
        images=None
        if images is None
        else check_images(
            (name for split in data for name in split.images), Path(images), progress
        ),
    )


def odd_characters(word: str) -> set[str]:
    """The kinds of unusual characters in a word, named as reports name them."""
    kinds = {kind for character in word if (kind := _odd(character)) is not None}
    if not word:
        kinds.add("empty word")
    elif word.isspace():
        kinds.add("only white space")
    if _HTML.search(word):
        kinds.add("HTML entity")
    return kinds


def _odd(character: str) -> str | None:
    code = ord(character)
    if code == 0xFFFD:
        return "U+FFFD"
    if 0x80 <= code <= 0x9F:
        return "C1 control"
    if 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
        return "variation selector"
    if code == 0xAD:
        return "soft hyphen"
    category = unicodedata.category(character)
    return {
        "Cc": "C0 control",
        "Cf": "zero width",
        "Co": "private use",
        "Cn": "unassigned",
        "Zl": "line separator",
        "Zp": "line separator",
        "Zs": "space",
    }.get(category)


def _split(split: Split, pieces: Pieces | None) -> SplitReport:
    posts = split.posts
    tags = [post.tags or () for post in posts]
    words = Counter(word for post in posts for word in post.words)
    odd: Counter[str] = Counter()
    for word, times in words.items():
        odd.update(dict.fromkeys(odd_characters(word), times))
    nothing = None if pieces is None else {word for word in words if not len(pieces(word))}
    return SplitReport(
        name=split.name,
        path=str(split.path),
        fingerprint=split.fingerprint,
        posts=len(posts),
        words=words.total(),
        images=sum(len(post.images) for post in posts),
        posts_by_images=dict(sorted(Counter(len(post.images) for post in posts).items())),
        strict=_by_type(entity.type for t in tags for entity in strict_entities(t)),
        lenient=_by_type(entity.type for t in tags for entity in lenient_entities(t)),
        orphans=_by_type(t[index][2:] for t in tags for index in orphans(t)),
        renamed=split.renamed,
        duplicates=len(posts) - len({post.text for post in posts}),
        odd=dict(sorted(odd.items())),
        no_pieces=None if nothing is None else sum(words[word] for word in nothing),
        no_pieces_labelled=None
        if nothing is None
        else sum(
            tag != OUTSIDE and word in nothing
            for post in posts
            for word, tag in zip(post.words, post.tags or (), strict=True)
        ),
    )


def _by_type(types: Iterable[str]) -> dict[str, int]:
    counts = Counter(types)
    order = (*TYPES, *sorted(counts.keys() - set(TYPES)))
    return {kind: counts[kind] for kind in order if kind in counts}


def _shared(splits: Iterable[Split]) -> Iterable[SharedTexts]:
    for first, second in combinations(splits, 2):
        texts = {post.text for post in first.posts}
        same = [post.id for post in second.posts if post.text in texts]
        if same:
            yield SharedTexts(
                splits=(first.name, second.name), posts=len(same), examples=tuple(same[:5])
            )
