"""Text encoders: words to sub-word pieces, and pieces to one state per word.

Any encoder of the `transformers` library can be used. Weights are loaded from safetensors, or from
the older format without unpickling objects; code from a model's repository never runs.

A post longer than the encoder's positions is read in overlapping windows. Each word takes its state
from the window in which it is farthest from a cut, so no word is dropped.
"""

from mnerfeat.text.encoder import TextConfig, TextEncoder, load_tokenizer
from mnerfeat.text.pieces import PieceBatch, Pieces, TextCounts, Tokenizer

__all__ = [
    "PieceBatch",
    "Pieces",
    "TextConfig",
    "TextCounts",
    "TextEncoder",
    "Tokenizer",
    "load_tokenizer",
]
