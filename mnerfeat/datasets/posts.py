"""A post: words, their tags, and the names of its images."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Post:
    """One post of a data set.

    Attributes:
        id: Unique within its split.
        words: The data set's tokens. Empty only if an unlabelled post has images alone.
        tags: One IOB tag per word (`O`, `B-PER`, `I-PER`, …) with the type names of
            `mnerfeat.datasets.tags`; None if the post is not labelled.
        images: Names of the images in the post's order, relative to the images folder, with
            `/` between folders. May be empty.
        raw: The text as the user wrote it, if the words were split from it.
        offsets: Start and end of each word in `raw`, in characters; None without `raw`.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    images: tuple[str, ...] = ()
    raw: str | None = field(default=None, compare=False, repr=False)
    offsets: tuple[tuple[int, int], ...] | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The words joined by single spaces, which CLIP and the discriminator read."""
        return " ".join(self.words)
