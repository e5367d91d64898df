from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnerfeat.datasets import read_split
from mnerfeat.datasets.raw_text import words_of


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
    ],
)
def test_words_are_split_as_in_tweets(text: str, words: tuple[str, ...]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(("name", "share"), [("twitter2015", 0.985), ("twitter2017", 0.998)])
def test_real_words_are_left_whole(shared: Path, name: str, share: float) -> None:
    posts = read_split(shared / "data" / name, "train").posts
    words = [word for post in posts for word in post.words]
    assert sum(words_of(word) == (word,) for word in words) / len(words) > share
