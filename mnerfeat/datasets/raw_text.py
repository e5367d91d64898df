"""Raw text: its clean-up, its words, and where they stand in it."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from mnerfeat.datasets.posts import Post

_SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
)
"""Scripts written without spaces between words."""

_SPACELESS_CHARACTER = re.compile(f"[{_SPACELESS}]")
_WHOLE = re.compile(rf"https?://[^\s{_SPACELESS}]+|[@#](?:(?![{_SPACELESS}])\w)+")
_JOINED = frozenset({"Mn", "Mc", "Me", "Cf"})
"""Categories of characters that belong to the character before them."""


class Word(NamedTuple):
    """A word of a text."""

    text: str
    """The word."""
    start: int
    """Place of its first character in the text."""
    end: int
    """Place after its last character."""


def clean_text(text: str) -> str:
    r"""Return text that every tokenizer and file accepts.

    Surrogate pairs (`"\ud83d\ude00"`) become the character that they encode. A single surrogate
    becomes U+FFFD; Python also uses them for bytes of the command line that are not UTF-8.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def split(text: str) -> tuple[Word, ...]:
    """Split a text into words in the manner of Twitter-2015.

    Links, `@names` and `#tags` are words, and so are runs of letters and digits. Every other
    character is a word of its own (`don't` gives `don ' t`), and so is every character of
    scripts without spaces: Chinese as BERT splits it, Japanese kana, Thai, Lao, Khmer, Burmese.
    Combining marks, variation selectors and joiners stay with the character before them.

    Args:
        text: Any text; it is cleaned by `clean_text`.

    Returns:
        The words with their places in `text` as given; none if it is only white space.
    """
    cleaned = clean_text(text)
    places = _places(text, cleaned)
    words = []
    for chunk in re.finditer(r"\S+", cleaned):
        at = chunk.start()
        while at < chunk.end():
            whole = _WHOLE.match(cleaned, at, chunk.end())
            end = whole.end() if whole else _end_of_word(cleaned, at, chunk.end())
            words.append(Word(cleaned[at:end], places[at], places[end]))
            at = end
    return tuple(words)


def post_of_text(text: str, *, id: str, images: tuple[str, ...] = ()) -> Post:  # noqa: A002
    """Return an unlabelled post whose words are those of a raw text."""
    words = split(text)
    return Post(
        id=id,
        words=tuple(word.text for word in words),
        images=images,
        raw=text,
        offsets=tuple((word.start, word.end) for word in words),
    )


def _places(text: str, cleaned: str) -> range | list[int]:
    """Return where each cleaned character, and the end, stands in the text."""
    if len(text) == len(cleaned):
        return range(len(text) + 1)
    return list(_starts(text, cleaned))


def _starts(text: str, cleaned: str) -> Iterator[int]:
    at = 0
    for character in cleaned:
        yield at
        at += 1 if text[at] == character or character == "\ufffd" else 2
    yield at


def _end_of_word(text: str, at: int, end: int) -> int:
    letters = _is_letter(text[at])
    at += 1
    while at < end and (
        (letters and _is_letter(text[at])) or unicodedata.category(text[at]) in _JOINED
    ):
        at += 1
    return at


def _is_letter(character: str) -> bool:
    return (character.isalnum() or character == "_") and not _SPACELESS_CHARACTER.match(character)
