"""The run folder: everything one training leaves behind, and all that is needed to use it.

```
runs/20260131-174502-iqcr/
  run.json             what was trained, on what, with which versions; its state
  text/                the text encoder's configuration and tokenizer
  model.safetensors    all weights
  metrics.json         scores and the course of training
  predictions/         one JSONL file a split
  tensorboard/         logs
  checkpoints/         only until training is complete: what resuming needs
```

Every file is written beside its place and renamed. `run.json` says `complete` only once all else
is there, so an interrupted run is never mistaken for a finished one. Loading a run needs nothing
but its folder.
"""

import json
import logging
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mnerfeat import __version__
from mnerfeat.datasets.tags import TagSet
from mnerfeat.errors import MnerfeatError, RunError, StorageError
from mnerfeat.heads.base import HeadConfig
from mnerfeat.tagger import Tagger, head_name, head_options
from mnerfeat.text import TextConfig, TextEncoder

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Of the run folder; raised when an older mnerfeat could no longer read it."""

MANIFEST = "run.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.json"

State = Literal["training", "complete"]


def library_versions() -> dict[str, str]:
    """Versions of what decides about a run's numbers."""
    found = {"python": platform.python_version(), "mnerfeat": __version__}
    for name in ("torch", "transformers", "accelerate", "tokenizers", "pytorch-crf", "seqeval"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `run.json` holds.

    Attributes:
        head: The head's name.
        head_options: Its options.
        text: The text encoder's options.
        training: The options of training; not needed to use the run.
        types: The entity types, in the order of the tag ids.
        column_sizes: Values per image in each column that the head reads.
        fingerprints: Of the data and of the cache's features, as the caller names them.
        versions: Of the libraries that trained it.
        created: When training began, UTC, ISO 8601.
        state: `complete` once all files are there.
        format_version: Of the run folder.
    """

    head: str
    head_options: Mapping[str, Any]
    text: Mapping[str, Any]
    training: Mapping[str, Any]
    types: tuple[str, ...]
    column_sizes: Mapping[str, int]
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=library_versions)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    state: State = "training"
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(
        cls,
        *,
        text: TextConfig,
        head: HeadConfig,
        training: Mapping[str, Any],
        tag_set: TagSet,
        column_sizes: Mapping[str, int],
        fingerprints: Mapping[str, Any],
    ) -> "Manifest":
        """Describe a run that is about to begin."""
        return cls(
            head=head_name(head),
            head_options=asdict(head),
            text=asdict(text),
            training=dict(training),
            types=tag_set.types,
            column_sizes={column: column_sizes[column] for column in head.columns},
            fingerprints=dict(fingerprints),
        )

    def differences(self, other: "Manifest") -> list[str]:
        """What must be equal for one run to go on where another stopped, and is not.

        The device may be another one: it changes no more than rounding.
        """
        names = ("head", "head_options", "text", "training", "types", "column_sizes")
        mine, theirs = _plain(self), _plain(other)
        for plain in (mine, theirs):
            plain["training"].pop("device", None)
        faults = []
        for name in (*names, "fingerprints"):
            faults += _differences(name, mine[name], theirs[name])
        return faults


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder.

    Attributes:
        folder: Where it is.
        manifest: What `run.json` holds.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def create(cls, runs: Path, manifest: Manifest, *, name: str | None = None) -> "Run":
        """Begin a run in a folder of its own, `<UTC date and time>-<head>` unless named.

        Raises:
            RunError: A run of that name is there already.
            StorageError: The folder cannot be written.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        wanted = name or f"{stamp}-{manifest.head}"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            folder = _new_folder(runs, wanted, number=name is None)
        except OSError as error:
            if runs.is_dir() and isinstance(error, FileExistsError):
                raise RunError(
                    f"{runs / wanted} is there already", hint="choose another name, or remove it"
                ) from None
            raise StorageError(f"{runs} cannot be written: {error}") from error
        run = cls(folder=folder, manifest=manifest)
        run.write_json(MANIFEST, _plain(manifest))
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read what a run folder says about itself.

        Raises:
            RunError: It is no run folder, damaged, or of a version that is not understood.
        """
        path = folder / MANIFEST
        try:
            raw = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            what = f"{folder} is no run folder: it holds no {MANIFEST}"
            if not folder.is_dir():
                what = f"there is no run folder {folder}"
            raise RunError(what, hint="`mnerfeat train` makes one") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        found = raw.get("format_version") if isinstance(raw, dict) else None
        if not isinstance(found, int):
            raise RunError(f"{path} is not a run's: it has no format_version")
        if found != FORMAT_VERSION:
            by = raw.get("versions", {}).get("mnerfeat", "unknown")
            newer = found > FORMAT_VERSION
            raise RunError(
                f"{folder} has run format {found}, this is mnerfeat {__version__} with format "
                f"{FORMAT_VERSION}; the run was made by mnerfeat {by}",
                hint=f"install mnerfeat {by}" + (" or newer" if newer else ", or train again"),
            )
        try:
            manifest = Manifest(**raw | {"types": tuple(raw["types"])})
        except (TypeError, KeyError) as error:
            raise RunError(f"{path} is damaged: {error}") from error
        return cls(folder=folder, manifest=manifest)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def complete(self) -> bool:
        """Whether training reached its end."""
        return self.manifest.state == "complete"

    @property
    def checkpoints(self) -> Path:
        """What training leaves for resuming; gone once it is complete."""
        return self.folder / "checkpoints"

    def save_weights(self, tagger: Tagger) -> None:
        """Write the tagger: weights, and the text encoder's configuration and tokenizer.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        weights = {name: x.detach().cpu().contiguous() for name, x in tagger.state_dict().items()}
        self._place("text", lambda path: _save_text(tagger, path))
        self._place(WEIGHTS, lambda path: save_file(weights, path))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, `metrics.json` for example, all or nothing.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        self._place(name, lambda path: path.write_text(text, "utf-8"))

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file, `predictions/dev.jsonl` for example, all or nothing.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
        text = "".join(f"{line}\n" for line in lines)
        self._place(name, lambda path: path.write_text(text, "utf-8"))

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            RunError: It is not there or damaged.
        """
        try:
            return json.loads((self.folder / name).read_text("utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.folder} holds no {name}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name} cannot be read: {error}") from error

    def finish(self) -> "Run":
        """Declare the run complete; everything else must be written by then."""
        manifest = replace(self.manifest, state="complete")
        self.write_json(MANIFEST, _plain(manifest))
        return replace(self, manifest=manifest)

    def head_config(self) -> HeadConfig:
        """The head's options.

        Raises:
            RunError: This version knows no such head or option.
        """
        try:
            return head_options(self.manifest.head)(**self.manifest.head_options)
        except (MnerfeatError, TypeError) as error:
            raise RunError(f"the head of {self.folder} cannot be built: {error}") from error

    def text_config(self) -> TextConfig:
        """The text encoder's options.

        Raises:
            RunError: This version knows no such option.
        """
        try:
            return TextConfig(**self.manifest.text)
        except (MnerfeatError, TypeError) as error:
            raise RunError(f"the text options of {self.folder} cannot be used: {error}") from error

    def load_tagger(self, device: torch.device | str = "cpu") -> Tagger:
        """Rebuild the trained tagger, in evaluation mode.

        Raises:
            RunError: The run is not complete, or its files do not fit each other.
        """
        if not self.complete:
            raise RunError(
                f"the run {self.folder} did not reach its end",
                hint="`mnerfeat train --resume` continues it",
            )
        tagger = Tagger.build(
            TextEncoder.from_folder(self.folder / "text", self.text_config()),
            self.head_config(),
            TagSet(self.manifest.types),
            column_sizes=self.manifest.column_sizes,
            seed=0,
        )
        try:
            tagger.load_state_dict(load_file(self.folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise RunError(f"{self.folder / WEIGHTS} cannot be used: {error}") from error
        return tagger.to(device).eval()

    def _place(self, name: str, write: Callable[[Path], object]) -> None:
        """Let `write` make a file or folder beside its place, and move it there."""
        target = self.folder / name
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            if partial.is_dir():
                _remove(target)
            else:
                _to_disk(partial)
            partial.replace(target)
        except (OSError, SafetensorError) as error:
            _remove(partial)
            raise StorageError(f"{target} cannot be written: {error}") from error


def find_runs(runs: Path) -> list[Run]:
    """All runs of a folder, the newest first.

    Folders that hold no run are passed over; so are runs that this version cannot read, with a
    warning.
    """
    if not runs.is_dir():
        return []
    found = []
    for path in sorted(runs.glob(f"*/{MANIFEST}")):
        try:
            found.append(Run.open(path.parent))
        except RunError as error:
            logger.warning("%s", error)
    return sorted(found, key=lambda run: (run.manifest.created, run.name), reverse=True)


def find_run(runs: Path, name: str | None = None, *, state: State = "complete") -> Run:
    """The run of a name or path, or the newest of a state.

    Args:
        runs: The folder of runs.
        name: A run's name, or the path of its folder; None for the newest.
        state: What a run must be to be the newest.

    Raises:
        RunError: There is none.
    """
    if name is not None:
        return Run.open(runs / name if (runs / name / MANIFEST).exists() else Path(name))
    every = find_runs(runs)
    fit = [run for run in every if run.manifest.state == state]
    if fit:
        return fit[0]
    if state == "training":
        raise RunError(f"no run in {runs} waits to be continued")
    if every:
        raise RunError(
            f"no run in {runs} is complete; {every[0].name} was interrupted",
            hint="`mnerfeat train --resume` continues it",
        )
    raise RunError(f"there are no runs in {runs}", hint="`mnerfeat train --head iqcr` makes one")


def _new_folder(runs: Path, name: str, *, number: bool) -> Path:
    folder = runs / name
    for count in range(2, 1000):
        try:
            folder.mkdir()
        except FileExistsError:
            if not number:
                raise
            folder = runs / f"{name}-{count}"
        else:
            return folder
    raise FileExistsError(name)


def _save_text(tagger: Tagger, folder: Path) -> None:
    folder.mkdir()
    tagger.encoder.save(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Make sure that a file outlives a power cut, before it is renamed to its place."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _plain(manifest: Manifest) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists there."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(manifest)))
    return plain


def _differences(name: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [
            fault
            for key in sorted(mine.keys() | theirs.keys())
            for fault in _differences(f"{name}.{key}", mine.get(key), theirs.get(key))
        ]
    return [] if mine == theirs else [f"{name}: {mine!r} there, {theirs!r} here"]
