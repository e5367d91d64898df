"""Discriminators on disk.

```
discriminator/
  discriminator.json   options, scores, the rankings and posts it was trained on, its CLIP
  model.safetensors    weights, and the blank image's embedding
  rankings.jsonl       the rankings it was trained on
  clip/                the tuned CLIP, if it was tuned: an open_clip model folder
```

The folder is written under a temporary name and renamed when it is complete.
"""

import hashlib
import json
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
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
from mnerfeat.cache.storage import beside
from mnerfeat.errors import ConfigError, ProvenanceError, RunError, StorageError
from mnerfeat.preference.discriminator import Discriminator, DiscriminatorConfig
from mnerfeat.preference.rankings import Ranking, write_rankings
from mnerfeat.preference.scores import RankingScores

FORMAT_VERSION = 1
"""Format of the folder; raised when older versions of mnerfeat cannot read it any more."""

RECIPE = 1
"""Version of the reward computation; raised when the same discriminator gives other rewards."""

DEFAULT = Path("discriminator")
"""Default folder."""

MANIFEST, WEIGHTS, RANKINGS, CLIP = (
    "discriminator.json", "model.safetensors", "rankings.jsonl", "clip",
)  # fmt: skip

_INCIDENTAL = frozenset({"dtype", "numerics", "libraries", "extractor", "model"})
"""Facts about CLIP embeddings that may differ: they concern rounding and names only."""


def _library_versions() -> dict[str, str]:
    names = ("torch", "numpy")
    return {
        "python": platform.python_version(),
        "mnerfeat": __version__,
        **{name: version(name) for name in names},
    }


@dataclass(frozen=True, kw_only=True)
class SavedDiscriminator:
    """The manifest of a discriminator's folder.

    Attributes:
        network: Options of the network.
        sizes: Sizes of a text embedding and of an image embedding.
        training: Options of the training.
        rankings: `sources`, the number of rankings by source, and `sha256`, a digest of them.
        learned_from: D_dis: ids of the posts whose rankings were used, by split, including those
            held out.
        held_out: Ids of the posts held out, by split.
        text_ids: SHA-256 of the texts of `learned_from`, in hex.
        clip: Provenance facts of the embeddings, by feature: `clip_text` and `clip_image`.
        blank: The blank image.
        scores: `fitted` and `held_out`, as `RankingScores`; `clip_similarity`, the same for the
            cosine similarity of the embeddings on the held-out rankings; `temperature` and
            `calibration_error_after`, the calibration error with it.
        weights_sha256: SHA-256 of `model.safetensors`.
        tuned_clip: Whether CLIP was trained too.
        versions: Library versions.
        created: Time of training, UTC, ISO 8601.
        format_version: See `FORMAT_VERSION`.
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
    versions: Mapping[str, str] = field(default_factory=_library_versions)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    format_version: int = FORMAT_VERSION

    @property
    def sources(self) -> Mapping[str, int]:
        """Number of rankings by source."""
        return dict(self.rankings["sources"])

    @property
    def held_out_scores(self) -> RankingScores | None:
        """Scores on the held-out rankings; None if none were held out."""
        found = self.scores.get("held_out")
        return None if found is None else RankingScores(**found)

    def reward_provenance(self, clip_text: Provenance, clip_image: Provenance) -> Provenance:
        """Return the provenance of this discriminator's rewards.

        Args:
            clip_text: Provenance of the text embeddings.
            clip_image: Provenance of the image embeddings.
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

    def require_clip(self, feature: str, held: Provenance, *, cache: Path, folder: Path) -> None:
        """Check that embeddings come from the CLIP that the discriminator was trained with.

        Args:
            feature: `clip_text` or `clip_image`.
            held: Provenance of the embeddings.
            cache: File that holds them.
            folder: The discriminator's folder.

        Raises:
            ProvenanceError: They come from another model; all differing facts are listed.
        """
        wanted, found = (
            {name: fact for name, fact in facts.items() if name not in _INCIDENTAL}
            for facts in (self.clip[feature], held.facts)
        )
        if wanted != found:
            raise ProvenanceError(
                f"{feature} in {cache} was made by another CLIP than the discriminator in {folder} "
                "was trained with:",
                faults=Provenance(found).differences(
                    Provenance(wanted), "in the cache", "in the discriminator"
                ),
                hint=f"`mnerfeat extract --features clip --clip {folder / CLIP} --replace` "
                "recomputes the embeddings with the tuned CLIP"
                if self.tuned_clip
                else "train the discriminator on these embeddings: `mnerfeat rank train --replace`",
            )


