"""CLIP's towers trained together with the discriminator (`rank train --tune-clip`).

The towers compute embeddings from pixels and tokens, with gradients, in place of the cache's frozen
ones. The tuned CLIP is saved as a model folder that open_clip and `extract --clip` load.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

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
from mnerfeat.preference.discriminator import Embeddings

WEIGHTS = "open_clip_model.safetensors"

_CLIP = "clip"


@final
class TunedClip(Embeddings):
    """Embeddings of some texts and images by towers under training.

    The pixels are held in memory: (3, side, side) bytes an image, 150 KB at 224 pixels.

    Args:
        reference: Model to start from; see `find_clip`.
        texts: Texts, in the order of their indices.
        images: Image files, in the order of their indices.
        ids: Identities of these files, so that no other files of the same names are used.
        device: Device of the towers.

    Raises:
        ModelError: CLIP is not available or cannot be loaded.
        ExtractionError: Images cannot be read or have other identities; all of them are listed.
    """

    def __init__(
        self,
        reference: str,
        texts: Sequence[str],
        images: Sequence[Path],
        ids: Sequence[bytes],
        device: torch.device,
    ) -> None:
        super().__init__()
        self._source = find_clip(reference)
        self._device = device
        self._pixels = _read(images, ids, self._source)
        self.model, tokenizer = load_clip(self._source)
        self.model.to(device)
        for name, parameter in self.model.named_parameters():
            # The scale of CLIP's own loss has no part in the embeddings.
            parameter.requires_grad_(name not in {"logit_scale", "logit_bias"})
        self._tokens: Tensor = tokenizer(list(texts))
        self._mean, self._std = self._source.statistics(device)

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Embeddings`."""
        return self._source.embed_dim, self._source.embed_dim

    def forward(
        self, text: Int[Tensor, " texts"], image: Int[Tensor, " images"]
    ) -> tuple[Float[Tensor, "texts d_clip_text"], Float[Tensor, "images d_clip_image"]]:
        """Return the embeddings of some texts and images, not normalised."""
        pixels = torch.from_numpy(self._pixels[image.cpu().numpy()]).to(self._device)
        pixels = (pixels.float() / 255 - self._mean) / self._std
        tokens = self._tokens[text.cpu()].to(self._device)
        return self.model.encode_text(tokens), self.model.encode_image(pixels)

    def save(self, folder: Path) -> None:
        """Write the towers to a new model folder of open_clip."""
        folder.mkdir(parents=True)
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.model.state_dict().items()
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


def _read(images: Sequence[Path], ids: Sequence[bytes], source: ClipSource) -> NDArray[np.uint8]:
    """Return (images, 3, side, side) pixels, resized and cropped as for extraction."""
    prepare = ClipPrepare(source.preprocessing)
    pixels, faults = [], []
    for path, id_ in zip(images, ids, strict=True):
        result = decode_image(path, {_CLIP: prepare})
        prepared = result.prepared.get(_CLIP, result.reason or "")
        if isinstance(prepared, str):
            faults.append(f"{path}: {prepared}")
        elif result.id != id_:
            faults.append(f"{path}: not the file that is in the cache")
        else:
            pixels.append(prepared[PIXELS])
    if faults:
        raise ExtractionError(
            f"{len(faults):,} of the {len(images):,} ranked images cannot be used:",
            faults=faults,
            hint="name the folder that the images were extracted from with --images",
        )
    return np.stack(pixels)
