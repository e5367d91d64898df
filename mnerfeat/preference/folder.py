"""The discriminator's folder: all that is needed to use it, and what it was made from.

```
discriminator/
  discriminator.json   options, scores, the rankings and posts it learned from, its CLIP
  model.safetensors    its weights, and the blank image's embedding
  clip/                CLIP as it was tuned, where it was: an open_clip model folder
```

It is written beside its place and renamed there whole.
"""

import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mnerfeat import __version__
from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError, ProvenanceError, RunError, StorageError
from mnerfeat.preference.discriminator import Discriminator, DiscriminatorConfig
from mnerfeat.preference.measuring import RankingScores

FORMAT_VERSION = 1
"""Of the folder; raised when an older mnerfeat could no longer read it."""

RECIPE = 1
"""Goes up when the same discriminator gives other rewards than before."""

DEFAULT = Path("discriminator")
"""Where it is looked for."""

MANIFEST, WEIGHTS, CLIP = "discriminator.json", "model.safetensors", "clip"


def reward_command(folder: Path, *, replace: bool = False, tuned_clip: bool = False) -> str:
    """What to type for the rewards of a discriminator.

    Args:
        folder: The discriminator's.
        replace: Make them anew.
        tuned_clip: Make the embeddings anew too, with the CLIP in the folder.
    """
    words = ["mnerfeat extract --features", "clip,reward" if tuned_clip else "reward"]
    words += [f"--clip {folder / CLIP}"] * tuned_clip
    words += ["--replace"] * (replace or tuned_clip)
    words += [f"--discriminator {folder}"] * (folder != DEFAULT)
    return " ".join(words)


_PASSING = frozenset({"dtype", "numerics", "libraries", "extractor", "model"})
"""Facts about CLIP embeddings that may differ: rounding, and what a folder is called."""


