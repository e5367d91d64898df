"""A post: words, their tags, and the names of its images."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Post:
    """One post of a data set.

    Attributes:
        id: Unique within its split.
        words: The tokens as the data set gives them, never empty.
        tags: One IOB tag a word (`O`, `B-PER`, `I-PER`, …) with the types named as in
            `mnerfeat.datasets.tags`, or None where the post is not labelled.
        images: Names of the images, in the post's order, as the data set gives them
            (relative to the images folder, `/` between folders). May be empty.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    images: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words joined by single spaces: what CLIP and the discriminator read."""
        return " ".join(self.words)