def reward_command(folder: Path, *, replace: bool = False, tuned_clip: bool = False) -> str:
    """Return the command that extracts a discriminator's rewards.

    Args:
        folder: The discriminator's folder.
        replace: Recompute existing rewards.
        tuned_clip: Recompute the embeddings first, with the CLIP in the folder.
    """
    words = ["mnerfeat extract --features", "clip,reward" if tuned_clip else "reward"]
    words += [f"--clip {folder / CLIP}"] * tuned_clip
    words += ["--replace"] * (replace or tuned_clip)
    words += [f"--discriminator {folder}"] * (folder != DEFAULT)
    return " ".join(words)


def save_discriminator(
    folder: Path,
    saved: SavedDiscriminator,
    discriminator: Discriminator,
    blank: NDArray[np.floating],
    *,
    rankings: Sequence[Ranking] = (),
    replace: bool = False,
    save_clip: Callable[[Path], object] | None = None,
) -> SavedDiscriminator:
    """Write a discriminator's folder, all or nothing; a symbolic link to it stays one.

    Args:
        folder: Folder to write; it must not exist unless `replace` is set.
        saved: Manifest; the hash of the weights is filled in.
        discriminator: The network.
        blank: (d_clip_image,) embedding of the blank image.
        rankings: The rankings it was trained on.
        replace: Replace an existing discriminator.
        save_clip: Writes the tuned CLIP to the folder it is given.

    Returns:
        The manifest as written.

    Raises:
        RunError: The folder exists.
        StorageError: The folder cannot be written.
    """
    check_available(folder, replace=replace)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in discriminator.state_dict().items()
    }
    weights["blank"] = torch.from_numpy(np.asarray(blank, np.float32).copy())
    target = folder.resolve()
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.replaced")
    try:
        with beside(target) as temporary:
            temporary.mkdir()
            save_file(weights, temporary / WEIGHTS)
            digest = hashlib.sha256((temporary / WEIGHTS).read_bytes()).hexdigest()
            if rankings:
                write_rankings(rankings, temporary / RANKINGS)
            if save_clip:
                save_clip(temporary / CLIP)
            manifest = asdict(saved) | {"weights_sha256": digest}
            text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            (temporary / MANIFEST).write_text(text, "utf-8")
            if target.exists():
                target.replace(old)
    except SafetensorError as error:
        raise StorageError(f"{folder} cannot be written: {error}") from error
    finally:
        if old.exists() and not target.exists():
            old.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    return open_discriminator(folder)


def check_available(folder: Path, *, replace: bool) -> None:
    """Check that a discriminator can be written to a folder.

    Raises:
        RunError: The folder exists, and it holds something else or must not be replaced.
    """
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file():
        raise RunError(
            f"{folder} exists and holds no discriminator", hint="choose another folder with --out"
        )
    if not replace:
        raise RunError(
            f"{folder} already holds a discriminator",
            hint="--replace to overwrite it, or another folder with --out; its rewards are then "
            f"stale until `{reward_command(folder, replace=True)}` has run",
        )


def open_discriminator(folder: Path) -> SavedDiscriminator:
    """Read a discriminator's manifest.

    Raises:
        RunError: There is none, it is damaged, or its format is unknown.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        left = sorted(folder.parent.glob(f".{folder.name}.*.replaced"))
        raise RunError(
            f"there is no discriminator in {folder}",
            hint=f"`mv {left[-1]} {folder}` restores the one that an interrupted `rank train "
            "--replace` put aside"
            if left
            else "`mnerfeat rank train` trains one on rankings",
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if found != FORMAT_VERSION:
        raise RunError(
            f"{path} has format {found}; mnerfeat {__version__} reads format {FORMAT_VERSION}",
            hint="train it again: `mnerfeat rank train --replace`",
        )
    try:
        by_split = {
            name: {split: tuple(ids) for split, ids in raw[name].items()}
            for name in ("learned_from", "held_out")
        }
        lists = {name: tuple(raw[name]) for name in ("sizes", "text_ids")}
        saved = SavedDiscriminator(**raw | by_split | lists)
        saved.clip["clip_text"], saved.clip["clip_image"], saved.sources
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from error
    return saved


def load_discriminator(
    folder: Path,
) -> tuple[SavedDiscriminator, Discriminator, NDArray[np.float32]]:
    """Load a discriminator.

    Returns:
        The manifest; the discriminator, on the CPU, in evaluation mode; and the blank image's
        embedding, (d_clip_image,).

    Raises:
        RunError: There is none, it is damaged, or its format is unknown.
    """
    saved = open_discriminator(folder)
    path = folder / WEIGHTS
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != saved.weights_sha256:
            raise RunError(f"{path} does not match {MANIFEST}: it was changed or damaged")
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
