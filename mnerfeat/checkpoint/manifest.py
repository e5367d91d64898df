"""The manifest of a run: its configuration, its data, and how it came about."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from mnerfeat import __version__
from mnerfeat.datasets.tags import TagSet
from mnerfeat.heads.base import HeadConfig
from mnerfeat.tagger import head_name
from mnerfeat.text import TextConfig

FORMAT_VERSION = 2
"""Version of the run folder; raised if an older mnerfeat could no longer read it. 2 added the
origin, the completion time and the duration; runs of version 1 are still read."""

State = Literal["training", "complete"]


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that influence a run's numbers."""
    found = {"python": platform.python_version(), "mnerfeat": __version__}
    for name in ("torch", "transformers", "accelerate", "tokenizers", "pytorch-crf", "seqeval"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the current time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a run came about. A run can be used without it.

    Attributes:
        command: Command line; empty if the run was trained from Python.
        data: Absolute path of the data folder.
        cache: Absolute path of the feature cache.
        models: Models and files of extraction that the settings named, by option: what
            `extractors_of` needs beside the features' provenances.
        plan: Identity shared by the runs of one command (one run per seed), 32 hex digits.
        seeds: All seeds of that command.
        name: Run name given by the user.
    """

    command: str = ""
    data: str = ""
    cache: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    plan: str = ""
    seeds: tuple[int, ...] = ()
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of `run.json`.

    Attributes:
        head: Name of the head.
        head_options: Options of the head.
        text: Options of the text encoder.
        training: Options of training; not needed to use the run.
        types: Entity types in the order of the tag ids.
        column_sizes: Values per image in each column that the head reads.
        fingerprints: Fingerprints of the splits (`data`) and, for each feature read (`features`),
            its provenance and a hash of the rows.
        versions: Versions of the libraries that trained the run.
        origin: How the run came about.
        created: Start of training.
        completed: End of training; None until then, and for runs of version 1.
        seconds: Duration of training, over all sessions that ended in order.
        state: `complete` once all files are written.
        format_version: Version of the run folder.
    """

    head: str
    head_options: Mapping[str, Any]
    text: Mapping[str, Any]
    training: Mapping[str, Any]
    types: tuple[str, ...]
    column_sizes: Mapping[str, int]
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=library_versions)
    origin: Origin = field(default_factory=Origin)
    created: str = field(default_factory=now)
    completed: str | None = None
    seconds: float = 0.0
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
        origin: Origin | None = None,
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
            origin=origin or Origin(),
        )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Manifest":
        """Return the manifest that `as_json` wrote.

        Raises:
            TypeError: A field is missing or unknown.
            KeyError: Likewise.
        """
        origin = dict(raw.get("origin", {}))
        origin["seeds"] = tuple(origin.get("seeds", ()))
        return cls(**{**raw, "types": tuple(raw["types"]), "origin": Origin(**origin)})

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as JSON holds it: with lists in place of tuples."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def differences(self, other: "Manifest") -> list[str]:
        """List what keeps a run from continuing where another one stopped.

        The device may differ: it changes no more than rounding.
        """
        mine, theirs = self.configuration(), other.configuration()
        for plain in (mine, theirs):
            plain["training"].pop("device", None)
        return [fault for name in mine for fault in differences(name, mine[name], theirs[name])]

    def configuration(self) -> dict[str, Any]:
        """Return everything that determines the result: options, tags, data, features."""
        names = ("head", "head_options", "text", "training", "types", "column_sizes")
        plain = self.as_json()
        return {name: plain[name] for name in (*names, "fingerprints")}

    def config_toml(self) -> str:
        """Return the options as a `mnerfeat.toml` that gives the same training."""
        tables = {"text": self.text, "train": self.training, f"head.{self.head}": self.head_options}
        lines = [f"# mnerfeat train --head {self.head}"]
        lines += [
            f"{name} = {toml_value(value)}"
            for name, value in (("data", self.origin.data), ("cache", self.origin.cache))
            if value
        ]
        for name, table in tables.items():
            lines += ["", f"[{name}]"]
            lines += [f"{k} = {toml_value(v)}" for k, v in table.items() if v is not None]
        return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    return str(value)


def differences(name: str, mine: Any, theirs: Any) -> list[str]:
    """List the leaves in which two JSON values differ: `train.seed: 1 there, 7 here`."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [
            fault
            for key in sorted(mine.keys() | theirs.keys())
            for fault in differences(f"{name}.{key}", mine.get(key), theirs.get(key))
        ]
    return [] if mine == theirs else [f"{name}: {mine!r} there, {theirs!r} here"]
