"""The rule for names of images, against the order of steps that the docs state."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.cache import FeatureCache
from mnerfeat.cache.names import normalise_name, resolve_names, unicode_form
from mnerfeat.errors import CacheLookupError
from tests.cache.builders import put_numbered

part = (
    st.lists(
        st.sampled_from(["a", "b", "1", ".", "é", "e\u0301", "ü", "u\u0308", "가", "\u1100\u1161"]),
        min_size=1,
        max_size=3,
    )
    .map("".join)
    .filter(lambda text: text.strip("."))
)
path = st.lists(part, min_size=1, max_size=3).map("/".join)
stored_names = st.lists(path, max_size=8, unique=True)


def spelled(draw: st.DrawFn, name: str) -> str:
    """The same relative name in another spelling of step 1."""
    name = name.replace("/", draw(st.sampled_from(["/", "//", "/./", "/x/../", "\\"])))
    return draw(st.sampled_from(["", "./", ".//"])) + name


@given(stored_names, st.data())
def test_a_stored_name_in_any_spelling_leads_to_itself(
    stored: list[str], data: st.DataObject
) -> None:
    asked = {data.draw(st.composite(spelled)(name)): name for name in stored}
    found = resolve_names(asked, stored)
    assert found.found == asked
    assert not found.steps
    assert not found.ambiguous
    assert not found.missing
    assert found.notes() == []


@given(stored_names, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_unicode_forms_meet_from_either_side(stored: list[str], disk: str, posts: str) -> None:
    stored = list(dict.fromkeys(unicodedata.normalize(disk, name) for name in stored))
    asked = {unicodedata.normalize(posts, name): name for name in stored}
    found = resolve_names(asked, stored)
    assert found.found == asked
    assert found.steps == {name: "unicode" for name, there in asked.items() if name != there}


@given(stored_names, stored_names, st.booleans())
def test_resolving_agrees_with_looking_at_every_pair(
    stored: list[str], asked: list[str], namesakes: bool
) -> None:
    """Nothing is found by a weaker step than it need be, and nothing doubtful is found at all."""
    found = resolve_names(asked, stored, namesakes=namesakes)
    for name in asked:
        same_form = [s for s in stored if unicode_form(s) == unicode_form(name)]
        ending = [
            s for s in stored if f"/{unicode_form(s)}".endswith(f"/{unicode_form(name)}")
        ] * namesakes
        fitting = [name] if name in stored else same_form or ending
        if len(fitting) == 1:
            assert found.found[name] == fitting[0]
            assert (name in found.steps) == (fitting[0] != name)
        elif fitting:
            assert found.ambiguous[name] == tuple(sorted(fitting))
        else:
            assert name in found.missing
    groups = [*found.found, *found.ambiguous, *found.missing]
    assert sorted(groups) == sorted(asked)


@given(st.text())
def test_normalising_a_name_twice_changes_nothing(name: str) -> None:
    assert normalise_name(normalise_name(name)) == normalise_name(name)


@pytest.mark.parametrize(
    ("name", "stored", "found"),
    [
        ("/data/images/1.jpg", ["1.jpg"], "1.jpg"),
        ("/data/images/sub/1.jpg", ["1.jpg", "sub/1.jpg"], "sub/1.jpg"),
        ("/other/1.jpg", ["sub/1.jpg"], "sub/1.jpg"),
        ("../images/1.jpg", ["1.jpg"], "1.jpg"),
        (r"C:\photos\1.jpg", ["1.jpg"], "1.jpg"),
        ("sub/1.jpg", ["1.jpg", "other/1.jpg"], None),
        (r"a\b.jpg", [r"a\b.jpg", "a/b.jpg"], r"a\b.jpg"),
        ("", ["1.jpg"], None),
        ("1.JPG", ["1.jpg"], None),
    ],
)
def test_the_rule_in_examples(name: str, stored: list[str], found: str | None) -> None:
    resolution = resolve_names([name], stored, folder=Path("/data/images"))
    assert resolution.found.get(name) == found
    assert (name in resolution.steps) == (
        name in {"/other/1.jpg", "../images/1.jpg"} or "C:" in name
    )


def test_other_names_come_before_namesakes_and_are_reported() -> None:
    def other_names(name: str) -> Sequence[str]:
        return (name.removeprefix("x-"),)

    stored = ["1.jpg", "images/x-1.jpg", "images/2.jpg"]
    found = resolve_names(["x-1.jpg", "x-2.jpg"], stored, other_names=other_names)
    assert found.found == {"x-1.jpg": "1.jpg", "x-2.jpg": "images/2.jpg"}
    assert found.steps == {"x-1.jpg": "archive", "x-2.jpg": "namesake"}
    assert len(found.notes()) == 2


def test_several_fitting_names_of_the_same_bytes_are_one_image() -> None:
    asked: list[Sequence[str]] = []

    def same(names: Sequence[str]) -> bool:
        asked.append(sorted(names))
        return True

    found = resolve_names(["1.jpg"], ["b/1.jpg", "a/1.jpg"], same=same)
    assert found.found == {"1.jpg": "a/1.jpg"}
    assert asked == [["a/1.jpg", "b/1.jpg"]]


def test_rows_take_other_spellings_but_only_name_a_namesake(tmp_path: Path) -> None:
    put_numbered(tmp_path / "features.h5", [1, 2])
    cache = FeatureCache(tmp_path / "features.h5")
    assert (cache.rows([r".\1.jpg", "./2.jpg"]) == cache.rows(["1.jpg", "2.jpg"])).all()
    with pytest.raises(CacheLookupError, match="does not contain 2 of the 3 images") as caught:
        cache.rows(["1.jpg", "/images/2.jpg", "3.jpg"])
    assert caught.value.faults == ("/images/2.jpg (there is 2.jpg)", "3.jpg")
