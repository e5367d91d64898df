"""Words of a text that comes as one string."""

import re
import unicodedata

_WHOLE = re.compile(r"https?://\S+|[@#]\w+")


def words_of(text: str) -> tuple[str, ...]:
    """Splits a text into words in the manner of Twitter-2015.

    Links, `@names` and `#tags` stay whole, runs of letters and digits are words, and any other
    character is a word of its own (`don't` gives `don ' t`). Combining marks, variation
    selectors and joiners stay with the character before them, so scripts that need them and
    emoji survive.

    Returns:
        The words; none where the text is only white space.
    """
    words: list[str] = []
    for chunk in text.split():
        at = 0
        while at < len(chunk):
            whole = _WHOLE.match(chunk, at)
            end = whole.end() if whole else _end_of_word(chunk, at)
            words.append(chunk[at:end])
            at = end
    return tuple(words)


def _end_of_word(chunk: str, at: int) -> int:
    letters = _is_letter(chunk[at])
    end = at + 1
    while end < len(chunk) and (
        (letters and _is_letter(chunk[end])) or unicodedata.category(chunk[end])[0:2] in _JOINED
    ):
        end += 1
    return end


_JOINED = frozenset({"Mn", "Mc", "Me", "Cf"})


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_"
