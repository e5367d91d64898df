"""Text only: the baseline that every multimodal head has to beat."""

from dataclasses import dataclass

from torch import nn

from mnerfeat.errors import ConfigError
from mnerfeat.heads.base import HeadConfig, HeadSizes, Images, KeyValues, Words
from mnerfeat.heads.crf import CrfHead, Fused, Fusion


class TextOnly(Fusion):
    """Text encoder and CRF, the "BERT-CRF" of the literature; images are not used.

    Lample, Ballesteros, Subramanian, Kawakami and Dyer, "Neural Architectures for Named Entity
    Recognition", NAACL 2016, with a transformer in place of their LSTM:
    emissions = W h + b for the state h of each word, and a linear-chain CRF over them.

    Differs from the paper:

    - A pretrained transformer, trained along, takes the place of word and character embeddings
      and LSTM, and there is no hidden layer between its states and the emissions.
    - `dropout` is on the word states and 0.1, as in BERT; the paper's is on the LSTM's input and
      0.5.
    - Tags are BIO; the paper's are IOBES.
    - AdamW with a learning rate for each group of parameters, warm-up and decay, where the paper
      has SGD at 0.01 (docs/training.md).

    Not stated in the paper:

    - A word's state is that of its first piece (`text.pooling`); the paper's words are not split.
    """

    columns = ()

    def scalars(self) -> list[nn.Parameter]:
        """Return an empty list: there are no trainable scalars."""
        return []

    def prefix(self, images: Images) -> KeyValues | None:  # noqa: ARG002
        """Return None: there are no images."""
        return None

    def forward(self, words: Words, images: Images) -> Fused:  # noqa: ARG002
        """Return the states of the text encoder."""
        return Fused(states=words.states)


@dataclass(frozen=True, kw_only=True)
class TextOnlyConfig(HeadConfig):
    """Options of the text-only head."""

    dropout: float = 0.1
    """Dropout on the word states, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"head.text.dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def columns(self) -> tuple[str, ...]:
        """None: the head reads no images."""
        return ()

    def build(self, sizes: HeadSizes) -> CrfHead:
        """Build a text-only head with fresh weights."""
        return CrfHead(TextOnly(), d_text=sizes.d_text, n_tags=sizes.n_tags, dropout=self.dropout)
