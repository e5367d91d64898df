"""The run folder.

```
runs/20260131-174502-iqcr/
  run.json             configuration, data, versions, origin and state
  config.toml          the options for people, usable as a mnerfeat.toml
  text/                configuration and tokenizer of the text encoder
  model.safetensors    all weights
  metrics.json         scores on dev, and the history of training
  metrics-test.json    scores on test, with the data they are of; written by `eval`
  predictions/         a JSONL file for each split
  predict.h5           features that `predict` extracted, if it had to
  tensorboard/         logs
  checkpoints/         what resuming needs; removed when training is complete
```

Every file is written beside its place and renamed. `run.json` says `complete` only after everything
else is written, so an interrupted run is never taken for a finished one. The folder is all that
loading a run needs.
"""

import json
import math
import os
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mnerfeat import __version__
from mnerfeat.checkpoint.manifest import FORMAT_VERSION, Manifest, now
from mnerfeat.datasets.tags import TagSet
from mnerfeat.errors import MnerfeatError, RunError, StorageError
from mnerfeat.heads.base import HeadConfig
from mnerfeat.tagger import Tagger, head_options
from mnerfeat.text import TextConfig, TextEncoder

MANIFEST = "run.json"
CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
METRICS = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder.

    Attributes:
        folder: Path of the folder.
        manifest: Content of `run.json`.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def create(cls, runs: Path, manifest: Manifest, *, name: str | None = None) -> "Run":
        """Begin a run in a folder of its own, named `<UTC date and time>-<head>` by default.

        Raises:
            RunError: A run of that name exists.
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
                    f"{runs / wanted} already exists", hint="choose another name, or remove it"
                ) from None
            raise StorageError(f"{runs} cannot be written: {error}") from error
        run = cls(folder=folder, manifest=manifest)
        run._place(CONFIG, lambda path: path.write_text(manifest.config_toml(), "utf-8"))
        run.write_json(MANIFEST, manifest.as_json())
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read the manifest of a run folder.

        Raises:
            RunError: It is not a run folder, or is damaged or of an unknown version.
        """
        path = folder / MANIFEST
        try:
            raw = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            what = f"{folder} is not a run folder: it has no {MANIFEST}"
            if not folder.is_dir():
                what = f"there is no run folder {folder}"
            raise RunError(what, hint="mnerfeat train --head iqcr") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        found = raw.get("format_version") if isinstance(raw, dict) else None
        if not isinstance(found, int):
            raise RunError(f"{path} is not the manifest of a run: it has no format_version")
        if not 1 <= found <= FORMAT_VERSION:
            by = raw.get("versions", {}).get("mnerfeat", "unknown")
            newer = found > FORMAT_VERSION
            raise RunError(
                f"{folder} has run format {found}, this is mnerfeat {__version__} with format "
                f"{FORMAT_VERSION}; the run was made by mnerfeat {by}",
                hint=f"install mnerfeat {by}" + (" or newer" if newer else ", or train again"),
            )
        try:
            manifest = Manifest.from_json(raw)
        except (TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error
        return cls(folder=folder, manifest=manifest)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def argument(self) -> str:
        """What `--run` takes to mean this run in the current folder, quoted for a shell."""
        beside = Path("runs", self.name)
        if beside.exists() and beside.samefile(self.folder):
            return shlex.quote(self.name)
        try:
            return shlex.quote(str(self.folder.resolve().relative_to(Path.cwd())))
        except ValueError:
            return shlex.quote(str(self.folder))

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"mnerfeat train --resume --name {self.argument}"

    @property
    def complete(self) -> bool:
        """Whether training has ended."""
        return self.manifest.state == "complete"

    @property
    def checkpoints(self) -> Path:
        """Folder of the trainer's checkpoints; removed when training is complete."""
        return self.folder / "checkpoints"

    def save_weights(self, tagger: Tagger) -> None:
        """Write the weights, and the configuration and tokenizer of the text encoder.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        weights = {name: x.detach().cpu().contiguous() for name, x in tagger.state_dict().items()}
        self._place("text", lambda path: _save_text(tagger, path))
        self._place(WEIGHTS, lambda path: save_file(weights, path))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, all or nothing; numbers that are not finite become null.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        self._place(name, lambda path: path.write_text(text, "utf-8"))

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file, all or nothing; numbers that are not finite become null.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        text = json_lines(records)
        self._place(name, lambda path: path.write_text(text, "utf-8"))

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            RunError: It is missing or damaged.
        """
        try:
            return json.loads((self.folder / name).read_text("utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.folder} has no {name}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name} cannot be read: {error}") from error

    def add_time(self, seconds: float) -> "Run":
        """Add the duration of a session of training."""
        return self._update(seconds=round(self.manifest.seconds + seconds, 3))

    def finish(self) -> "Run":
        """Mark the run as complete; everything else must have been written."""
        return self._update(state="complete", completed=now())

    def head_config(self) -> HeadConfig:
        """Return the head's options.

        Raises:
            RunError: This version has no such head or option.
        """
        try:
            return head_options(self.manifest.head)(**self.manifest.head_options)
        except (MnerfeatError, TypeError) as error:
            raise RunError(f"the head of {self.folder} cannot be built: {error}") from error

    def text_config(self) -> TextConfig:
        """Return the text encoder's options.

        Raises:
            RunError: This version has no such option.
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
                f"the training of {self.folder} was interrupted",
                hint=self.resume_command,
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

    def _update(self, **changes: Any) -> "Run":
        manifest = replace(self.manifest, **changes)
        self.write_json(MANIFEST, manifest.as_json())
        return replace(self, manifest=manifest)

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
                _flush(partial)
            partial.replace(target)
        except (OSError, SafetensorError) as error:
            _remove(partial)
            raise StorageError(f"{target} cannot be written: {error}") from error


def finite(value: Any) -> Any:
    """Return a JSON value with None for every number that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Return records as JSONL; numbers that are not finite become null."""
    return "".join(
        json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records
    )


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


def _flush(path: Path) -> None:
    """Write a file through to the disk, before it is renamed to its place."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
