"""Text encoders: words to sub-word pieces, pieces to one state a word.

Any encoder of the `transformers` library serves. Weights are loaded from safetensors, or
from the older format with unpickling switched off; code from a model's repository never runs.

A post longer than the encoder's positions is read in overlapping windows, and each word takes
its state from the window in which it stands farthest from a cut, so no word is ever dropped.
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
