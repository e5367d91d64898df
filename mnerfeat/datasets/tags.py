"""Entity types, IOB tags, and the entities that tags encode.

Data sets name their types differently (Twitter-2015 `OTHER`, Twitter-2017 `MISC`, MNER-MI `MIS`).
Readers rename them, so the rest of the package knows the names in `TYPES` only.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple

from mnerfeat.datasets.posts import Post
from mnerfeat.errors import ConfigError, DataError

OUTSIDE = "O"
"""The tag of a word that belongs to no entity."""

TYPES = ("PER", "LOC", "ORG", "MISC")
"""The entity types of the field's data sets, in the order of their tables."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "PER": "PER",
        "PERSON": "PER",
        "LOC": "LOC",
        "LOCATION": "LOC",
        "ORG": "ORG",
        "ORGANIZATION": "ORG",
        "ORGANISATION": "ORG",
        "MISC": "MISC",
        "MIS": "MISC",
        "OTHER": "MISC",
        "MISCELLANEOUS": "MISC",
    }
)
"""The types of `TYPES` by their names in data sets, in upper case."""

Convention = Literal["lenient", "strict"]
"""How tags become entities, see `lenient_entities` and `strict_entities`."""

_TAG = re.compile(r"([BI])-(\S+)")


class Entity(NamedTuple):
    """A span of words with a type."""

    start: int
    """Index of the first word."""
    end: int
    """Index after the last word."""
    type: str
    """One of `TYPES`, or another type's own name."""


def canonical_type(name: str) -> str:
    """Return the type in `TYPES` that a name stands for, or the name itself if it is another."""
    return ALIASES.get(name.upper(), name)


def canonical_tag(tag: str) -> str:
    """Return a tag with its type named as in `TYPES`.

    Raises:
        DataError: It is not `O`, `B-` or `I-` with a type that neither begins nor ends with `-`
            and contains no white space and no invisible character.
    """
    if tag == OUTSIDE:
        return tag
    parts = _TAG.fullmatch(tag)
    if parts is None or parts[2].startswith("-") or parts[2].endswith("-"):
        raise DataError(f"the tag is {tag!r}; wanted O, B-<type> or I-<type>")
    if not tag.isprintable():
        raise DataError(f"the tag {tag!a} contains an invisible character; take it out")
    return f"{parts[1]}-{canonical_type(parts[2])}"