def library_versions() -> dict[str, str]:
    """Versions of what decides about a discriminator's numbers."""
    return {
        "python": platform.python_version(),
        "mnerfeat": __version__,
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


@dataclass(frozen=True, kw_only=True)
class SavedDiscriminator:
    """What a folder holds, the weights aside.

    Attributes:
        network: The discriminator's options.
        sizes: Of a text's and of an image's embedding.
        training: The options of training.
        rankings: Where they came from: their sources with counts, and a SHA-256 of those used.
        learned_from: Per split, ids of the posts whose rankings were used, held-out ones among
            them: D_dis.
        held_out: Per split, ids of the posts held out.
        text_ids: SHA-256, in hex, of the texts of `learned_from`.
        clip: What made the embeddings: facts by feature, `clip_text` and `clip_image`.
        blank: What the blank image is.
        scores: `fitted` and `held_out`, as `RankingScores`; `clip_similarity`: what the cosine
            of the embeddings scores on the rankings held out; `temperature`, and the
            `calibration_error_after` it.
        weights_sha256: Of `model.safetensors`.
        tuned_clip: Whether CLIP was trained too.
        versions: Of the libraries that trained it.
        created: UTC, ISO 8601.
        format_version: Of the folder.
    """

    network: Mapping[str, Any]
    sizes: tuple[int, int]
    training: Mapping[str, Any]
    rankings: Mapping[str, Any]
    learned_from: Mapping[str, tuple[str, ...]]
    held_out: Mapping[str, tuple[str, ...]]
    text_ids: tuple[str, ...]
    clip: Mapping[str, Mapping[str, Any]]
    blank: str
    scores: Mapping[str, Any]
    weights_sha256: str = ""
    tuned_clip: bool = False
    versions: Mapping[str, str] = field(default_factory=library_versions)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    format_version: int = FORMAT_VERSION

    @property
    def sources(self) -> Mapping[str, int]:
        """Who ranked, with how many rankings."""
        return dict(self.rankings["sources"])

    @property
    def held_out_scores(self) -> RankingScores | None:
        """On the rankings held out."""
        found = self.scores.get("held_out")
        return None if found is None else RankingScores.from_json(found)

    def reward_provenance(self, clip_text: Provenance, clip_image: Provenance) -> Provenance:
        """What made rewards of certain embeddings.

        Args:
            clip_text: Of the texts' embeddings.
            clip_image: Of the images'.
        """
        return Provenance(
            {
                "extractor": "reward",
                "recipe": RECIPE,
                "discriminator": self.weights_sha256,
                "blank": self.blank,
                "rankings": dict(self.rankings),
                "learned_from": {split: len(ids) for split, ids in self.learned_from.items()},
                "drawn_by": {name: self.training.get(name) for name in ("seed", "share")},
                "clip_text": clip_text.digest,
                "clip_image": clip_image.digest,
            }
        )

    def require_clip(self, feature: str, held: Provenance, *, where: str) -> None:
        """Make sure that embeddings come from the CLIP that the discriminator learned with.

        Args:
            feature: `clip_text` or `clip_image`.
            held: What made the embeddings at hand.
            where: What holds them, for the message.

        Raises:
            ProvenanceError: They come from another model; it shows every fact that differs.
        """
        mine = clip_identity(self.clip[feature])
        theirs = clip_identity(held.facts)
        if mine != theirs:
            raise ProvenanceError(
                f"{feature} in {where} was made by another CLIP than the discriminator learned "
                "with (what it holds, not what is needed):",
                faults=Provenance(theirs).differences(Provenance(mine)),
                hint=(
                    "`mnerfeat extract --features clip --clip DISCRIMINATOR/clip --replace` "
                    "makes the embeddings with the CLIP that was tuned"
                    if self.tuned_clip
                    else "train the discriminator on these embeddings: `mnerfeat rank train "
                    "--replace`"
                ),
            )


def clip_identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one CLIP from another, of the facts about its embeddings."""
    return {name: fact for name, fact in facts.items() if name not in _PASSING}


def save_discriminator(
    folder: Path,
    saved: SavedDiscriminator,
    discriminator: Discriminator,
    blank: NDArray[np.floating],
    *,
    replace: bool = False,
    save_clip: Callable[[Path], object] | None = None,
) -> SavedDiscriminator:
    """Write a discriminator's folder, all or nothing.

    Args:
        folder: Where; it must not be there yet, unless it is to be replaced.
        saved: What to say of it; the hash of the weights is filled in.
        discriminator: Its weights.
        blank: (d_clip_image,): the blank image's embedding.
        replace: Take the place of a discriminator that is there.
        save_clip: Writes the tuned CLIP into the folder it is given.

    Returns:
        What was written.

    Raises:
        RunError: Something is there already.
        StorageError: The folder cannot be written.
    """
    check_free(folder, replace=replace)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in discriminator.state_dict().items()
    }
    weights["blank"] = torch.from_numpy(np.asarray(blank, np.float32).copy())
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS)
        digest = hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest()
        whole = asdict(saved) | {"weights_sha256": digest}
        if save_clip:
            save_clip(partial / CLIP)
        text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (partial / MANIFEST).write_text(text, "utf-8")
        for path in (partial / WEIGHTS, partial / MANIFEST):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        _put(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"{folder} cannot be written: {error}") from error
    return open_discriminator(folder)


def check_free(folder: Path, *, replace: bool) -> None:
    """Make sure that a discriminator can be written to a place, before it is trained.

    Raises:
        RunError: Something is there already, and it is no discriminator or not to be replaced.
    """
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{folder} is there and holds no discriminator", hint="choose another --out")
    if not replace:
        raise RunError(
            f"{folder} holds a discriminator already",
            hint="--replace to put the new one in its place, or another folder with --out; "
            "rewards that the old one gave are stale then: `mnerfeat extract --features reward "
            "--replace` renews them",
        )


def open_discriminator(folder: Path) -> SavedDiscriminator:
    """Read what a folder says about its discriminator.

    Raises:
        RunError: It is none, damaged, or of a version that is not understood.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"there is no discriminator in {folder}",
            hint="`mnerfeat rank train` makes one from rankings",
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if found != FORMAT_VERSION:
        raise RunError(
            f"{path} has format {found}, this is mnerfeat {__version__} with format "
            f"{FORMAT_VERSION}",
            hint="`mnerfeat rank train --replace` makes it anew",
        )
    try:
        saved = SavedDiscriminator(
            **raw
            | {
                "sizes": tuple(raw["sizes"]),
                "text_ids": tuple(raw["text_ids"]),
                **{
                    name: {split: tuple(ids) for split, ids in raw[name].items()}
                    for name in ("learned_from", "held_out")
                },
            }
        )
        saved.clip["clip_text"], saved.clip["clip_image"], saved.sources
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from error
    return saved


def load_discriminator(
    folder: Path,
) -> tuple[SavedDiscriminator, Discriminator, NDArray[np.float32]]:
    """Read a discriminator.

    Returns:
        What is said of it; the discriminator, on the CPU, in evaluation mode; and (d_clip_image,)
        the blank image's embedding.

    Raises:
        RunError: It is none, damaged, or of a version that is not understood.
    """
    saved = open_discriminator(folder)
    path = folder / WEIGHTS
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != saved.weights_sha256:
            raise RunError(f"{path} is not what {MANIFEST} says: it was changed or damaged")
        weights = load_file(path)
        blank = weights.pop("blank").numpy()
        discriminator = Discriminator(
            DiscriminatorConfig(**saved.network),
            d_clip_text=saved.sizes[0],
            d_clip_image=saved.sizes[1],
        )
        discriminator.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, ConfigError) as error:
        raise RunError(f"{path} cannot be used: {error}") from error
    return saved, discriminator.eval(), blank


def _put(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.replace(folder)
        return
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    folder.replace(old)
    try:
        partial.replace(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
