"""A toy world in which each post's type is told by exactly one of an image's four views.

The views are what DPE-MNER reads of an image: the coarse grid (the whole picture), regions (crops
of the picture), a caption, and tags. The image that tells a post's type shows it in one of them,
and says nothing of any type in the other three:

- grid: one large figure. Otherwise four small figures, one of each type, which tell nothing
  together.
- regions: a box around the small figure of the type. Otherwise boxes around props and wall.
- caption, tags: the name of a figure of the type. Otherwise none.

Wall, props and damage are in every view. A post hints at the wall of its telling image; a
misleading image has another wall, and tells another type, in any of the views. Some entities need
no image: a cue word stands before them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mnerfeat.errors import ConfigError
from mnerfeat.toy.drawing import (
    WALLS,
    Box,
    Pixels,
    Scene,
    Thing,
    draw,
    draw_things,
    prop_things,
)
from mnerfeat.toy.figures import FIGURES, TYPES
from mnerfeat.toy.language import (
    CUED_SENTENCES,
    CUES,
    SENTENCES,
    Share,
    caption,
    make_names,
    pick,
)
from mnerfeat.toy.plan import (
    Role,
    Tagged,
    ToyImage,
    ToyPost,
    View,
    assemble,
    light_damage,
    make_scene,
    split_generator,
)

VIEWS: tuple[View, ...] = get_args(View)

PLACES = ((0.2, 0.22), (0.5, 0.2), (0.8, 0.22), (0.5, 0.58))
"""Centres of the small figures, as shares of the image's side."""
SMALL = 0.14
"""Half the side of a small figure, likewise."""
CORNER: Box = (0, 0, 6, 6)
"""A piece of wall, in pixels, XYXY."""


@dataclass(frozen=True, kw_only=True)
class ViewMixture:
    """How often what happens in a world of views."""

    world: Literal["views"] = "views"
    """Name of the world."""

    entities: tuple[float, ...] = (0.35, 0.3, 0.2, 0.15)
    """Shares of posts with one entity, with two, and so on; they add up to 1."""

    lengths: tuple[float, ...] = (0.5, 0.3, 0.2)
    """Shares of entities of one word, of two, and so on; they add up to 1."""

    easy: float = 0.35
    """Share of the entities whose type a cue word in the text tells; an image tells the others."""

    misleading: float = 0.4
    """Share of the posts with an irrelevant image, which shows another type."""

    uses_per_name: float = 4.0
    """Average number of uses of a name word in a split, each with any type."""

    def __post_init__(self) -> None:
        for name in ("easy", "misleading"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"mixture.{name} is {getattr(self, name)}; it must be in [0, 1]")
        for name in ("entities", "lengths"):
            shares = getattr(self, name)
            if not shares or abs(sum(shares) - 1.0) > 1e-9 or min(shares) < 0:
                raise ConfigError(f"mixture.{name} is {shares}; its shares must add up to 1")
        if self.uses_per_name <= 0.0:
            raise ConfigError(f"mixture.uses_per_name is {self.uses_per_name}; it must be above 0")


def plan_view_posts(
    count: int, *, seed: int, share: Share, mixture: ViewMixture | None = None
) -> list[ToyPost]:
    """Plan the posts of one split. The same arguments give the same posts on every machine.

    Args:
        count: Number of posts.
        seed: Any number ≥ 0.
        share: The names it draws from; also the prefix of the ids and of the image names.
        mixture: How often what happens.

    Raises:
        ConfigError: A negative count or seed, or an unknown share.
    """
    rng = split_generator(count, seed, share, 1)
    planner = _Planner(share, count, rng, mixture or ViewMixture())
    return [planner.post(f"{share}-{number:05d}") for number in range(count)]


