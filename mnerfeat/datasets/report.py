"""The result of checking a data set, and its text for people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mnerfeat.datasets.images import ImageFaults
from mnerfeat.datasets.published import Difference
from mnerfeat.datasets.tags import TYPES

EXAMPLES = 10
"""Maximum number of names in a list of the text."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Counts of one split.

    Attributes:
        name: train, dev or test.
        path: Its file.
        fingerprint: See `mnerfeat.datasets.loader.fingerprint`.
        posts: Posts.
        words: Words.
        images: Images of all posts; an image of two posts counts twice.
        posts_by_images: Posts by their number of images.
        strict: Entities by type, under strict IOB2 (their `B-` tags).
        lenient: Entities by type, as seqeval counts by default.
        orphans: `I-` tags that continue nothing, by type.
        renamed: Posts with the id of an earlier post.
        duplicates: Posts with the text of an earlier post.
        odd: Words with unusual characters, by the kind of character.
        no_pieces: Words without any piece; None if no tokenizer was given.
        no_pieces_labelled: Those of them that belong to an entity.
    """

    name: str
    path: str
    fingerprint: str
    posts: int
    words: int
    images: int
    posts_by_images: Mapping[int, int]
    strict: Mapping[str, int]
    lenient: Mapping[str, int]
    orphans: Mapping[str, int]
    renamed: int
    duplicates: int
    odd: Mapping[str, int]
    no_pieces: int | None
    no_pieces_labelled: int | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Counts of a data set, and what is unusual about it.

    Attributes:
        folder: Its folder.
        recognised: The published data set with these figures, or None.
        differences: Figures that differ from the published ones.
        splits: One report for each split.
        notes: Everything unusual about the data set as a whole, one sentence each.
        images: The check of the images; None if no images folder was given.
    """

    folder: str
    recognised: str | None
    differences: tuple[Difference, ...]
    splits: tuple[SplitReport, ...]
    notes: tuple[str, ...]
    images: ImageFaults | None


def render(report: Report) -> str:
    """Return the report as plain text, for a terminal of 100 columns."""
    lines = [f"{report.folder}: {_verdict(report)}"]
    lines += [
        f"  {d.split} {d.figure}: {d.found:,}; published: {d.published:,}"
        for d in report.differences
    ]
    lines += ["", *_table(report.splits), ""]
    lines.append("Entities are B- tags (strict IOB2); lenient ones are counted as seqeval does.")
    notes = [*report.notes, *(note for split in report.splits for note in _split_notes(split))]
    lines += ["", *notes] if notes else []
    lines += ["", *_images(report.images)] if report.images else []
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if report.recognised is None:
        return "the figures are those of no published data set"
    splits = ", ".join(split.name for split in report.splits)
    same = "with all its published figures" if not report.differences else "but these differ"
    return f"this is {report.recognised} ({splits}), {same}"


def _table(splits: Iterable[SplitReport]) -> list[str]:
    splits = tuple(splits)
    types = [*TYPES, *sorted({kind for s in splits for kind in s.strict}.difference(TYPES))]
    numbers = sorted({n for s in splits for n in s.posts_by_images})
    rows: list[tuple[str, list[int]]] = [
        ("posts", [s.posts for s in splits]),
        ("words", [s.words for s in splits]),
        ("images", [s.images for s in splits]),
        *(
            (f"posts with {n} image{'s' * (n != 1)}", [s.posts_by_images.get(n, 0) for s in splits])
            for n in numbers
        ),
        *((kind, [s.strict.get(kind, 0) for s in splits]) for kind in types),
        ("entities, strict", [sum(s.strict.values()) for s in splits]),
        ("entities, lenient", [sum(s.lenient.values()) for s in splits]),
        ("I- without B-", [sum(s.orphans.values()) for s in splits]),
    ]
    lines = [f"{'':20}" + "".join(f"{s.name:>10}" for s in splits)]
    return lines + [f"{name:20}" + "".join(f"{n:>10,}" for n in row) for name, row in rows]


def _split_notes(s: SplitReport) -> Iterable[str]:
    if s.renamed:
        yield f"{s.name}: posts with an earlier one's id, named <id>#2, …: {s.renamed:,}"
    if s.duplicates:
        yield f"{s.name}: posts that repeat an earlier one's text: {s.duplicates:,}"
    if s.no_pieces:
        yield (
            f"{s.name}: words without a piece in the tokenizer's vocabulary: {s.no_pieces:,}"
            f" ({s.no_pieces_labelled:,} in entities)"
        )
    if s.odd:
        kinds = ", ".join(f"{kind} {times:,}" for kind, times in s.odd.items())
        yield f"{s.name}: words with unusual characters: {kinds}"


def _images(images: ImageFaults) -> Iterable[str]:
    yield (
        f"Images in {images.folder}: {images.named:,} named by posts, {images.readable:,} readable,"
        f" {len(images.missing):,} missing, {len(images.unreadable):,} unreadable;"
        f" files that no post names: {images.unused:,}"
    )
    if images.missing:
        yield f"  missing: {some(images.missing, len(images.missing))}"
    yield from (f"  {note}" for note in images.notes)
    for name, files in images.ambiguous[:EXAMPLES]:
        yield f"  {name} fits several files with different bytes: {some(files, len(files))}"
    yield from (f"  unreadable: {name}: {why}" for name, why in images.unreadable[:EXAMPLES])
    if len(images.unreadable) > EXAMPLES:
        yield f"  … and {len(images.unreadable) - EXAMPLES:,} more unreadable ones"


def some(names: Iterable[str], of: int) -> str:
    """Return a list of a few names, and how many more there are."""
    names = tuple(names)[:EXAMPLES]
    return ", ".join(names) + (f" and {of - len(names):,} more" if of > len(names) else "")
