"""BERT-Iterative: reasoning in steps on text alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mnerfeat.heads.base import HeadSizes
from mnerfeat.heads.dpe.config import DiffusionConfig
from mnerfeat.heads.dpe.head import DiffusionHead
from mnerfeat.heads.dpe.reasoning import TextReasoner


@dataclass(frozen=True, kw_only=True)
class IterativeConfig(DiffusionConfig):
    """Options of BERT-Iterative."""

    name: ClassVar[str] = "iterative"

    def own_faults(self) -> Iterator[str]:
        """Nothing: it has no option of its own."""
        yield from ()

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def bottleneck_tokens(self) -> int:
        """None: there is nothing to meet."""
        return 0

    def build(self, sizes: HeadSizes) -> DiffusionHead:
        """A BERT-Iterative head with fresh weights."""
        reasoner = TextReasoner(self.blocks(sizes))
        return DiffusionHead(self, reasoner, d_text=sizes.d_text, n_tags=sizes.n_tags)
