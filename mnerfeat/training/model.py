"""Examples, batches and the training step, as the `transformers` trainer takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor, nn, tensor
from torch.utils.data import Dataset

from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.vision import VisionTable
from mnerfeat.tagger import Tagger, gold_ids, pad_ids, post_seed
from mnerfeat.text import PieceBatch, Pieces, Tokenizer

GOLD = "gold"
"""Key of the gold tags in a batch."""


class Example(NamedTuple):
    """A tokenised post."""

    post: int
    """Number in its split; selects its images."""
    seed: int
    text: Pieces
    gold: list[int]


class Examples(Dataset[Example]):
    """The posts of a split, tokenised once.

    Args:
        posts: Labelled posts.
        tagger: Tagger with the tokenizer and the tag set.
    """

    def __init__(self, posts: Sequence[Post], tagger: Tagger) -> None:
        self.texts = tagger.encoder.tokenizer([post.words for post in posts])
        self.gold = gold_ids(posts, tagger.tag_set)
        self.seeds = [post_seed(post) for post in posts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, post: int) -> Example:
        return Example(post, self.seeds[post], self.texts[post], self.gold[post])


class Collator:
    """Puts examples into a dictionary of tensors.

    Args:
        tokenizer: Tokenizer that pads the pieces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Not called `tokenizer`: the trainer would save that attribute with every checkpoint.
        self.pieces = tokenizer

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Pad the examples to one batch on the CPU."""
        pieces = self.pieces.batch([example.text for example in examples])
        return {
            # The trainer takes the first tensor's length for the number of posts.
            "number": tensor([example.post for example in examples]),
            "seed": tensor([example.seed for example in examples]),
            GOLD: pad_ids([example.gold for example in examples]),
            **pieces.tensors(),
        }


class TrainingStep(nn.Module):
    """A tagger with the images of both splits, from which a batch takes rows by index.

    Args:
        tagger: The tagger.
        train: Images of the train posts.
        dev: Images of the dev posts.
    """

    def __init__(self, tagger: Tagger, *, train: VisionTable, dev: VisionTable) -> None:
        super().__init__()
        self.tagger = tagger
        self.tables = {True: train, False: dev}

    def forward(
        self,
        number: Int[Tensor, " batch"],
        seed: Int[Tensor, " batch"],
        gold: Int[Tensor, "batch words"],
        **pieces: Any,
    ) -> Mapping[str, Tensor]:
        """Return the loss; in evaluation mode also the predicted tags, or candidates for them.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        images = self.tagger.images(self.tables[self.training], number)
        batch = PieceBatch(**pieces)
        output = self.tagger(batch, images, gold, seed=seed, decode=not self.training)
        assert output.loss is not None
        if not output.loss.isfinite():
            raise FloatingPointError(f"the loss is {output.loss.item()}")
        found = {"loss": output.loss}
        if output.candidates is not None:
            return found | {"tags": output.candidates.tags, "scores": output.candidates.scores}
        return found if output.tags is None else found | {"tags": output.tags}