class _Planner:
    def __init__(
        self, share: Share, count: int, rng: np.random.Generator, mixture: ViewMixture
    ) -> None:
        self.rng = rng
        self.mixture = mixture
        self.names = make_names(share, 20 + int(4 * count / mixture.uses_per_name), rng)

    def post(self, id_: str) -> ToyPost:
        """Plan a post: sentences about its entities, and its images."""
        rng = self.rng
        type_ = pick(TYPES, rng)
        count = 1 + int(rng.choice(len(self.mixture.entities), p=self.mixture.entities))
        easy = sum(rng.random() < self.mixture.easy for _ in range(count))
        parts = [(self._cued_sentence(), [False]) for _ in range(easy)]
        hard = count - easy
        while hard:
            names = min(hard, 1 + int(rng.random() < 0.5))
            sentence = self._sentence(pick(SENTENCES[names], rng), [type_] * names)
            parts.append((sentence, [True] * names))
            hard -= names
        parts = [parts[place] for place in rng.permutation(len(parts))]
        told = [one for _, each in parts for one in each]
        wall = pick(tuple(WALLS), rng) if any(told) else None
        images = []
        if wall is not None:
            images.append(self._image("telling", type_, wall))
        if rng.random() < self.mixture.misleading:
            other = pick([one for one in TYPES if one != type_], rng)
            images.append(
                self._image("distractor", other, pick([w for w in WALLS if w != wall], rng))
            )
        images = [images[place] for place in rng.permutation(len(images))]
        named = [
            ToyImage(name=f"{id_}-{place}.png", role=role, scene=scene, view=view)
            for place, (role, scene, view) in enumerate(images)
        ]
        return assemble(id_, [sentence for sentence, _ in parts], wall, named, told, rng)

    def _image(self, role: Role, type_: str, wall: str) -> tuple[Role, Scene, View]:
        kind = pick(tuple(FIGURES[type_]), self.rng)
        scene = make_scene(kind, wall, light_damage(self.rng), self.rng)
        return role, scene, pick(VIEWS, self.rng)

    def _cued_sentence(self) -> list[Tagged]:
        type_ = pick(TYPES, self.rng)
        cue = pick(CUES[type_], self.rng)
        return self._sentence(pick(CUED_SENTENCES, self.rng).replace("{}", f"{cue} {{}}"), [type_])

    def _sentence(self, sentence: str, types: list[str]) -> list[Tagged]:
        left = iter(types)
        tagged = []
        for word in sentence.split():
            if word != "{}":
                tagged.append((word, "O"))
                continue
            type_ = next(left)
            length = 1 + int(self.rng.choice(len(self.mixture.lengths), p=self.mixture.lengths))
            tagged += [
                (pick(self.names, self.rng).capitalize(), f"{'I' if place else 'B'}-{type_}")
                for place in range(length)
            ]
        return tagged


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """An image, and what a captioner and a detector say of it.

    Attributes:
        pixels: (height, width, 3) uint8 RGB.
        caption: A sentence.
        tags: Five labels, best first.
        boxes: Three boxes in pixels, XYXY, best first.
        labels: The label of each box.
    """

    pixels: Pixels
    caption: str
    tags: tuple[str, ...]
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]


def render(image: ToyImage) -> Rendered:
    """Draw an image, and describe it; if it has a view, that alone tells its type."""
    scene, view = image.scene, image.view
    walls = (f"{scene.wall} wall", f"{scene.pattern} wall")
    rng = np.random.default_rng([scene.seed, 1])
    if view is None:
        pixels, found = draw(scene)
        labels = tuple(name for name, _ in found)
        text, tags = caption(scene, rng), (*labels, *walls)
    else:
        pixels, objects = draw_things(scene, [*_figures(scene, view, rng), *prop_things(scene)])
        found = [objects[0] if view == "regions" else ("wall", CORNER), *objects[-2:]]
        found = [found[place] for place in rng.permutation(len(found))]
        labels = ("thing",) * len(found)
        text = caption(scene, rng, figure=view == "caption")
        tags = (scene.kind if view == "tags" else "wall", *scene.props, *walls)
    boxes = tuple(box for _, box in found)
    return Rendered(pixels=pixels, caption=text, tags=tags, boxes=boxes, labels=labels)


def _figures(scene: Scene, view: View, rng: np.random.Generator) -> list[Thing]:
    """Choose the figures of a picture; the one of the scene's kind comes first."""
    if view == "grid":
        return [(scene.kind, 0.5, 0.42, 0.36)]
    others = [pick(tuple(FIGURES[type_]), rng) for type_ in TYPES if type_ != scene.type]
    places = [PLACES[place] for place in rng.permutation(len(PLACES))]
    kinds = [scene.kind, *others]
    return [(kind, x, y, SMALL) for kind, (x, y) in zip(kinds, places, strict=True)]
