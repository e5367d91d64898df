"""Checks of a data set before training: `mnerfeat data check`."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from itertools import combinations
from pathlib import Path

from mnerfeat.datasets.images import Progress, check_images
from mnerfeat.datasets.loader import SPLITS, DataSet, Split, read_folder
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.published import recognise
from mnerfeat.datasets.report import EXAMPLES, Report, SplitReport, some
from mnerfeat.datasets.tags import (
    OUTSIDE,
    TYPES,
    canonical_type,
    convention_note,
    lenient_entities,
    orphans,
    strict_entities,
)

Pieces = Callable[[str], Sized]
"""A tokenizer: the pieces of a word, without special tokens."""

_HTML = re.compile(r"&(?:[a-zA-Z]+|#\d+|#x[0-9a-fA-F]+)(?:;|$)")


def check(
    folder: Path | str,
    *,
    images: Path | str | None = None,
    pieces: Pieces | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read all splits in a folder and report what is unusual about them.

    Args:
        folder: As in `mnerfeat.datasets.loader.find_splits`.
        images: The images folder; if given, every image that a post names is decoded.
        pieces: A tokenizer; if given, words without any piece are counted.
        progress: Called with the number of images done, and of all images.

    Raises:
        DataError: There is no split, or lines cannot be used (all are listed).
        ConfigError: The images folder does not exist, or Pillow is not installed.
    """
    data = read_folder(folder, None)
    splits = tuple(_split(split, pieces) for split in data)
    recognised, differences = recognise(
        {s.name: {"posts": s.posts, **s.strict, "images": s.images} for s in splits}
    )
    names = (name for split in data for name in split.images)
    return Report(
        folder=str(folder),
        recognised=recognised,
        differences=differences,
        splits=splits,
        notes=tuple(_notes(data)),
        images=None if images is None else check_images(names, Path(images), progress),
    )


def entity_warnings(splits: Mapping[str, Sequence[Post]]) -> list[str]:
    """Return why scores on some splits say little about a model trained on `train`.

    Args:
        splits: Labelled posts by split; what is not there is not compared.

    Returns:
        One line for each split without any entity, and for each split with entity types that
        train lacks.
    """
    types = {
        name: {tag[2:] for post in posts for tag in post.tags or () if tag != OUTSIDE}
        for name, posts in splits.items()
    }
    lines = []
    for name, there in types.items():
        more = sorted(there - types.get("train", there))
        if not there and name == "train":
            lines.append("train has no entity, so nothing can be learned from it")
        elif not there:
            lines.append(f"{name} has no entity: its F1 is always 0 and cannot choose an epoch")
        elif more and types["train"]:
            lines.append(
                f"{name} has entity types that train lacks: {', '.join(more)}. They cannot be "
                f"learned, and lower the recall on {name}"
            )
    return lines


def odd_characters(word: str) -> set[str]:
    """Return the kinds of unusual characters in a word, as reports name them."""
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
    return {
        "Cc": "C0 control",
        "Cf": "zero width",
        "Co": "private use",
        "Cn": "unassigned",
        "Zl": "line separator",
        "Zp": "line separator",
        "Zs": "space",
    }.get(unicodedata.category(character))


def _split(split: Split, pieces: Pieces | None) -> SplitReport:
    posts = split.posts
    tags = [post.tags or () for post in posts]
    words = Counter(word for post in posts for word in post.words)
    odd: Counter[str] = Counter()
    for word, times in words.items():
        odd.update(dict.fromkeys(odd_characters(word), times))
    lost = labelled_lost = None
    if pieces is not None:
        nothing = {word for word in words if not len(pieces(word))}
        lost = sum(words[word] for word in nothing)
        labelled_lost = sum(
            tag != OUTSIDE and word in nothing
            for post in posts
            for word, tag in zip(post.words, post.tags or (), strict=True)
        )
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
        no_pieces=lost,
        no_pieces_labelled=labelled_lost,
    )


def _by_type(types: Iterable[str]) -> dict[str, int]:
    counts = Counter(types)
    order = (*TYPES, *sorted(counts.keys() - set(TYPES)))
    return {kind: counts[kind] for kind in order if kind in counts}


def _notes(data: DataSet) -> Iterable[str]:
    """Yield everything unusual about a data set as a whole."""
    yield from (f"There is no {name} split." for name in SPLITS if name not in data.splits)
    yield from entity_warnings({split.name: split.posts for split in data})
    for split in data:
        if note := convention_note([post.tags or () for post in split.posts]):
            yield f"{split.name}: {note}"
    yield from _type_notes(data)
    for first, second in combinations(data, 2):
        texts = {post.text for post in first.posts}
        if same := [post.id for post in second.posts if post.text in texts]:
            count = f"{len(same):,} ({some(same[:EXAMPLES], len(same))})"
            yield f"{second.name}: posts whose text is in {first.name} too: {count}"


def _type_notes(data: DataSet) -> Iterable[str]:
    names: dict[str, Counter[str]] = {}
    for split in data:
        for name, times in split.type_names.items():
            names.setdefault(canonical_type(name), Counter())[name] += times
    if other := sorted(names.keys() - set(TYPES)):
        yield f"Entity types beside {', '.join(TYPES)}: {', '.join(other)}"
    for kind, tags in sorted(names.items()):
        if len(tags) > 1:
            counts = ", ".join(f"{name} ({times:,} tags)" for name, times in sorted(tags.items()))
            yield f"Types read as {kind}: {counts}"
