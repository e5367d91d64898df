"""Entity types, IOB tags, and the entities that tags spell out.

Data sets name their types differently (Twitter-2015 `OTHER`, Twitter-2017 `MISC`, MNER-MI
`MIS`); everything past the readers sees the names in `TYPES`.
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
"""The tag of a word in no entity."""

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
"""Names under which data sets carry the types in `TYPES`; looked up in upper case."""

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
    """Named as in `TYPES` where it is one of them."""


def canonical_type(name: str) -> str:
    """The name in `TYPES` that `name` stands for, or `name` itself where it is another type."""
    return ALIASES.get(name.upper(), name)


def canonical_tag(tag: str) -> str:
    """`tag` with its type named as in `TYPES`.

    Raises:
        DataError: It is not `O`, `B-` or `I-` with a type that neither begins nor ends
            with `-` and holds no white space.
    """
    if tag == OUTSIDE:
        return tag
    parts = _TAG.fullmatch(tag)
    if parts is None or parts[2].startswith("-") or parts[2].endswith("-"):
        raise DataError(f"the tag is {tag!r}; wanted O, B-<type> or I-<type>")
    return f"{parts[1]}-{canonical_type(parts[2])}"


def lenient_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of canonical tags as `seqeval` reads them by default (conlleval's rule).

    An `I-` that continues no entity of its type begins one.
    """
    return _entities(tags, starts=lambda tag, kind, open_type: tag == "B" or kind != open_type)


def strict_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of canonical tags under IOB2 (`seqeval` with `mode="strict"`, `IOB2`).

    Only `B-` begins an entity; an `I-` that continues none of its type is in no entity.
    """
    return _entities(tags, starts=lambda tag, _kind, _open_type: tag == "B")


def entities(tags: Sequence[str], convention: Convention = "lenient") -> list[Entity]:
    """The entities of canonical tags, in order, under either convention."""
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
    """Where an `I-` continues no entity of its type: what the two conventions differ in.

    Counted as the literature does, by the tag before it: in `O I-PER I-PER` only the first
    `I-PER` is an orphan.
    """
    before = (OUTSIDE, *tags)
    return [
        index
        for index, tag in enumerate(tags)
        if tag[0] == "I" and before[index] not in (tag, f"B-{tag[2:]}")
    ]


def tags_of(spans: Iterable[Entity], words: int) -> tuple[str, ...]:
    """The tags that spell out entities over a post of so many words: `B- I- I-`.

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
        """The types that occur in labelled posts: those of `TYPES` in their order, others sorted.

        All of `TYPES` are in it where the posts hold no type beside them, so that a model of
        the field's four types has the same tags whatever part of the data it is trained on.
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
        """How many tags there are."""
        return len(self.tags)

    def encode(self, tags: Iterable[str]) -> list[int]:
        """Tags to numbers.

        Raises:
            DataError: Tags that are not in the set; the message names all of them.
        """
        tags = tuple(tags)
        unknown = sorted({tag for tag in tags if tag not in self._numbers})
        if unknown:
            raise DataError(
                f"tags that are not in use: {', '.join(unknown)}; there are {', '.join(self.tags)}"
            )
        return [self._numbers[tag] for tag in tags]

    def decode(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Numbers to tags.

        Raises:
            DataError: Numbers outside 0 .. len − 1 (padding must be cut off before).
        """
        numbers = [int(number) for number in numbers]
        bad = sorted({number for number in numbers if not 0 <= number < len(self.tags)})
        if bad:
            raise DataError(f"tag numbers {bad}; wanted 0 to {len(self.tags) - 1}")
        return tuple(self.tags[number] for number in numbers)