def lenient_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of canonical tags as `seqeval` reads them by default (conlleval's rule).

    An `I-` that continues no entity of its type begins one.
    """
    return _entities(tags, starts=lambda tag, kind, open_type: tag == "B" or kind != open_type)


def strict_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of canonical tags by IOB2 (`seqeval` with `mode="strict"`, `IOB2`).

    Only `B-` begins an entity; an `I-` that continues none of its type belongs to no entity.
    """
    return _entities(tags, starts=lambda tag, _kind, _open_type: tag == "B")


def entities(tags: Sequence[str], convention: Convention = "lenient") -> list[Entity]:
    """Return the entities of canonical tags, in order, by either convention."""
    return lenient_entities(tags) if convention == "lenient" else strict_entities(tags)


def _entities(
    tags: Sequence[str], *, starts: Callable[[str, str, str | None], bool]
) -> list[Entity]:
    found: list[Entity] = []
    begin = 0
    open_type: str | None = None
    for index, tag in enumerate((*tags, OUTSIDE)):
        kind = tag[2:]
        begins = tag != OUTSIDE and starts(tag[0], kind, open_type)
        continues = tag[0] == "I" and kind == open_type and not begins
        if open_type is not None and not continues:
            found.append(Entity(begin, index, open_type))
            open_type = None
        if begins:
            begin, open_type = index, kind
    return found


def orphans(tags: Sequence[str]) -> list[int]:
    """Return the places of `I-` tags that continue no entity of their type.

    The two conventions differ by these. They are counted as in the literature, by the tag before:
    in `O I-PER I-PER` only the first `I-PER` is an orphan.
    """
    before = (OUTSIDE, *tags)
    return [
        index
        for index, tag in enumerate(tags)
        if tag[0] == "I" and before[index] not in (tag, f"B-{tag[2:]}")
    ]


def looks_like_iob1(posts: Iterable[Sequence[str]]) -> bool:
    """Return whether tags are IOB1, in which entities begin with `I-`.

    IOB1 uses `B-` only to divide two neighbouring entities of one type; there must be an `I-` that
    begins an entity, and no `B-` elsewhere.
    """
    begun = 0
    for tags in posts:
        begun += len(orphans(tags))
        before = (OUTSIDE, *tags)
        if any(tag[0] == "B" and before[i][2:] != tag[2:] for i, tag in enumerate(tags)):
            return False
    return begun > 0


def convention_note(posts: Iterable[Sequence[str]]) -> str | None:
    """Return why strict scores against these gold tags are low, or None if they are not IOB1."""
    if not looks_like_iob1(posts):
        return None
    return (
        "The gold tags are IOB1: entities begin with I-, and B- only divides neighbours. Strict "
        "IOB2 counts none of the entities without B-, so predictions of them are wrong and strict "
        "precision is low. Read the lenient scores, or convert the tags to IOB2."
    )


def tags_of(spans: Iterable[Entity], words: int) -> tuple[str, ...]:
    """Return the tags that encode entities over a post of so many words: `B- I- I-`.

    Raises:
        DataError: An entity is empty, lies outside the words, or overlaps another.
    """
    tags = [OUTSIDE] * words
    faults = []
    for span in spans:
        if not 0 <= span.start < span.end <= words:
            faults.append(f"{span}: not within the {words} words")
        elif any(tag != OUTSIDE for tag in tags[span.start : span.end]):
            faults.append(f"{span}: overlaps another entity")
        else:
            tags[span.start] = f"B-{span.type}"
            tags[span.start + 1 : span.end] = [f"I-{span.type}"] * (span.end - span.start - 1)
    if faults:
        raise DataError("entities that cannot be written as tags", faults=faults)
    return tuple(tags)


@dataclass(frozen=True)
class TagSet:
    """The entity types of a run, in a fixed order, and the numbers of their tags.

    Tag number 0 is `O`; type number t (from 0) has `B-` = 2 t + 1 and `I-` = 2 t + 2.

    Attributes:
        types: The types, each once.
    """

    types: tuple[str, ...] = TYPES

    def __post_init__(self) -> None:
        bad = [kind for kind in self.types if not _TAG.fullmatch(f"B-{kind}")]
        if bad or not self.types or len(set(self.types)) != len(self.types):
            raise ConfigError(
                f"types = {list(self.types)!r}; wanted at least one entity type, each once,"
                " without white space"
            )

    @classmethod
    def of(cls, posts: Iterable[Post]) -> "TagSet":
        """Return the types of labelled posts: those of `TYPES` in their order, then others sorted.

        It contains all of `TYPES` if the posts have no other type, so that a model of the field's
        four types has the same tags whatever part of the data it is trained on.
        """
        seen = {tag[2:] for post in posts for tag in post.tags or () if tag != OUTSIDE}
        others = sorted(seen.difference(TYPES))
        return cls(tuple(t for t in TYPES if t in seen) + tuple(others)) if others else cls()

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The tags by number."""
        return (OUTSIDE, *(f"{tag}-{kind}" for kind in self.types for tag in "BI"))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self.tags)}

    def __len__(self) -> int:
        """Return the number of tags."""
        return len(self.tags)

    def encode(self, tags: Iterable[str]) -> list[int]:
        """Return the numbers of tags.

        Raises:
            DataError: Tags are not in the set; the message names all of them.
        """
        tags = tuple(tags)
        unknown = sorted({tag for tag in tags if tag not in self._numbers})
        if unknown:
            raise DataError(
                f"tags that are not in use: {', '.join(unknown)}; there are {', '.join(self.tags)}"
            )
        return [self._numbers[tag] for tag in tags]

    def decode(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Return the tags with some numbers.

        Raises:
            DataError: Numbers outside 0 to len − 1 (padding must be cut off before).
        """
        numbers = [int(number) for number in numbers]
        bad = sorted({number for number in numbers if not 0 <= number < len(self.tags)})
        if bad:
            raise DataError(f"tag numbers {bad}; wanted 0 to {len(self.tags) - 1}")
        return tuple(self.tags[number] for number in numbers)
