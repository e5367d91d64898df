"""What a check of a data set found, and the text that shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mnerfeat.datasets.images import ImageFaults
from mnerfeat.datasets.published import Difference
from mnerfeat.datasets.tags import TYPES

EXAMPLES = 10
"""Names that a list in the text shows at most."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What one split holds.

    Attributes:
        name: train, dev or test.
        path: Its file.
        fingerprint: See `mnerfeat.datasets.folder.fingerprint`.
        posts: Posts.
        words: Words.
        images: Images of all posts; one that two posts name counts twice.
        posts_by_images: Posts by how many images they have.
        strict: Entities by type, under strict IOB2 (their `B-` tags).
        lenient: Entities by type, as seqeval counts by default.
        orphans: `I-` tags that continue nothing, by type: lenient less strict.
        renamed: Posts whose id an earlier one has.
        duplicates: Posts whose text an earlier one has.
        odd: Words that hold unusual characters, by the kind of character.
        no_pieces: Words that the tokenizer turns into nothing; None where none was given.
        no_pieces_labelled: Those of them that are part of an entity.
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
class SharedTexts:
    """Texts that two splits have in common.

    Attributes:
        splits: Their names.
        posts: Posts of the second split whose text is in the first.
        examples: Ids of the first few of them.
    """

    splits: tuple[str, str]
    posts: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a data set holds, and what is odd about it.

    Attributes:
        folder: Its folder.
        recognised: The published data set whose figures it has, or None.
        differences: Where its figures are not the published ones.
        splits: One report a split that is there.
        absent: The splits that are not there.
        other_types: Entity types beside the field's four.
        shared: Texts that splits have in common; only pairs that do.
        images: What is wrong with the images; None where no images folder was given.
    """

    folder: str
    recognised: str | None
    differences: tuple[Difference, ...]
    splits: tuple[SplitReport, ...]
    absent: tuple[str, ...]
    other_types: tuple[str, ...]
    shared: tuple[SharedTexts, ...]
    images: ImageFaults | None


def render(report: Report) -> str:
    """The report as plain text, for a terminal of 100 columns."""
    lines = [f"{report.folder}: {_verdict(report)}"]
    lines += [
        f"  {d.split} {d.figure}: {d.found:,}; published: {d.published:,}"
        for d in report.differences
    ]
    lines += ["", *_table(report.splits), ""]
    lines.append("Entities are B- tags (strict IOB2); lenient ones are counted as seqeval does.")
    lines += _oddities(report)
    if report.images is not None:
        lines += ["", *_images(report.images)]
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if report.recognised is None:
        return "the figures are those of no published data set"
    splits = ", ".join(split.name for split in report.splits)
    same = "with all its published figures" if not report.differences else "but these differ"
    return f"{report.recognised} ({splits}), {same}"


def _table(splits: Iterable[SplitReport]) -> list[str]:
    splits = tuple(splits)
    types = [*TYPES, *sorted({kind for s in splits for kind in s.strict}.difference(TYPES))]
    rows: list[tuple[str, list[int]]] = [
        ("posts", [s.posts for s in splits]),
        ("words", [s.words for s in splits]),
        ("images", [s.images for s in splits]),
        *(
            (
                f"posts with {n} image{'' if n == 1 else 's'}",
                [s.posts_by_images.get(n, 0) for s in splits],
            )
            for n in sorted({n for s in splits for n in s.posts_by_images})
        ),
        *((kind, [s.strict.get(kind, 0) for s in splits]) for kind in types),
        ("entities, strict", [sum(s.strict.values()) for s in splits]),
        ("entities, lenient", [sum(s.lenient.values()) for s in splits]),
        ("I- without B-", [sum(s.orphans.values()) for s in splits]),
    ]
    lines = [f"{'':20}" + "".join(f"{s.name:>10}" for s in splits)]
    return lines + [f"{name:20}" + "".join(f"{n:>10,}" for n in row) for name, row in rows]


def _oddities(report: Report) -> list[str]:
    lines = [f"There is no {name} split." for name in report.absent]
    if report.other_types:
        lines.append(f"Entity types beside {', '.join(TYPES)}: {', '.join(report.other_types)}")
    for s in report.splits:
        if s.renamed:
            lines.append(
                f"{s.name}: posts with an earlier one's id, named <id>#2, …: {s.renamed:,}"
            )
        if s.duplicates:
            lines.append(f"{s.name}: posts that repeat an earlier one's text: {s.duplicates:,}")
    for pair in report.shared:
        first, second = pair.splits
        lines.append(
            f"{second}: posts whose text is in {first} too: {pair.posts:,}"
            f" ({_some(pair.examples, pair.posts)})"
        )
    for s in report.splits:
        if s.no_pieces:
            lines.append(
                f"{s.name}: words that give the tokenizer nothing to read: {s.no_pieces:,}"
                f" ({s.no_pieces_labelled:,} in entities)"
            )
        if s.odd:
            kinds = ", ".join(f"{kind} {times:,}" for kind, times in s.odd.items())
            lines.append(f"{s.name}: words with unusual characters: {kinds}")
    return ["", *lines] if lines else []


def _images(images: ImageFaults) -> list[str]:
    summary = (
        f"Images in {images.folder}: {images.named:,} named by posts, {images.readable:,} readable,"
        f" {len(images.missing):,} missing, {len(images.unreadable):,} unreadable;"
        f" files that no post names: {images.unused:,}"
    )
    lines = [summary]
    if images.missing:
        lines.append(f"  missing: {_some(images.missing, len(images.missing))}")
    lines += [f"  {note}" for note in images.notes]
    lines += [
        f"  {name} fits several files with different bytes: {_some(files, len(files))}"
        for name, files in images.ambiguous[:EXAMPLES]
    ]
    lines += [f"  unreadable: {name}: {why}" for name, why in images.unreadable[:EXAMPLES]]
    if len(images.unreadable) > EXAMPLES:
        lines.append(f"  … and {len(images.unreadable) - EXAMPLES:,} more unreadable ones")
    return lines


def _some(names: Iterable[str], of: int) -> str:
    names = tuple(names)[:EXAMPLES]
    return ", ".join(names) + (f" and {of - len(names):,} more" if of > len(names) else "")
