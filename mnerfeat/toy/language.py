"""Toy language: made-up names, sentences that hint at a wall, captions.

A name is drawn without a look at the entity's type, and a sentence likewise, so neither tells
the type; only a cue word ("the city of …") does, where a sentence has one.
"""

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Literal, TypeVar, get_args

import numpy as np

from mnerfeat.toy.drawing import DAMAGES, PATTERNS, Damage, Scene
from mnerfeat.toy.figures import KINDS, PROPS

T = TypeVar("T")

Share = Literal["train", "dev", "test", "backbones"]
SHARES: tuple[Share, ...] = get_args(Share)
"""Every name belongs to one of these for good: no world tests on a name that some world trains
on, or that the backbones have seen."""

_SHARE_BOUNDS: dict[Share, tuple[int, int]] = {
    "train": (0, 40),
    "dev": (40, 60),
    "test": (60, 80),
    "backbones": (80, 100),
}

WALL_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber", "tangerine"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald", "grassy"),
    "turquoise": ("turquoise", "teal", "aqua"),
    "blue": ("blue", "navy", "azure"),
    "purple": ("purple", "violet", "lilac"),
    "pink": ("pink", "rosy", "magenta"),
}
"""By colour of a wall, the words that a post may use for it."""

HINTS: tuple[str, ...] = (
    "by the {} wall",
    "in front of the {} wall",
    "see the {} one",
    "the {} picture says it all",
    "best seen in the {} shot",
    "look at the {} photo",
    "more in the {} pic",
    "against {} paint",
    "right at the {} door",
    "with {} behind",
)
"""How a post says which picture it means; `{}` is a word of `WALL_WORDS`."""

SENTENCES: dict[int, tuple[str, ...]] = {
    0: (
        "what a slow and quiet morning",
        "nothing to report today",
        "coffee first and then the news",
        "so tired after a long week",
        "is anybody else awake ?",
        "the rain just will not stop",
        "still waiting for the bus",
        "no plans for tonight",
    ),
    1: (
        "finally saw {} today",
        "{} is all over the news",
        "so proud of {} !",
        "everyone talks about {} now",
        "cannot get enough of {}",
        "do you remember {} ?",
        "my first time with {}",
        "this is why i love {}",
        "that was {} last night",
        "rt : more about {} soon",
        "we waited years for {}",
        "say what you want , {} is great",
    ),
    2: (
        "{} or {} , hard to choose",
        "first {} and then {}",
        "{} looks a lot like {}",
        "from {} to {} in one day",
        "nobody compares {} with {}",
        "{} and {} again this week",
    ),
}
"""By number of names, the sentences; `{}` is a name."""

CUES: dict[str, tuple[str, ...]] = {
    "PER": ("mr", "mrs", "dr", "the singer", "captain"),
    "LOC": ("the city of", "downtown", "the river", "lake", "the village of"),
    "ORG": ("the company", "the firm", "the club", "the party", "the bank"),
    "MISC": ("the film", "the song", "the game", "the novel", "the album"),
}
"""By entity type, the words that give it away when they stand before a name."""

CUED_SENTENCES: tuple[str, ...] = (
    "{} was mentioned too",
    "thanks to {} for that",
    "also heard of {}",
    "next stop {}",
    "then there is {}",
    "a word on {}",
)
"""Sentences for a name with a cue."""

OPENERS: tuple[str, ...] = ("", "", "", "", "ok ,", "wow ,", "well ,", "yes !", "today :", "news :")

DAMAGE_WORDS: dict[Damage, str] = {
    "blur": "blurry",
    "noise": "grainy",
    "dark": "dark",
    "pale": "faded",
}

_ONSETS = (*"bdfghjklmnprstvwz", "br", "dr", "gr", "kl", "pl", "sk", "st", "tr", "zh")
_VOWELS = (*"aeiou", "ai")
_CODAS = ("", "", "", "", *"klmnrstx")


def share_of(name: str) -> Share:
    """Which share a name belongs to, in every world."""
    place = zlib.crc32(name.encode()) % 100
    return next(share for share, (low, high) in _SHARE_BOUNDS.items() if low <= place < high)


def make_names(share: Share, count: int, rng: np.random.Generator) -> list[str]:
    """Different made-up words of one share, two or three syllables each."""
    names: dict[str, None] = {}
    words = set(vocabulary())
    while len(names) < count:
        name = "".join(
            pick(_ONSETS, rng) + pick(_VOWELS, rng) + pick(_CODAS, rng)
            for _ in range(int(rng.integers(2, 4)))
        )
        if share_of(name) == share and name not in words:
            names[name] = None
    return list(names)


def pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


def caption(scene: Scene, rng: np.random.Generator, *, figure: bool = True) -> str:
    """Caption a scene as a captioner would: figure (unless left out), wall, and what spoils it.

    The wall's colour is named by any of its words, not the one that a post may use.
    """
    spoilt = [DAMAGE_WORDS[name] for name in DAMAGES if dict(scene.damage).get(name, 0) >= 50]
    picture = " ".join([*spoilt, "picture"])
    wall = f"{pick(WALL_WORDS[scene.wall], rng)} {scene.pattern} wall"
    if not figure:
        things = [_with_article(thing) for thing in (picture, wall, *scene.props)]
        return "{} of {} with {} and {}".format(*things)
    things = [_with_article(thing) for thing in (picture, scene.kind, wall, *scene.props)]
    return "{} of {} before {} with {} and {}".format(*things)


def _with_article(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that toy sentences and captions can hold, names aside, sorted."""
    texts = [*HINTS, *OPENERS, *CUED_SENTENCES, *KINDS, *PROPS, *PATTERNS]
    texts += [sentence for sentences in SENTENCES.values() for sentence in sentences]
    texts += [cue for cues in CUES.values() for cue in cues]
    texts += [word for words in WALL_WORDS.values() for word in words]
    texts += [*DAMAGE_WORDS.values(), "a an picture of before wall with and"]
    return tuple(sorted({word for text in texts for word in text.split() if word != "{}"}))
