"""What a toy world holds: its posts, their images, and the truth about both.

A post about one or two made-up names carries one to four images. One of them, the telling one,
shows the type of the names. The post hints at its wall. An image beside it is either a trap,
which has the same wall, is degraded, and shows another type, or a distractor, which has another
wall and shows another type. No two images of a post show the same type, so counting types tells
nothing: only the hint and the quality together do.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mnerfeat.datasets.posts import Post
from mnerfeat.errors import ConfigError
from mnerfeat.toy.drawing import DAMAGES, PATTERNS, WALLS, Damage, Scene
from mnerfeat.toy.figures import FIGURES, PROPS, TYPES
from mnerfeat.toy.language import (
    CUED_SENTENCES,
    CUES,
    HINTS,
    OPENERS,
    SENTENCES,
    SHARES,
    WALL_WORDS,
    Share,
    make_names,
    pick,
)

Role = Literal["telling", "trap", "distractor"]
View = Literal["grid", "regions", "caption", "tags"]
Tagged = tuple[str, str]
"""A word and its tag."""

MOST_IMAGES = len(TYPES)
"""Images of a post all show different types."""


_CHANCES = (
    "cued_only",
    "unnamed",
    "cued_too",
    "imageless",
    "traps",
    "spoilt_distractors",
    "two_names",
    "long_names",
)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How often what happens in a toy world. The defaults are those of the yardstick."""

    cued_only: float = 0.08
    """Share of the posts whose one name is given away by a cue word; their images tell nothing."""

    unnamed: float = 0.12
    """Share of the posts without a name."""

    cued_too: float = 0.12
    """Share of the other posts that hold a second sentence, about a name with a cue."""

    imageless: float = 0.3
    """Share of the cued-only and unnamed posts that have no image."""

    images: tuple[float, ...] = (0.08, 0.28, 0.34, 0.3)
    """Shares of posts with one image, with two, and so on; they add up to 1."""

    traps: float = 0.5
    """Chance that an image beside the telling one is a trap; otherwise it is a distractor."""

    spoilt_distractors: float = 0.3
    """Chance that a distractor is as degraded as a trap."""

    two_names: float = 0.3
    """Share of the posts that the images tell about which hold two names, of one type."""

    long_names: float = 0.3
    """Share of the names that have two words."""

    uses_per_name: float = 4.0
    """How often a name word comes up in a split, on average, each time with any type."""

    def __post_init__(self) -> None:
        for name in _CHANCES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"mixture.{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.cued_only + self.unnamed > 1.0:
            raise ConfigError("mixture.cued_only and mixture.unnamed add up to more than 1")
        if not 1 <= len(self.images) <= MOST_IMAGES or abs(sum(self.images) - 1.0) > 1e-9:
            raise ConfigError(
                f"mixture.images is {self.images}; it must hold 1 to {MOST_IMAGES} shares"
                " that add up to 1"
            )
        if self.uses_per_name <= 0.0:
            raise ConfigError(f"mixture.uses_per_name is {self.uses_per_name}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class ToyImage:
    """An image of a toy post.

    Attributes:
        name: File name in the images folder.
        scene: What it shows.
        role: What it is to its post.
        view: The only representation that tells its type (`mnerfeat.toy.views`); None if all do.
    """

    name: str
    scene: Scene
    role: Role
    view: View | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ToyPost:
    """A post of a toy world with the truth about it.

    Attributes:
        post: What a system sees.
        images: As in `post.images`.
        wall: The colour of the wall that the text hints at, or None without a hint.
        told: Per entity, in order, True where the images tell its type and False where a cue
            in the text does.
    """

    post: Post
    images: tuple[ToyImage, ...]
    wall: str | None
    told: tuple[bool, ...]

    def ranking(self) -> tuple[list[str], int]:
        """The images best first, and the position of the blank one among them.

        Before the blank: the image that the text hints at and that can be trusted. After it:
        the traps, then the distractors, each from the clearest to the most degraded.
        """
        order = {"telling": 0, "trap": 1, "distractor": 2}
        ranked = sorted(self.images, key=lambda i: (order[i.role], -i.scene.quality, i.name))
        return [image.name for image in ranked], sum(i.role == "telling" for i in ranked)


def plan_posts(
    count: int, *, seed: int, share: Share = "backbones", mixture: Mixture | None = None
) -> list[ToyPost]:
    """Plans the posts of one split. The same arguments give the same posts on every machine.

    Args:
        count: How many.
        seed: Any number ≥ 0.
        share: The names it draws from; also the prefix of the ids and of the image names.
        mixture: How often what happens.

    Raises:
        ConfigError: A negative count or seed, or an unknown share.
    """
    rng = split_generator(count, seed, share)
    return _Planner(share, count, rng, mixture or Mixture()).posts()


def split_generator(count: int, seed: int, share: Share, *world: int) -> np.random.Generator:
    """Return the random numbers of one split.

    Args:
        count: How many posts it will have.
        seed: Any number ≥ 0.
        share: The names that the split draws from.
        world: What tells a world's numbers from those of the first world.

    Raises:
        ConfigError: A negative count or seed, or an unknown share.
    """
    if count < 0 or seed < 0:
        raise ConfigError(f"a world of {count} posts with seed {seed}: neither may be negative")
    if share not in SHARES:
        raise ConfigError(f"unknown share '{share}'; choose from: {', '.join(SHARES)}")
    return np.random.default_rng([seed, SHARES.index(share), *world])


def make_scene(
    kind: str, wall: str, damage: tuple[tuple[Damage, int], ...], rng: np.random.Generator
) -> Scene:
    """A scene of a figure before a wall; all else at random."""
    return Scene(
        kind=kind,
        wall=wall,
        pattern=pick(PATTERNS, rng),
        props=(pick(tuple(PROPS), rng), pick(tuple(PROPS), rng)),
        size=int(rng.integers(33, 41)),
        place=(int(rng.integers(44, 57)), int(rng.integers(42, 50))),
        light=bool(rng.random() < 0.5),
        shade=int(rng.integers(-20, 21)),
        damage=damage,
        seed=int(rng.integers(2**31)),
    )


def heavy_damage(rng: np.random.Generator) -> tuple[tuple[Damage, int], ...]:
    """Too much to trust the image; its quality is at most 0.33."""
    first, second = (DAMAGES[i] for i in rng.permutation(len(DAMAGES))[:2])
    damage = [(first, int(rng.integers(75, 101)))]
    if rng.random() < 0.4:
        damage.append((second, int(rng.integers(10, 36))))
    return tuple(damage)


def light_damage(rng: np.random.Generator) -> tuple[tuple[Damage, int], ...]:
    """Little or none; the image's quality is at least 0.77."""
    if rng.random() < 0.4:
        return ()
    return ((pick(DAMAGES, rng), int(rng.integers(5, 26))),)


def assemble(
    id_: str,
    sentences: list[list[Tagged]],
    wall: str | None,
    images: list[ToyImage],
    told: list[bool],
    rng: np.random.Generator,
) -> ToyPost:
    """Put sentences together, with an opener and a hint at the wall.

    Args:
        id_: The post's id.
        sentences: Words with their tags.
        wall: The colour that the post hints at; None for no hint.
        images: The images, in order.
        told: See `ToyPost`.
        rng: Draws opener and hint.
    """
    parts = [part for sentence in sentences for part in [sentence, [(".", "O")]]][:-1]
    if wall is not None:
        hint = pick(HINTS, rng).format(pick(WALL_WORDS[wall], rng))
        hinted = [(word, "O") for word in hint.split()]
        after = bool(rng.random() < 0.7)
        parts = [*parts, [(",", "O")], hinted] if after else [hinted, [(":", "O")], *parts]
    opener = [(word, "O") for word in pick(OPENERS, rng).split()]
    tagged = [pair for part in [opener, *parts] for pair in part]
    post = Post(
        id=id_,
        words=tuple(word for word, _ in tagged),
        tags=tuple(tag for _, tag in tagged),
        images=tuple(image.name for image in images),
    )
    return ToyPost(post=post, images=tuple(images), wall=wall, told=tuple(told))


class _Planner:
    def __init__(self, share: Share, count: int, rng: np.random.Generator, mixture: Mixture):
        self.share = share
        self.count = count
        self.rng = rng
        self.mixture = mixture
        self.names = make_names(share, 20 + int(1.5 * count / mixture.uses_per_name), rng)

    def posts(self) -> list[ToyPost]:
        return [self._post(f"{self.share}-{number:05d}") for number in range(self.count)]

    def _post(self, id_: str) -> ToyPost:
        draw = self.rng.random()
        if draw < self.mixture.cued_only:
            return self._cued_post(id_)
        if draw < self.mixture.cued_only + self.mixture.unnamed:
            return self._unnamed_post(id_)
        return self._told_post(id_)

    def _told_post(self, id_: str) -> ToyPost:
        type_ = pick(TYPES, self.rng)
        names = 2 if self._chance(self.mixture.two_names) else 1
        sentences = [self._sentence(pick(SENTENCES[names], self.rng), [type_] * names)]
        told = [True] * names
        if self._chance(self.mixture.cued_too):
            # Before or after, so that neither place tells which sentence the images are about.
            if self._chance(0.5):
                sentences.append(self._cued_sentence())
                told.append(False)
            else:
                sentences.insert(0, self._cued_sentence())
                told.insert(0, False)
        wall = pick(tuple(WALLS), self.rng)
        images = self._images(id_, self._image_count(), type_, wall)
        return assemble(id_, sentences, wall, images, told, self.rng)

    def _cued_post(self, id_: str) -> ToyPost:
        # A hint would promise a telling image where there is none.
        images = self._images(id_, self._few_images(), None, None)
        return assemble(id_, [self._cued_sentence()], None, images, [False], self.rng)

    def _unnamed_post(self, id_: str) -> ToyPost:
        count = self._few_images()
        wall = pick(tuple(WALLS), self.rng) if count else None
        images = self._images(id_, count, pick(TYPES, self.rng) if count else None, wall)
        sentence = self._sentence(pick(SENTENCES[0], self.rng), [])
        return assemble(id_, [sentence], wall, images, [], self.rng)

    def _cued_sentence(self) -> list[tuple[str, str]]:
        type_ = pick(TYPES, self.rng)
        cue = pick(CUES[type_], self.rng)
        return self._sentence(pick(CUED_SENTENCES, self.rng).replace("{}", f"{cue} {{}}"), [type_])

    def _sentence(self, sentence: str, types: list[str]) -> list[tuple[str, str]]:
        left = iter(types)
        tagged = []
        for word in sentence.split():
            if word != "{}":
                tagged.append((word, "O"))
                continue
            type_ = next(left)
            length = 2 if self._chance(self.mixture.long_names) else 1
            tagged += [
                (pick(self.names, self.rng).capitalize(), f"{'I' if place else 'B'}-{type_}")
                for place in range(length)
            ]
        return tagged

    def _images(self, id_: str, count: int, type_: str | None, wall: str | None) -> list[ToyImage]:
        shown = [t for t in TYPES if t != type_]
        shown = [shown[place] for place in self.rng.permutation(len(shown))]
        planned: list[tuple[Role, Scene]] = []
        if type_ is not None and wall is not None and count:
            planned.append(("telling", self._scene(type_, wall, spoilt=False)))
        while len(planned) < count:
            other = shown.pop()
            if wall is not None and self._chance(self.mixture.traps):
                planned.append(("trap", self._scene(other, wall, spoilt=True)))
            else:
                walls = [w for w in WALLS if w != wall]
                spoilt = self._chance(self.mixture.spoilt_distractors)
                planned.append(("distractor", self._scene(other, pick(walls, self.rng), spoilt)))
        order = self.rng.permutation(count)
        return [
            ToyImage(name=f"{id_}-{place}.png", role=planned[old][0], scene=planned[old][1])
            for place, old in enumerate(order)
        ]

    def _scene(self, type_: str, wall: str, spoilt: bool) -> Scene:
        kind = pick(tuple(FIGURES[type_]), self.rng)
        damage = heavy_damage(self.rng) if spoilt else light_damage(self.rng)
        return make_scene(kind, wall, damage, self.rng)

    def _image_count(self) -> int:
        draw, passed = self.rng.random(), 0.0
        for count, chance in enumerate(self.mixture.images, start=1):
            passed += chance
            if draw < passed:
                return count
        return len(self.mixture.images)

    def _few_images(self) -> int:
        # Three at most: a post whose type is not shown has only three other types to show.
        return 0 if self._chance(self.mixture.imageless) else min(self._image_count(), 3)

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)
