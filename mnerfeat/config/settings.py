"""`mnerfeat.toml` with the overrides of the command line."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnerfeat.config.builder import unknown
from mnerfeat.errors import ConfigError

FILE_NAME = "mnerfeat.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a folder: `mnerfeat.toml` with the overrides of `--set`.

    Attributes:
        cache: Feature cache.
        data: Folder of train, dev and test.
        runs: Folder of run folders.
        preset: `base` (the papers' backbones) or `tiny` (models inside the package).
        sections: All other tables by their dotted names (`train`, `head.iqcr`), as read.
    """

    cache: Path = Path("features.h5")
    data: Path = Path("data")
    runs: Path = Path("runs")
    preset: str = "base"
    sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a table; empty if it is not given."""
        return self.sections.get(name, {})


SECTIONS = ("extract", "text", "train", "head.*", "rank")
"""Tables that a configuration may have."""

_TOP_LEVEL = ("cache", "data", "runs", "preset")


def load_settings(
    folder: Path | None = Path(), overrides: Sequence[str] = (), **options: Any
) -> Settings:
    """Read the `mnerfeat.toml` of a folder, if it has one, and apply overrides.

    Args:
        folder: The folder; None to read no file.
        overrides: Dotted names with TOML values (`train.epochs=5`); a bare word is a string.
        options: Top-level settings from the command line; None counts as not given.

    Raises:
        ConfigError: The file is not TOML, or names or overrides are wrong; all are listed.
    """
    path = (folder or Path()) / FILE_NAME
    tables: dict[str, Any] = {}
    if folder is not None and path.exists():
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    faults: list[str] = []
    for override in overrides:
        _apply(tables, override, faults)
    settings = _settings(tables, options, faults)
    if faults:
        raise ConfigError(f"{path} or --set cannot be used:", faults=faults)
    return settings


def _settings(tables: Mapping[str, Any], options: Mapping[str, Any], faults: list[str]) -> Settings:
    top: dict[str, Any] = {}
    sections: dict[str, Mapping[str, Any]] = {}
    for name, value in tables.items():
        heads = name == "head" and isinstance(value, dict)
        for section, table in (
            [(f"head.{head}", table) for head, table in value.items()] if heads else [(name, value)]
        ):
            if name in _TOP_LEVEL and isinstance(value, str):
                top[name] = value if name == "preset" else Path(value)
            elif name in _TOP_LEVEL:
                faults.append(f"{name}: wanted a string, got {value!r}")
            elif not heads and name not in SECTIONS:
                faults.append(unknown(name, (*_TOP_LEVEL, *SECTIONS), "setting"))
            elif not isinstance(table, dict):
                faults.append(f"{section}: wanted a table ([{section}]), got {table!r}")
            else:
                sections[section] = table
    top |= {name: value for name, value in options.items() if value is not None}
    return Settings(**top, sections=sections)


def _apply(tables: dict[str, Any], override: str, faults: list[str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        faults.append(f"--set {override}: wanted NAME=VALUE, for example train.epochs=5")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *path, last = name.strip().split(".")
    table = tables
    for step in path:
        inner = table.setdefault(step, {})
        if not isinstance(inner, dict):
            faults.append(f"--set {override}: {step} is not a table")
            return
        table = inner
    table[last] = value
