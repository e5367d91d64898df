"""Texts about images as token states of a BERT, padded to one length (ITA; DPE-MNER, 2.2.2)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnerfeat.cache import Provenance
from mnerfeat.errors import ModelError
from mnerfeat.extractors.base import FeatureSpec, run_padded
from mnerfeat.extractors.device import Compute
from mnerfeat.extractors.loading import find_model, versions
from mnerfeat.extractors.vision import load_companion, load_whole, positive_int

logger = logging.getLogger(__name__)

_NO_PIECE = -1


class TokenStates:
    """`<name>_states` and `<name>_length`: all pieces of a text, [CLS] and [SEP] among them.

    The states are `last_hidden_state` of the model on the text alone; zero after the text's end.
    A text without a word has length 0.

    Args:
        reference: A text encoder of `transformers`: a folder, or a hub id.
        name: Of the features.
        length: Pieces that are kept; longer texts are cut, and a warning says so once.
        dtype: In which states are stored.

    Raises:
        ModelError: Where the model is not there or has no tokenizer.
    """

    def __init__(self, reference: str, *, name: str, length: int, dtype: np.dtype[Any]) -> None:
        self._files = find_model(reference, option="bert", sees=False, reads=True)
        width = positive_int(self._files.config, "hidden_size", option="bert")
        self._length = length
        self._name = name
        self._tokenizer: Any = None
        self._model: Any = None
        self._compute: Compute | None = None
        self._told = False
        self.features = {
            f"{name}_states": FeatureSpec(shape=(length, width), dtype=dtype),
            f"{name}_length": FeatureSpec(shape=(), dtype=np.dtype(np.float32)),
        }

    def provenance(self, facts: Mapping[str, Any]) -> Mapping[str, Provenance]:
        """Of both features.

        Args:
            facts: About where the texts come from.
        """
        outputs = ("last_hidden_state, padded", "pieces of the text")
        return {
            feature: Provenance(
                {
                    **facts,
                    **self._files.facts,
                    "pieces": self._length,
                    "output": output,
                    "dtype": spec.dtype.name,
                    "libraries": versions("torch", "torchvision", "transformers"),
                }
            )
            for (feature, spec), output in zip(self.features.items(), outputs, strict=True)
        }

    def load(self, compute: Compute) -> None:
        """Load tokenizer and weights, unless they are there already.

        Raises:
            ModelError: Where they do not fit.
        """
        if compute == self._compute:
            return
        self._tokenizer = load_companion(self._files, auto="AutoTokenizer", option="bert")
        model = load_whole(self._files, auto="AutoModel", option="bert")
        self._model = model.to(compute.device).eval()
        self._compute = compute

    def of(self, texts: Sequence[str], size: int) -> Mapping[str, NDArray[Any]]:
        """The features of some texts.

        Args:
            texts: One or more.
            size: How many run at once.
        """
        rows = [self._pieces(text) for text in texts]
        pieces = np.full((len(rows), self._length), _NO_PIECE, np.int64)
        for row, ids in zip(pieces, rows, strict=True):
            row[: len(ids)] = ids
        lengths = np.array([len(ids) for ids in rows], np.float32)
        states = run_padded(pieces, size, self._run)
        states[pieces == _NO_PIECE] = 0
        return dict(zip(self.features, (states, lengths), strict=True))

    def _pieces(self, text: str) -> list[int]:
        if not text.strip():
            return []
        ids: list[int] = self._tokenizer(text)["input_ids"]
        if len(ids) > self._length:
            if not self._told:
                logger.warning(
                    "%s: a text of %d pieces is cut at %d, and others may be: %s",
                    *(self._name, len(ids), self._length, text),
                )
                self._told = True
            ids = self._tokenizer(text, truncation=True, max_length=self._length)["input_ids"]
        return ids

    def _run(self, pieces: NDArray[np.int64]) -> NDArray[np.float32]:
        compute = self._compute
        assert compute is not None, "load comes first"
        # A row of nothing would attend to nothing, so it attends to one piece, and is dropped.
        mask = (pieces != _NO_PIECE) | ((pieces == _NO_PIECE).all(1, keepdims=True))
        with compute.running():
            ids = compute.put(np.where(pieces == _NO_PIECE, 0, pieces))
            output = self._model(input_ids=ids, attention_mask=compute.put(mask.astype(np.int64)))
        states = getattr(output, "last_hidden_state", None)
        if states is None or states.ndim != 3:
            raise ModelError(
                f"bert: {self._files.name} gives no token states",
                hint="name a text encoder of transformers, such as bert-base-uncased",
            )
        host: NDArray[np.float32] = states.float().cpu().numpy()
        return host
