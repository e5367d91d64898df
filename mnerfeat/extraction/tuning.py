"""CLIP's towers under training, as the discriminator's embeddings (`rank train --tune-clip`).

Frozen, the embeddings lie in the cache; here the towers compute them from pixels and tokens, with
gradients. What comes of it is saved as a folder that open_clip and `extract --clip` load.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from mnerfeat.errors import ExtractionError
from mnerfeat.extraction.decoding import decode_image
from mnerfeat.extractors.clip import (
    CONFIG,
    PIXELS,
    ClipPrepare,
    ClipSource,
    find_clip,
    load_clip,
)

WEIGHTS = "open_clip_model.safetensors"

_CLIP = "clip"


@final
class TunedClip:
    """Embeddings of some texts and images by towers that are being trained.

    It is an `Embeddings` of `mnerfeat.preference`. The pixels are held in memory, (3, side, side)
    bytes an image: 150 KB at 224 pixels.

    Args:
        reference: See `find_clip`.
        texts: To be embedded, in the order of their numbers.
        images: Files to be embedded, in the order of their numbers.
        device: Where the towers run.

    Raises:
        ModelError: CLIP is not there, or cannot be loaded.
        ExtractionError: Images cannot be read; all of them are listed.
    """

    def __init__(
        self, reference: str, texts: Sequence[str], images: Sequence[Path], device: torch.device
    ) -> None:
        self._source = find_clip(reference)
        self._device = device
        self._pixels = _read(images, self._source)
        self._model, tokenizer = load_clip(self._source)
        self._model.to(device)
        self._tokens: Tensor = tokenizer(list(texts))
        self._mean, self._std = self._source.statistics(device)

    @property
    def sizes(self) -> tuple[int, int]:
        """Of a text's embedding, and of an image's."""
        return self._source.embed_dim, self._source.embed_dim

    def __call__(
        self, text: Int[Tensor, " texts"], image: Int[Tensor, " images"]
    ) -> tuple[Float[Tensor, "texts d_clip_text"], Float[Tensor, "images d_clip_image"]]:
        """The embeddings of some texts and images, not normalised."""
        pixels = torch.from_numpy(self._pixels[image.cpu().numpy()]).to(self._device)
        pixels = (pixels.float() / 255 - self._mean) / self._std
        tokens = self._tokens[text.cpu()].to(self._device)
        return self._model.encode_text(tokens), self._model.encode_image(pixels)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Of both towers; the scale of their cosine is not used here."""
        return [
            parameter
            for name, parameter in self._model.named_parameters()
            if name not in {"logit_scale", "logit_bias"}
        ]

    def train(self, mode: bool, /) -> object:
        """Train (dropout and the like), or not."""
        return self._model.train(mode)

    def save(self, folder: Path) -> None:
        """Write the towers as a model folder of open_clip."""
        folder.mkdir(parents=True)
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self._model.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS)
        source = self._source
        config: dict[str, Any] = {
            "model_cfg": {**source.model_config, "quick_gelu": source.quick_gelu},
            "preprocess_cfg": {
                name: value for name, value in source.preprocessing.items() if name != "size"
            },
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / CONFIG).write_text(text, "utf-8")
        if source.folder is not None:
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                if (source.folder / name).is_file():
                    shutil.copy(source.folder / name, folder / name)


def _read(images: Sequence[Path], source: ClipSource) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(images, 3, side, side): resized and cropped, as for extraction."""
    prepare = ClipPrepare(source.preprocessing)
    pixels, faults = [], []
    for path in images:
        result = decode_image(path, {_CLIP: prepare})
        prepared = result.prepared.get(_CLIP, result.reason or "")
        if isinstance(prepared, str):
            faults.append(f"{path}: {prepared}")
        else:
            pixels.append(prepared[PIXELS])
    if faults:
        raise ExtractionError(
            f"{len(faults):,} of the {len(images):,} ranked images cannot be read:",
            faults=faults,
            hint="name the folder that the images were extracted from with --images",
        )
    return np.stack(pixels)
