from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from mnerfeat.datasets import Post
from mnerfeat.datasets.tags import (
    ALIASES,
    TYPES,
    Entity,
    TagSet,
    canonical_tag,
    entities,
    lenient_entities,
    orphans,
    strict_entities,
    tags_of,
)
from mnerfeat.errors import ConfigError, DataError

TAGS = [
    "O",
    *(f"{tag}-{kind}" for kind in ("PER", "MISC", "event-sport", "O", "B") for tag in "BI"),
]

tag_lists = st.lists(st.sampled_from(TAGS), max_size=12)


@given(tag_lists)
def test_lenient_entities_are_those_of_seqeval(tags: list[str]) -> None:
    theirs = [Entity(start, end + 1, kind) for kind, start, end in get_entities(tags)]
    assert lenient_entities(tags) == theirs
    assert entities(tags) == theirs


@given(tag_lists)
def test_strict_entities_are_those_of_seqeval_under_iob2(tags: list[str]) -> None:
    (found,) = Entities([tags], IOB2).entities
    theirs = [Entity(entity.start, entity.end, entity.tag) for entity in found]
    assert strict_entities(tags) == theirs
    assert entities(tags, "strict") == theirs


@given(tag_lists)
def test_conventions_differ_by_one_entity_an_orphan(tags: list[str]) -> None:
    found = orphans(tags)
    assert len(lenient_entities(tags)) - len(strict_entities(tags)) == len(found)
    assert {tags[index][0] for index in found} <= {"I"}


def test_orphans_are_the_tags_that_continue_nothing() -> None:
    assert orphans(["O", "I-PER", "I-PER", "B-LOC", "I-LOC", "I-PER"]) == [1, 5]
    assert orphans(["I-LOC"]) == [0]


@st.composite
def spans(draw: st.DrawFn) -> tuple[list[Entity], int]:
    cuts = sorted(draw(st.sets(st.integers(0, 15), max_size=8)))
    words = draw(st.integers(cuts[-1] if cuts else 0, 20))
    pairs = pairwise(cuts)
    found = [Entity(a, b, draw(st.sampled_from(TYPES))) for a, b in pairs if draw(st.booleans())]
    return found, words


@given(spans())
def test_tags_spell_out_entities_under_both_conventions(case: tuple[list[Entity], int]) -> None:
    found, words = case
    tags = tags_of(reversed(found), words)
    assert len(tags) == words
    assert strict_entities(tags) == found
    assert lenient_entities(tags) == found


def test_entities_that_cannot_be_tags_are_all_named() -> None:
    faulty = [Entity(0, 2, "PER"), Entity(1, 3, "LOC"), Entity(2, 2, "ORG"), Entity(3, 6, "ORG")]
    with pytest.raises(DataError) as caught:
        tags_of(faulty, 5)
    assert len(caught.value.faults) == 3
    assert "overlaps" in caught.value.faults[0]


@pytest.mark.parametrize(
    ("given_tag", "canonical"),
    [
        ("O", "O"),
        ("B-OTHER", "B-MISC"),
        ("I-MIS", "I-MISC"),
        ("I-MISC", "I-MISC"),
        ("B-PERSON", "B-PER"),
        ("B-person", "B-PER"),
        ("B-Organisation", "B-ORG"),
        ("I-Location", "I-LOC"),
        ("B-event-sport", "B-event-sport"),
    ],
)
def test_types_are_renamed_to_those_of_the_field(given_tag: str, canonical: str) -> None:
    assert canonical_tag(given_tag) == canonical
    assert canonical_tag(canonical) == canonical


@pytest.mark.parametrize(
    "tag",
    ["", "o", "B", "B-", "X-PER", "S-PER", "B_PER", "b-PER", "B- PER", "I--PER", "B-PER-", " O"],
)
def test_what_is_no_iob_tag_is_refused(tag: str) -> None:
    with pytest.raises(DataError, match="wanted O, B-<type> or I-<type>"):
        canonical_tag(tag)


def test_every_alias_leads_to_a_type_of_the_field() -> None:
    assert set(ALIASES.values()) == set(TYPES)


def test_tag_numbers_follow_the_law_of_heads() -> None:
    tags = TagSet()
    assert len(tags) == 9
    assert tags.tags[0] == "O"
    for number, kind in enumerate(TYPES):
        assert tags.tags[2 * number + 1] == f"B-{kind}"
        assert tags.tags[2 * number + 2] == f"I-{kind}"


@given(st.lists(st.sampled_from(TagSet().tags)))
def test_encoded_tags_are_decoded_to_themselves(tags: list[str]) -> None:
    assert TagSet().decode(TagSet().encode(tags)) == tuple(tags)


def test_unknown_tags_are_all_named() -> None:
    with pytest.raises(DataError, match="B-BAND, I-CITY; there are O, B-PER"):
        TagSet().encode(["O", "I-CITY", "B-BAND", "I-CITY"])


def test_numbers_outside_the_tags_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[-100, 9\]"):
        TagSet().decode([0, 9, -100])


@pytest.mark.parametrize("types", [(), ("PER", "PER"), ("",), ("A B",)])
def test_impossible_types_are_refused(types: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="types ="):
        TagSet(types)


def test_types_of_posts_are_the_fields_four_unless_there_are_others() -> None:
    def post(*tags: str) -> Post:
        return Post(id="1", words=("a",) * len(tags), tags=tags)

    assert TagSet.of([post("O", "B-LOC")]).types == TYPES
    assert TagSet.of([post("B-song", "B-LOC"), post("B-PER", "I-band")]).types == (
        "PER",
        "LOC",
        "band",
        "song",
    )
    assert TagSet.of([Post(id="1", words=("a",))]).types == TYPES


@pytest.mark.parametrize("tag", ["B-LOC\u200b", "I-\ufeffPER", "B-LO\xadC", "B-LOC\x07"])
def test_invisible_characters_in_a_tag_are_shown(tag: str) -> None:
    with pytest.raises(DataError, match="invisible character") as caught:
        canonical_tag(tag)
    assert caught.value.what.isascii()
    assert "\\" in caught.value.what
