from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.datasets import read_split
from mnerfeat.datasets.raw_text import clean_text, post_of_text, split


def words_of(text: str) -> tuple[str, ...]:
    return tuple(word.text for word in split(text))


@given(st.text())
def test_no_character_but_white_space_is_lost(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.split())
    assert all(words_of(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RT @BBC_News: rain…", ("RT", "@BBC_News", ":", "rain", "…")),
        ("see https://t.co/aB3?x=1 now", ("see", "https://t.co/aB3?x=1", "now")),
        ("it's 2-1!", ("it", "'", "s", "2", "-", "1", "!")),
        ("I ❤\ufe0f NY", ("I", "❤\ufe0f", "NY")),
        ("हिन्दी में", ("हिन्दी", "में")),
        ("👨\u200d👩!", ("👨\u200d", "👩", "!")),
        ("a\xa0b", ("a", "b")),
        ("#", ("#",)),
        ("", ()),
        ("姚明在NBA打球。", ("姚", "明", "在", "NBA", "打", "球", "。")),
        ("#北京# @李娜", ("#", "北", "京", "#", "@", "李", "娜")),
        ("看http://t.co/a1真好", ("看", "http://t.co/a1", "真", "好")),
        ("東京タワー", ("東", "京", "タ", "ワ", "ー")),
        ("서울에 가다", ("서울에", "가다")),
        ("ที่นี่", ("ที่", "นี่")),
        ("ລາວ", ("ລ", "າ", "ວ")),
        ("ភ្នំ", ("ភ្", "នំ")),
        ("မြန်", ("မြ", "န်")),
        ("\U00020000b", ("\U00020000", "b")),
    ],
)
def test_words_are_split_as_in_tweets(text: str, words: tuple[str, ...]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(("name", "share"), [("twitter2015", 0.985), ("twitter2017", 0.998)])
def test_real_words_are_left_whole(shared: Path, name: str, share: float) -> None:
    posts = read_split(shared / "data" / name, "train").posts
    words = [word for post in posts for word in post.words]
    assert sum(words_of(word) == (word,) for word in words) / len(words) > share


@given(st.text(st.characters(exclude_categories=[])))
def test_words_stand_where_their_offsets_say(text: str) -> None:
    end = 0
    for word in split(text):
        assert end <= word.start < word.end <= len(text)
        assert clean_text(text[word.start : word.end]) == word.text
        assert not text[end : word.start].strip()
        end = word.end
    assert not text[end:].strip()


@given(st.text(st.characters(exclude_categories=[])))
def test_clean_text_can_be_encoded_and_cleaning_it_again_changes_nothing(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert clean_text(cleaned) == cleaned
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


def test_text_that_no_tokenizer_takes_is_cleaned() -> None:
    assert words_of("\ud83d Obama") == ("\ufffd", "Obama")
    assert words_of(b"caf\xe9".decode("utf-8", "surrogateescape")) == ("caf", "\ufffd")
    post = post_of_text("\ud83d\ude00 \ud83d U.S.", id="1")
    assert post.words == ("😀", "\ufffd", "U", ".", "S", ".")
    assert post.offsets == ((0, 2), (3, 4), (5, 6), (6, 7), (7, 8), (8, 9))


def test_every_character_of_cmner_is_a_word(shared: Path) -> None:
    posts = read_split(shared / "data" / "cmner", "dev").posts
    spaceless = [w for post in posts for w in post.words if "\u4e00" <= w[0] <= "\u9fff"]
    assert words_of("".join(spaceless)) == tuple(spaceless)
